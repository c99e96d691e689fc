"""The pace: slower after ten seconds of overload, faster again after half a minute of calm, and no flapping."""

import pytest

from streamer.pace import PERIOD_S, Pace

# Share of the time that the model is busy, of it for these streams, and of windows that come after skipped ones.
KINDS = {
    "L": (1.0, 1.0, 0.5), "#": (0.6, 0.6, 0.0), ".": (0.2, 0.2, 0.0), "!": (0.6, 0.6, 0.05), "l": (0.2, 0.2, 0.5),
    "E": (1.0, 0.1, 0.5), "e": (0.5, 0.1, 0.0), "=": (0.65, 0.1, 0.0),  # most of it for streams that don't slow down
}  # fmt: skip


def drive(pace: Pace, periods: str, begin: int = 0) -> str:
    """The factor after each period."""
    if not begin:
        pace.note(0.0, 0.0, 0.0, 0, 0)
    factors = []
    for i, kind in enumerate(periods, begin + 1):
        load, own, late = KINDS[kind]
        pace.note(i * PERIOD_S, load * PERIOD_S, own * PERIOD_S, 100, round(100 * late))
        factors.append(str(pace.factor))
    return "".join(factors)


def test_a_busy_model_is_not_late_for_streams_that_are_not_there() -> None:
    """As when it hears files only, as fast as it can."""
    pace = Pace(4)
    assert not any(pace.note(i * PERIOD_S, PERIOD_S, 0.0, 0, 0) for i in range(20))
    assert pace.factor == 1


@pytest.mark.parametrize(("periods", "factors"), [
    ("..........",         "1111111111"),
    ("####################", "1" * 20),           # busy, but never late
    ("L.L.L.L.",           "11111111"),           # hiccups
    ("!!!!!!!!",           "11111111"),           # skipping a few costs less than a longer hop
    ("llllllll",           "11111111"),           # whose fault it is, it isn't the model's
    ("LL",                 "12"),
    ("LLLL",               "1224"),               # each hop is given two periods
    ("LLLLLLLL",           "12244444"),           # that's how far it goes
    ("LL......",           "12222221"),           # half a minute of calm
    ("LL###############",  "12222222222222222"),  # twice as many windows would be too many
    ("LL...#......",       "122222222221"),       # calm must be unbroken
    ("LLLL............",   "1224444442222221"),   # one step at a time
    ("LL...L..LL",         "1222222224"),
    ("EEEE",               "1224"),               # whoever it is that keeps the model busy
    ("EEeeeeee",           "12222221"),           # a shorter hop doubles only its own work
    ("EE================", "122222222222222222"),
])  # fmt: skip
def test_factors(periods: str, factors: str) -> None:
    assert drive(Pace(4), periods) == factors


def test_a_return_that_proves_too_early_makes_the_next_one_later() -> None:
    pace = Pace(4)
    assert drive(pace, "LL......") == "12222221"
    assert drive(pace, "LL............", 8) == "12222222222221", "a minute"
    assert drive(pace, "LL", 22) == "12"
    assert drive(pace, "." * 24, 24) == "2" * 23 + "1", "two minutes"


def test_a_return_that_proves_right_is_forgotten() -> None:
    pace = Pace(4)
    drive(pace, "LL......LL............")
    assert pace.factor == 1
    assert drive(pace, "." * 12 + "LL......", 22) == "1" * 13 + "2222221"


def test_it_flaps_ever_more_rarely_under_a_load_that_only_longer_hops_bear() -> None:
    pace, changes, before = Pace(4), 0, 1
    pace.note(0.0, 0.0, 0.0, 0, 0)
    for i in range(1, round(24 * 3600 / PERIOD_S)):
        is_late = pace.factor == 1
        busy_s = (1.0 if is_late else 0.3) * PERIOD_S
        pace.note(i * PERIOD_S, busy_s, busy_s, 10, 10 * is_late)
        changes += pace.factor != before
        before = pace.factor
    assert changes < 2 * 24 * 3600 / 600 + 12


def test_it_says_when_not_even_the_longest_hop_is_enough() -> None:
    pace = Pace(2)
    pace.note(0.0, 0.0, 0.0, 0, 0)
    said = [(pace.note(i * PERIOD_S, PERIOD_S, PERIOD_S, 1, 1), pace.factor, pace.is_short) for i in range(1, 7)]
    assert said == [
        (False, 1, False), (True, 2, False),
        (False, 2, False), (True, 2, True),
        (False, 2, True), (False, 2, True),
    ]  # fmt: skip
    assert drive(pace, "......", 6) == "222221"
    assert not pace.is_short


def test_a_stream_that_may_not_look_less_often() -> None:
    pace = Pace(1)
    assert drive(pace, "LL") == "11"
    assert pace.is_short
    assert drive(pace, "......", 2) == "111111"
    assert not pace.is_short
