"""Kaldi log-mel filterbank in numpy: one kernel for a whole clip and for a stream.

In: float32 samples in [-1, 1]. Out: log-mel frames (T, M) float32. A frame depends on its own `frame_length` samples
alone (mean removal, pre-emphasis and window are per frame), so frames of a stream equal frames of the whole clip.

Agrees with torchaudio's `compliance.kaldi.fbank(x, sample_frequency=16000, window_type="hanning", num_mel_bins=128)`
within 2e-3 at worst and 1e-4 in the mean. What differs is the reference's float32 rounding, in bins far below a frame's
loudest one: beside a loud pure tone that alone can be 3e-3 and more. This kernel is within 2e-6 of float64.
"""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from models.spec import FbankSpec

Floats = npt.NDArray[np.float32]

PREEMPHASIS = 0.97  # Kaldi's default
LOW_HZ = 20.0  # Kaldi's default; the high edge is the Nyquist frequency
FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's: mel energies below it count as silence
SILENCE = np.log(np.float32(FLOOR))  # log-mel of digital silence
SLAB = 128  # frames computed at once: more would leave the cache
BAND = 16  # filters multiplied at once


def mel_banks(spec: FbankSpec, n_fft: int) -> Floats:
    """Triangular filters, linear in Kaldi's mel scale 1127 ln(1 + f/700): (n_fft // 2 + 1, M) float32."""

    def mel(hz: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    edges = np.linspace(mel(LOW_HZ), mel(spec.sample_rate / 2), spec.n_mels + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(n_fft // 2) * spec.sample_rate / n_fft)[:, None]
    banks = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    return np.vstack((banks, np.zeros(spec.n_mels))).astype(np.float32)  # Kaldi leaves the Nyquist bin out


class Work:
    """Buffers for up to `SLAB` frames: allocated anew for each hop they would cost more than the sums done in them.

    What neighbouring frames share is computed once: samples are emphasised in place, and summed in `blocks` of the
    greatest length that frames and hops are made of; `framed` and `framed_sums` are views of those, a row for a frame.
    """

    def __init__(self, spec: FbankSpec, n_fft: int) -> None:
        n_samples, n_bins = spec.samples(SLAB), n_fft // 2 + 1
        self.block = math.gcd(spec.frame_length, spec.frame_hop)
        self.samples = np.zeros(n_samples)
        self.emphasised = np.zeros(n_samples)
        self.framed = _framed(self.emphasised, spec.frame_length, spec.frame_hop)
        self.sums = np.zeros(n_samples // self.block)
        self.framed_sums = _framed(self.sums, spec.frame_length // self.block, spec.frame_hop // self.block)
        self.frames = np.zeros((SLAB, n_fft))  # windowed, and padded with zeros
        self.spectrum = np.empty((SLAB, n_bins), np.complex128)
        self.squares = np.empty((SLAB, 2 * n_bins))  # of real and imaginary parts in turn
        self.power = np.empty((SLAB, n_bins), np.float32)


def _framed(values: npt.NDArray[np.float64], length: int, hop: int) -> npt.NDArray[np.float64]:
    """A view of `values` (n,) with a row for each frame."""
    return np.lib.stride_tricks.sliding_window_view(values, length)[::hop]


class Kernel:
    """The filterbank with its tables, for one `FbankSpec`.

    In float64 up to the power spectrum: numpy's FFT is no faster in float32, and rounding would fill the quiet bins
    beside a pure tone. Emphasis and mean are linear, so samples are emphasised once, not in each frame that holds
    them, and what is left of the frame's mean is taken off then.
    """

    def __init__(self, spec: FbankSpec) -> None:
        self.spec = spec
        self.n_fft = 1 << (spec.frame_length - 1).bit_length()
        ramp = 2 * np.pi * np.arange(spec.frame_length) / (spec.frame_length - 1)
        self.window = 0.5 - 0.5 * np.cos(ramp)
        self.banks = mel_banks(spec, self.n_fft)
        self._bands = _bands(self.banks)

    def __call__(self, samples: Floats, work: Work | None = None) -> Floats:
        """Log-mel of every whole frame in `samples` (n,): (T, M), T = `spec.frames(n)`.

        `work` is the caller's, who keeps it for the next call; not for two threads at once.
        """
        spec = self.spec
        n_frames = spec.frames(len(samples))
        out = np.empty((n_frames, spec.n_mels), np.float32)
        work = work or Work(spec, self.n_fft)
        for i in range(0, n_frames, SLAB):
            n = min(SLAB, n_frames - i)
            start = i * spec.frame_hop
            self._compute(samples[start : start + spec.samples(n)], work, out[i : i + n])
        return out

    def _compute(self, x: Floats, work: Work, out: Floats) -> None:
        n, length = len(out), self.spec.frame_length
        samples, emphasised, n_blocks = work.samples[: len(x)], work.emphasised[: len(x)], len(x) // work.block
        samples[:] = x
        np.multiply(samples[:-1], -PREEMPHASIS, out=emphasised[1:])
        emphasised[1:] += samples[1:]  # the first one doesn't count, since the window is 0 there
        blocks = samples[: n_blocks * work.block].reshape(n_blocks, work.block)
        np.matmul(blocks, np.ones(work.block), out=work.sums[:n_blocks])
        left = work.framed_sums[:n].sum(axis=1, keepdims=True) * ((1 - PREEMPHASIS) / length)  # of the means
        frames = np.subtract(work.framed[:n], left, out=work.frames[:n, :length])
        frames *= self.window
        spectrum = np.fft.rfft(work.frames[:n], out=work.spectrum[:n])
        squares = np.square(spectrum.view(np.float64), out=work.squares[:n])
        power = np.add(squares[:, ::2], squares[:, 1::2], out=work.power[:n], casting="same_kind")
        for bins, mels, banks in self._bands:
            np.matmul(power[:, bins], banks, out=out[:, mels])
        np.log(np.maximum(out, FLOOR, out=out), out=out)


def _bands(banks: Floats) -> list[tuple[slice, slice, Floats]]:
    """The filters, `BAND` at a time, with the few bins that these touch: (bins, mels, their part of `banks`).

    A third of the work of the whole product; and each is too small for BLAS to start threads, whose hand-over costs
    10 ms on a busy machine.
    """
    bands = []
    for first in range(0, banks.shape[1], BAND):
        mels = slice(first, min(first + BAND, banks.shape[1]))
        touched = np.flatnonzero(banks[:, mels].any(axis=1))
        bins = slice(int(touched.min(initial=len(banks) - 1)), int(touched.max(initial=0)) + 1)
        bands.append((bins, mels, np.ascontiguousarray(banks[bins, mels])))
    return bands


@lru_cache(maxsize=8)
def kernel(spec: FbankSpec) -> Kernel:
    """The kernel of `spec`; its tables are made once."""
    return Kernel(spec)


def fbank(samples: Floats, spec: FbankSpec | None = None) -> Floats:
    """Log-mel of a whole clip, not normalised: (n,) samples in [-1, 1] to (T, M)."""
    return kernel(spec or FbankSpec())(np.ascontiguousarray(samples, np.float32))


def normalise(frames: Floats, spec: FbankSpec) -> Floats:
    """`(frames - mean) / (2 * std)`, AST's input scale."""
    scaled: Floats = (frames - np.float32(spec.mean)) / np.float32(2 * spec.std)
    return scaled


def clip_features(samples: Floats, spec: FbankSpec, n_frames: int) -> Floats:
    """Model input (n_frames, M) of one clip (n,), cut or padded as the reference extractor does it.

    It appends rows of 0 to the log-mel *before* it normalises, so padding becomes `-mean / (2 * std)` (+0.467 at
    AudioSet's statistics), louder than digital silence (-1.28). Checkpoints were trained so.
    """
    frames = fbank(samples[: spec.samples(n_frames)], spec)
    return normalise(np.pad(frames, ((0, n_frames - len(frames)), (0, 0))), spec)


class OnlineFbank:
    """Normalised log-mel frames of a stream, the newest `window_frames` of them always contiguous in memory.

    Each frame is computed once and written twice, into both halves of a mirrored ring: any window is a plain slice.
    Before the first real frame the ring holds frames of digital silence. Thread: one.

    Args:
        spec: the filterbank.
        window_frames: T, the longest window asked for.
    """

    def __init__(self, spec: FbankSpec, window_frames: int) -> None:
        self.spec = spec
        self.window_frames = window_frames
        self.n_frames = 0  # frames computed since the last reset
        self._kernel = kernel(spec)
        self._work = Work(spec, self._kernel.n_fft)
        self._ring = np.empty((2 * window_frames, spec.n_mels), np.float32)
        self._rest = np.empty(0, np.float32)  # samples that still belong to coming frames
        self.reset()

    def reset(self) -> None:
        """Forget everything: the sound that follows has nothing to do with what came before."""
        self.n_frames = 0
        self._rest = np.empty(0, np.float32)
        self._ring[:] = (SILENCE - self.spec.mean) / (2 * self.spec.std)

    def accept(self, samples: Floats) -> int:
        """Take the next samples (n,) in [-1, 1]; return how many new frames they completed."""
        self._rest = np.concatenate((self._rest, samples))
        frames = normalise(self._kernel(self._rest, self._work), self.spec)
        self._rest = self._rest[len(frames) * self.spec.frame_hop :]
        for i in range(0, len(frames), self.window_frames):
            self._store(frames[i : i + self.window_frames])
        return len(frames)

    def _store(self, frames: Floats) -> None:
        size = self.window_frames
        at = self.n_frames % size
        head = min(len(frames), size - at)
        for half in (0, size):
            self._ring[half + at : half + at + head] = frames[:head]
            self._ring[half : half + len(frames) - head] = frames[head:]
        self.n_frames += len(frames)

    def window(self) -> Floats:
        """The newest `window_frames` frames (T, M), oldest first: a view to read, valid until the next `accept`."""
        at = self.n_frames % self.window_frames
        return self._ring[at : at + self.window_frames]
