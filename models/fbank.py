"""Kaldi log-mel filterbank in numpy: one kernel for a whole clip and for a stream.

In: float32 samples in [-1, 1]. Out: log-mel frames (T, M) float32. A frame depends on its own `frame_length` samples
alone (mean removal, pre-emphasis and window are per frame), so frames of a stream equal frames of the whole clip.

Agrees with torchaudio's `compliance.kaldi.fbank(x, sample_frequency=16000, window_type="hanning", num_mel_bins=128)`
within 2e-3 at worst and 1e-4 in the mean. What differs is the reference's float32 rounding, in bins far below a frame's
loudest one: beside a loud pure tone that alone can be 3e-3 and more. This kernel is within 2e-6 of float64.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from models.spec import FbankSpec

Floats = npt.NDArray[np.float32]

PREEMPHASIS = 0.97  # Kaldi's default
LOW_HZ = 20.0  # Kaldi's default; the high edge is the Nyquist frequency
FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's: mel energies below it count as silence
SILENCE = np.log(np.float32(FLOOR))  # log-mel of digital silence
SLAB = 128  # frames computed at once: their work buffers, 1.3 MB, stay within the cache


def mel_banks(spec: FbankSpec, n_fft: int) -> Floats:
    """Triangular filters, linear in Kaldi's mel scale 1127 ln(1 + f/700): (n_fft // 2 + 1, M) float32."""

    def mel(hz: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    edges = np.linspace(mel(LOW_HZ), mel(spec.sample_rate / 2), spec.n_mels + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(n_fft // 2) * spec.sample_rate / n_fft)[:, None]
    banks = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    return np.vstack((banks, np.zeros(spec.n_mels))).astype(np.float32)  # Kaldi leaves the Nyquist bin out


class Kernel:
    """The filterbank with its tables, for one `FbankSpec`.

    In float64 up to the power spectrum: numpy's FFT is no faster in float32, and rounding would fill the quiet bins
    beside a pure tone.
    """

    def __init__(self, spec: FbankSpec) -> None:
        self.spec = spec
        self.n_fft = 1 << (spec.frame_length - 1).bit_length()
        ramp = 2 * np.pi * np.arange(spec.frame_length) / (spec.frame_length - 1)
        self.window = 0.5 - 0.5 * np.cos(ramp)
        self.banks = mel_banks(spec, self.n_fft)

    def __call__(self, samples: Floats) -> Floats:
        """Log-mel of every whole frame in `samples` (n,): (T, M), T = `spec.frames(n)`."""
        spec = self.spec
        n_frames = spec.frames(len(samples))
        out = np.empty((n_frames, spec.n_mels), np.float32)
        if n_frames:
            view = np.lib.stride_tricks.sliding_window_view(samples, spec.frame_length)[:: spec.frame_hop]
            for i in range(0, n_frames, SLAB):
                self._compute(view[i : i + SLAB], out[i : i + SLAB])
        return out

    def _compute(self, frames: Floats, out: Floats) -> None:
        x = frames - frames.mean(axis=1, keepdims=True, dtype=np.float64)
        emphasised = np.empty_like(x)
        np.subtract(x[:, 1:], PREEMPHASIS * x[:, :-1], out=emphasised[:, 1:])
        emphasised[:, 0] = 0.0  # as the window is there, so that nothing depends on what lies to the left
        emphasised *= self.window
        spectrum = np.fft.rfft(emphasised, self.n_fft)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        # Row by row, so that BLAS starts no threads: their hand-over costs 10 ms on a busy machine.
        np.matmul(power[:, None], self.banks, out=out[:, None])
        np.log(np.maximum(out, FLOOR, out=out), out=out)


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
        frames = normalise(self._kernel(self._rest), self.spec)
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
