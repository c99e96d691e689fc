"""How the tables of rules are read: one character a hop of 1 s, a window 4 s long.

`scores` are tenths, `.` is 0, `~` a hop that was lost, as in an overrun. Below them stands when the rule spoke: `(` a
start, `)` an end. A sound stays in 4 windows, so one that fills a single hop scores four times, and its end is the
start of the last of those windows.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np

from streamer.core import Event, Level, Phase, Reason, Scores, StreamInfo
from streamer.rules.base import Place
from streamer.rules.threshold import Config, Rule, build

HOP = 100  # samples, 1 s
WINDOW = 4 * HOP
LABELS = ("Bark", "Growling", "Rain", "Siren", "Smoke alarm", "Alarm", "Television")
INFO = StreamInfo("mic", "garage", 1.0, 4.0, HOP, LABELS, tuple(f"/m/{i}" for i in range(len(LABELS))))


def rule(labels: tuple[str, ...] = ("Bark",), /, **options: Any) -> Rule:
    ids = count(1)
    config = Config.model_validate({"labels": list(labels), "release_s": 1.0, **options})
    return build(config, Place("dog", INFO, utc, lambda: f"event {next(ids)}"))


def utc(at: int) -> datetime:
    """The first hop begins on a Friday in Berlin's winter, 4 s before ten in the evening."""
    return datetime(2026, 11, 27, 20, 59, 56, tzinfo=UTC) + timedelta(seconds=at / HOP)


def rows(**heard: str) -> list[str]:
    """A row of digits for each of `LABELS`, of which some are heard: spaces in them are written `_`."""
    length = len(next(iter(heard.values())))
    return [heard.get(label.replace(" ", "_"), "." * length) for label in LABELS]


def windows(*rows: str) -> Iterator[Scores]:
    """One row of digits for each label."""
    for hop, digits in enumerate(zip(*rows, strict=True)):
        if "~" in digits:
            continue
        scores = np.zeros(len(INFO.labels), np.float32)
        scores[: len(rows)] = [0 if digit == "." else int(digit) / 10 for digit in digits]
        end = (hop + 1) * HOP
        yield Scores("mic", end - WINDOW, end, HOP, scores, Level(-20.0 - hop, -10.0, 0))


def play(rule: Rule, *rows: str) -> list[Event]:
    return [event for scores in windows(*rows) for event in rule.update(scores)]


def said(events: list[Event]) -> str:
    """`start@4 end@4..8 quiet`: positions in hops."""
    words = []
    for event in events:
        onset = f"{event.onset / HOP:g}"
        ended = f"end@{onset}..{(event.offset or 0) / HOP:g} {event.end_reason}"
        words.append(ended if event.phase == Phase.END else f"start@{onset}")
    return " ".join(words)


def when(events: list[Event], n_hops: int) -> str:
    """A row with `(` where a start was told and `)` where an end was."""
    row = ["."] * n_hops
    for event in events:
        row[event.at // HOP - 1] = ")" if event.phase == Phase.END else "("
    return "".join(row)


def check(scores: str, spoke: str, events: str, **options: Any) -> None:
    found = play(rule(**options), scores)
    assert (when(found, len(scores)), said(found)) == (spoke, events)


# -- rules that watch others -------------------------------------------------------------------------------------------


def follow(rule: Any, sound: str = "", **watched: str) -> list[Event]:
    """What a rule makes of the events of others: `[` one begins with this hop, `]` it ended before it.

    At `|` one is cut off by `max_duration_s`, at `:` too, when its sound had ended before this hop.
    In `sound`, `0` is a hop of one constant value, `~` one that was lost, as in an overrun; after an `x` the source is
    lost, and opened again.
    """
    return [event for told, _ in _followed(rule, sound, watched) for event in told]


def reasons_of(rule: Any, sound: str = "", **watched: str) -> list[str]:
    """What the rule has to say of each hop."""
    return [why for _, why in _followed(rule, sound, watched)]


def _followed(rule: Any, sound: str, watched: dict[str, str]) -> Iterator[tuple[list[Event], str]]:
    open_events: dict[str, Event] = {}
    for hop, kind in enumerate(sound or "." * len(next(iter(watched.values())))):
        if kind == "~":
            continue
        at = (hop + 1) * HOP
        heard = [event for name, row in watched.items() if (event := _event(name, row[hop], hop, open_events))]
        scores = np.full(len(LABELS), 0.1, np.float32)
        told = rule.update(Scores("mic", at - WINDOW, at, HOP, scores, Level(-30.0, -10.0, 0, kind == "0")), heard)
        if kind == "x":
            lost = {"phase": Phase.END, "at": at, "offset": at, "end_reason": Reason.SOURCE_LOST}
            told = told + rule.flush(at, Reason.SOURCE_LOST, [replace(one, **lost) for one in open_events.values()])
            open_events.clear()
        yield told, rule.why


def _event(name: str, mark: str, hop: int, open_events: dict[str, Event]) -> Event | None:
    at = (hop + 1) * HOP
    if mark == "[":
        label = LABELS.index({"glass": "Siren", "steps": "Growling"}.get(name, "Bark"))
        event = Event(f"{name}{hop}", "mic", name, label, Phase.START, at, at - HOP, None, 0.7, 0.7, -20.0)
        open_events[name] = event
        return event
    if mark in "]|:":
        offset, reason = (at if mark == "|" else at - HOP), (Reason.QUIET if mark == "]" else Reason.MAX_DURATION)
        ended = {"phase": Phase.END, "at": at, "offset": offset, "end_reason": reason}
        return replace(open_events.pop(name), score=0.2, peak_score=0.9, **ended)
    return None
