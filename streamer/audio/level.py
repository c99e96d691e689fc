"""Loudness of a stretch of sound."""

import numpy as np

from streamer.core import Level, Samples

SILENCE_DBFS = -120.0  # quieter than the last bit of 16-bit sound (-90); what digital silence reports
FULL_SCALE = 1 - 2**-15  # the largest positive 16-bit sample


def level(samples: Samples) -> Level:
    """Level of (n,) float32 in [-1, 1]; no samples count as silence, and as constant.

    0 dBFS is amplitude 1: a full-scale sine has a peak of 0 and an rms of -3.01 dBFS. Nothing is below -120.
    """
    if len(samples) == 0:
        return Level(SILENCE_DBFS, SILENCE_DBFS, 0, is_constant=True)
    magnitude = np.abs(samples)
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    clipped = int(np.count_nonzero(magnitude >= FULL_SCALE))
    is_constant = bool(samples.max() == samples.min())
    return Level(_dbfs(rms), _dbfs(float(magnitude.max())), clipped, is_constant)


def _dbfs(amplitude: float) -> float:
    return max(SILENCE_DBFS, 20 * float(np.log10(amplitude))) if amplitude > 0 else SILENCE_DBFS
