"""What Home Assistant is told: frozen in tests/golden/homeassistant, and what must hold for any names.

Whether it likes what it is told, it says itself in tests/integration/test_homeassistant_schema.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamer.core import Phase, Site, StreamRules
from streamer.payload import to_json
from streamer.sinks import _homeassistant as homeassistant
from streamer.sinks._homeassistant import Discovery, device, discovery_topic, removal
from tests.sinks.sites import GARAGE, MIC, ROOT, default_site

GOLDEN = ROOT / "tests" / "golden" / "homeassistant"
NODE, MIC_TOPIC = "streamer/garage/status", "streamer/garage/mic/status"
STREAMS = ["deaf", "event", "level", "listening"]  # what each has
NODES = ["dropped", "latency", "load", "pending", "skipped"]


@pytest.fixture(autouse=True)
def release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homeassistant, "version", lambda _: "1.2.3")


def components(*streams: StreamRules) -> dict[str, Any]:
    cmps: dict[str, Any] = device(Site("garage", streams), "streamer")["cmps"]
    return cmps


def one(labels: tuple[str, ...], *, tunable: bool = True) -> dict[str, Any]:
    """The binary sensor of a rule for `labels`."""
    rules = StreamRules("mic", {"x": labels}, frozenset({"x"} if tunable else ()))
    sensor: dict[str, Any] = components(rules)["mic.x.state"]
    return sensor


def topics(component: dict[str, Any]) -> list[str]:
    return [entry["topic"] for entry in component.get("availability", [{"topic": NODE}])]


def test_the_device_is_announced_as_it_was_promised() -> None:
    golden = (GOLDEN / "device.json").read_text()
    assert json.dumps(device(GARAGE, "streamer"), indent=1) + "\n" == golden, "keys, and their order"


def test_where() -> None:
    assert discovery_topic(Discovery(), GARAGE) == "homeassistant/device/garage/config"
    assert discovery_topic(Discovery(discovery_prefix="ha/x"), GARAGE) == "ha/x/device/garage/config"


@pytest.mark.parametrize("prefix", ["", "/ha", "ha/", "a//b", "a/+/b", "#", "a\0"])
def test_a_prefix_that_is_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="is no topic; allowed: levels joined by '/', none empty, no"):
        Discovery(discovery_prefix=prefix)


def test_each_rule_and_stream_is_there() -> None:
    rules = ["mic.smoke_alarm", "mic.dog-bark"]
    assert sorted(components(MIC)) == sorted([
        *NODES, *(f"mic.{name}" for name in STREAMS), "mic.barks_all_night.state",
        *(f"{rule}.{what}" for rule in rules for what in ("state", "threshold")),
    ])  # fmt: skip
    assert sorted(components()) == sorted(NODES)


@pytest.mark.parametrize(("labels", "tunable", "expected"), [
    (("Smoke detector, smoke alarm",), True, "smoke"),
    (("Smoke detector, smoke alarm", "Fire alarm"), True, "smoke"),
    (("Smoke detector, smoke alarm", "Beep, bleep"), True, "sound"),  # the beep may be anything
    (("Siren",), True, "sound"),
    ((), True, "sound"),  # hears anything
    (("Smoke detector, smoke alarm",), False, None),  # watches others: it may mean that they are silent
])  # fmt: skip
def test_classes_of_rules(labels: tuple[str, ...], expected: str | None, *, tunable: bool) -> None:
    assert one(labels, tunable=tunable).get("device_class") == expected


@pytest.mark.parametrize(("key", "expected"), [
    ("mic.smoke_alarm.state", [NODE, MIC_TOPIC]),  # a rule that can't hear knows nothing
    ("mic.level", [NODE, MIC_TOPIC]),
    ("mic.listening", [NODE]),  # how else to go on after a pause
    ("mic.deaf", [NODE]),  # it is for when the stream is stalled
    ("mic.event", [NODE]),  # the end that a stall brings comes when the stream has stalled
    ("mic.smoke_alarm.threshold", [NODE]),
    ("load", [NODE]),
])  # fmt: skip
def test_what_is_there_while(key: str, expected: list[str]) -> None:
    payload = device(GARAGE, "streamer")
    assert payload["availability"] == [{"topic": NODE}]
    assert payload["availability_mode"] == "all"
    assert topics(payload["cmps"][key]) == expected


def test_events_of_every_phase_are_known() -> None:
    assert components(MIC)["mic.event"]["event_types"] == [phase.value for phase in Phase]


def test_orders_go_where_they_are_taken() -> None:
    base = "streamer/garage/mic"
    orders = {key: c["command_topic"] for key, c in components(MIC).items() if "command_topic" in c}
    assert orders == {
        "mic.listening": f"{base}/listening/set",
        "mic.smoke_alarm.threshold": f"{base}/smoke_alarm/threshold/set",
        "mic.dog-bark.threshold": f"{base}/dog-bark/threshold/set",
    }


# -- for any names -----------------------------------------------------------------------------------------------------

# Names that look like ours or like others joined, besides any.
NAME = st.one_of(
    st.sampled_from([*STREAMS, *NODES, "state", "threshold", "a", "b", "a-b", "a_b", "-", "_", "a-", "-b", "a_", "_b"]),
    st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True),
)
STREAM = st.builds(
    lambda name, rules: StreamRules(name, dict.fromkeys(rules, ("Bark",)), frozenset(rules)), NAME, st.sets(NAME)
)
SITE = st.builds(Site, NAME, st.lists(STREAM, unique_by=lambda stream: stream.stream_id).map(tuple))


@given(SITE, NAME)
def test_nothing_has_the_key_or_id_of_another(site: Site, neighbour: str) -> None:
    cmps = device(site, "streamer")["cmps"]
    wanted = len(NODES) + sum(len(STREAMS) + 2 * len(stream.rules) for stream in site.streams)
    assert len(cmps) == wanted
    ids = {component["unique_id"] for component in cmps.values()}
    assert len(ids) == wanted
    if neighbour != site.node:  # another node on the same broker
        others = device(Site(neighbour, site.streams), "streamer")["cmps"].values()
        assert ids.isdisjoint(other["unique_id"] for other in others)


@given(SITE)
def test_it_is_json_and_says_where_everything_belongs(site: Site) -> None:
    payload = device(site, "a/b")
    assert json.loads(to_json(payload)) == payload
    for component in payload["cmps"].values():
        assert component["state_topic"].startswith(f"a/b/{site.node}/")
        assert component["name"].strip()
        assert re.fullmatch(rf"{component['p']}\.[a-z0-9_]+", component["default_entity_id"])
        assert "object_id" not in component


@given(SITE, SITE)
def test_what_left_is_taken_away_and_all_else_stays(before: Site, after: Site) -> None:
    new = device(after, "streamer")
    first = removal(to_json(device(before, "streamer")), new)
    left = device(before, "streamer")["cmps"].keys() - new["cmps"].keys()
    if not left:
        assert first is None
        return
    assert first is not None
    assert {**first, "cmps": None} == {**new, "cmps": None}
    assert set(list(first["cmps"])[: len(left)]) == left
    assert all(list(first["cmps"][key]) == ["p"] for key in left)
    assert {key: c for key, c in first["cmps"].items() if key not in left} == new["cmps"]


# -- what left ---------------------------------------------------------------------------------------------------------


def test_a_rule_that_left_is_named_with_its_platforms_only() -> None:
    old = to_json(device(GARAGE, "streamer"))
    new = device(Site("garage", (StreamRules("mic", {"dog-bark": ("Bark",)}),)), "streamer")
    first = removal(old, new)
    assert first is not None
    assert {key: c for key, c in first["cmps"].items() if key not in new["cmps"]} == {
        "mic.smoke_alarm.state": {"p": "binary_sensor"},
        "mic.smoke_alarm.threshold": {"p": "number"},
        "mic.dog-bark.threshold": {"p": "number"},
        "mic.barks_all_night.state": {"p": "binary_sensor"},
    }
    assert removal(to_json(first), new) is not None, "a death between the two payloads: said again in the next life"
    assert removal(to_json(new), new) is None


def test_what_changed_its_platform_leaves_first() -> None:
    new = device(GARAGE, "streamer")
    cmps = {**new["cmps"], "mic.deaf": {"p": "sensor", "unique_id": "x"}}
    first = removal(to_json({**new, "cmps": cmps}), new)
    assert first is not None
    assert first["cmps"]["mic.deaf"] == {"p": "sensor"}
    assert new["cmps"]["mic.deaf"]["p"] == "binary_sensor"


@pytest.mark.parametrize("old", [
    b"", b"\xff\xfe", b"{", b"null", b"[]", b"7", b'"x"', b"{}", b"NaN", b"[" * 100_000, b"9" * 5000,
    b'{"o":{"name":"zigbee2mqtt"},"cmps":{"x":{"p":"sensor"}}}',  # somebody else's
    b'{"cmps":{"x":{"p":"sensor"}}}',
    b'{"o":"streamer","cmps":{"x":{"p":"sensor"}}}',
    b'{"o":{"name":"streamer"}}',
    b'{"o":{"name":"streamer"},"cmps":["x"]}',
    b'{"o":{"name":"streamer"},"cmps":{"x":null,"y":{},"z":{"p":7},"a":{"p":"\\ud800"},"\\ud800":{"p":"sensor"}}}',
])  # fmt: skip
def test_what_is_not_ours_takes_nothing_away(old: bytes) -> None:
    assert removal(old, device(GARAGE, "streamer")) is None


@given(st.binary())
def test_any_bytes_may_lie_there(old: bytes) -> None:
    assert removal(old, device(GARAGE, "streamer")) is None


# -- the handbook ------------------------------------------------------------------------------------------------------


def named(page: Path) -> set[str]:
    return set(re.findall(r"\b(?:binary_sensor|event|number|sensor|switch)\.[a-z0-9_]+", page.read_text()))


def test_the_handbook_names_what_is_there() -> None:
    cmps = device(default_site(), "streamer")["cmps"]
    handbook = named(ROOT / "docs" / "home-assistant.md")
    assert len(handbook) > 10
    assert handbook <= {component["default_entity_id"] for component in cmps.values()}
