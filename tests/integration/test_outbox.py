"""What outlives the daemon: undelivered events, the end of those it was killed in, orders it shall keep."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.broker import Broker
from tests.integration.daemon import PATIENCE_S, Daemon, Subscriber
from tests.integration.test_run import retained, write_scene

CONFIG = """
node: garage
streams:
  room: {{source: {{type: file, path: "{path}"}}}}
rules:
  smoke_alarm: {{type: threshold, labels: ["Smoke detector, smoke alarm"]}}
sinks:
  mqtt: {{type: mqtt, host: 127.0.0.1, port: {port}}}
  log: {{type: jsonl, path: "{log}"}}
{more}
"""
STATE = "streamer/garage/room/smoke_alarm/state"
THRESHOLD = "streamer/garage/room/smoke_alarm/threshold"


def wait_for_event(log: Path) -> dict[str, object]:
    deadline = time.monotonic() + PATIENCE_S
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline, "no event"
        time.sleep(0.02)
    return json.loads(log.read_text().splitlines()[0])


def test_an_event_outlives_a_kill_while_the_broker_is_away_and_gets_its_end(tmp_path: Path) -> None:
    scene, log = write_scene(tmp_path / "scene.wav", 60.0, ((0.5, 50.0),)), tmp_path / "log"
    with Broker(tmp_path) as broker:
        broker.stop()
        config = CONFIG.format(path=scene, port=broker.port, log=log, more="")
        with Daemon(config, tmp_path) as daemon:
            first = wait_for_event(log)
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()
        broker.start()
        with Subscriber(broker.port) as heard, Daemon(config, tmp_path) as daemon:
            at, started = heard.wait_for_event("start")
            at, ended = heard.wait_for_event("end", after=at)
            assert daemon.stop()[0] == 0
        assert started == first | {"replayed": True}
        lost = {"event_type": "end", "end_reason": "interrupted", "latency_ms": None, "seq": 0}
        assert ended == first | lost | {"replayed": ended["replayed"]}
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["event_type"] for line in lines[:2]] == ["start", "end"], "each sink gets it"


def test_a_state_that_a_kill_left_on_is_off_after_the_restart(tmp_path: Path) -> None:
    scene, log = write_scene(tmp_path / "scene.wav", 60.0, ((0.5, 50.0),)), tmp_path / "log"
    quiet = write_scene(tmp_path / "quiet.wav", 60.0, ())
    with Broker(tmp_path) as broker, Subscriber(broker.port) as heard:
        with Daemon(CONFIG.format(path=scene, port=broker.port, log=log, more=""), tmp_path) as daemon:
            at = heard.wait("state ON", lambda topic, payload: topic == STATE and '"ON"' in payload)
            at, started = heard.wait_for_event("start")
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()
        offline = heard.wait_for("streamer/garage/status", "offline", after=at)  # the will
        assert '"ON"' in retained(broker.port, STATE)
        with Daemon(CONFIG.format(path=quiet, port=broker.port, log=log, more=""), tmp_path):
            heard.wait("state OFF", lambda topic, payload: topic == STATE and '"OFF"' in payload, after=offline)
            _, ended = heard.wait_for_event("end", after=offline)
            assert (ended["id"], ended["end_reason"]) == (started["id"], "interrupted")
            assert '"OFF"' in retained(broker.port, STATE)


@pytest.mark.parametrize(("kept", "configured", "then"), [
    ("true", 0.6, "0.9"),
    ("false", 0.6, "0.6"),
    ("true", 0.7, "0.7"),   # what a person wrote since stands
])  # fmt: skip
def test_a_threshold_is_kept_if_so_configured_until_the_configuration_changes(
    tmp_path: Path, kept: str, configured: float, then: str
) -> None:
    quiet = write_scene(tmp_path / "quiet.wav", 60.0, ())
    with Broker(tmp_path) as broker, Subscriber(broker.port) as heard:
        config = CONFIG.format(path=quiet, port=broker.port, log=tmp_path / "log", more=f"keep_thresholds: {kept}")
        with Daemon(config, tmp_path) as daemon:
            heard.wait_for(f"{THRESHOLD}/state", "0.6")
            order = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", f"{THRESHOLD}/set", "-m", "0.9"]
            subprocess.run(order, check=True)
            at = heard.wait_for(f"{THRESHOLD}/state", "0.9")
            assert daemon.stop()[0] == 0
            at = heard.wait_for("streamer/garage/status", "offline", after=at)
        changed = config.replace('alarm"]}', f'alarm"], onset_threshold: {configured}}}')
        with Daemon(changed, tmp_path):
            first = heard.wait("threshold", lambda topic, _: topic == f"{THRESHOLD}/state", after=at)
            assert heard.messages[first][1] == then
