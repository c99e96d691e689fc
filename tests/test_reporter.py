"""What rules notice, as the messages that were promised to the outside."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np
import pytest

from streamer.core import Event, Level, Message, Phase, Reason, Scores, SegmentEnd, Status, StreamInfo
from streamer.reporter import Reporter, level_message, status_message
from streamer.rules import absence
from streamer.rules import count as counting
from streamer.rules.base import Place, Rule
from streamer.rules.threshold import Config, build

RATE = 16000
EPOCH = datetime(2026, 11, 22, 12, 0, 0, 230_000, UTC)
INFO = StreamInfo(
    "mic", "garage", 1.0, 10.24, RATE,
    ("Smoke detector, smoke alarm", "Bark"), ("/m/01y3hg", "/m/05tny_"),
    {"name": "starter", "revision": "sha256:0123"},
)  # fmt: skip
SILENT = Level(-120.0, -120.0, 0)


def utc(at: int) -> datetime:
    return EPOCH + timedelta(seconds=at / RATE)


def reporter(utc: Callable[[int], datetime] = utc) -> Reporter:
    """Two rules, each on one label, that end with the first window under."""
    ids = count(1)
    rules = {
        name: build(Config(labels=[label], release_s=0.0), Place(name, INFO, utc, lambda: f"01J{next(ids)}"))
        for name, label in (("smoke_alarm", INFO.labels[0]), ("dog_bark", INFO.labels[1]))
    }
    return Reporter(INFO, rules, utc, lambda at: at // RATE)


def scores(second: int, *values: float, level: Level = SILENT) -> Scores:
    """Of the window whose newest hop ends at `second`."""
    end = second * RATE
    return Scores("mic", end - 164_080, end, RATE, np.array(values, np.float32), level)


def payloads(messages: list[Message], topic: str) -> list[Any]:
    return [message.payload for message in messages if message.topic == topic]


def play(one: Reporter) -> list[Message]:
    """Silence, a smoke alarm from second 11 until the window that ends at second 24 is the last to hold it, silence."""
    outputs = [scores(11, 0.1, 0), scores(12, 0.91234, 0, level=Level(-23.14, -3.0, 2)), scores(13, 0.95, 0)]
    outputs += [scores(second, 0.5, 0) for second in range(14, 25)] + [scores(25, 0.05, 0)]
    return [message for output in outputs for message in one.report(output)]


def test_the_payload_of_events_is_what_was_promised() -> None:
    start, end = payloads(play(reporter()), "mic/event")
    both = {
        "v": 1, "id": "01J1", "node": "garage", "stream": "mic", "rule": "smoke_alarm",
        "label": "Smoke detector, smoke alarm", "label_id": "/m/01y3hg",
        "onset": "2026-11-22T12:00:11.230Z", "onset_s": 11.0, "level_dbfs": -23.1,
        "window_s": 10.24, "hop_s": 1.0, "model": {"name": "starter", "revision": "sha256:0123"}, "replayed": False,
    }  # fmt: skip
    assert start == both | {
        "event_type": "start", "score": 0.9123, "score_peak": 0.9123, "offset": None, "offset_s": None,
        "duration_s": None, "end_reason": None, "latency_ms": 12, "seq": 1,
    }  # fmt: skip
    assert end == both | {
        "event_type": "end", "score": 0.05, "score_peak": 0.95, "offset": "2026-11-22T12:00:14.475Z",
        "offset_s": 14.245, "duration_s": 3.245, "end_reason": "quiet", "latency_ms": 25, "seq": 2,
    }  # fmt: skip


def test_an_onset_is_told_the_same_at_the_end_though_the_clock_was_set() -> None:
    drifting = iter(range(1000))
    start, end = payloads(play(reporter(lambda at: EPOCH + timedelta(seconds=next(drifting)))), "mic/event")
    assert start["onset"] == end["onset"] == "2026-11-22T12:00:00.230Z"


def test_topics_qos_and_retain() -> None:
    messages = play(reporter())
    assert {(message.topic, message.qos, message.retain) for message in messages} == {
        ("mic/event", 1, False),
        ("mic/smoke_alarm/state", 1, True),
        ("mic/level", 0, False),
    }
    assert not any(label in message.topic for message in messages for label in INFO.labels)


def test_the_state_of_a_rule_is_retained_on_and_off() -> None:
    messages = play(reporter())
    idle = {
        "state": "OFF", "event_id": None, "label": None, "score": None, "onset": None, "snoozed_until": None,
    }  # fmt: skip
    on = {
        "state": "ON", "event_id": "01J1", "label": "Smoke detector, smoke alarm",
        "score": 0.9123, "onset": "2026-11-22T12:00:11.230Z", "snoozed_until": None,
    }  # fmt: skip
    assert payloads(messages, "mic/smoke_alarm/state") == [on, idle]
    assert [(message.topic, message.payload, message.retain) for message in reporter().idle()] == [
        ("mic/smoke_alarm/state", idle, True),
        ("mic/dog_bark/state", idle, True),
    ]


def test_events_are_numbered_in_their_stream() -> None:
    one = reporter()
    messages = [m for second, bark in enumerate([0.9, 0, 0.9, 0]) for m in one.report(scores(20 + second, 0.9, bark))]
    assert [(event["seq"], event["rule"], event["event_type"]) for event in payloads(messages, "mic/event")] == [
        (1, "smoke_alarm", "start"), (2, "dog_bark", "start"), (3, "dog_bark", "end"),
        (4, "dog_bark", "start"), (5, "dog_bark", "end"),
    ]  # fmt: skip


def test_the_end_of_sound_ends_events_there_once() -> None:
    one = reporter()
    list(one.report(scores(12, 0.9, 0.9)))
    messages = list(one.report(SegmentEnd("mic", 12 * RATE + 800, Reason.SOURCE_LOST)))
    ends = payloads(messages, "mic/event")
    assert [(event["rule"], event["offset_s"], event["end_reason"]) for event in ends] == [
        ("smoke_alarm", 12.05, "source_lost"), ("dog_bark", 12.05, "source_lost"),
    ]  # fmt: skip
    assert payloads(messages, "mic/level") == [], "no sound, no level"
    assert list(one.stop()) == []


def test_stop_ends_what_is_open_once() -> None:
    one = reporter()
    list(one.report(scores(12, 0.9, 0)))
    list(one.report(scores(13, 0.9, 0)))
    [end] = payloads(list(one.stop()), "mic/event")
    assert (end["event_type"], end["offset_s"], end["end_reason"]) == ("end", 13.0, "stop")
    assert list(one.stop()) == []


def test_stop_before_anything_was_heard() -> None:
    assert list(reporter().stop()) == []


def test_silence_is_minus_120_dbfs() -> None:
    [level] = payloads(list(reporter().report(scores(11, 0, 0))), "mic/level")
    assert level == {"rms_dbfs": -120.0, "peak_dbfs": -120.0, "clipped": 0}
    one = reporter()
    [start] = payloads(list(one.report(scores(12, 0.9, 0))), "mic/event")
    assert start["level_dbfs"] == -120.0


def test_a_level() -> None:
    assert level_message("mic", Level(-23.16, -0.34, 3)) == Message(
        "mic/level", {"rms_dbfs": -23.2, "peak_dbfs": -0.3, "clipped": 3}, qos=0
    )


@pytest.mark.parametrize("status", list(Status))
def test_a_status_is_retained(status: Status) -> None:
    assert status_message("mic", status) == Message("mic/status", status.value, retain=True)


class Progressing:
    """A rule with news of its open event in each window."""

    watches = ()
    why = ""

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> list[Event]:
        start = Event("01J1", "mic", "bark", 1, Phase.START, scores.end, 0, None, 0.8, 0.8, -30.0)
        return [start, replace(start, phase=Phase.UPDATE, score=0.7)]

    def flush(
        self, at: int, reason: Reason, heard: Sequence[Event] = (), stopped: Collection[str] = ()
    ) -> list[Event]:
        return []


def test_an_update_is_an_event_but_no_change_of_state() -> None:
    one = Reporter(INFO, {"bark": Progressing()}, lambda _: EPOCH, lambda _: None)
    messages = list(one.report(scores(1, 0, 0)))
    assert [message.topic for message in messages] == ["mic/level", "mic/event", "mic/bark/state", "mic/event"]
    start, update = payloads(messages, "mic/event")
    assert (start["event_type"], update["event_type"], update["seq"]) == ("start", "update", 2)
    assert update == start | {"event_type": "update", "score": 0.7, "seq": 2}


class Echo:
    """Repeats the starts of the rule it watches."""

    def __init__(self, *watched: str) -> None:
        self.watches = watched
        self.why = ""

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> list[Event]:
        return [replace(each, id=f"{each.id}-again", rule="echo") for each in heard if each.phase == Phase.START]

    def flush(
        self, at: int, reason: Reason, heard: Sequence[Event] = (), stopped: Collection[str] = ()
    ) -> list[Event]:
        return []


def test_a_rule_is_asked_after_those_it_watches() -> None:
    bark = build(Config(labels=["Bark"]), Place("bark", INFO, utc, lambda: "01J1"))
    one = Reporter(INFO, {"echo": Echo("bark"), "bark": bark}, lambda _: EPOCH, lambda _: None)
    assert list(one.rules) == ["bark", "echo"]
    ids = [event["id"] for event in payloads(list(one.report(scores(1, 0, 0.9))), "mic/event")]
    assert ids == ["01J1", "01J1-again"]


@pytest.mark.parametrize(("watches", "order"), [
    ({"a": (), "w": ("a",), "b": ()}, "a w b"),
    ({"w": ("b",), "a": (), "b": ()}, "a b w"),
    ({"y": ("x", "a"), "x": ("b",), "b": (), "a": ("gone",)}, "b x a y"),
])  # fmt: skip
def test_rules_are_else_asked_as_they_stand(watches: dict[str, tuple[str, ...]], order: str) -> None:
    rules = {name: Echo(*theirs) for name, theirs in watches.items()}
    assert " ".join(Reporter(INFO, rules, utc, lambda _: None).rules) == order


def test_a_rule_is_told_of_the_rules_it_watches_and_of_no_others() -> None:
    one = reporter()
    one.rules["echo"] = Echo("dog_bark")
    messages = [m for at, bark in enumerate((0, 0.9)) for m in one.report(scores(10 + at, 0.9, bark))]
    assert [event["id"] for event in payloads(messages, "mic/event")] == ["01J1", "01J2", "01J2-again"]
    one.rules["echo"] = Echo("smoke_alarm")
    assert brief([*one.snooze("dog_bark", 9), *one.report(scores(12, 0, 0.9))]) == [
        "dog_bark snooze", "smoke_alarm quiet",
    ]  # fmt: skip


def test_a_snoozed_rule_ends_its_event_sleeps_and_wakes() -> None:
    one = reporter()
    list(one.report(scores(10, 0, 0.9)))
    asleep = list(one.snooze("dog_bark", 3))
    assert [event["end_reason"] for event in payloads(asleep, "mic/event")] == ["snooze"]
    assert payloads(asleep, "mic/dog_bark/state")[-1]["snoozed_until"] is not None
    news = {second: list(one.report(scores(second, 0, 0.9))) for second in (11, 12, 13)}
    assert not any(payloads(news[second], "mic/event") for second in (11, 12))
    assert payloads(news[13], "mic/dog_bark/state")[0]["snoozed_until"] is None
    assert [event["event_type"] for event in payloads(news[13], "mic/event")] == ["start"]


def test_a_snoozed_rule_can_be_woken() -> None:
    one = reporter()
    list(one.snooze("dog_bark", 600))
    assert [message.payload["snoozed_until"] for message in one.snooze("dog_bark", 0)] == [None]
    assert payloads(list(one.report(scores(1, 0, 0.9))), "mic/event")


def test_to_wake_a_rule_that_is_awake_changes_nothing() -> None:
    one = reporter()
    list(one.report(scores(10, 0, 0.9)))
    assert list(one.snooze("dog_bark", 0)) == []
    assert payloads(list(one.report(scores(11, 0, 0.9))), "mic/event") == [], "its event goes on"


def test_a_replaced_rule_ends_its_event() -> None:
    one = reporter()
    list(one.report(scores(10, 0, 0.7)))
    changed = build(Config(labels=["Bark"], onset_threshold=0.8), Place("dog_bark", INFO, utc))
    ended = list(one.replace("dog_bark", changed))
    assert [event["end_reason"] for event in payloads(ended, "mic/event")] == ["reload"]
    assert not payloads(list(one.report(scores(11, 0, 0.7))), "mic/event")


def pump_room(**options: float) -> Reporter:
    """A pump, listened for with these options, and what is said when it stops, or starts again and again."""
    ids = count(1)

    def new_id() -> str:
        return f"01J{next(ids)}"

    again = counting.Config(rule="pump", n=2, within_s=60.0)
    rules: dict[str, Rule] = {
        "stopped": absence.build(absence.Config(rule="pump", for_s=15.0), Place("stopped", INFO, utc, new_id)),
        "restless": counting.build(again, Place("restless", INFO, utc, new_id)),
        "pump": build(Config(labels=["Bark"], **{"release_s": 0.0, **options}), Place("pump", INFO, utc, new_id)),  # type: ignore[arg-type]
    }
    return Reporter(INFO, rules, utc, lambda _: None)


def heard(one: Reporter, row: str, first: int = 11) -> list[str]:
    """`restless start`, …: of a row with `9` for each second in whose window the pump is."""
    outputs = [scores(first + at, 0, 0.9 if mark == "9" else 0) for at, mark in enumerate(row)]
    return brief([message for output in outputs for message in one.report(output)])


def brief(messages: list[Message]) -> list[str]:
    events = payloads(messages, "mic/event")
    return [f"{event['rule']} {event['end_reason'] or event['event_type']}" for event in events]


def test_a_snooze_ends_what_watching_rules_have_open() -> None:
    one = pump_room()
    assert heard(one, "99.99") == ["pump start", "pump quiet", "pump start", "restless start"]
    assert brief(list(one.snooze("pump", 600))) == ["pump snooze", "restless snooze"]
    assert heard(one, "." * 300, first=16) == [], "a pump that nobody listens to is not missing"
    assert heard(one, "9.9" + "." * 20, first=616) == [
        "pump start", "pump quiet", "pump start", "restless start", "pump quiet", "stopped start",
    ]  # fmt: skip


@pytest.mark.parametrize(("pump", "onsets"), [
    ("9" * 12, [2.245, 70]),  # missing before the snooze, and after it
    ("9" * 40, [70]),  # it stops in the snooze
    ("9" * 75, [70]),  # and that is only known after it
    ("9" * 90, [80.245]),
    ("9" * 40 + "." * 5 + "9" * 75, []),  # it stops, and goes on again
    ("9" * 12 + "." * 48 + "9" * 60, [2.245]),  # it is missing, and goes on again
    ("9" * 75 + "." * 7 + "9" * 38, []),  # it stops, and goes on again soon after the snooze
    ("9" * 120, []),
    ("", []),
])  # fmt: skip
def test_an_absence_that_was_snoozed_still_knows_what_is_missing(pump: str, onsets: list[int]) -> None:
    one, row = pump_room(), pump.ljust(120, ".")
    messages: list[Message] = []
    for second, mark in enumerate(row, 1):
        messages += one.report(scores(second, 0, 0.9 if mark == "9" else 0))
        if second == 30:
            messages += one.snooze("stopped", 40)
    told = [event for event in payloads(messages, "mic/event") if event["rule"] == "stopped"]
    assert [event["onset_s"] for event in told if event["event_type"] == "start"] == onsets


def test_lost_sound_is_no_silence_though_the_pump_was_last_heard_before() -> None:
    one = pump_room(release_s=3.0)
    assert heard(one, "99999") == ["pump start"]
    assert heard(one, "...", first=71) == ["pump quiet"]
    assert heard(one, "." * 11, first=74) == []
    assert heard(one, ".", first=85) == ["stopped start"]


def sleeps_s(state: Message) -> float:
    """For how many more seconds, as it says."""
    assert isinstance(state.payload, dict)
    return (datetime.fromisoformat(state.payload["snoozed_until"]) - datetime.now(UTC)).total_seconds()


def test_a_rule_can_be_snoozed_before_there_is_any_sound() -> None:
    def no_time(at: int) -> datetime:
        raise IndexError(at)

    [message] = reporter(no_time).snooze("dog_bark", 3600)
    assert 3590 < sleeps_s(message) <= 3600


@pytest.mark.parametrize("days", [-1, 1])
def test_a_snooze_begins_now_however_long_ago_something_was_heard(days: int) -> None:
    """Of a stream that was paused, or lost; or before the clock was set right."""
    heard = datetime.now(UTC) + timedelta(days=days)
    one = reporter(lambda at: heard)
    list(one.report(scores(1000, 0, 0)))
    [message] = one.snooze("dog_bark", 3600)
    assert 3590 < sleeps_s(message) <= 3600


def test_a_snooze_that_is_over_is_none_though_nothing_was_heard_since() -> None:
    one = reporter()
    list(one.report(scores(10, 0, 0)))
    list(one.snooze("dog_bark", 30))
    list(one.snooze("smoke_alarm", 1e-5))  # not a sample
    assert one.snoozed() == {"dog_bark": 30}
    list(one.report(scores(25, 0, 0)))
    assert one.snoozed() == {"dog_bark": 15}
    list(one.report(scores(40, 0, 0)))
    assert one.snoozed() == {}


def test_another_threshold_ends_what_watching_rules_have_open() -> None:
    one = pump_room()
    assert heard(one, "9" + "." * 15) == ["pump start", "pump quiet", "stopped start"]
    changed = build(Config(labels=["Bark"], onset_threshold=0.8, release_s=0.0), Place("pump", INFO, utc))
    assert brief(list(one.replace("pump", changed))) == ["stopped reload"]
    assert heard(one, "." * 15, first=27) == []


def stops(told: list[str]) -> int:
    return told.count("stopped start")


@pytest.mark.parametrize("refractory_s", [0.0, 300.0])
def test_a_pump_that_runs_is_not_missing_though_its_events_are_cut_off(refractory_s: float) -> None:
    one = pump_room(max_duration_s=60.0, refractory_s=refractory_s)
    told = heard(one, "9" * 1000)
    assert (stops(told), told.count("pump max_duration") > 2) == (0, True)


@pytest.mark.parametrize("stopped_at", range(61, 122, 4))
def test_a_pump_whose_events_are_cut_off_is_missing_when_it_stops(stopped_at: int) -> None:
    assert stops(heard(pump_room(max_duration_s=60.0, release_s=5.0), "9" * stopped_at + "." * 60)) == 1


def test_a_snoozed_watcher_leaves_the_watched_alone() -> None:
    one = pump_room()
    assert heard(one, "9.9") == ["pump start", "pump quiet", "pump start", "restless start"]
    assert brief(list(one.snooze("restless", 600))) == ["restless snooze"]
    assert heard(one, "9..", first=14) == ["pump quiet"]


def test_the_end_of_sound_ends_watched_and_watching_rules_in_their_order() -> None:
    one = pump_room()
    heard(one, "9.9")
    messages = list(one.report(SegmentEnd("mic", 14 * RATE, Reason.SOURCE_LOST)))
    assert brief(messages) == ["pump source_lost", "restless source_lost"]
    assert heard(one, "." * 15, first=15) == ["stopped start"]


def test_the_highest_scores_are_read_out_now_and_then() -> None:
    one = Reporter(INFO, {}, lambda _: EPOCH, lambda _: None, top=1, every_s=2.0)
    messages = [message for second in range(11, 16) for message in one.report(scores(second, 0.25, 0.5))]
    readings = [message for message in messages if message.topic == "mic/scores"]
    assert [message.payload["end_s"] for message in readings] == [11.0, 13.0, 15.0]
    assert readings[0].payload["scores"] == [{"label": "Bark", "score": 0.5}]
    assert (readings[0].qos, readings[0].retain) == (0, False)
