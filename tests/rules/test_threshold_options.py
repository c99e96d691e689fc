"""What else a threshold rule can be told, in tables: see `tests.rules.tables` for how they are read."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from streamer.core import Event, Level, Reason
from streamer.errors import ConfigError
from streamer.rules.base import Place
from streamer.rules.threshold import Config, build
from tests.rules.tables import HOP, INFO, LABELS, check, play, rows, rule, said, utc, when, windows


def labels_of(events: list[Event]) -> list[str]:
    return [LABELS[event.label] for event in events]


def reasons(scores: list[str], labels: tuple[str, ...] = ("Bark",), **options: Any) -> list[str]:
    """What the rule says of each window."""
    one, said_why = rule(labels, **options), []
    for window in windows(*scores):
        one.update(window)
        said_why.append(one.why)
    return said_why


def broken_off(scores: str, at: int, **options: Any) -> str:
    """What is told of scores, of which those from hop `at` on come after a break."""
    one, events = rule(**options), []
    for hop, window in enumerate(windows(scores)):
        if hop == at:
            events += one.flush(at * HOP, Reason.SOURCE_LOST)
        events += one.update(window)
    return said(events)


# -- smoothing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("....9.....9.9...",
     "............()..", "start@11 end@11..11 quiet"),      # one window is an outlier; two of three are not
    ("....99999999....",
     ".....(.......)..", "start@4 end@4..8.5 quiet"),       # told a window later, at the same times as without it
    ("....9999.9999...",
     ".....(........).", "start@4 end@4..9.5 quiet"),       # a window under is an outlier too
    ("9999............",
     "(....)..........", "start@0 end@0..0.5 quiet"),       # of the first window alone there is nothing else
])  # fmt: skip
def test_the_median_of_three_windows(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, smooth_windows=3)


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("....9.9.9.......",
     "......(....)....", "start@3 end@3..6.5 quiet"),        # 0.3 and 0.6 in turn: as early as it ends late
    ("....66666666....",
     "......(......)..", "start@4 end@4..8.5 quiet"),
])  # fmt: skip
def test_the_mean_of_three_windows(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, smooth_windows=3, smoothing="mean", onset_threshold=0.5, offset_threshold=0.25)


def test_a_run_of_smoothed_scores_begins_with_the_window_in_the_middle() -> None:
    check("..555999.....", "......(......", "start@2", smooth_windows=3, release_s=9.0)
    check("..559........", "....(........", "start@2", smooth_windows=3, release_s=9.0, instant=["Bark"])


def test_what_was_heard_before_the_end_of_sound_is_another_stretch() -> None:
    assert broken_off("..5559", at=4) == "start@4"


def test_smoothing_begins_anew_after_the_end_of_sound() -> None:
    assert broken_off("..99", at=3, smooth_windows=3) == "start@3", "a window before the break says nothing of it"


def test_an_event_begins_no_earlier_than_the_last_one_ended_though_smoothing_looks_back() -> None:
    check("..99999999", "....(...)(", "start@2 end@2..9 max_duration start@9", smooth_windows=5, max_duration_s=7.0)


# -- the shortest event ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("....9999......",
     "..............", ""),                                  # within one hop
    ("..99999.......",
     "..............", ""),                                  # 1 s
    ("..999999......",
     ".......()....." , "start@2 end@2..4.5 quiet"),         # 2 s: known when the window's start is 2 s after the onset
    ("..9999999999..",
     ".......(....)." , "start@2 end@2..8.5 quiet"),         # told late, at the true onset
    ("..995555999...",
     ".......(...)..", "start@2 end@2..7.5 quiet"),          # between the thresholds it lasts
    ("..9999.99999..",
     "..............", ""),                                  # two sounds, neither long enough
    ("..9999.999999.",
     "............()", "start@7 end@7..9.5 quiet"),
])  # fmt: skip
def test_shortest_event_of_2_s(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, min_duration_s=2.0)


@pytest.mark.parametrize(("min_duration_s", "release_s", "spoke", "events"), [
    (1.0, 2.0, "......(.)...", "start@2 end@2..3.5 quiet"),
    (1.5, 2.0, ".......()...", "start@2 end@2..3.5 quiet"), # half of the hop by which the sound left counts too
    (1.5, 1.0, ".......)....", "start@2 end@2..3.5 quiet"), # start and end are told at once
    (1.6, 2.0, "............", ""),
])  # fmt: skip
def test_shorter_events_than_asked_for_are_those_that_would_say_so(
    min_duration_s: float, release_s: float, spoke: str, events: str
) -> None:
    check("..99999.....", spoke, events, min_duration_s=min_duration_s, release_s=release_s)


def test_a_gap_within_release_makes_two_short_sounds_a_long_one() -> None:
    check("..9999.9999...", ".......(.....)", "start@2 end@2..7.5 quiet", min_duration_s=2.0, release_s=3.0)


def test_a_withheld_start_says_the_score_of_now_and_the_level_of_its_beginning() -> None:
    [start] = play(rule(min_duration_s=2.0), "..895557")
    assert (round(start.score, 4), round(start.peak_score, 4), start.level_dbfs) == (0.7, 0.9, -22.0)


def test_a_withheld_start_is_not_told_when_the_sound_ends() -> None:
    assert broken_off("..99999999", at=7, min_duration_s=2.0) == "", "what comes later is another stretch"


def test_the_longest_duration_counts_from_the_onset_but_ends_nothing_that_was_not_told() -> None:
    check("..9999999999", ".......()...", "start@2 end@2..9 max_duration", min_duration_s=2.0, max_duration_s=2.0,
          refractory_s=9.0)  # fmt: skip


# -- labels ------------------------------------------------------------------------------------------------------------


def test_a_label_has_thresholds_of_its_own() -> None:
    one = rule(("Bark", "Siren"), thresholds={"Siren": {"onset": 0.3, "offset": 0.2}})
    events = play(one, *rows(Bark=".5555.........",
                             Siren="....33322211.."))  # fmt: skip
    assert (when(events, 14), said(events)) == ("....(.....)...", "start@4 end@4..6.5 quiet")
    assert labels_of(events) == ["Siren", "Siren"]


def test_of_several_the_one_furthest_over_its_threshold_is_reported() -> None:
    one = rule(("Bark", "Siren"), thresholds={"Siren": {"onset": 0.3, "offset": 0.2}})
    [start] = play(one, *rows(Bark="..8", Siren="..6"))
    assert LABELS[start.label] == "Siren"


def test_a_sound_is_not_older_for_another_that_was_there() -> None:
    one = rule(("Bark", "Siren"), thresholds={"Siren": {"onset": 0.3, "offset": 0.2}})
    [start] = play(one, *rows(Bark=".5555",
                              Siren="...24"))  # fmt: skip
    assert (said([start]), LABELS[start.label]) == ("start@3", "Siren")
    one = rule(("Bark", "Siren"), onset_threshold=0.6, offset_threshold=0.4, min_windows=2, of_windows=2)
    start, _ = play(one, *rows(Bark=".55559....",
                               Siren="......9..."))  # fmt: skip
    assert (said([start]), LABELS[start.label]) == ("start@5", "Siren")  # where the first window that counts has it


def test_what_came_before_the_onset_threshold_does_not_end_an_event_sooner() -> None:
    check(".555559999..", "......(..)..", "start@3 end@3..10 max_duration",
          onset_threshold=0.6, offset_threshold=0.4, max_duration_s=4, refractory_s=4)  # fmt: skip


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("..5559999999......",
     ".........(..).....", "start@2 end@2..8.5 quiet"),
    (".....9999999......",
     "..................", ""),
])  # fmt: skip
def test_what_came_before_the_onset_threshold_counts_towards_the_least_duration(
    scores: str, spoke: str, events: str
) -> None:
    check(scores, spoke, events, onset_threshold=0.6, offset_threshold=0.4, min_duration_s=4)


ALARM = {"Alarm": ["Siren", "Smoke alarm"]}


@pytest.mark.parametrize(("alarm", "siren", "smoke", "label"), [
    ("9", ".", ".", "Alarm"),                               # the model knows it too
    (".", "7", ".", "Siren"),
    (".", "7", "8", "Smoke alarm"),
    ("9", "7", ".", "Siren"),                               # what is more specific is said, though less sure
    ("9", "5", ".", "Alarm"),                               # not where it is under its threshold
])  # fmt: skip
def test_a_group_is_the_highest_in_it_and_the_most_specific_is_reported(
    alarm: str, siren: str, smoke: str, label: str
) -> None:
    events = play(rule(("Alarm",), groups=ALARM), *rows(Alarm=alarm, Siren=siren, Smoke_alarm=smoke))
    assert labels_of(events) == [label]


def test_a_group_that_the_model_does_not_know_reports_what_lies_in_it() -> None:
    groups = {"Danger": ["Alarm", "Growling"], **ALARM}
    config = {"groups": groups, "thresholds": {"Danger": {"onset": 0.4, "offset": 0.2}}}
    events = play(rule(("Danger",), **config), *rows(Siren="5"))
    assert labels_of(events) == ["Siren"]
    assert rule(("Danger",), **config).labels == ("Siren", "Smoke alarm", "Alarm", "Growling")


def test_any_sound() -> None:
    config = Config.model_validate({"labels": "any", "unless": ["Television"], "release_s": 1.0})
    one = build(config, Place("any", INFO, utc))
    events = play(one, *rows(Rain="..7777......",
                             Siren="..88999.....",
                             Television=".........999"))  # fmt: skip
    assert (when(events, 12), said(events)) == ("..(....)....", "start@2 end@2..3.5 quiet")
    assert labels_of(events) == ["Siren", "Siren"]
    assert one.labels == (), "it hears anything"


@pytest.mark.parametrize(("unless", "groups"), [
    (["Rain"], {"Weather": ["Rain", "Siren"]}),
    (["Rain"], {"Rain": ["Siren"], "Weather": ["Rain", "Growling"]}),       # nor is the siren listened for
    (["Weather"], {"Weather": ["Rain"], "Outdoors": ["Weather", "Siren"]}),
    (["Rain"], {"Weather": ["Rain"], "Outdoors": ["Weather", "Siren"]}),    # nothing is left of the weather
    (["Rain"], {"Alarm": ["Rain"], "Bark": ["Alarm"]}),                     # labels of the model are left
])  # fmt: skip
def test_any_sound_but_unless_also_where_groups_hold_it(unless: list[str], groups: dict[str, list[str]]) -> None:
    thresholds = {"Bark": {"onset": 0.3, "offset": 0.2}}
    config = {"labels": "any", "unless": unless, "groups": groups, "onset_threshold": 0.3, "offset_threshold": 0.2}
    one = build(Config.model_validate(config | {"thresholds": thresholds}), Place("any", INFO, utc))
    assert play(one, *rows(Rain="4444")) == [], "not reported, though it is under unless_threshold"
    events = play(one, *rows(Bark="9.......",
                             Rain="44444444"))  # fmt: skip
    assert [LABELS[event.label] for event in events] == ["Bark", "Bark"], "nor does it keep an event open"


def test_something_must_be_left_to_listen_for() -> None:
    config = Config.model_validate({"labels": "any", "groups": {"Dog": ["Bark"]}, "unless": [*LABELS]})
    with pytest.raises(ConfigError) as caught:
        build(config, Place("night", INFO, utc))
    assert str(caught.value) == (
        "rule 'night': unless names every label of the model, and nothing is left to listen for; remove some"
    )


# -- what keeps it from starting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bark", "television", "spoke", "events"), [
    ("..9999.......",
     "..555........",
     ".....(.......", "start@5"),                            # the window beside nothing else is the first that counts
    ("..9999.......",
     "..5555.......",
     ".............", ""),
    ("..9999.......",
     "..4444.......",
     "..(..........", "start@2"),
    ("..9999.......",
     "...999.......",
     "..(..........", "start@2"),                            # what is open goes on
])  # fmt: skip
def test_unless_the_television_is_on(bark: str, television: str, spoke: str, events: str) -> None:
    found = play(rule(unless=["Television"], release_s=9.0), *rows(Bark=bark, Television=television))
    assert (when(found, len(bark)), said(found)) == (spoke, events)


def test_a_withheld_start_has_begun_and_is_told_whatever_comes_beside_it() -> None:
    found = play(rule(unless=["Television"], min_duration_s=2.0), *rows(Bark="..9999999999..",
                                                                        Television="....99999999.."))  # fmt: skip
    assert (when(found, 14), said(found)) == (".......(....).", "start@2 end@2..8.5 quiet")
    options = {"schedule": {"hours": "20:00-22:00", "time_zone": "Europe/Berlin"}, "min_level_dbfs": -22.0}
    check("..99999999..", ".......(..).", "start@2 end@2..6.5 quiet", min_duration_s=2.0, **options)


def test_a_sound_is_not_older_than_what_kept_it_from_starting() -> None:
    found = play(rule(unless=["Television"]), *rows(Bark="5555559", Television="...9..."))
    assert said(found) == "start@4"
    check("..555559", ".......(", "start@4", schedule={"hours": "22:00-06:00", "time_zone": "Europe/Berlin"})
    one = rule(min_level_dbfs=-40.0)
    levels = [Level(dbfs, -10.0, 0) for dbfs in (-20, -50, -20, -20)]
    told = [one.update(replace(window, level=level)) for window, level in zip(windows("5559"), levels, strict=True)]
    assert said(told[-1]) == "start@2"


def test_unless_takes_groups_and_a_threshold() -> None:
    options = {"unless": ["Alarm"], "groups": ALARM, "unless_threshold": 0.2}
    assert play(rule(**options), *rows(Bark="99", Siren="22")) == []


def test_no_start_while_the_newest_hop_is_quiet() -> None:
    one, events = rule(min_level_dbfs=-40.0, release_s=9.0), []
    for window, level in zip(windows("..999999"), (-20, -20, -41, -50, -40, -60, -60, -60), strict=True):
        events += one.update(replace(window, level=Level(level, -10.0, 0)))
    assert said(events) == "start@4", "loud enough at 4; quieter later does not matter"


# The first hop begins on a Friday at 21:59:56 in Berlin, 20:59:56 UTC.
@pytest.mark.parametrize(("schedule", "spoke", "events"), [
    ({"hours": "22:00-06:00", "time_zone": "Europe/Berlin"},
     "....(......)", "start@4 end@4..7.5 quiet"),            # the first hop that begins at ten or later
    ({"hours": "20:00-22:00", "time_zone": "Europe/Berlin"},
     "..(........)", "start@2 end@2..7.5 quiet"),            # what is open goes on to its end
    ({"hours": "22:00-06:00", "time_zone": "UTC"},
     "............", ""),
    ({"days": ["sat", "sun"], "time_zone": "Europe/Berlin"},
     "............", ""),
    ([{"days": ["sat"], "time_zone": "Europe/Berlin"}, {"hours": "21:00-24:00", "time_zone": "UTC"}],
     "....(......)", "start@4 end@4..7.5 quiet"),            # one of them is enough
])  # fmt: skip
def test_a_schedule(schedule: object, spoke: str, events: str) -> None:
    check("..999999999.", spoke, events, schedule=schedule)


# -- at once -----------------------------------------------------------------------------------------------------------


def test_a_rare_label_starts_at_once() -> None:
    options = {"min_windows": 3, "of_windows": 3, "smooth_windows": 3, "min_duration_s": 9.0}
    one = rule(("Bark", "Smoke alarm"), instant=["Smoke alarm"], **options)
    events = play(one, *rows(Bark="..999.............",
                             Smoke_alarm="....9999.........."))  # fmt: skip
    assert (when(events, 18), said(events)) == ("....(...).........", "start@4 end@4..4.5 quiet")
    assert labels_of(events) == ["Smoke alarm", "Smoke alarm"]


def test_all_that_lies_in_a_group_can_start_at_once() -> None:
    one = rule(("Bark", "Alarm"), groups=ALARM, instant=["Alarm"], min_windows=2, of_windows=2)
    assert labels_of(play(one, *rows(Bark="9", Siren="7"))) == ["Siren"], "not the surer one, which has to wait"


def test_what_starts_at_once_is_kept_from_starting_all_the_same() -> None:
    one = rule(("Bark",), instant=["Bark"], unless=["Television"])
    assert play(one, *rows(Bark="9", Television="9")) == []


def test_what_is_withheld_stays_so_while_one_that_starts_at_once_is_kept_from_starting() -> None:
    one = rule(("Bark", "Siren"), instant=["Siren"], unless=["Television"], min_duration_s=2.0)
    events = play(one, *rows(Bark="..99999999..",
                             Siren="....9.......",
                             Television="....99......"))  # fmt: skip
    assert (when(events, 12), said(events)) == (".......(..).", "start@2 end@2..6.5 quiet")


def test_smoothing_takes_back_nothing_of_what_started_at_once() -> None:
    check("..999999994...", "..(........)..", "start@2 end@2..6.5 quiet", instant=["Bark"], smooth_windows=5)


# -- why ---------------------------------------------------------------------------------------------------------------


def test_it_says_that_other_sounds_keep_it() -> None:
    assert reasons(rows(Bark="79", Television="6."), unless=["Television"]) == [
        "Bark 0.70, but Television 0.60 >= 0.5 (unless)",
        "Bark 0.90 >= 0.6: started, at 1.00 s",
    ]


def test_it_says_that_it_is_too_quiet() -> None:
    assert reasons(["7"], min_level_dbfs=-10.0) == ["Bark 0.70, but the hop has -20.0 dBFS < -10 (min_level_dbfs)"]


def test_it_says_that_it_is_not_the_time() -> None:
    schedule = {"days": ["sat"], "time_zone": "Europe/Berlin"}
    assert reasons(["7"], schedule=schedule) == ["Bark 0.70, but fri 21:59 is not in the schedule"]


def test_it_says_what_is_withheld_and_what_became_of_it() -> None:
    assert reasons(["999999."], min_duration_s=2.0) == [
        "Bark 0.90: withheld, lasts 0.00 s of 2 s (min_duration_s)",
        "Bark 0.90: withheld, lasts 0.00 s of 2 s (min_duration_s)",
        "Bark 0.90: withheld, lasts 0.00 s of 2 s (min_duration_s)",
        "Bark 0.90: withheld, lasts 0.00 s of 2 s (min_duration_s)",
        "Bark 0.90: withheld, lasts 1.00 s of 2 s (min_duration_s)",
        "Bark 0.90 >= 0.6: started, at 0.00 s",
        "ended, at 2.50 s: quiet",
    ]
    assert reasons(["999995"], min_duration_s=2.0)[-1] == "Bark 0.50: started, at 0.00 s"
    assert reasons(["9999."], min_duration_s=2.0)[-1] == "not told: lasts 0.50 s of 2 s (min_duration_s)"


def test_it_says_what_smoothing_makes_of_a_score() -> None:
    assert reasons([".9.99"], smooth_windows=3) == [
        "",
        "Bark 0.45 (median of 2, now 0.90) < 0.6",
        "",
        "Bark 0.90 (median of 3, now 0.90) >= 0.6: started, at 2.00 s",
        "open since 2.00 s; Bark 0.90 (median of 3, now 0.90)",
    ]


def test_it_says_that_it_started_at_once() -> None:
    assert reasons(["9"], instant=["Bark"], min_windows=2, of_windows=2) == [
        "Bark 0.90 >= 0.6: started at once (instant), at 0.00 s"
    ]


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "sentence"), [
    ({"min_duration_s": 5, "max_duration_s": 3},
     "max_duration_s 3 is under min_duration_s 5; raise it"),
    ({"thresholds": {"Bark": {"onset": 0.5, "offset": 0.6}}},
     "offset 0.6 is above onset 0.5; it must be at or below it"),
    ({"thresholds": {"Siren": {"onset": 0.5, "offset": 0.4}}},
     "thresholds: 'Siren' is none of the rule's labels; add it to labels, or remove it here"),
    ({"instant": ["Siren"]},
     "instant: 'Siren' is none of the rule's labels; add it to labels, or remove it here"),
    ({"groups": {"Alarm": ["Siren"]}},
     "groups: 'Alarm' is used nowhere; add it to labels, or remove it"),
    ({"groups": {"Bark": ["Growling"], "Growling": ["Dog"], "Dog": ["Bark"]}},
     "groups: 'Bark', which holds 'Growling', which holds 'Dog', which holds 'Bark'; a group can't hold itself"),
    ({"groups": {"Bark": ["Bark"]}},
     "groups: 'Bark', which holds 'Bark'; a group can't hold itself"),
    ({"labels": "any", "unless": ["Siren"], "thresholds": {"Siren": {"onset": 0.5, "offset": 0.4}}},
     "thresholds: 'Siren' is not listened for, as unless names it; remove it from one of them"),
    ({"labels": "any", "unless": ["Alarm"], "groups": {"Alarm": ["Siren"]}, "instant": ["Siren"]},
     "instant: 'Siren' is not listened for, as unless names it; remove it from one of them"),
    ({"unless": ["Bark"]},
     "unless: 'Bark' is one of the rule's labels too; remove it from one of them"),
    ({"min_duration_s": 5, "max_duration_s": 3, "unless": ["Bark"]},
     ("max_duration_s 3 is under min_duration_s 5; raise it. "
      "Also: unless: 'Bark' is one of the rule's labels too; remove it from one of them")),
])  # fmt: skip
def test_options_that_contradict_each_other(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule(**options)
    assert [error["msg"] for error in caught.value.errors()] == [f"Value error, {sentence}"]


def test_every_name_that_the_model_does_not_know_is_said() -> None:
    options = {"groups": {"Loud": ["Horn", "Siren"]}, "unless": ["Radio"]}
    with pytest.raises(ConfigError) as caught:
        rule(("Loud", "Barking"), **options)
    assert str(caught.value) == "the model does not know 'Horn', 'Barking', 'Radio'; run 'streamer labels' for the list"
