"""A data set's mean and deviation, against numpy over the reference's frames."""

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError
from models.spec import FbankSpec
from models.train import statistics as module
from models.train.statistics import of_data, statistics
from tests.reference import kaldi_fbank


def sounds():
    """Recordings of unlike length and loudness: a tone in noise, noise, near silence."""
    rng = np.random.default_rng(0)
    for n, level in ((30000, 0.3), (16000, 0.03), (52345, 1e-4)):
        tone = np.sin(np.arange(n) * rng.uniform(0.05, 1))
        yield (level * (tone + rng.normal(0, 1, n)) / 4).astype(np.float32)


def test_agrees_with_the_reference_s_frames(tmp_path):
    (tmp_path / "bark").mkdir()
    for i, samples in enumerate(sounds()):
        soundfile.write(tmp_path / "bark" / f"{i}.wav", samples, 16000, subtype="FLOAT")
    reference = np.concatenate([kaldi_fbank(samples) for samples in sounds()]).astype(np.float64)
    found = of_data(tmp_path, FbankSpec())
    assert found.mean == pytest.approx(reference.mean(), abs=1e-4)
    assert found.std == pytest.approx(reference.std(), abs=1e-4)
    assert found.n_frames == len(reference)
    assert [path.name for path in tmp_path.iterdir()] == ["bark"]  # nothing was written


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(-1e6, 1e6), st.floats(1e-2, 1e2), st.integers(0, 99)
)
def test_equals_numpy_however_the_frames_are_split(lengths, offset, spread, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(offset, spread, (n, 4)) for n in lengths]
    whole = np.concatenate(parts)
    found = statistics(iter(parts))
    assert found.mean == pytest.approx(whole.mean(), rel=1e-12, abs=1e-9)
    assert found.std == pytest.approx(whole.std(), rel=1e-6)  # a naive sum of squares is 1 % off and more


def test_slabs_of_a_long_recording_add_up(monkeypatch):
    frames = np.random.default_rng(0).normal(-4, 3, (1000, 8)).astype(np.float32)
    monkeypatch.setattr(module, "SLAB", 7)
    found = statistics([frames])
    assert (found.mean, found.std) == pytest.approx((frames.mean(dtype=float), frames.std(dtype=float)), rel=1e-12)


@pytest.mark.parametrize("frames", [[], [np.full((3, 4), -15.9, np.float32)]])
def test_no_difference_no_statistics(frames):
    n = sum(map(len, frames))
    with pytest.raises(DataError, match=f"^{n} frames without any difference have no statistics; give recordings"):
        statistics(frames)
