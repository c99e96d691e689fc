"""The whole line in one process with no set-up: a scene made in code, the bundled model, a broker and a subscriber.

A smoke alarm sounds twice among room noise; every MQTT message is printed as a subscriber received it.
"""

import asyncio
import json
import logging
import socket
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig

from models.train.alarms import smoke_alarm
from streamer import config, edges
from streamer.app import App
from streamer.core import Samples
from streamer.sinks.mqtt import subscribe

RATE = 16000  # Hz
ALARMS_S = ((4.3, 8.3), (24.6, 28.6))  # the second one begins after the first has left the window
NOISE_DBFS = -45.0  # a quiet room with a fan
ALARM_DBFS = -20.0
SETTINGS = """
node: demo
streams:
  scene: {source: {type: file, path: "%s"}}
rules:
  smoke_alarm: {type: threshold, labels: ["Smoke detector, smoke alarm"]}
sinks:
  mqtt: {type: mqtt, host: 127.0.0.1, port: %d}
"""


def scene(seconds: float, seed: int = 0) -> Samples:
    """Room noise with a smoke alarm at `ALARMS_S`, as far as those fit: (n,) float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    spectrum = np.fft.rfft(rng.normal(0, 1, n))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)) / 20)), n)
    sound = pink / pink.std() * 10 ** (NOISE_DBFS / 20)
    for start, end in ALARMS_S:
        first, last = int(start * RATE), min(n, int(end * RATE))
        if last > first:
            sound[first:last] += smoke_alarm(rng, (last - first) / RATE, hz=3100.0) * 10 ** (ALARM_DBFS / 20)
    return np.asarray(sound, np.float32)


async def demo(seconds: float) -> None:
    """Run the demo for a scene of `seconds`, in real time."""
    for noisy in ("amqtt", "transitions"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = Broker(BrokerConfig.from_dict({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}}))
    await broker.start()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.wav"
        soundfile.write(path, scene(seconds), RATE)
        heard: list[dict[str, object]] = []
        subscriber = asyncio.create_task(_subscribe(port, heard), name="subscriber")
        app = App(config.parse(SETTINGS % (path, port), "demo", edges.edge_config))
        print(f"demo: a smoke alarm at {', '.join(f'{start} s' for start, _ in ALARMS_S if start < seconds)}"
              f" in {seconds:g} s of room noise, in real time; MQTT broker on 127.0.0.1:{port}", flush=True)
        await app.run()
        await asyncio.sleep(0.3)  # the subscriber's last messages are on their way
        subscriber.cancel()
    await broker.shutdown()
    _summarise(heard, seconds)


async def _subscribe(port: int, heard: list[dict[str, object]]) -> None:
    """Print what arrives at a real MQTT client; keep the events."""
    async for topic, payload in subscribe("127.0.0.1", port, "streamer/#"):
        if not topic.endswith("/level"):
            print(f"{topic} {payload}", flush=True)
        if topic.endswith("/event"):
            heard.append(json.loads(payload))


def _summarise(heard: list[dict[str, object]], seconds: float) -> None:
    starts = [event["onset_s"] for event in heard if event["event_type"] == "start"]
    ends = [event["offset_s"] for event in heard if event["event_type"] == "end"]
    truth = [start for start, _ in ALARMS_S if start < seconds]
    print(f"demo: {len(truth)} alarms at {truth} s; heard {len(starts)} starts at {starts} s and "
          f"{len(ends)} ends at {ends} s")
