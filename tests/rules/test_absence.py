"""The absence rule, in tables: see `tests.rules.tables.follow` for how they are read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from streamer.core import Event, Level, Phase, Reason, Scores
from streamer.rules.absence import Config, Rule, build
from streamer.rules.base import Place
from tests.rules.tables import HOP, INFO, LABELS, follow, reasons_of, said, utc, when


def rule(**options: Any) -> Rule:
    return build(Config.model_validate({"rule": "pump", "for_s": 5.0, **options}), Place("pump_stopped", INFO, utc))


@pytest.mark.parametrize(("sound", "pump", "spoke", "events"), [
    ("..............",
     ".[..].........",
     "........(.....", "start@4"),                              # 5 s after it was last there
    ("..............",
     ".[..].....[...",
     "........(.)...", "start@4 end@4..10 quiet"),              # until it is heard again
    ("..............",
     ".[..]...[.....",
     "..............", ""),                                     # heard again in time
    ("..............",
     "..............",
     "..............", ""),                                     # never heard: nothing is missing
    ("..............",
     ".[............",
     "..............", ""),
    ("................",
     ".[.].....[].....",
     ".......(.)....(.", "start@3 end@3..9 quiet start@10"),
    # the source is lost after `x`
    ("......x.........",
     ".[..]...........",
     "...........(....", "start@7"),                            # still known to be missing, but counted from there on
    (".........x..........",
     ".[..]...............",
     "........()....(.....", "start@4 end@4..10 source_lost start@10"),
    ("....x...........",
     ".[..............",
     ".........(......", "start@5"),                            # it ran when the source was lost, and then it does not
    ("....x...........",
     ".[.....[........",
     "................", ""),                                   # it ran, and then it does again
    ("....x...........",
     "................",
     "................", ""),
    # sound was lost at `~`
    ("....~~~~~~......",
     ".[.]............",
     "..............(.", "start@10"),                           # that was no silence, which is counted anew
    ("....~~~~~~......",
     ".[...........]..",
     "................", ""),
    (".........~~~....",
     ".[..]........[..",
     "........(....)..", "start@4 end@4..13 quiet"),           # what is open goes on
    # max_duration_s ended the event
    ("....................",
     ".[.|................",
     "....................", ""),                               # the sound may go on
    ("....................",
     ".[.|.[.]............."[:20],
     "...........(........", "start@7"),                        # it is told anew, and then it stops
    ("....................",
     ".[..:...............",
     "........(...........", "start@4"),                        # it had left
    ("....................",
     ".[].....[|..........",
     "......(.)...........", "start@2 end@2..8 quiet"),
    ("......x.............",
     ".[.|................",
     "...........(........", "start@7"),                        # told anew it would be after the break, were it there
    # nothing but one value: a noise gate; a dead microphone is lost after a while
    (".....0000.........",
     ".[.]..............",
     ".......(..........", "start@3"),
    ("........0000......",
     ".[.]..............",
     ".......(..........", "start@3"),
])  # fmt: skip
def test_the_pump_is_missing_for_five_seconds(sound: str, pump: str, spoke: str, events: str) -> None:
    found = follow(rule(), sound=sound, pump=pump)
    assert (when(found, len(sound)), said(found)) == (spoke, events)


@pytest.mark.parametrize("reason", [Reason.SNOOZE, Reason.RELOAD])
def test_after_a_snooze_or_another_threshold_of_it_the_pump_must_be_heard_anew(reason: Reason) -> None:
    one = rule()
    started = follow(one, pump=".[.]......")
    assert said(started + one.flush(10 * HOP, reason, stopped={"pump"})) == f"start@3 end@3..10 {reason}"
    assert follow(one, pump="." * 20) == []
    assert said(follow(one, pump="." * 10 + ".[]........")) == "start@12"


def test_after_a_snooze_of_its_own_what_was_heard_before_is_known() -> None:
    one = rule()
    started = follow(one, pump=".[.]......")
    assert said(started + one.flush(10 * HOP, Reason.SNOOZE, stopped={"pump_stopped"})) == "start@3 end@3..10 snooze"
    assert said(follow(one, pump="." * 14)) == ""
    assert said(follow(one, pump="." * 15)) == "start@10", "no earlier than the snooze's end"


def test_what_its_event_says() -> None:
    start, end = follow(rule(), pump="[.]......[")
    assert (LABELS[start.label], start.rule, start.level_dbfs) == ("Bark", "pump_stopped", -30.0)
    assert round(start.score, 3) == round(start.peak_score, 3) == 0.1, "how little of it is heard"
    assert (end.id, end.label) == (start.id, start.label)


def test_it_begins_no_earlier_than_the_last_one_ended_though_what_is_watched_was_told_late() -> None:
    one = rule()
    told = follow(one, sound="..x.......", pump=".[........")
    begun = Event("late", "mic", "pump", 0, Phase.START, 11 * HOP, 1 * HOP, None, 0.7, 0.7, -20.0)
    ended = replace(begun, phase=Phase.END, offset=2 * HOP, end_reason=Reason.QUIET)
    silent = Scores("mic", 7 * HOP, 11 * HOP, HOP, np.zeros(len(LABELS), np.float32), Level(-30.0, -10.0, 0))
    told += one.update(silent, [begun, ended])
    assert said(told) == "start@3 end@3..3 quiet start@3"


def test_it_says_why() -> None:
    assert reasons_of(rule(for_s=3.0), pump=".[.]....[]") == [
        "",
        "",
        "",
        "pump not heard for 1.00 s of 3 s",
        "pump not heard for 2.00 s of 3 s",
        "pump not heard for 3.00 s of 3 s: started, at 3.00 s",
        "open since 3.00 s",
        "open since 3.00 s",
        "ended, at 8.00 s: quiet",
        "pump not heard for 1.00 s of 3 s",
    ]


def test_it_says_that_the_sound_may_go_on() -> None:
    cut = "pump may go on: its event was cut off by max_duration_s"
    assert reasons_of(rule(), pump=".[.|..[.") == ["", "", "", cut, cut, cut, "", ""]


def test_a_time_is_needed() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        rule(for_s=0.0)
