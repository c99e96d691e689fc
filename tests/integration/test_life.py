"""The life of an event as `mosquitto_sub -v` shows it, from the node's introduction to its goodbye: `docs/mqtt.md`."""

import json
from pathlib import Path

from tests.integration.broker import Broker
from tests.integration.daemon import Daemon, Subscriber
from tests.integration.test_run import FILE, write_scene

LIFE = """\
streamer/garage/room/status offline
streamer/garage/room/smoke_alarm/state OFF
streamer/garage/room/listening/state ON
streamer/garage/room/smoke_alarm/threshold/state 0.6
streamer/garage/status online
streamer/garage/room/status online
homeassistant/device/garage/config …
streamer/garage/room/smoke_alarm/state ON
streamer/garage/room/event start
streamer/garage/room/smoke_alarm/state OFF
streamer/garage/room/event end
streamer/garage/room/status offline
streamer/garage/status offline
"""


def told(topic: str, payload: str) -> str:
    """A line of it: of objects only what matters."""
    if payload.startswith("{"):
        said = json.loads(payload)
        payload = said.get("event_type") or said.get("state") or "…"
    return f"{topic} {payload}\n"


def test_the_life_of_an_event(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.wav", 22.0, ((3.0, 6.0),))
    config = FILE.format(path=scene, realtime="true", port="{port}")
    with Broker(tmp_path) as broker, Subscriber(broker.port, "#") as heard:
        with Daemon(config.replace("{port}", str(broker.port)), tmp_path) as daemon:
            assert daemon.process.wait(60) == 0
        heard.wait_for("streamer/garage/status", "offline")
        readings = ("/level", "/stats")
        lines = [told(topic, payload) for topic, payload in heard.messages if not topic.endswith(readings)]
    assert "".join(lines) == LIFE
