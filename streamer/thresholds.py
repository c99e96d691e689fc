"""Thresholds for a wished rate of false alarms: extreme-value statistics of the level at which a rule would start.

In: scores of windows in a room where nothing should be reported. Out: the level that is exceeded as rarely as wished,
and how sure that is. Pure numpy. Peaks over a high level have a generalised Pareto tail (Pickands 1975; Coles 2001,
§4); levels are logits of scores, on which tails are about exponential, so the shape is held near 0 by a prior. Of what
is unknown many draws are kept: a rate is their mean, so the less was heard the higher the threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

APART_S = 30.0  # seconds: a sound is in many windows and may come in parts; what is closer counts as one alarm
HIGHEST = 1 - 1e-6  # score: the next float32 below 1 is noise of the number format
NO_LEVEL = -np.inf  # a window that can start nothing
TAIL_SHARE, TAIL_LEAST, TAIL_MOST = 0.1, 10, 250  # peaks that make the tail: of all, at least, at most
LEAST_PEAKS = 2 * TAIL_LEAST
SHAPE_SPREAD = 0.15  # standard deviation of the prior of the shape; of logits of speech and noise it is -0.2 to 0.1
N_DRAWS = 4000
N_PARTS = 12  # of the time heard, to see whether peaks come evenly
BETWEEN = (0.05, 0.95)  # quantiles of the intervals that are told


# -- what a rule decides by ------------------------------------------------------------------------------------------


def smoothed(scores: Singles, windows: int, smoothing: Callable[..., Singles]) -> Singles:
    """Scores (n, C), each over the last `windows` of its unbroken stretch, as a threshold rule smooths them."""
    if windows == 1 or not len(scores):
        return scores
    first = [smoothing(scores[: i + 1], axis=0) for i in range(min(windows - 1, len(scores)))]
    parts = [np.array(first, np.float32)]
    for at in range(0, len(scores) - windows + 1, 1000):  # the view of all would be copied, `windows` times as large
        view = np.lib.stride_tricks.sliding_window_view(scores[at : at + 999 + windows], windows, axis=0)
        parts.append(smoothing(view, axis=-1).astype(np.float32))
    return np.concatenate(parts)


def decisions(levels: Floats, min_windows: int, of_windows: int) -> Floats:
    """The highest threshold at which each window of an unbroken stretch would start an event: (n,).

    That takes this window, and `min_windows` of the last `of_windows`, at or over the threshold.
    """
    if min_windows == 1 or not len(levels):
        return levels
    padded = np.concatenate((np.full(of_windows - 1, NO_LEVEL), levels))
    recent = np.sort(np.lib.stride_tricks.sliding_window_view(padded, of_windows), axis=-1)
    counted: Floats = np.minimum(levels, recent[:, -min_windows])
    return counted


def logit(scores: npt.ArrayLike) -> Floats:
    """Scores in [0, 1] on a scale where noise has room: log(p / (1 - p)), cut off at ±13.8; no level stays none."""
    given = np.asarray(scores, np.float64)
    inside = np.clip(given, 1 - HIGHEST, HIGHEST)
    found: Floats = np.where(given == NO_LEVEL, NO_LEVEL, np.log(inside / (1 - inside)))
    return found


def score(level: float) -> float:
    """The score of a logit."""
    return float(1 / (1 + np.exp(-level)))


def peaks(levels: Floats, at_s: Floats, apart_s: float = APART_S) -> Indices:
    """Where levels (n,) are highest, highest first, each at least `apart_s` seconds from all that are higher.

    Args:
        levels: NO_LEVEL is never a peak.
        at_s: rising times.
        apart_s: seconds.
    """
    is_near = levels == NO_LEVEL
    found = []
    for i in np.argsort(-levels, kind="stable"):
        if not is_near[i]:
            found.append(i)
            first = np.searchsorted(at_s, at_s[i] - apart_s, side="right")
            last = np.searchsorted(at_s, at_s[i] + apart_s, side="left")
            is_near[first:last] = True
    return np.array(found, np.intp)


# -- the tail --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tail:
    """How often peaks exceed levels over `floor`: draws (n,) of what is not known for sure.

    Args:
        floor: the level (logit) over which the tail is modelled.
        shape: of the generalised Pareto distribution; under 0 it has an end.
        scale: its scale.
        per_hour: peaks over `floor`.
        n_peaks: that it was found from.
        unevenness: variance over mean of their number in equal parts of the time: 1 where they come at random.
    """

    floor: float
    shape: Floats
    scale: Floats
    per_hour: Floats
    n_peaks: int
    unevenness: float

    def rates(self, level: float) -> Floats:
        """Peaks an hour that reach `level`, one draw each."""
        over = max(0.0, level - self.floor) / self.scale
        inside = np.maximum(0.0, 1 + self.shape * over)
        with np.errstate(divide="ignore"):
            return self.per_hour * np.where(
                np.abs(self.shape) < 1e-6, np.exp(-over), inside ** (-1 / np.where(self.shape == 0, 1, self.shape))
            )

    def rate(self, level: float) -> float:
        """Peaks an hour to be expected."""
        return float(self.rates(level).mean())

    def level(self, per_hour: float) -> float:
        """The lowest level that is reached at most `per_hour` times an hour, to be expected; inf: none there is."""
        low, high = self.floor, float(logit(1.0))
        if self.rate(high) > per_hour:
            return np.inf
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.rate(middle) > per_hour else (low, middle)
        return high

    def levels(self, per_hour: float) -> tuple[float, float]:
        """Between which levels, 9 to 1, the one lies that is reached `per_hour` times an hour."""
        ratio = np.maximum(self.per_hour / per_hour, 1.0)
        shape = np.where(np.abs(self.shape) < 1e-6, 1e-6, self.shape)
        found = self.floor + self.scale * (ratio**shape - 1) / shape
        low, high = np.quantile(found, BETWEEN)
        return float(low), float(high)


def fit(levels: Floats, at_h: Floats, hours: float, per_hour: float) -> Tail:
    """The tail of the peaks of a room.

    Args:
        levels: logits of all peaks, any order.
        at_h: when each came, in hours of what was heard, from 0 to `hours`.
        hours: heard.
        per_hour: the rate that will be asked for; a frequent one needs a longer tail.

    Raises:
        ValueError: there are too few peaks, or all are one; the sentence goes on from what they are of.
    """
    n = len(levels)
    if n < LEAST_PEAKS:
        raise ValueError(f"{n} sounds that could be told apart; at least {LEAST_PEAKS} are needed: listen longer")
    frequent = int(np.ceil(2 * per_hour * hours))  # the tail must begin under the level that is asked for
    if frequent > n // 2:
        wish = f"{per_hour * hours:.0f} false alarms wished for in that time"
        raise ValueError(f"{n} sounds that could be told apart, and {wish}; wish for fewer")
    size = max(min(int(TAIL_SHARE * n), TAIL_MOST), TAIL_LEAST, frequent)
    order = np.argsort(-levels, kind="stable")
    floor = float(levels[order[size]])
    excess = levels[order[:size]] - floor
    if excess.mean() < 1e-3:
        raise ValueError("nothing but one score; that has no tail: give recordings of the room as it is")
    unevenness = _unevenness(at_h[order[:size]], hours)
    shape, scale = _draws(excess, unevenness)
    counts = np.random.default_rng(1).gamma(size / unevenness + 0.5, size=N_DRAWS)
    return Tail(floor, shape, scale, counts * unevenness / hours, size, unevenness)


def _unevenness(at_h: Floats, hours: float) -> float:
    counts = np.histogram(at_h, bins=N_PARTS, range=(0, hours))[0]
    return max(1.0, float(counts.var(ddof=1) / counts.mean()))


def _draws(excess: Floats, unevenness: float) -> tuple[Floats, Floats]:
    """Shapes and scales, as often as they are likely given how far peaks are over the floor: a grid, no iteration.

    Peaks that come in swarms tell less than so many single ones: their likelihood counts the less.
    """
    shapes = np.linspace(-0.6, 0.6, 61)[:, None]
    scales = excess.mean() * np.exp(np.linspace(-2, 2, 121))[None, :]
    ratio, safe = shapes / scales, np.where(np.abs(shapes) < 1e-6, 1.0, shapes)
    likelihood = -0.5 * (shapes / SHAPE_SPREAD) ** 2 + np.zeros_like(ratio)
    for each in excess:
        inside = 1 + ratio * each
        logs = np.log(np.where(inside > 0, inside, 1.0))
        curved = np.where(inside > 0, (1 + 1 / safe) * logs, np.inf)
        likelihood -= (np.log(scales) + np.where(np.abs(shapes) < 1e-6, each / scales, curved)) / unevenness
    weights = np.exp(likelihood - likelihood.max())
    cells = np.random.default_rng(0).choice(weights.size, N_DRAWS, p=(weights / weights.sum()).ravel())
    row, column = np.unravel_index(cells, weights.shape)
    return shapes[row, 0], scales[0, column]
