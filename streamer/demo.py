"""The whole line in one process with no set-up: a scene made in code, the bundled model, a broker and a subscriber.

A smoke alarm sounds twice among room noise, and all rules of the default configuration listen. Every MQTT message but
the readings of level is printed as a subscriber received it.
"""

import asyncio
import json
import logging
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig

from models.train.alarms import smoke_alarm
from streamer.core import Samples
from streamer.daemon import serve
from streamer.settings import OutboxConfig, Settings, StreamConfig
from streamer.sinks import mqtt
from streamer.sources import file

RATE = 16000  # Hz
ALARMS_S = ((4.3, 7.3), (23.6, 26.6))  # the second one begins after the first has left the window
NOISE_DBFS = -45.0  # a quiet room with a fan
ALARM_DBFS = -20.0


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


async def demo(settings: Settings, seconds: float) -> None:
    """Run the demo for a scene of `seconds`, in real time, with the model and rules of `settings`."""
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
        heard: list[dict[str, Any]] = []
        subscriber = asyncio.create_task(_subscribe(port, heard), name="subscriber")
        stream = StreamConfig(source=file.Config(path=path))
        sink = mqtt.Config(host="127.0.0.1", port=port)
        outbox = OutboxConfig(path=str(Path(folder) / "outbox.sqlite"))
        scene_only = {"node": "demo", "streams": {"scene": stream}, "sinks": {"mqtt": sink}, "outbox": outbox}
        print(f"demo: a smoke alarm at {', '.join(f'{start} s' for start, _ in ALARMS_S if start < seconds)}"
              f" in {seconds:g} s of room noise, in real time; MQTT broker on 127.0.0.1:{port}", flush=True)
        await serve(settings.model_copy(update=scene_only))
        await asyncio.sleep(0.3)  # the subscriber's last messages are on their way
        subscriber.cancel()
    await broker.shutdown()
    _summarise(heard, seconds)


async def _subscribe(port: int, heard: list[dict[str, Any]]) -> None:
    """Print what arrives at a real MQTT client; keep the events."""
    async for topic, payload in mqtt.subscribe("127.0.0.1", port, "streamer/#"):
        if not topic.endswith("/level"):
            print(f"{topic} {payload}", flush=True)
        if topic.endswith("/event"):
            heard.append(json.loads(payload))


def _summarise(heard: list[dict[str, Any]], seconds: float) -> None:
    """Say what was to be heard, and what was."""
    truth = [f"{start:.1f} to {min(end, seconds):.1f} s" for start, end in ALARMS_S if start < seconds]
    ends = [event for event in heard if event["event_type"] == "end"]
    print(f"demo: {len(truth)} alarms, from {', from '.join(truth) or '-'}; events received:")
    for event in ends:
        print(f"  {event['label']}: from {event['onset_s']:.1f} to {event['offset_s']:.1f} s ({event['end_reason']})")
    if len(ends) * 2 != len(heard):
        print(f"  and {len(heard) - 2 * len(ends)} without an end")
