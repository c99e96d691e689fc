"""Streaming resampling: the same as all at once, however the sound is cut into blocks."""

from itertools import pairwise

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.resample import Resampler
from streamer.core import Samples

RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]


def noise(n: int) -> Samples:
    return np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32)


def in_blocks(samples: Samples, cuts: list[int], source_rate: int, model_rate: int) -> Samples:
    """`samples` through a `Resampler`, cut at the given fractions of a thousand."""
    edges = sorted({0, len(samples), *(cut * len(samples) // 1000 for cut in cuts)})
    resampler = Resampler(source_rate, model_rate)
    blocks = [resampler.accept(samples[start:end]) for start, end in pairwise(edges)]
    return np.concatenate([*blocks, resampler.finish()])


@given(
    n=st.integers(0, 20_000),
    cuts=st.lists(st.integers(0, 1000), max_size=12),
    source_rate=st.sampled_from(RATES),
    model_rate=st.sampled_from([16000, 32000]),
)
def test_any_blocks_give_what_one_shot_gives(n: int, cuts: list[int], source_rate: int, model_rate: int) -> None:
    samples = noise(n)
    found = in_blocks(samples, cuts, source_rate, model_rate)
    assert found.dtype == np.float32
    assert len(found) == round(n * model_rate / source_rate)
    expected = soxr.resample(samples, source_rate, model_rate) if n else samples
    shorter = min(len(found), len(expected))
    assert len(found) - shorter <= 1
    # Exact on soxr 1.1; the tolerance allows another build's order of summation.
    np.testing.assert_allclose(found[:shorter], expected[:shorter], atol=1e-6)


@pytest.mark.parametrize("source_rate", RATES)
def test_a_tone_stays_where_and_what_it_was(source_rate: int) -> None:
    def tone(rate: int) -> Samples:
        return np.sin(2 * np.pi * 1000 * np.arange(rate) / rate, dtype=np.float32)

    found = in_blocks(tone(source_rate), [100, 333], source_rate, 16000)
    middle = slice(2000, 14000)  # the edges ring
    np.testing.assert_allclose(found[middle], tone(16000)[middle], atol=1e-3)


def test_equal_rates_pass_through_at_once() -> None:
    samples = noise(7)
    resampler = Resampler(16000, 16000)
    assert resampler.accept(samples) is samples
    assert len(resampler.finish()) == 0


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1), (48000, 16000), (48001, 16000)])
def test_lengths(n: int, expected: int) -> None:
    assert len(in_blocks(noise(n), [], 48000, 16000)) == expected


def test_a_hole_in_memory_layout_does_not_matter() -> None:
    stereo = noise(8000).reshape(-1, 2)
    resampler, dense = Resampler(48000, 16000), Resampler(48000, 16000)
    found = np.concatenate([resampler.accept(stereo[:, 1]), resampler.finish()])
    np.testing.assert_array_equal(found, np.concatenate([dense.accept(stereo[:, 1].copy()), dense.finish()]))
