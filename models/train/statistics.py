"""Mean and standard deviation of a data set's log-mel: what brings a model's input to mean 0 and deviation 0.5."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import DataError
from models.spec import FbankSpec
from models.train.data import recordings
from models.train.features import compute

SLAB = 4096  # frames in float64 at once, 4 MB


@dataclass(frozen=True, slots=True)
class Statistics:
    """`mean` and `std` of all mel bins of `n_frames` frames; `FbankSpec` takes the first two."""

    mean: float
    std: float
    n_frames: int


def statistics(frames: Iterable[npt.NDArray[np.floating]]) -> Statistics:
    """Mean and standard deviation over every bin of every frame, in one pass in float64 (Chan et al. 1979).

    The figures the authors' get_norm_stats aims at, but of the sounds themselves: it averages over batches, and counts
    rows of 0 that fill short clips up, which are louder than most sounds. Where clips fill the window both agree.

    Args:
        frames: log-mel of one recording after the other, (T, M) each, not normalised.

    Raises:
        DataError: there are no frames, or all bins are equal.
    """
    n_frames, n, mean, squares = 0, 0, 0.0, 0.0  # squares: summed squared distances from the mean
    for recording in frames:
        n_frames += len(recording)
        for at in range(0, len(recording), SLAB):
            slab = recording[at : at + SLAB].astype(np.float64)
            off = slab.mean() - mean
            squares += ((slab - slab.mean()) ** 2).sum() + off**2 * n * slab.size / (n + slab.size)
            n += slab.size
            mean += off * slab.size / n
    if not squares > 0:
        raise DataError(f"{n_frames} frames without any difference have no statistics; give recordings of sound")
    return Statistics(float(mean), math.sqrt(squares / n), n_frames)


def of_data(data: Path, spec: FbankSpec) -> Statistics:
    """Statistics of the recordings in `data`, a folder or a CSV, read once with a progress bar; nothing is written.

    Raises:
        DataError: no recordings, or some that can't be used.
    """
    return statistics(compute(recordings(data), spec, "statistics"))
