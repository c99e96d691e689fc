"""The shapes that the outside relies on: the schemas, payloads frozen in tests/golden, and what is really published."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from streamer.core import Level, Message, Reason, Scores, SegmentEnd, Status, StreamInfo
from streamer.reporter import Reporter, status_message
from streamer.rules.base import Place
from streamer.rules.threshold import Config, build
from streamer.stats import Stats

ROOT = Path(__file__).parent.parent
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "schema").glob("*.json"))}
GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests" / "golden").glob("*.json"))}
RATE = 16000
INFO = StreamInfo(
    "mic", "garage", 1.0, 10.24, RATE,
    ("Smoke detector, smoke alarm", "Bark"), ("/m/01y3hg", ""),
    {"name": "starter", "revision": "sha256:0123456789abcdef"},
)  # fmt: skip
ID = GOLDEN["start"]["id"]


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[name])


def is_valid(name: str, payload: Any) -> bool:
    return bool(validator(name).is_valid(payload))


def utc(at: int) -> datetime:
    return datetime(2026, 11, 22, 12, 0, 0, 230_000, UTC) + timedelta(seconds=at / RATE)


def reporter(*names: str) -> Reporter:
    labels = dict(zip(("smoke_alarm", "dog_bark"), INFO.labels, strict=True))
    rules = {
        name: build(Config(labels=[labels[name]], release_s=0.0), Place(name, INFO, utc, lambda: ID)) for name in names
    }
    return Reporter(INFO, rules, utc, lambda _: 180, top=2, every_s=1.0)


def outputs() -> Iterator[Scores]:
    """Silence, a smoke alarm from second 11 until the window that ends at second 24 is the last to hold it, silence."""
    for second in range(11, 26):
        score = {11: 0.1, 12: 0.91234, 13: 0.95, 25: 0.05}.get(second, 0.5)
        level = Level(-23.14, -3.0, 2) if second == 12 else Level(-120.0, -120.0, 0)
        end = second * RATE
        yield Scores("mic", end - 164_080, end, RATE, np.array([score, 0], np.float32), level)


def published(one: Reporter) -> Iterator[Message]:
    """All that a stream may say, in one scene."""
    yield from one.idle()
    for output in outputs():
        yield from one.report(output)
    for output in outputs():
        yield from one.report(output)
        if output.end == 12 * RATE:
            yield from one.snooze("smoke_alarm", 5.0)
    yield from one.report(SegmentEnd("mic", 26 * RATE, Reason.SOURCE_LOST))
    yield from one.stop()


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["title"] == name
    assert SCHEMAS[name]["description"].endswith(".")


def test_there_is_one_for_each_topic() -> None:
    assert set(SCHEMAS) == {"event", "state", "level", "stats", "scores", "status"}


# -- events, frozen ----------------------------------------------------------------------------------------------------


def test_events_are_published_as_they_were_promised() -> None:
    one = reporter("smoke_alarm")
    messages = [message for output in outputs() for message in one.report(output)]
    start, end = (message.payload for message in messages if message.topic == "mic/event")
    assert list(start) == list(GOLDEN["start"]), "keys, and their order"
    assert start == GOLDEN["start"]
    assert end == GOLDEN["end"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_events_fit(name: str) -> None:
    validator("event").validate(GOLDEN[name])
    json.dumps(GOLDEN[name], allow_nan=False)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_field_is_required_and_no_other_is_allowed(name: str) -> None:
    for key in GOLDEN[name]:
        assert not is_valid("event", {k: v for k, v in GOLDEN[name].items() if k != key}), key
    assert not is_valid("event", GOLDEN[name] | {"confidence": 0.5})
    assert not is_valid("event", GOLDEN[name] | {"model": GOLDEN[name]["model"] | {"size": 1}})


@pytest.mark.parametrize(("name", "wrong"), [
    ("start", {"v": 2}),
    ("start", {"event_type": "begin"}),
    ("start", {"rule": "Smoke Alarm"}),
    ("start", {"score": 1.01}),
    ("start", {"score_peak": "0.9"}),
    ("start", {"onset": "2026-11-22T12:00:11Z"}),
    ("start", {"onset": "2026-11-22T12:00:11.230+00:00"}),
    ("start", {"onset": None}),
    ("start", {"level_dbfs": -121}),
    ("start", {"latency_ms": 1.5}),
    ("start", {"seq": -1}),
    ("start", {"replayed": 0}),
    ("start", {"end_reason": "quiet"}),
    ("start", {"offset": "2026-11-22T12:00:14.475Z"}),
    ("update", {"duration_s": 1.0}),
    ("end", {"end_reason": None}),
    ("end", {"end_reason": "boredom"}),
    ("end", {"offset": None}),
    ("end", {"duration_s": -0.1}),
    ("interrupted", {"offset": "2026-11-22T12:00:14.475Z"}),
    ("interrupted", {"end_reason": "quiet"}),
])  # fmt: skip
def test_what_no_event_says(name: str, wrong: dict[str, Any]) -> None:
    assert not is_valid("event", GOLDEN[name] | wrong)


def test_every_reason_is_known() -> None:
    assert SCHEMAS["event"]["properties"]["end_reason"]["enum"] == [*(reason.value for reason in Reason), None]


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_what_is_published_fits() -> None:
    seen = set()
    for message in published(reporter("smoke_alarm", "dog_bark")):
        kind = message.topic.split("/")[-1]
        payload = message.payload if isinstance(message.payload, str) else dict(message.payload)
        validator(kind).validate(json.loads(json.dumps(payload, allow_nan=False)))
        seen.add((kind, payload.get("state") or payload.get("event_type"), bool(payload.get("snoozed_until"))))
    assert seen == {
        ("state", "OFF", False), ("state", "ON", False), ("state", "OFF", True),
        ("event", "start", False), ("event", "end", False), ("level", None, False), ("scores", None, False),
    }  # fmt: skip


STATE = {"state": "OFF", "event_id": None, "label": None, "score": None, "onset": None, "snoozed_until": None}


@pytest.mark.parametrize("wrong", [
    {"state": "on"}, {"state": "ON"}, {"event_id": "01J"}, {"onset": "2026-11-22T12:00:11.230Z"}, {"more": 1},
])  # fmt: skip
def test_what_no_state_says(wrong: dict[str, Any]) -> None:
    assert is_valid("state", STATE)
    assert not is_valid("state", STATE | wrong)


def test_every_status_is_known() -> None:
    assert SCHEMAS["status"]["enum"] == [status.value for status in Status]
    for status in Status:
        validator("status").validate(status_message("mic", status).payload)


def published_stats() -> set[str]:
    """The name of each number that the code counts, gauges or times."""
    text = "".join(path.read_text() for path in sorted((ROOT / "streamer").rglob("*.py")))
    found = re.findall(r"stats\.(count|gauge|observe_ms)\(\s*\"(\w+)\"", text)
    return {f"{name}_ms" if kind == "observe_ms" else name for kind, name in found}


def test_all_stats_are_named() -> None:
    section = (ROOT / "docs" / "mqtt.md").read_text().partition("## `stats`")[2]
    assert set(SCHEMAS["stats"]["properties"]) == published_stats() > {"windows", "reconnects", "latency_ms"}
    assert {name for name in published_stats() if f"`{name}`" not in section} == set()


def test_stats_fit() -> None:
    stats = Stats()
    stats.count("windows", 3)
    stats.gauge("real_time_factor", 0.25)
    stats.observe_ms("latency", 12.5)
    validator("stats").validate(stats.snapshot())
    for wrong in ({"windows": "3"}, {"latency_ms": 3}, {"latency_ms": {"p50": 1}}, {"windows": {"p50": 1}}, {"x": 1}):
        assert not is_valid("stats", wrong), wrong


@pytest.mark.parametrize(("name", "good", "wrong"), [
    ("level", {"rms_dbfs": -120.0, "peak_dbfs": -120.0, "clipped": 0}, {"clipped": 0.5}),
    ("level", {"rms_dbfs": 1.2, "peak_dbfs": 3.0, "clipped": 7}, {"rms_dbfs": -130}),
    ("scores", {"start_s": 0.0, "end_s": 1.0, "scores": [{"label": "Bark", "score": 0.5}]}, {"scores": []}),
    ("scores", {"start_s": 0.0, "end_s": 1.0, "scores": [{"label": "Bark", "score": 1}]}, {"scores": [{"label": "x"}]}),
])  # fmt: skip
def test_readings(name: str, good: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert is_valid(name, good)
    assert not is_valid(name, good | wrong)
    assert not is_valid(name, good | {"more": 1})
