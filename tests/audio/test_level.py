"""Loudness in dBFS."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamer.audio.level import level
from streamer.core import Level, Samples

SINE = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000, dtype=np.float32)


@pytest.mark.parametrize(
    ("samples", "rms_dbfs", "peak_dbfs", "clipped"),
    [
        ([], -120, -120, 0),
        ([0, 0, 0], -120, -120, 0),
        ([1e-7, -1e-7], -120, -120, 0),  # -140: below what is called silence
        ([0.5, -0.5], -6.02, -6.02, 0),
        ([0.1, 0, 0, 0], -26.02, -20, 0),
        ([1, -1, 1 - 2**-15, 0.99], -0.02, 0, 3),
        ([2.0, -2.0], 6.02, 6.02, 2),  # float sound may exceed full scale
    ],
)
def test_levels(samples: list[float], rms_dbfs: float, peak_dbfs: float, clipped: int) -> None:
    found = level(np.array(samples, np.float32))
    assert found.rms_dbfs == pytest.approx(rms_dbfs, abs=0.01)
    assert found.peak_dbfs == pytest.approx(peak_dbfs, abs=0.01)
    assert found.clipped == clipped


def test_a_full_scale_sine() -> None:
    found = level(SINE)
    assert found.rms_dbfs == pytest.approx(-3.01, abs=0.01)
    assert found.peak_dbfs == pytest.approx(0, abs=0.01)
    assert isinstance(found, Level)
    assert type(found.rms_dbfs) is float
    assert type(found.clipped) is int


@given(arrays(np.float32, st.integers(0, 300), elements=st.floats(-1, 1, width=32)))
def test_silence_is_the_bottom_and_the_peak_is_never_below_the_rms(samples: Samples) -> None:
    found = level(samples)
    assert -120 <= found.rms_dbfs <= found.peak_dbfs + 1e-4
    assert found.peak_dbfs <= 0
    assert 0 <= found.clipped <= len(samples)
