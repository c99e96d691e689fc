"""The sequence rule, in tables: see `tests.rules.tables.follow` for how they are read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from streamer.core import Event, Level, Phase, Reason, Scores
from streamer.rules.base import Place
from streamer.rules.sequence import FEW, Config, Rule, build
from tests.rules.tables import HOP, INFO, LABELS, follow, reasons_of, said, utc, when


def rule(*rules: str, **options: Any) -> Rule:
    config = {"rules": list(rules or ("glass", "steps")), "within_s": 5.0, **options}
    return build(Config.model_validate(config), Place("intruder", INFO, utc))


@pytest.mark.parametrize(("glass", "steps", "spoke", "events"), [
    ("..[.].......",
     ".....[...]..",
     ".....(...)..", "start@2 end@2..9 quiet"),
    ("..[.......].",
     ".....[.]....",
     ".....(.)....", "start@2 end@2..7 quiet"),               # whether the glass still breaks does not matter
    (".[.]........",
     "......[..]..",
     "......(..)..", "start@1 end@1..9 quiet"),               # just within 5 s of its beginning
    ("[.].........",
     "......[..]..",
     "............", ""),
    ("......[.]...",
     "..[.]...[.].",
     "........(.).", "start@6 end@6..10 quiet"),              # the other way round it is nothing
    ("..[.].......",
     "..[...].....",
     "..(...).....", "start@2 end@2..6 quiet"),               # in one hop either may be the first
    ("[].[].......",
     "......[.]...",
     "......(.)...", "start@3 end@3..8 quiet"),               # the nearest
    ("[]..........",
     "..[][]......",
     "..()........", "start@0 end@0..3 quiet"),               # each makes one sequence
    ("[].[].......",
     ".[...][.]...",
     ".(...)(.)...", "start@0 end@0..5 quiet start@3 end@3..8 quiet"),
])  # fmt: skip
def test_glass_then_steps_within_five_seconds(glass: str, steps: str, spoke: str, events: str) -> None:
    found = follow(rule(), glass=glass, steps=steps)
    assert (when(found, len(glass)), said(found)) == (spoke, events)


@pytest.mark.parametrize(("glass", "dog", "steps", "events"), [
    ("[].........",
     "..[].......",
     "....[.]....", "start@0 end@0..6 quiet"),
    ("[].........",
     "....[.]....",
     "..[]...[.].", ""),                                      # seven seconds after the glass
    ("[]..[].....",
     "..[...]....",
     "......[.]..", ""),                                      # no dog after the nearer glass; the other is too far off
    ("..[].......",
     "[]...[]....",
     "......[.]..", "start@2 end@2..8 quiet"),
])  # fmt: skip
def test_three_in_a_row(glass: str, dog: str, steps: str, events: str) -> None:
    assert said(follow(rule("glass", "dog", "steps"), glass=glass, dog=dog, steps=steps)) == events


def event(rule: str, told: int, onset: int, offset: int | None = None) -> Event:
    """One that was told late."""
    phase, reason = (Phase.START, None) if offset is None else (Phase.END, Reason.QUIET)
    at, ended = told * HOP, None if offset is None else offset * HOP
    return Event(f"{rule} {onset}", "mic", rule, 0, phase, at, onset * HOP, ended, 0.7, 0.9, -20.0, reason)


def tell(one: Rule, *events: Event) -> list[Event]:
    at = max(event.at for event in events)
    return one.update(Scores("mic", at, at, HOP, np.zeros(len(LABELS), np.float32), Level(-30.0, -10.0, 0)), events)


def test_it_is_the_onsets_that_count_not_when_they_were_told() -> None:
    one = rule()
    told = tell(one, event("steps", 4, 3)) + tell(one, event("glass", 6, 1)) + tell(one, event("steps", 9, 3, 8))
    assert (when(told, 9), said(told)) == (".....(..)", "start@1 end@1..8 quiet")


def test_what_was_over_before_the_first_was_known_starts_and_ends_at_once() -> None:
    one = rule()
    told = tell(one, event("steps", 4, 3)) + tell(one, event("steps", 5, 3, 4)) + tell(one, event("glass", 6, 1))
    assert [(each.phase, each.at) for each in told] == [(Phase.START, 600), (Phase.END, 600)]
    assert said(told) == "start@1 end@1..4 quiet"


def test_the_first_is_remembered_however_many_come_between() -> None:
    one = rule("glass", "dog", "steps", within_s=200.0)
    tell(one, event("glass", 1, 0))
    for at in range(1, 121):
        tell(one, event("dog", at + 1, at))
    assert said(tell(one, event("steps", 131, 130))) == "start@0"


def test_one_that_is_told_late_is_remembered_and_finds_what_was_first() -> None:
    one = rule()
    tell(one, event("glass", 1, 0))
    for quarter in range(4 * 20, 4 * 60):
        tell(one, replace(event("glass", 60, 0), id=str(quarter), onset=quarter * HOP // 4))
    assert said(tell(one, event("steps", 61, 4))) == "start@0"


@pytest.mark.parametrize(("within_s", "n_most"), [(5.0, FEW), (300.0, 360)])
def test_what_is_remembered_is_bounded(within_s: float, n_most: int) -> None:
    one = rule(within_s=within_s)
    for at in range(1000):
        tell(one, event("glass", at + 1, at))
    assert len(one._known) == n_most


def test_what_came_long_ago_is_remembered_where_little_came_since() -> None:
    one = rule()
    tell(one, event("glass", 1, 0))
    assert said(tell(one, event("steps", 4000, 4))) == "start@0", "as of a rule that counts for an hour"


def test_the_end_of_sound_ends_it_and_what_was_heard_is_forgotten() -> None:
    found = follow(rule(), sound="....x...", glass=".[].....", steps="...[....")
    assert said(found) == "start@1 end@1..5 source_lost"
    assert follow(rule(), sound="..x.....", glass=".[......", steps="...[....") == []


def test_a_snooze_ends_it_there() -> None:
    one = rule()
    started = follow(one, glass=".[]..", steps="...[.")
    assert said(started + one.flush(5 * HOP, Reason.SNOOZE)) == "start@1 end@1..5 snooze"


def test_its_end_says_why_the_last_of_them_ended() -> None:
    one = rule()
    told = tell(one, event("glass", 2, 1)) + tell(one, event("steps", 4, 3))
    told += tell(one, replace(event("steps", 9, 3, 8), end_reason=Reason.MAX_DURATION))
    assert said(told) == "start@1 end@1..8 max_duration"


def test_what_its_event_says() -> None:
    start, end = follow(rule(), glass="[]....", steps="...[.]")
    assert (LABELS[start.label], start.rule, start.score, start.peak_score, start.level_dbfs) == (
        "Growling", "intruder", 0.7, 0.9, -20.0,  # of the last of them; the highest of all
    )  # fmt: skip
    assert end.id == start.id


def test_it_says_why() -> None:
    assert reasons_of(rule(), glass=".[]....", steps="...[.].") == [
        "",
        "glass began at 1.00 s",
        "",
        "steps began at 3.00 s: started, at 1.00 s",
        "open since 1.00 s",
        "ended, at 5.00 s: quiet",
        "",
    ]


@pytest.mark.parametrize(("rules", "sentence"), [
    (("glass",), "List should have at least 2 items"),
    (("glass", "glass"), "'glass' stands in it twice; a rule of type count counts events of one rule"),
])  # fmt: skip
def test_what_is_no_sequence(rules: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        rule(*rules)
