"""The count rule, in tables: see `tests.rules.tables.follow` for how they are read."""

from typing import Any

import pytest
from pydantic import ValidationError

from streamer.core import Reason
from streamer.rules.base import Place
from streamer.rules.count import Config, Rule, build
from tests.rules.tables import HOP, INFO, LABELS, follow, reasons_of, said, utc, when


def rule(**options: Any) -> Rule:
    config = Config.model_validate({"rule": "dog", "n": 3, "within_s": 10.0, **options})
    return build(config, Place("nuisance", INFO, utc))


@pytest.mark.parametrize(("dog", "spoke", "events"), [
    ("[].[].[]..........",
     "......(.....).....", "start@0 end@0..7 quiet"),        # 10 s after the second of them, only one is left
    ("[].[].[]..[].[]......",
     "......(............).", "start@0 end@0..14 quiet"),    # goes on while two began within 10 s
    ("[].[].......[].[].",
     "..................", ""),                              # never three within 10 s
    ("[].[].[.............]...",
     "......(.............)...", "start@0 end@0..20 quiet"),  # no end while it barks
    ("[].[].[].............[].[].[]",
     "......(.....)..............(.", "start@0 end@0..7 quiet start@21"),  # each is counted once
    ("[].[].[].....[].[]...",
     "......(.....)........", "start@0 end@0..7 quiet"),
])  # fmt: skip
def test_three_within_ten_seconds(dog: str, spoke: str, events: str) -> None:
    found = follow(rule(), dog=dog)
    assert (when(found, len(dog)), said(found)) == (spoke, events)


def test_of_two_the_last_must_be_too_long_ago() -> None:
    found = follow(rule(n=2, within_s=5.0), dog="[].[].......")
    assert (when(found, 12), said(found)) == ("...(...)....", "start@0 end@0..4 quiet")


def test_the_end_of_sound_ends_it_and_what_was_counted_is_forgotten() -> None:
    found = follow(rule(), sound="......x....", dog="[][][.....[")
    assert (when(found, 11), said(found)) == ("....(.)....", "start@0 end@0..7 source_lost")
    found = follow(rule(), sound="......x....", dog="[][]......[")
    assert said(found) == ""


def test_a_snooze_while_a_dog_barks_ends_it_there() -> None:
    one = rule()
    started = follow(one, dog="[][][..")
    assert said(started + one.flush(7 * HOP, Reason.SNOOZE)) == "start@0 end@0..7 snooze"


def test_what_its_event_says() -> None:
    start, end = follow(rule(), dog="[].[].[].........")
    assert (LABELS[start.label], start.rule, start.score, start.peak_score, start.level_dbfs) == (
        "Bark", "nuisance", 0.7, 0.9, -20.0,  # of the event that made it; the highest of those counted
    )  # fmt: skip
    assert (end.id, end.score, end.peak_score, end.level_dbfs) == (start.id, 0.2, 0.9, -20.0)


def test_it_says_why() -> None:
    assert reasons_of(rule(n=2, within_s=3.0), dog="[].[]...") == [
        "dog: 1 of 2 within 3 s",
        "dog: 1 of 2 within 3 s",
        "",
        "dog: 1 of 2 within 3 s: started, at 0.00 s",
        "open since 0.00 s; dog: 1 of 2 within 3 s",
        "ended, at 4.00 s: quiet",
        "",
        "",
    ]


@pytest.mark.parametrize(("options", "sentence"), [
    ({"n": 1}, "Input should be greater than or equal to 2"),
    ({"within_s": 0.0}, "Input should be greater than 0"),
])  # fmt: skip
def test_what_can_not_be_counted(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        rule(**options)
