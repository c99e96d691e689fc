"""The statistics behind `streamer calibrate`: laws, on rooms made of known noise."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from streamer import thresholds
from streamer.core import Level, Phase, Scores, StreamInfo
from streamer.rules import threshold
from streamer.rules.base import Place
from streamer.thresholds import NO_LEVEL, decisions, fit, logit, peaks, score, smoothed

HOP_S = 1.0
YEARS_H = 3000.0  # a room is listened to for so long, to know what it really does


def hum(hours: float, seed: int) -> np.ndarray:
    """Logits, one a second, of a room with slow noise: Gaussian, each second like the one before."""
    draws = np.random.default_rng(seed).normal(size=int(hours * 3600))
    noise = np.convolve(draws, 0.85 ** np.arange(40))[: len(draws)]
    return -4 + 1.2 * noise / noise.std()


def clatter(hours: float, seed: int) -> np.ndarray:
    """The same with 20 sounds an hour, ten seconds long, whose heights are exponential."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(-6, 0.5, int(hours * 3600))
    for at in rng.integers(0, len(levels), rng.poisson(20 * hours)):
        levels[at : at + 10] = np.maximum(levels[at : at + 10], -5 + rng.exponential(1.2))
    return levels


def tail_of(levels: np.ndarray, per_hour: float) -> thresholds.Tail:
    at_s = np.arange(len(levels)) * HOP_S
    found = peaks(levels, at_s)
    return fit(levels[found], at_s[found] / 3600, len(levels) / 3600, per_hour)


@pytest.fixture(scope="module", params=[hum, clatter])
def room(request: pytest.FixtureRequest):
    """A kind of room, and the peaks of years in it, highest first."""
    levels = request.param(YEARS_H, 99)
    return request.param, levels[peaks(levels, np.arange(len(levels)) * HOP_S)]


# -- laws of the tail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hours", "per_hour"), [(24, 1 / 168), (24, 1 / 24), (4, 1 / 24)])
def test_fresh_hours_bring_about_as_many_false_alarms_as_wished(room, hours: float, per_hour: float) -> None:
    """On average over 20 rooms of a kind at most twice as many, and the interval holds the true level mostly."""
    kind, truth = room
    true_level = truth[int(per_hour * YEARS_H)]
    tails = [tail_of(kind(hours, seed), per_hour) for seed in range(20)]
    realised = [(truth >= tail.level(per_hour)).sum() / YEARS_H / per_hour for tail in tails]
    assert np.mean(realised) < 2
    assert np.mean([low <= true_level <= high for low, high in (tail.levels(per_hour) for tail in tails)]) >= 0.75


def test_what_is_told_of_the_present_threshold_is_about_true(room) -> None:
    kind, truth = room
    level = truth[int(YEARS_H / 24)]  # once a day, in truth
    tails = [tail_of(kind(12, seed), 1 / 168) for seed in range(20)]
    assert 0.4 < np.mean([24 * np.median(tail.rates(level)) for tail in tails]) < 2.5
    inside = [low <= 1 / 24 <= high for low, high in (np.quantile(t.rates(level), (0.05, 0.95)) for t in tails)]
    assert np.mean(inside) >= 0.7


def test_a_rarer_wish_gives_a_higher_threshold_and_more_hours_a_surer_one(room) -> None:
    kind, _ = room
    tail = tail_of(kind(24, 0), 1)
    levels = [tail.level(1 / hours) for hours in (1, 24, 168, 730)]
    assert levels == sorted(levels)
    assert len(set(levels)) == 4
    widths = [np.diff(tail_of(kind(hours, 1), 1 / 168).levels(1 / 168))[0] for hours in (4, 400)]
    assert widths[1] < widths[0]


def test_the_rate_falls_with_the_level_and_is_what_the_level_was_asked_for() -> None:
    tail = tail_of(clatter(48, 2), 1 / 168)
    rates = [tail.rate(level) for level in np.linspace(tail.floor, 13, 40)]
    assert rates == sorted(rates, reverse=True)
    assert tail.rate(tail.level(1 / 168)) == pytest.approx(1 / 168, rel=1e-3)


def test_swarms_of_sounds_tell_less_than_as_many_single_ones() -> None:
    def busy(hour: int) -> bool:
        return hour % 12 == 3

    rng, parts = np.random.default_rng(3), []
    for hour in range(48):
        parts.append(rng.normal(-6, 0.5, 3600))
        for at in rng.integers(0, 3590, 100 if busy(hour) else 2):
            parts[-1][at : at + 10] = -4 + rng.exponential(1.0)
    swarm = np.concatenate(parts)
    single = rng.permutation(swarm.reshape(-1, 10)).ravel()
    uneven, even = tail_of(swarm, 1 / 168), tail_of(single, 1 / 168)
    assert uneven.unevenness > 2 * even.unevenness
    assert np.diff(uneven.levels(1 / 168)) > np.diff(even.levels(1 / 168))


@pytest.mark.parametrize(("levels", "per_hour", "said"), [
    (np.linspace(-5, 0, 19), 1 / 168, "19 sounds that could be told apart; at least 20 are needed: listen longer"),
    (np.full(100, -13.8), 1 / 168, "nothing but one score; that has no tail: give recordings of the room as it is"),
    (
        np.linspace(-5, 0, 99),
        40,
        "99 sounds that could be told apart, and 80 false alarms wished for in that time; wish for fewer",
    ),
])  # fmt: skip
def test_what_has_no_tail(levels: np.ndarray, per_hour: float, said: str) -> None:
    with pytest.raises(ValueError, match="^" + said + "$"):
        fit(levels, np.linspace(0, 2, len(levels)), 2.0, per_hour)


# -- what a rule decides by --------------------------------------------------------------------------------------------


def first_start(config: threshold.Config, scores: np.ndarray) -> int | None:
    """The window at which the rule itself starts an event."""
    info = StreamInfo("mic", "here", 1.0, 10.24, 16000, ("Siren", "Beep"), ("/m/1", "/m/2"))
    rule = threshold.build(config, Place("rule", info, lambda position: None))
    for i, row in enumerate(scores):
        window = Scores("mic", i * 16000 - 164080, i * 16000, 16000, row, Level(-30.0, -20.0, 0))
        if any(event.phase == Phase.START for event in rule.update(window)):
            return i
    return None


@settings(max_examples=150, deadline=None)
@given(
    scores=arrays.arrays(np.uint8, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(0, 16)),
    onset=st.integers(1, 15).map(lambda n: n / 16),
    counts=st.tuples(st.integers(1, 4), st.integers(0, 3)),
    smooth=st.integers(1, 5),
    smoothing=st.sampled_from(["median", "mean"]),
)  # fmt: skip
def test_the_decision_is_the_rules_own(
    scores: np.ndarray, onset: float, counts: tuple[int, int], smooth: int, smoothing: str
) -> None:
    """A rule starts its first event with the first window whose decision reaches its threshold."""
    scores = (scores / 16).astype(np.float32)  # sums are exact in any order
    n, more = counts
    config = threshold.Config(
        labels=["Siren", "Beep"], onset_threshold=onset, offset_threshold=0.01, min_windows=n, of_windows=n + more,
        smooth_windows=smooth, smoothing=smoothing,
    )  # fmt: skip
    smooth_scores = smoothed(scores, smooth, threshold.SMOOTHING[smoothing])
    over = decisions(smooth_scores.max(axis=1).astype(np.float64), n, n + more) >= onset
    assert first_start(config, scores) == (int(over.argmax()) if over.any() else None)


@pytest.mark.parametrize(("levels", "apart", "found"), [
    ([0, 5, 0, 0, 3, 0], 2, [1, 4]),
    ([0, 5, 4, 0, 0, 0], 3, [1, 4]),
    ([1, 2, 3, 4, 5, 6], 3, [5, 2]),
    ([NO_LEVEL, 5, NO_LEVEL], 1, [1]),
    ([], 1, []),
])  # fmt: skip
def test_peaks_are_apart_and_the_highest_comes_first(levels: Sequence[float], apart: float, found: list[int]) -> None:
    assert peaks(np.array(levels, float), np.arange(len(levels), dtype=float), apart).tolist() == found


def test_smoothing_in_pieces_is_smoothing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((2503, 3), np.float32)
    wanted = [np.median(scores[max(0, i - 4) : i + 1], axis=0) for i in range(len(scores))]
    np.testing.assert_array_equal(smoothed(scores, 5, np.median), wanted)


def test_logits_and_back() -> None:
    assert score(float(logit(0.25))) == pytest.approx(0.25)
    assert np.isfinite(logit([0.0, 1.0])).all()
    assert logit(NO_LEVEL) == NO_LEVEL
