"""The threshold rule, in tables: see `tests.rules.tables` for how they are read."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamer.core import Phase, Reason
from streamer.errors import ConfigError
from streamer.rules.threshold import Config
from tests.rules.tables import HOP, INFO, check, play, rule, said, windows


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("....9999....",
     "....(...)...", "start@4 end@4..4.5 quiet"),           # within one hop, in the middle of which it ends
    ("..99999999..",
     "..(.......).", "start@2 end@2..6.5 quiet"),
    ("9999........",
     "(...).......", "start@0 end@0..0.5 quiet"),
    ("....99......",
     "....(.).....", "start@4 end@4..4 quiet"),             # never before the onset
    ("....5555....",
     "............", ""),
    ("...94555555.",
     "...(.......)", "start@3 end@3..7.5 quiet"),           # once on, offset_threshold holds it
    ("..9944444433",
     "..(.......).", "start@2 end@2..6.5 quiet"),
    ("55555555555.",
     "............", ""),                                   # between the two thresholds: never on
    ("..9999..9999....",
     "..(...).(...)...", "start@2 end@2..2.5 quiet start@8 end@8..8.5 quiet"),
    ("........9999",
     "........(...", "start@8"),                            # still open
    ("............",
     "............", ""),
])  # fmt: skip
def test_two_thresholds(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, onset_threshold=0.6, offset_threshold=0.4)


def test_a_score_at_a_threshold_is_over_it() -> None:
    check("..5555.4..", "..(...)...", "start@2 end@2..2.5 quiet", onset_threshold=0.5, offset_threshold=0.5)


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("..5559......",
     ".....(......", "start@2"),                            # recognised late, but heard since 2
    ("..5.59......",
     ".....(......", "start@4"),                            # from where it was never under offset_threshold
    ("..5359......",
     ".....(......", "start@4"),
    (".555555559..",
     ".........(..", "start@6"),                            # at most as far back as that window begins
])  # fmt: skip
def test_a_sound_began_where_it_was_last_under_the_offset_threshold(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, onset_threshold=0.6, offset_threshold=0.4, release_s=9.0)


def test_of_the_windows_that_count_the_first_goes_back() -> None:
    check(".55.9.9...", "......(...", "start@4", min_windows=2, of_windows=3, release_s=9.0)
    check("..559.9...", "......(...", "start@2", min_windows=2, of_windows=3, release_s=9.0)
    check("55555599..", ".......(..", "start@3", min_windows=2, of_windows=2, release_s=9.0)


def test_it_goes_back_no_further_than_the_last_event() -> None:
    check("..9995559", "..(.)...(", "start@2 end@2..5 max_duration start@5", max_duration_s=3.0)


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("....9.9.9...",
     "......()....", "start@4 end@4..4 quiet"),             # 4 and 6 make it; the one at 8 is alone again
    ("....9..9....",
     "............", ""),
    ("....99999...",
     ".....(...)..", "start@4 end@4..5.5 quiet"),           # told later, at the time of the first of them
    ("....95599...",
     "........()..", "start@4 end@4..5.5 quiet"),           # only those over onset_threshold count
    ("..9....99999",
     "........(...", "start@7"),                            # what is older than 3 windows is forgotten
])  # fmt: skip
def test_two_of_three_windows(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, min_windows=2, of_windows=3)


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("..9999............",
     "..(.....).........", "start@2 end@2..2.5 quiet"),     # told 3 s after the last window over, not ended later
    ("..9999..9999......",
     "..(...........)...", "start@2 end@2..8.5 quiet"),     # a pause of 2 s is bridged
    ("..9999...9999.....",
     "..(.....)(.....)..", "start@2 end@2..2.5 quiet start@9 end@9..9.5 quiet"),
    ("..99993343333.....",
     "..(........)......", "start@2 end@2..5.5 quiet"),     # one window over offset_threshold begins it anew
])  # fmt: skip
def test_release_of_3_s(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, release_s=3.0)


def test_no_release_ends_with_the_first_window_under() -> None:
    check("..9999....", "..(...)...", "start@2 end@2..2.5 quiet", release_s=0.0)


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("..9999.9999..........",
     "..(...)..............", "start@2 end@2..2.5 quiet"),
    ("..9999....9999.......",
     "..(...)....(..)......", "start@2 end@2..2.5 quiet start@11 end@11..11 quiet"),  # since the end was told
])  # fmt: skip
def test_refractory_of_5_s(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, refractory_s=5.0)


@pytest.mark.parametrize(("scores", "spoke", "events", "options"), [
    ("..9999~~~~~.......",
     "..(..........)....", "start@2 end@2..2.5 quiet", {}),    # lost sound is no quiet
    ("..9999..~~~~~.....",
     "..(............)..", "start@2 end@2..2.5 quiet", {}),    # which is counted anew
    ("..9999~~~~~9999....",
     "..(..............).", "start@2 end@2..11.5 quiet", {}),  # and after it the sound goes on
    ("...45~~~~~59......",
     "...........(..)...", "start@10 end@10..10 quiet", {}),   # it began no earlier than sound is known
    ("....9~~~~9........",
     "..................", "", {"min_windows": 2, "of_windows": 3}),
    ("....9.~~~~9.......",
     "..........(...)...", "start@10 end@10..10 quiet", {"smooth_windows": 3}),
])  # fmt: skip
def test_sound_that_was_lost(scores: str, spoke: str, events: str, options: dict[str, int]) -> None:
    check(scores, spoke, events, release_s=3.0, **options)


def test_windows_in_the_refractory_time_do_not_count_towards_a_start() -> None:
    check("..9999.9999999......",
          "...(..).....(.).....", "start@2 end@2..2.5 quiet start@11 end@11..11 quiet",
          refractory_s=5.0, min_windows=2, of_windows=3)  # fmt: skip


@pytest.mark.parametrize(("scores", "spoke", "events"), [
    ("..9999999999....",
     "..(..)(..)(.)...", "start@2 end@2..6 max_duration start@6 end@6..10 max_duration start@10 end@10..10 quiet"),
    ("..9995555555.....",
     "..(..)...........", "start@2 end@2..6 max_duration"),  # going on is not starting
    ("..999............",
     "..(..)...........", "start@2 end@2..2 quiet"),         # quiet at the same moment comes first
])  # fmt: skip
def test_longest_event_of_4_s(scores: str, spoke: str, events: str) -> None:
    check(scores, spoke, events, max_duration_s=4.0)


@pytest.mark.parametrize("reason", [Reason.SOURCE_END, Reason.SOURCE_LOST, Reason.STOP])
def test_the_end_of_sound_ends_an_open_event_there(reason: Reason) -> None:
    one = rule()
    started = play(one, "..99")
    ended = one.flush(4 * HOP + 37, reason)
    assert said(started + ended) == f"start@2 end@2..4.37 {reason}"
    assert (ended[0].at, ended[0].id) == (4 * HOP + 37, started[0].id)
    assert one.flush(4 * HOP + 37, reason) == []


def test_an_end_while_release_is_awaited_is_where_the_sound_left() -> None:
    one = rule(release_s=9.0)
    started = play(one, "..99999..")
    assert said(started + one.flush(9 * HOP, Reason.STOP)) == "start@2 end@2..3.5 stop"
    check("..99999......", "..(......)...", "start@2 end@2..3.5 max_duration", release_s=9.0, max_duration_s=8.0)


def test_the_end_of_sound_says_nothing_where_nothing_is_open() -> None:
    one = rule(min_windows=2, of_windows=2)
    assert play(one, "..9") == []
    assert one.flush(3 * HOP, Reason.SOURCE_LOST) == []
    assert one.update(next(windows("9"))) == [], "a window before the break is half of no start after it"


def test_of_several_labels_the_most_likely_is_reported() -> None:
    events = play(rule(("Bark", "Growling")), "..78.....",
                                              "..8999...",
                                              "999999999")  # fmt: skip
    assert said(events) == "start@2 end@2..2.5 quiet"
    assert [INFO.labels[event.label] for event in events] == ["Growling", "Growling"]


def test_one_event_goes_on_from_label_to_label() -> None:
    events = play(rule(("Bark", "Growling")), "..99.....",
                                              "....99...")  # fmt: skip
    assert said(events) == "start@2 end@2..2.5 quiet"
    assert [INFO.labels[event.label] for event in events] == ["Bark", "Bark"]


def test_scores_and_level_of_an_event() -> None:
    start, end = play(rule(min_windows=2, of_windows=3), "..8.695..2..")
    assert (round(start.score, 4), round(start.peak_score, 4)) == (0.6, 0.8)  # the window that made it; all since onset
    assert (round(end.score, 4), round(end.peak_score, 4)) == (0.0, 0.9)
    assert start.level_dbfs == end.level_dbfs == -24.0
    assert (start.stream_id, start.rule, start.end_reason, start.offset) == ("mic", "dog", None, None)


def test_unknown_labels() -> None:
    with pytest.raises(ConfigError) as caught:
        rule(("Bark", "Barking", "Meow"))
    assert str(caught.value) == "the model does not know 'Barking', 'Meow'; run 'streamer labels' for the list"


@pytest.mark.parametrize(("options", "sentence"), [
    ({"onset_threshold": 0.5, "offset_threshold": 0.7},
     "offset_threshold 0.7 is above onset_threshold 0.5; it must be at or below it"),
    ({"min_windows": 4, "of_windows": 3},
     "min_windows 4 is more than of_windows 3; raise of_windows"),
    ({"onset_threshold": 0.5, "offset_threshold": 0.7, "min_windows": 4, "of_windows": 3},
     ("offset_threshold 0.7 is above onset_threshold 0.5; it must be at or below it. "
      "Also: min_windows 4 is more than of_windows 3; raise of_windows")),
])  # fmt: skip
def test_options_that_contradict_each_other(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule(**options)
    assert [error["msg"] for error in caught.value.errors()] == [f"Value error, {sentence}"]


rows = st.text("..3456789", max_size=60)
options = st.fixed_dictionaries({
    "release_s": st.sampled_from([0.0, 1.0, 2.5, 6.0]),
    "refractory_s": st.sampled_from([0.0, 3.0]),
    "max_duration_s": st.sampled_from([None, 0.5, 5.0]),
    "of_windows": st.just(4),
    "min_windows": st.integers(1, 4),
})


@given(row=rows, options=options, reason=st.sampled_from([Reason.SOURCE_END, Reason.SOURCE_LOST, Reason.STOP]))
def test_whatever_is_heard(row: str, options: dict[str, float | None], reason: Reason) -> None:
    one = rule(**options)
    events = play(one, row)
    events += one.flush(len(row) * HOP, reason)
    starts, ends = events[::2], events[1::2]
    assert [event.phase for event in events] == [Phase.START, Phase.END] * len(starts), "alternate, and all are closed"
    assert len({start.id for start in starts}) == len(starts)
    for start, end in zip(starts, ends, strict=True):
        assert (start.id, start.onset, start.label) == (end.id, end.onset, end.label)
        assert start.end_reason is None
        assert end.end_reason is not None
        assert end.offset is not None
        assert 0 <= start.onset <= end.offset <= end.at <= len(row) * HOP
        assert end.peak_score >= start.peak_score >= start.score >= np.float32(0.6)
    for before, after in pairwise(events):
        assert before.at <= after.at, "time runs back"
    for end, start in pairwise(events[1:]):
        assert end.phase == Phase.START or (end.offset or 0) <= start.onset, "events overlap"


@given(row=st.text(".12345", max_size=60), options=options)
def test_no_event_without_a_window_over_onset_threshold(row: str, options: dict[str, float | None]) -> None:
    one = rule(**options)
    assert play(one, row) == []
    assert one.flush(len(row) * HOP, Reason.STOP) == []


@pytest.mark.parametrize(("looks", "sound", "events"), [
    # `#` a hop at whose end we look
    ("####.#.#.#.#.#####", (4, 5),  "start@4 end@4..5 quiet"),    # hops of two: as true as a hop is long
    ("####.#.#.#.#.#####", (5, 6),  "start@4 end@4..5 quiet"),
    ("####.#.#.#.#.#####", (6, 7),  "start@6 end@6..7 quiet"),
    ("####.#.#.#.#.#####", (5, 12), "start@4 end@4..11.5 quiet"),
    ("####.#.#.#.#.#####", (2, 9),  "start@2 end@2..9 quiet"),    # they grow while it sounds
    ("####.#.#.#.#.#####", (9, 14), "start@8 end@8..13.5 quiet"), # they shrink
    ("####.#.#.#.#.#####", (0, 1),  "start@0 end@0..1 quiet"),    # it left in the first of the longer hops
    ("####.#.#.#.#.#####", (9, 11), "start@8 end@8..10.5 quiet"), # and in the first of the shorter ones
    ("####...#...#...###", (5, 6),  "start@4 end@4..6 quiet"),    # as long as the window
])  # fmt: skip
def test_times_are_as_true_as_hops_are_long(looks: str, sound: tuple[int, int], events: str) -> None:
    one, seen_to, told = rule(), 0, []
    for window in windows("".join("9" if sound[0] <= i < sound[1] + 3 else "." for i in range(len(looks)))):
        if looks[window.end // HOP - 1] == "#":
            told += one.update(replace(window, hop=window.end - seen_to))
            seen_to = window.end
    assert said(told) == events


def test_another_onset_threshold_takes_the_offset_threshold_down_with_it() -> None:
    config = Config(labels=["Bark"], onset_threshold=0.6, offset_threshold=0.4)
    changed = config.with_onset(0.3)
    assert (changed.onset_threshold, changed.offset_threshold) == (0.3, 0.3)
    assert config.with_onset(0.9).offset_threshold == 0.4
    with pytest.raises(ValueError, match="a threshold lies between 0 and 1, not at 1"):
        config.with_onset(1.0)


def test_it_says_why() -> None:
    one = rule(onset_threshold=0.6, offset_threshold=0.4, min_windows=2, of_windows=3, refractory_s=9.0)
    said_why = []
    for scores in windows("15789....7"):
        one.update(scores)
        said_why.append(one.why)
    assert said_why == [
        "",
        "Bark 0.50 < 0.6",
        "Bark 0.70 >= 0.6: 1 of the 2 windows that make a start",
        "Bark 0.80 >= 0.6: started, at 1.00 s",
        "open since 1.00 s; Bark 0.90",
        "ended, at 1.50 s: quiet",
        "",
        "",
        "",
        "Bark 0.70, but for 5.00 s more an end is too fresh (refractory_s)",
    ]
