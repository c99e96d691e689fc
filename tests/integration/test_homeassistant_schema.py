"""What Home Assistant itself says of our discovery: its schemas, and its core beside a real broker.

Opt-in, since it is 600 MB: name a Python that has it, as SKIPPED says. Beyond the schemas: entities appear, go on and
off, vanish, and the handbook's automations do what it promises.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any, Self

import pytest
import yaml
from paho.mqtt.client import CallbackAPIVersion, Client

from streamer.core import Level, Message, Site, Status, StreamRules
from streamer.payload import to_json
from streamer.reporter import level_message, status_message
from streamer.sinks._homeassistant import Discovery, device, discovery_topic, removal
from tests.fakes import PATIENCE_S, wait_for
from tests.integration.broker import Broker, tool
from tests.sinks.sites import GARAGE, MIC, ROOT, default_site

PYTHON = os.environ.get("HOMEASSISTANT_PYTHON")
SKIPPED = (
    "needs Home Assistant: `python3.13 -m venv ha; ha/bin/pip install homeassistant 'paho-mqtt>=2'` "
    "somewhere else, then HOMEASSISTANT_PYTHON=ha/bin/python"
)
pytestmark = pytest.mark.skipif(PYTHON is None, reason=SKIPPED)

SMOKE, DEAF = "binary_sensor.streamer_garage_mic_smoke_alarm", "binary_sensor.streamer_garage_mic_deaf"
LEVEL = "sensor.streamer_garage_mic_level"
EVENT, LISTENING = "event.streamer_garage_mic_event", "switch.streamer_garage_mic_listening"
THRESHOLD = "number.streamer_garage_mic_smoke_alarm_threshold"
HEARD = {"state": "ON", "event_id": "01J", "label": "Smoke detector, smoke alarm", "score": 0.91, "onset": "…"}
QUIET = {"state": "OFF", "event_id": None, "label": None, "score": None, "onset": None}
END = json.loads((ROOT / "tests" / "golden" / "end.json").read_text())
MANY = Site(
    "a-b_c",
    (
        MIC,
        StreamRules("yard-2", {f"rule_{n}": ("Bark",) for n in range(300)}, frozenset(f"rule_{n}" for n in range(300))),
        StreamRules("-"),
    ),
)


class HomeAssistant:
    """Its core in a process of its own, connected to `broker`, and a publisher in our place."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        (folder / "configuration.yaml").touch()
        script = str(Path(__file__).with_name("homeassistant_core.py"))
        self._broker, self._folder = broker, folder
        command = [str(PYTHON), script, str(broker.port), str(folder)]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.version = tuple(map(int, self._answer()["version"].split(".")[:2]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def complaints(self) -> list[str]:
        """What its MQTT integration logged, from warnings upwards."""
        lines = (self._folder / "log").read_text().splitlines()
        return [line for line in lines if line.startswith("homeassistant.components.mqtt")]

    def entity(self, name: str) -> dict[str, Any] | None:
        """State and attributes; None where there is no such entity."""
        states = self.ask(states=None)
        assert (name in states) == (name in states["registered"])
        found: dict[str, Any] | None = states.get(name)
        return found

    def state(self, name: str) -> str | None:
        entity = self.entity(name)
        return entity and entity["state"]

    def shows(self, name: str, state: str | None) -> None:
        wait_for(lambda: self.state(name) == state, f"{name} to be {state}, not {self.state(name)}")

    def shows_of(self, reading: Message, name: str, state: str) -> None:
        """As `shows`, of a reading that comes again and again, since it may be too early for a new entity."""
        wait_for(lambda: self.publish(reading) or self.state(name) == state, f"{name} to be {state}")

    def announce(self, site: Site) -> None:
        self.publish(Message(discovery_topic(Discovery(), site), device(site, "streamer"), retain=True), root="")

    def publish(self, message: Message, root: str = "streamer/garage/") -> None:
        payload = message.payload.encode() if isinstance(message.payload, str) else to_json(message.payload)
        options = ["-q", str(message.qos), *(["-r"] if message.retain else []), "-t", root + message.topic, "-s"]
        subprocess.run(
            [tool("mosquitto_pub"), "-p", str(self._broker.port), *options], input=payload, check=True, timeout=10
        )

    def status(self, status: Status) -> None:
        self.publish(status_message("mic", status))

    def node(self, status: str) -> None:
        self.publish(Message("status", status, retain=True))

    def heard(self, topic: str, do: Callable[[], object]) -> str:
        """The next message on `topic` after `do()`."""
        subscribed, messages = Event(), Queue[str]()
        client = Client(CallbackAPIVersion.VERSION2)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _client, _data, message: messages.put(message.payload.decode())
        client.connect("127.0.0.1", self._broker.port)
        client.subscribe(f"streamer/garage/{topic}")
        client.loop_start()
        try:
            assert subscribed.wait(PATIENCE_S)
            do()
            return messages.get(timeout=PATIENCE_S)
        finally:
            client.disconnect()
            client.loop_stop()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HomeAssistant]:
    with Broker(tmp_path) as broker, HomeAssistant(broker, tmp_path) as home:
        yield home
        assert home.complaints() == []


def test_its_schemas_take_every_component_and_know_every_option(home: HomeAssistant) -> None:
    unknown = ["default_entity_id"] if home.version < (2025, 10) else []
    for site in (GARAGE, MANY, default_site(), Site("empty")):
        payload = device(site, "streamer")
        said = home.ask(check=payload)
        assert said == dict.fromkeys(payload["cmps"], unknown)
    with pytest.raises(AssertionError, match="Invalid"):
        home.ask(check={**device(GARAGE, "streamer"), "o": {}})


def test_it_would_complain(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, HomeAssistant(broker, tmp_path) as home:
        home.publish(Message("homeassistant/device/garage/config", {"cmps": {}}, retain=True), root="")
        wait_for(home.complaints, "a complaint")


def test_entities_have_the_ids_that_we_promise(home: HomeAssistant) -> None:
    site = default_site()
    home.announce(site)
    promised = {c["default_entity_id"] for c in device(site, "streamer")["cmps"].values()}
    wait_for(lambda: set(home.ask(states=None)["registered"]) == promised, "the promised ids")


def test_a_rule_goes_on_and_off_and_knows_nothing_while_its_stream_is_away(home: HomeAssistant) -> None:
    home.announce(GARAGE)
    home.shows(SMOKE, "unavailable")
    home.node("online")
    home.status(Status.ONLINE)
    home.shows(SMOKE, "unknown")
    home.publish(Message("mic/smoke_alarm/state", QUIET, retain=True))
    home.shows(SMOKE, "off")
    home.publish(Message("mic/smoke_alarm/state", HEARD, retain=True))
    home.shows(SMOKE, "on")
    entity = home.entity(SMOKE)
    assert entity is not None
    assert (entity["device_class"], entity["score"], entity["friendly_name"]) == (
        "smoke", 0.91, "Streamer garage Mic smoke alarm",
    )  # fmt: skip
    for status in (Status.STALLED, Status.PAUSED, Status.OFFLINE):
        home.status(status)
        home.shows(SMOKE, "unavailable")
        home.status(Status.ONLINE)
        home.shows(SMOKE, "on")
    home.node("offline")
    home.shows(SMOKE, "unavailable")


def test_a_deaf_stream_is_a_problem_and_can_be_heard_of(home: HomeAssistant) -> None:
    home.node("online")
    home.announce(GARAGE)
    for status, state in {"online": "off", "stalled": "on", "paused": "off", "offline": "on"}.items():
        home.status(Status(status))
        home.shows(DEAF, state)
    home.publish(Message("mic/event", END))
    wait_for(lambda: home.state(EVENT) != "unknown", "the event")
    event = home.entity(EVENT)
    assert event is not None
    assert event["event_type"] == "end"
    assert {key: event[key] for key in ("rule", "end_reason", "replayed", "id")} == {
        key: END[key] for key in ("rule", "end_reason", "replayed", "id")
    }


def test_readings(home: HomeAssistant) -> None:
    home.node("online")
    home.status(Status.ONLINE)
    home.announce(GARAGE)
    home.shows(LEVEL, "unavailable")  # nothing came yet
    home.shows_of(level_message("mic", Level(-42.25, -3.0, 0)), LEVEL, "-42.2")
    stats = {"real_time_factor": 0.1234, "pending_events": 3, "dropped_events": 1}
    first = Message("stats", stats, qos=0)
    second = Message("stats", {**stats, "skipped": 7, "latency_ms": {"p50": 1, "p95": 210.5, "p99": 3}}, qos=0)
    for reading, name, state in (
        (first, "model_load", "12.3"),
        (first, "pending_events", "3"),
        (first, "dropped_events", "1"),
        (first, "skipped_windows", "0"),
        (first, "latency", "unknown"),  # no message was sent yet
        (second, "skipped_windows", "7"),
        (second, "latency", "210.5"),
    ):
        home.shows_of(reading, f"sensor.streamer_garage_{name}", state)


def test_orders_are_ours(home: HomeAssistant) -> None:
    home.node("online")
    home.status(Status.PAUSED)
    home.announce(GARAGE)
    home.publish(Message("mic/listening/state", "OFF", retain=True))
    home.publish(Message("mic/smoke_alarm/threshold/state", "0.25", retain=True))
    home.shows(LISTENING, "off")
    home.shows(THRESHOLD, "0.25")
    on = ["switch", "turn_on", {"entity_id": LISTENING}]
    assert home.heard("mic/listening/set", lambda: home.ask(press=on)) == "ON"
    more = ["number", "set_value", {"entity_id": THRESHOLD, "value": 0.31}]
    assert home.heard("mic/smoke_alarm/threshold/set", lambda: home.ask(press=more)) == "0.31"


def test_what_left_the_configuration_leaves(home: HomeAssistant) -> None:
    home.node("online")
    home.status(Status.ONLINE)
    home.announce(GARAGE)
    home.shows(SMOKE, "unknown")
    site = replace(GARAGE, streams=(replace(MIC, rules={"siren": ("Siren",), "dog-bark": ("Bark",)}),))
    first = removal(to_json(device(GARAGE, "streamer")), device(site, "streamer"))
    assert first is not None
    home.publish(Message(discovery_topic(Discovery(), site), first, retain=True), root="")
    home.announce(site)
    home.shows(SMOKE, None)
    home.shows(THRESHOLD, None)
    home.shows("binary_sensor.streamer_garage_mic_siren", "unknown")
    home.shows("binary_sensor.streamer_garage_mic_dog_bark", "unknown")
    home.announce(GARAGE)
    home.shows(SMOKE, "unknown")


def test_the_handbooks_automations_do_what_they_say(home: HomeAssistant) -> None:
    page = (ROOT / "docs" / "home-assistant.md").read_text()
    (text,) = re.findall(r"## Three automations\n\n```yaml\n(.*?)```", page, re.DOTALL)
    site, root = default_site(), "streamer/home/"
    home.announce(site)
    home.publish(Message("status", "online", retain=True), root)
    home.publish(status_message("mic", Status.ONLINE), root)
    home.publish(Message("mic/smoke_alarm/state", QUIET, retain=True), root)
    home.shows("binary_sensor.streamer_home_mic_smoke_alarm", "off")
    assert home.ask(automate=yaml.safe_load(text)) is True
    states = home.ask(states=None)
    names = ["automation.smoke_alarm", "automation.baby_cries_at_night", "automation.the_microphone_is_deaf"]
    assert [states[name]["state"] for name in names] == ["on", "on", "on"]
    home.publish(Message("mic/smoke_alarm/state", HEARD, retain=True), root)
    wait_for(lambda: home.ask(calls=None), "the notification")
    (call,) = home.ask(calls=None)
    assert call[0] == "notify.mobile_app_phone"
    assert call[1]["data"]["push"]["sound"]["critical"] == 1
    home.ask(press=["automation", "trigger", {"entity_id": names[1]}])
    wait_for(lambda: len(home.ask(calls=None)) == 2, "the light")
    assert home.ask(calls=None)[1] == ["light.turn_on", {"brightness_pct": 10, "entity_id": ["light.nursery"]}]
