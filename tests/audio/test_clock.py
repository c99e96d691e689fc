"""Capture time: positions to seconds, through jitter, gaps and drift."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.clock import MAX_ANCHORS, TOLERANCE_S, Clock

RATE = 16000
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Hands:
    """Two clocks that a test sets."""

    monotonic = 100.0
    utc = NOON.timestamp()


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def clock(hands: Hands) -> Clock:
    return Clock(RATE, monotonic=lambda: hands.monotonic, utc=lambda: hands.utc)


def test_time_runs_at_the_nominal_rate_from_the_anchor(clock: Clock) -> None:
    clock.anchor(0, 50.0)
    assert clock.monotonic(0) == 50.0
    assert clock.monotonic(RATE * 3) == 53.0


def test_positions_before_the_first_anchor_count_back_from_it(clock: Clock) -> None:
    clock.anchor(RATE, 50.0)
    assert clock.monotonic(0) == 49.0


def test_without_an_anchor_it_is_now(clock: Clock) -> None:
    assert clock.monotonic(12345) == 100.0
    assert clock.utc(12345) == NOON


def test_jitter_is_ignored(clock: Clock) -> None:
    clock.anchor(0, 50.0)
    clock.anchor(RATE, 51.0 + TOLERANCE_S * 0.9)
    clock.anchor(2 * RATE, 52.0 - TOLERANCE_S * 0.9)
    assert clock.monotonic(3 * RATE) == 53.0


def test_after_a_gap_later_samples_move_and_earlier_ones_stay(clock: Clock) -> None:
    clock.anchor(0, 50.0)
    clock.anchor(RATE, 58.0)  # 7 s were lost
    assert clock.monotonic(RATE - 1) == pytest.approx(51.0 - 1 / RATE)
    assert clock.monotonic(RATE) == 58.0
    assert clock.monotonic(2 * RATE) == 59.0


def test_utc_is_when_it_was_captured_not_when_it_is_asked(clock: Clock, hands: Hands) -> None:
    clock.anchor(0, 100.0)
    hands.monotonic += 7.0
    hands.utc += 7.0
    assert clock.utc(0) == NOON


def test_utc_follows_a_system_clock_that_was_set(clock: Clock, hands: Hands) -> None:
    clock.anchor(0, 100.0)
    hands.utc += 3600.0
    assert clock.utc(0) == NOON.replace(hour=13)


def test_it_remembers_a_bounded_number_of_anchors(clock: Clock) -> None:
    for i in range(2 * MAX_ANCHORS):
        clock.anchor(i, 50.0 + i)
    assert len(clock._anchors) == MAX_ANCHORS
    assert clock.monotonic(2 * MAX_ANCHORS - 1) == 50.0 + 2 * MAX_ANCHORS - 1
    assert clock.monotonic(MAX_ANCHORS) == 50.0 + MAX_ANCHORS


@given(st.lists(st.tuples(st.integers(1, RATE), st.floats(0, 1)), min_size=1, max_size=50))
def test_every_block_is_dated_within_the_tolerance_and_stays_so(blocks: list[tuple[int, float]]) -> None:
    clock = Clock(RATE)
    position, now = 0, 1000.0
    said: dict[int, float] = {}
    for n, late_s in blocks:
        clock.anchor(position, now + late_s)
        assert clock.monotonic(position) == pytest.approx(now + late_s, abs=TOLERANCE_S + 1e-9)
        said[position] = clock.monotonic(position)
        position += n
        now += n / RATE
    assert {at: clock.monotonic(at) for at in said} == said
