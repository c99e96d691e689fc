"""The whole line, as its users see it: microphone in, MQTT out, through everything that goes wrong."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.train.alarms import smoke_alarm
from tests.integration.broker import Broker
from tests.integration.daemon import Daemon, Subscriber
from tests.integration.soundserver import VirtualMic

RATE = 16000
MICROPHONE = """
node: garage
model: {{window_s: 2.56}}
streams:
  mic: {{source: {{type: microphone}}, hop_s: 0.5}}
rules:
  smoke_alarm: {{type: threshold, labels: ["Smoke detector, smoke alarm"]}}
sinks:
  mqtt: {{type: mqtt, host: 127.0.0.1, port: {port}}}
"""
FILE = """
node: garage
model: {{window_s: 2.56}}
streams:
  room: {{source: {{type: file, path: "{path}", realtime: {realtime}}}}}
rules:
  smoke_alarm: {{type: threshold, labels: ["Smoke detector, smoke alarm"]}}
sinks:
  mqtt: {{type: mqtt, host: 127.0.0.1, port: {port}}}
"""
STATUS, STATE = "streamer/garage/mic/status", "streamer/garage/mic/smoke_alarm/state"


def write_scene(path: Path, seconds: float, alarms: tuple[tuple[float, float], ...]) -> Path:
    """A quiet room in which a smoke alarm sounds from and until the given seconds."""
    rng = np.random.default_rng(1)
    sound = rng.normal(0, 0.002, int(seconds * RATE))
    for start, end in alarms:
        alarm = smoke_alarm(rng, end - start, hz=3100.0) * 0.1
        sound[int(start * RATE) : int(start * RATE) + len(alarm)] += alarm
    soundfile.write(path, sound, RATE)
    return path


def test_microphone_to_mqtt_through_every_outage(tmp_path):
    alarm = write_scene(tmp_path / "alarm.wav", 4.0, ((0.5, 4.0),))
    with VirtualMic() as mic, Broker(tmp_path) as broker:
        with Subscriber(broker.port) as heard, Daemon(MICROPHONE.format(port=broker.port), tmp_path, mic.env) as daemon:
            online = heard.wait_for(STATUS, "online")
            mic.play(alarm)
            at, event = heard.wait_for_event("start", after=online)
            assert event["label"] == "Smoke detector, smoke alarm"
            assert 0 < event["latency_ms"] < 30_000
            heard.wait("state ON", lambda topic, payload: topic == STATE and '"ON"' in payload, after=online)

            mic.kill()  # the sound server dies while the event is open
            at, ended = heard.wait_for_event("end", after=at)
            assert (ended["id"], ended["end_reason"]) == (event["id"], "source_lost")
            stalled = heard.wait_for(STATUS, "stalled", after=online)
            mic.start()
            online = heard.wait_for(STATUS, "online", after=stalled)
            mic.play(alarm)
            at, second = heard.wait_for_event("start", after=online)
            assert second["id"] != event["id"]
            assert second["onset_s"] > ended["offset_s"] - 0.001  # positions go on counting

            broker.kill()
            broker.start()
            again = heard.wait_for(STATUS, "online", after=at)  # states are said again: the broker forgot them
            heard.wait("state ON", lambda topic, payload: topic == STATE and second["id"] in payload, after=again)
            heard.wait_for("streamer/garage/status", "online", after=again)

            code, seconds = daemon.stop()
            assert code == 0
            assert seconds < 5
            _, last = heard.wait_for_event("end", after=again)
            assert (last["id"], last["end_reason"]) == (second["id"], "stop")
            heard.wait_for(STATUS, "offline", after=again)
            heard.wait_for("streamer/garage/status", "offline", after=again)
        assert "Traceback" not in daemon.log
        assert retained(broker.port, "streamer/garage/status") == "offline"
        assert '"OFF"' in retained(broker.port, STATE)


def retained(port: int, topic: str) -> str:
    command = ["mosquitto_sub", "-p", str(port), "-t", topic, "-C", "1", "-W", "5"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_crash_left_on_the_broker_is_put_right(tmp_path):
    scene = write_scene(tmp_path / "scene.wav", 60.0, ((0.5, 50.0),))
    quiet = write_scene(tmp_path / "quiet.wav", 60.0, ())
    with Broker(tmp_path) as broker, Subscriber(broker.port) as heard:
        config = FILE.format(path=scene, realtime="true", port=broker.port)
        removed = '  old_alarm: {type: threshold, labels: ["Smoke detector, smoke alarm"]}\nsinks:'
        with Daemon(config.replace("sinks:", removed), tmp_path) as daemon:
            for rule in ("smoke_alarm", "old_alarm"):
                heard.wait(f"{rule} ON", lambda topic, payload, rule=rule: f"/{rule}/" in topic and '"ON"' in payload)
            daemon.process.kill()
            at = heard.wait_for("streamer/garage/status", "offline")
        with Daemon(config.replace(str(scene), str(quiet)), tmp_path) as daemon:
            heard.wait_for("streamer/garage/room/old_alarm/state", "(null)", after=at)
            heard.wait_for("streamer/garage/room/old_alarm/threshold/state", "(null)", after=at)
            assert daemon.stop()[0] == 0
        assert '"OFF"' in retained(broker.port, "streamer/garage/room/smoke_alarm/state")


def test_file_gives_the_same_events_through_detect_and_through_run(tmp_path):
    scene = write_scene(tmp_path / "scene.wav", 36.0, ((3.2, 7.0), (24.0, 27.5)))
    with Broker(tmp_path) as broker:
        config = FILE.format(path=scene, realtime="false", port=broker.port)
        with Subscriber(broker.port) as heard, Daemon(config, tmp_path) as daemon:
            assert daemon.process.wait(60) == 0  # a file comes to its end
            online = heard.wait_for("streamer/garage/status", "online")
            heard.wait_for("streamer/garage/status", "offline", after=online)
            live = [json.loads(payload) for topic, payload in heard.messages if topic.endswith("/event")]
        (tmp_path / "detect.yaml").write_text(config)
        command = [sys.executable, "-m", "streamer.cli", "detect", str(scene), "-c", str(tmp_path / "detect.yaml")]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        replayed = [json.loads(line) for line in done.stdout.splitlines()]
    names = ("event_type", "rule", "label", "onset_s", "offset_s", "end_reason", "score_peak")
    assert [[event[k] for k in names] for event in live] == [[event[k] for k in names] for event in replayed]
    starts = [event["onset_s"] for event in live if event["event_type"] == "start"]
    assert starts == [pytest.approx(3.2, abs=1.0), pytest.approx(24.0, abs=1.0)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_ends_open_events(tmp_path, number):
    scene = write_scene(tmp_path / "scene.wav", 60.0, ((0.5, 50.0),))
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as heard,
        Daemon(FILE.format(path=scene, realtime="true", port=broker.port), tmp_path) as daemon,
    ):
        at, started = heard.wait_for_event("start")
        code, seconds = daemon.stop(number)
        _, ended = heard.wait_for_event("end")
        assert (code, ended["id"], ended["end_reason"]) == (0, started["id"], "stop")
        assert seconds < 5
        heard.wait_for("streamer/garage/room/status", "offline", after=at)
        assert "Traceback" not in daemon.log


def test_stop_is_quick_without_a_broker_too(tmp_path):
    scene = write_scene(tmp_path / "scene.wav", 60.0, ())
    with Daemon(FILE.format(path=scene, realtime="true", port=1), tmp_path) as daemon:
        while "refused" not in daemon.log:
            assert daemon.process.poll() is None
        code, seconds = daemon.stop()
    assert code == 0
    assert seconds < 5


def test_stop_is_quick_with_a_frozen_broker_too(tmp_path):
    scene = write_scene(tmp_path / "scene.wav", 60.0, ((0.5, 50.0),))
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as heard,
        Daemon(FILE.format(path=scene, realtime="true", port=broker.port), tmp_path) as daemon,
    ):
        heard.wait_for_event("start")
        broker.freeze()
        code, seconds = daemon.stop()
        assert "1 events wait on disk" in daemon.log
    assert code == 0
    assert seconds < 5
