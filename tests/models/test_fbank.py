"""Fbank: streaming == one-shot == reference, and nearer to the truth than the reference."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import fbank as module
from models.fbank import FLOOR, Kernel, OnlineFbank, Work, clip_features, fbank, normalise
from models.spec import FbankSpec, ModelSpec
from tests.reference import kaldi_fbank

Floats = npt.NDArray[np.float32]

RATE = 16000
PLAIN = FbankSpec(mean=0.0, std=0.5)  # (x - mean) / (2 * std) is x: frames of a stream are log-mel itself
SPLIT_ATOL = 1e-5  # the contract; a BLAS may order the sums of a lone frame differently


def signals() -> dict[str, Floats]:
    """Four seconds of each sound on which the reference's own rounding stays small."""
    rng = np.random.default_rng(2)
    t = np.arange(4 * RATE) / RATE
    noise = rng.normal(size=len(t))
    pitch = np.cumsum(120 + 20 * np.sin(2 * np.pi * 2 * t)) / RATE
    voice = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 30))
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * t)
    sounds = {
        "noise": 0.1 * noise,
        "quiet noise": 1e-4 * noise,
        "noise at the floor": 3e-6 * noise,
        "noise in pulses": 0.1 * noise * syllables * np.exp(-t),
        "speech-like": 0.1 * voice * syllables,
        "tone in noise": 0.3 * np.sin(2 * np.pi * 1000 * t) + 0.01 * noise,
        "mains hum": 0.3 * np.sin(2 * np.pi * 50 * t),
        "clicks": (np.arange(len(t)) % 4000 == 0).astype(float),
        "square at full scale": np.sign(np.sin(2 * np.pi * 100.3 * t)),
        "offset": 0.5 + 0.01 * noise,
        "silence": 0 * t,
    }
    return {name: samples.astype(np.float32) for name, samples in sounds.items()}


def pure_tones() -> dict[str, Floats]:
    """Loud tones: in float32, rounding fills the bins beside them, more than 1e7 times weaker in power."""
    t = np.arange(4 * RATE) / RATE
    sounds = {
        "0.3 rad per sample": 0.5 * np.sin(0.3 * RATE * t),
        "1 kHz": 0.9 * np.sin(2 * np.pi * 1000 * t),
        "sweep": 0.5 * np.sin(2 * np.pi * (50 * t + 980 * t**2)),
    }
    return {name: samples.astype(np.float32) for name, samples in sounds.items()}


SOUNDS = {**signals(), **pure_tones()}


def exact(samples: Floats) -> npt.NDArray[np.float64]:
    """Kaldi's fbank step by step in float64, as its documentation defines it: (n,) to (T, 128)."""

    def mel(hz: Any) -> Any:
        return 1127 * np.log(1 + hz / 700)

    frames = np.array([samples[i : i + 400] for i in range(0, len(samples) - 399, 160)], np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    frames -= 0.97 * np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
    frames *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.rfft(frames, 512)[:, :256]) ** 2
    edges = np.linspace(mel(20.0), mel(8000.0), 130)
    bins = mel(np.arange(256) * 31.25)
    energies = np.zeros((len(frames), 128))
    for i, (low, centre, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
        energies[:, i] = power @ np.clip(np.minimum(rising, falling), 0, None)
    return np.log(np.maximum(energies, np.finfo(np.float32).eps))


def streamed(samples: Floats, cuts: list[int], spec: FbankSpec = PLAIN) -> Floats:
    """Frames of `samples` handed over in pieces that end at `cuts`."""
    online = OnlineFbank(spec, max(1, spec.frames(len(samples))))
    for start, end in pairwise([0, *sorted(cuts), len(samples)]):
        online.accept(samples[start:end])
    return online.window()


def test_arithmetic_of_frames() -> None:
    spec = FbankSpec()
    assert spec.samples(1024) == 164_080
    assert spec.frames(164_080) == 1024
    assert spec.frames(164_079) == 1023
    assert spec.frames(163_840) == 1022
    assert [spec.frames(n) for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]
    assert ModelSpec("m", "r", (), ()).window_s == 10.24


@pytest.mark.parametrize("name", SOUNDS)
def test_streaming_equals_one_shot(name: str) -> None:
    samples = SOUNDS[name]
    np.testing.assert_allclose(
        streamed(samples, list(range(160, len(samples), 160))), fbank(samples, PLAIN), rtol=0, atol=SPLIT_ATOL
    )


@pytest.mark.parametrize("name", signals())
def test_equals_the_reference(name: str) -> None:
    """Float32 log-mel has a floor of its own: here the reference is up to 1.4e-3 from the truth, 5e-6 in the mean."""
    samples = SOUNDS[name]
    apart = np.abs(fbank(samples) - kaldi_fbank(samples))
    assert apart.shape == (398, 128)
    assert apart.max() <= 2e-3
    assert apart.mean() <= 1e-4


@pytest.mark.parametrize("name", SOUNDS)
def test_is_no_farther_from_float64_than_the_reference(name: str) -> None:
    samples = SOUNDS[name]
    truth = exact(samples)
    ours, theirs = np.abs(fbank(samples) - truth), np.abs(kaldi_fbank(samples) - truth)
    assert ours.max() <= theirs.max()
    assert ours.mean() <= theirs.mean()
    assert ours.max() <= 2e-6  # 2 ulp of a log-mel of -16: the float32 it is handed out in


@pytest.mark.parametrize("name", pure_tones())
def test_beside_a_pure_tone_all_that_differs_is_the_reference_s_rounding(name: str) -> None:
    """There the reference is 1e-3 to 1e-2 from the truth, so that within 2e-3 of it would mean as wrong as it."""
    samples = SOUNDS[name]
    reference, truth = kaldi_fbank(samples), exact(samples)
    apart = np.abs(fbank(samples) - reference)
    assert apart.max() <= np.abs(reference - truth).max() + 2e-6
    assert apart.mean() <= 1e-4


@given(cuts=st.lists(st.integers(0, 8000), max_size=12), name=st.sampled_from(sorted(SOUNDS)))
def test_any_split_gives_the_same_frames(cuts: list[int], name: str) -> None:
    samples = SOUNDS[name][:8000]
    np.testing.assert_allclose(streamed(samples, cuts), fbank(samples, PLAIN), rtol=0, atol=SPLIT_ATOL)


@given(sizes=st.lists(st.integers(0, 3000), max_size=12))
def test_a_window_is_the_newest_frames_after_silence(sizes: list[int]) -> None:
    """Also in blocks of more frames (18) than a window has (7), and wherever the ring has turned to."""
    size, spec = 7, FbankSpec()
    online = OnlineFbank(spec, size)
    samples = SOUNDS["noise"][: sum(sizes)]
    silence = fbank(np.zeros(spec.samples(size), np.float32))
    history = normalise(np.concatenate((silence, fbank(samples))), spec)
    at = 0
    for n in sizes:
        n_before = online.n_frames
        assert online.accept(samples[at : at + n]) == online.n_frames - n_before
        at += n
        assert online.n_frames == spec.frames(at)
        newest = history[online.n_frames : online.n_frames + size]
        np.testing.assert_allclose(online.window(), newest, rtol=0, atol=SPLIT_ATOL)


def test_each_frame_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    class Counting(Kernel):
        def _compute(self, x: Floats, work: Work, out: Floats) -> None:
            rows.append(len(out))
            super()._compute(x, work, out)

    monkeypatch.setattr(module, "kernel", Counting)
    samples = SOUNDS["noise"][:32000]
    streamed(samples, list(range(0, len(samples), 777)))
    assert len(rows) > 30
    assert sum(rows) == PLAIN.frames(len(samples))


def test_windows_are_contiguous_views_of_one_memory() -> None:
    online = OnlineFbank(PLAIN, 10)
    for _ in range(25):
        online.accept(SOUNDS["noise"][:160])
        window = online.window()
        assert window.shape == (10, 128)
        assert window.dtype == np.float32
        assert window.flags.c_contiguous
        assert np.shares_memory(window, online._ring)


def test_reset_forgets_frames_and_samples() -> None:
    online = OnlineFbank(PLAIN, 5)
    silence = online.window().copy()
    np.testing.assert_allclose(silence, np.log(FLOOR), rtol=0, atol=1e-6)
    online.accept(SOUNDS["noise"][:999])
    assert not np.array_equal(online.window(), silence)
    online.reset()
    np.testing.assert_array_equal(online.window(), silence)
    assert online.n_frames == 0
    assert online.accept(SOUNDS["noise"][:399]) == 0  # a rest kept from before would complete a frame


def test_a_clip_is_padded_with_zeros_before_it_is_normalised() -> None:
    spec = FbankSpec()
    padded = clip_features(np.zeros(163_840, np.float32), spec, 1024)
    np.testing.assert_allclose(padded[:1022], -1.278, rtol=0, atol=1e-3)
    np.testing.assert_allclose(padded[1022:], 0.467, rtol=0, atol=1e-3)
    assert clip_features(np.zeros(200_000, np.float32), spec, 1024).shape == (1024, 128)
    np.testing.assert_allclose(clip_features(np.zeros(0, np.float32), spec, 4), 0.467, rtol=0, atol=1e-3)
