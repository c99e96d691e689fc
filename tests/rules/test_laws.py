"""Laws that hold for rules of every type, whatever is heard: random options, scores, ends of sound and orders."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamer import config, edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Level, Message, Reason, Samples, Scores, SegmentEnd, StreamInfo
from streamer.engine import Engine
from streamer.line import build_line
from streamer.reporter import Reporter
from streamer.rules.base import Rule
from streamer.rules.threshold import Config
from streamer.stats import Stats
from tests.fakes import FakeBackend, loudness, spec_of

HOP = 100  # samples, 1 s
LABELS = ("Bark", "Growling", "Siren")
INFO = StreamInfo("mic", "garage", 1.0, 4.0, HOP, LABELS, ("/m/1", "/m/2", "/m/3"))
NIGHT = datetime(2026, 11, 27, 20, 59, 30, tzinfo=UTC)  # half a minute before ten in Berlin


def utc(at: int) -> datetime:
    return NIGHT + timedelta(seconds=at / HOP)


# -- rules -------------------------------------------------------------------------------------------------------------

seconds = st.sampled_from([0.0, 1.0, 2.5, 6.0])
OPTIONS = {
    "onset_threshold": st.sampled_from([0.5, 0.6]),
    "offset_threshold": st.sampled_from([0.2, 0.5]),
    "thresholds": st.just({"Bark": {"onset": 0.8, "offset": 0.3}}),
    "smooth_windows": st.integers(2, 6),
    "smoothing": st.sampled_from(["median", "mean"]),
    "of_windows": st.just(3),
    "min_windows": st.integers(1, 3),
    "min_duration_s": seconds,
    "release_s": seconds,
    "refractory_s": seconds,
    "max_duration_s": st.sampled_from([0.5, 5.0, 9.0]),
    "instant": st.just(["Bark"]),
    "unless": st.just(["Siren"]),
    "min_level_dbfs": st.just(-40.0),
    "schedule": st.just({"days": ["fri"], "hours": "22:00-06:00", "time_zone": "Europe/Berlin"}),
}
LISTENING = st.sampled_from([
    {"labels": ["Bark"]},
    {"labels": ["Bark", "Growling"]},
    {"labels": ["Dog"], "groups": {"Dog": ["Bark", "Growling"]}},
    {"labels": "any"},
    {"labels": "any", "groups": {"Growling": ["Bark"]}},
    {"labels": "any", "groups": {"Noise": ["Siren", "Growling"]}},
    {"labels": "any", "groups": {"Growling": ["Siren"]}, "unless": ["Siren"], "unless_threshold": 0.8},
])  # fmt: skip
# A few at a time: with all of them hardly anything would ever be reported.
FEW = st.sets(st.sampled_from(sorted(OPTIONS)), max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries({key: OPTIONS[key] for key in sorted(keys)})
)


def is_valid(options: dict[str, Any]) -> bool:
    try:
        return bool(Config.model_validate(options))
    except ValidationError:
        return False


threshold_options = st.builds(operator.or_, LISTENING, FEW).filter(is_valid)


def options_of(type_name: str, **options: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One of each option's values."""
    return st.fixed_dictionaries({"type": st.just(type_name), **{k: st.sampled_from(v) for k, v in options.items()}})


sets_of_rules = st.fixed_dictionaries({
    # Those that watch come first: the reporter asks them last.
    "absence_of_many": options_of("absence", rule=["many"], for_s=[4.0]),
    "many": options_of("count", rule=["a"], n=[2, 3, 4], within_s=[5.0, 30.0]),
    "chain": options_of("sequence", rules=[["a", "b"], ["b", "a"], ["b", "many", "a"]], within_s=[3.0, 20.0]),
    "gone": options_of("absence", rule=["b", "chain"], for_s=[1.0, 8.0]),
    "a": threshold_options,
    "b": threshold_options,
})  # fmt: skip

# -- what happens ------------------------------------------------------------------------------------------------------

def story_of(seed: int) -> list[Any]:
    """Three sounds that come and go for some minutes, and now and then an end of sound, a snooze, another threshold."""
    random, story, is_on = Random(seed), [], [False] * len(LABELS)
    restlessness = [random.choice([0.05, 0.2, 0.5]) for _ in LABELS]
    for _ in range(150):
        is_on = [on != (random.random() < often) for on, often in zip(is_on, restlessness, strict=True)]
        tenths = tuple(random.choice((5, 7, 9) if on else (0, 1, 3)) for on in is_on)
        story.append(("hop", tenths, random.choice((-20.0, -20.0, -50.0)), random.random() < 0.02))
        match random.randrange(100):
            case 0 | 1:
                reason = random.choice((Reason.SOURCE_LOST, Reason.PAUSE, Reason.SOURCE_END))
                story.append(("end", reason, random.randrange(HOP)))
            case 2:
                story.append(("snooze", random.choice(NAMES), random.choice((0.0, 2.0, 9.0))))
            case 3:
                story.append(("tune", random.choice("ab"), random.choice((0.3, 0.7))))
    return story


NAMES = ("a", "b", "many", "chain", "gone", "absence_of_many")
happenings = st.integers(0, 2**32 - 1).map(story_of)


def only_sound(story: list[Any]) -> list[Any]:
    return [happening for happening in story if happening[0] in {"hop", "end"}]


@dataclass(frozen=True)
class Setting:
    rules: dict[str, dict[str, Any]]

    def rule(self, name: str, onset: float | None = None) -> Rule:
        options = {"type": "threshold", **self.rules[name]}
        made: Any = edges.edge_config("rule", options["type"]).model_validate(options)
        return edges.build_rule(made if onset is None else made.with_onset(onset), name, INFO, utc)

    def reporter(self) -> Reporter:
        return Reporter(INFO, {name: self.rule(name) for name in self.rules}, utc, lambda at: at)


def messages_of(setting: Setting, story: list[Any]) -> Iterator[Message]:
    """All that is published, to the stop at the end."""
    one, end = setting.reporter(), 0
    for kind, *what in story:
        match kind:
            case "hop":
                tenths, level_dbfs, is_constant = what
                end += HOP
                scores = np.array(tenths, np.float32) / 10
                level = Level(level_dbfs, 0.0, 0, is_constant)
                yield from one.report(Scores("mic", end - 4 * HOP, end, HOP, scores, level))
            case "end":
                end += what[1]
                yield from one.report(SegmentEnd("mic", end, what[0]))
            case "snooze":
                yield from one.snooze(*what)
            case "tune":
                yield from one.replace(what[0], setting.rule(*what))
    yield from one.stop()


def events_of(setting: Setting, story: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """Each rule's events; `latency_ms` is the position at which they were told."""
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in setting.rules}
    for message in messages_of(setting, story):
        if message.topic == "mic/event":
            payload: Any = message.payload
            told[payload["rule"]].append(payload)
    return told


PLAIN = Setting({
    "absence_of_many": {"type": "absence", "rule": "many", "for_s": 4.0},
    "many": {"type": "count", "rule": "a", "n": 2, "within_s": 30.0},
    "chain": {"type": "sequence", "rules": ["a", "b"], "within_s": 20.0},
    "gone": {"type": "absence", "rule": "b", "for_s": 8.0},
    "a": {"labels": ["Bark"], "max_duration_s": 9.0},
    "b": {"labels": ["Growling"]},
})  # fmt: skip


def test_the_stories_are_about_every_rule_and_reason() -> None:
    """Else the laws would hold of nothing."""
    events = [events_of(PLAIN, story_of(seed)) for seed in range(30)]
    assert {name for told in events for name, each in told.items() if each} == set(NAMES)
    reasons = {event["end_reason"] for told in events for each in told.values() for event in each}
    assert reasons == {None, *Reason} - {Reason.INTERRUPTED}


@settings(max_examples=300, deadline=None)
@given(rules=sets_of_rules, story=happenings)
def test_every_start_has_one_end_and_time_never_runs_back(rules: dict[str, dict[str, Any]], story: list[Any]) -> None:
    for events in events_of(Setting(rules), story).values():
        starts, ends = events[::2], events[1::2]
        assert [event["event_type"] for event in events] == ["start", "end"] * len(starts)
        assert len({start["id"] for start in starts}) == len(starts)
        for start, end in zip(starts, ends, strict=True):
            same = ("id", "label", "onset", "onset_s", "level_dbfs")
            assert [start[key] for key in same] == [end[key] for key in same]
            assert (start["end_reason"], start["offset_s"]) == (None, None)
            assert end["end_reason"] is not None
            assert 0 <= start["onset_s"] <= end["offset_s"] <= end["latency_ms"] / HOP
            assert end["score_peak"] >= start["score_peak"] >= start["score"]
        for before, after in pairwise(events):
            assert before["latency_ms"] <= after["latency_ms"], "told in order"
        for before, after in pairwise(starts):
            assert before["onset_s"] <= after["onset_s"], "begun in order"


@settings(max_examples=100, deadline=None)
@given(rules=sets_of_rules, story=happenings)
def test_the_states_say_what_the_events_say(rules: dict[str, dict[str, Any]], story: list[Any]) -> None:
    open_ids: dict[str, str | None] = {}
    for message in messages_of(Setting(rules), story):
        payload: Any = message.payload
        if message.topic == "mic/event":
            open_ids[payload["rule"]] = payload["id"] if payload["event_type"] == "start" else None
        elif message.topic.endswith("/state"):
            assert payload["event_id"] == open_ids.get(message.topic.split("/")[1])
    assert set(open_ids.values()) <= {None}


@settings(max_examples=200, deadline=None)
@given(options=threshold_options, story=happenings.map(only_sound))
def test_what_a_threshold_rule_never_reports(options: dict[str, Any], story: list[Any]) -> None:
    events = events_of(Setting({"a": options}), story)["a"]
    starts, ends = events[::2], events[1::2]
    for start, end in zip(starts, ends, strict=True):
        if end["end_reason"] == "quiet" and "instant" not in options:
            assert end["duration_s"] >= options.get("min_duration_s", 0.0), "too short"
        if "min_level_dbfs" in options:
            assert start["level_dbfs"] >= options["min_level_dbfs"], "too quiet"
        if "schedule" in options:
            assert start["onset"] >= "2026-11-27T21:00:00.000Z", "not at night"
        if "unless" in options:
            assert start["label"] != "Siren"
    for end, start in zip(ends, starts[1:], strict=False):
        assert end["offset_s"] <= start["onset_s"], "events overlap"
        assert start["latency_ms"] - end["latency_ms"] >= options.get("refractory_s", 0.0) * HOP, "too soon"


# -- blocks ------------------------------------------------------------------------------------------------------------

RATE = 16000
SETTINGS = config.parse(
    """
    node: garage
    streams: {room: {source: {type: file, path: unused.wav}, hop_s: 0.1}}
    rules:
      siren: {type: threshold, labels: [Siren], smooth_windows: 3, release_s: 0.2, unless: [Rumble]}
      rumble: {type: threshold, labels: [Rumble], release_s: 0.1, min_duration_s: 0.2, max_duration_s: 0.7}
      sound: {type: threshold, labels: any, min_windows: 2, of_windows: 3, instant: [Rumble], min_level_dbfs: -60}
      twice: {type: count, rule: rumble, n: 2, within_s: 1.5}
      then: {type: sequence, rules: [siren, rumble], within_s: 2}
      plain: {type: threshold, labels: [Rumble], release_s: 0.1}
      quiet: {type: absence, rule: plain, for_s: 0.8}
    """,
    "test.yaml",
    edges.edge_config,
)
BACKEND = FakeBackend(
    spec_of("Siren", "Rumble", window_frames=50),
    lambda window: (8 * loudness(window[:, 80:88]) + 2, 8 * loudness(window[:, 8:14]) + 2),
)


def scene() -> Samples:
    """5 s of quiet noise: sirens from 0.3, 1.1 and 4.6 s, rumbles from 1.9 and 3.0 s."""
    at = np.arange(5 * RATE) / RATE
    sound = np.random.default_rng(4).normal(0, 1e-4, len(at))
    for hz, begin, end in ((3000, 0.3, 0.5), (3000, 1.1, 1.2), (3000, 4.6, 5.0), (200, 1.9, 2.6), (200, 3.0, 3.9)):
        sound += 0.2 * np.sin(2 * np.pi * hz * at) * ((at >= begin) & (at < end))
    return sound.astype(np.float32)


SCENE = scene()


def events_in_blocks(cuts: list[int]) -> list[dict[str, Any]]:
    """Events of the scene, delivered in blocks that end at `cuts`."""
    line = build_line(SETTINGS, "room", BACKEND.spec, Stats(), is_replay=True)
    ring, clock = Ring(2 * len(SCENE), len(SCENE)), Clock(RATE, monotonic=lambda: 0.0, utc=lambda: 1.8e9)
    clock.anchor(0, 0.0)
    line.stream.attach(ring, clock, "every")
    told: list[dict[str, Any]] = []

    def deliver(output: Scores | SegmentEnd) -> None:
        told.extend(dict(m.payload) for m in line.reporter.report(output) if m.topic == "room/event")  # type: ignore[arg-type]

    engine = Engine(BACKEND, [line.stream], deliver)
    for begin, end in pairwise([0, *cuts, len(SCENE)]):
        ring.write(SCENE[begin:end])
        while engine.step():
            pass
    ring.close(Reason.SOURCE_END)
    while engine.step():
        pass
    return [{key: value for key, value in event.items() if key != "id"} for event in told]


WHOLE = events_in_blocks([])


def test_every_rule_has_something_to_say_of_the_scene() -> None:
    assert {event["rule"] for event in WHOLE} == set(SETTINGS.rules)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, len(SCENE) - 1), max_size=60, unique=True).map(sorted))
def test_blocks_make_no_difference(cuts: list[int]) -> None:
    assert events_in_blocks(cuts) == WHOLE
