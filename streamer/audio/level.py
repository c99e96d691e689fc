"""Loudness of a stretch of sound."""

import math

import numpy as np

from streamer.core import Level, Samples

SILENCE_DBFS = -120.0  # quieter than the last bit of 16-bit sound (-90); what digital silence reports
FULL_SCALE = 1 - 2**-15  # the largest positive 16-bit sample
SILENT = Level(SILENCE_DBFS, SILENCE_DBFS, 0, is_constant=True)


def level(samples: Samples, is_constant: bool = False) -> Level:
    """Level of (n,) float32 in [-1, 1]; no samples count as silence, and as constant.

    Whether they are constant is their source's to say: a filter rings for ever after a step.

    0 dBFS is amplitude 1: a full-scale sine has a peak of 0 and an rms of -3.01 dBFS. Nothing is below -120.
    """
    if len(samples) == 0:
        return SILENT
    peak = float(np.abs(samples).max())
    rms = math.sqrt(float(np.square(samples).mean(dtype=np.float64)))
    clipped = int(np.count_nonzero(np.abs(samples) >= FULL_SCALE)) if peak >= FULL_SCALE else 0
    return Level(_dbfs(rms), _dbfs(peak), clipped, is_constant)


def louder(one: Level, other: Level) -> Level:
    """Level of two stretches taken as one that is as loud as the louder of them."""
    return Level(
        max(one.rms_dbfs, other.rms_dbfs),
        max(one.peak_dbfs, other.peak_dbfs),
        one.clipped + other.clipped,
        one.is_constant and other.is_constant,
    )


def _dbfs(amplitude: float) -> float:
    return max(SILENCE_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else SILENCE_DBFS
