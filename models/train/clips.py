"""Training windows by the paper's recipe: balanced draws, mixup, frequency and time masks.

Gong et al. 2021, "AST: Audio Spectrogram Transformer", §3.1 (AudioSet) and §3.2 (ESC-50, Speech Commands), with the
settings the authors published.
"""

import numpy as np
import numpy.typing as npt

from models.fbank import FLOOR, normalise
from models.spec import FbankSpec
from models.train.features import Features

Floats = npt.NDArray[np.float32]
BETA = 10.0  # mixup's lambda is drawn from Beta(10, 10): near one half
PADDING = 0.0  # log-mel that follows a clip shorter than the window, as the reference extractor pads
MASKED_SHARE = 192 / 1024  # of the window: the authors' time mask for AudioSet; 96 of 512 frames for ESC-50


class Clips:
    """Draws training windows. `rng` is all its state: set back, the same batches follow.

    Args:
        features: log-mel of n recordings.
        targets: (n, C), 1 where a recording has a label, else 0; backgrounds have none.
        spec: its mean and std normalise the windows.
        window_frames: T of a window.
        seed: of what is drawn until `rng` is set.
        mixup: share of the windows that are a mix of two clips.
        max_freq_mask: mel bins hidden at most (the authors: 48 for AudioSet and Speech Commands, 24 for ESC-50).
        max_time_mask: frames hidden at most; None for 3/16 of the window.
    """

    def __init__(
        self,
        features: Features,
        targets: Floats,
        spec: FbankSpec,
        window_frames: int,
        seed: int,
        *,
        mixup: float = 0.5,
        max_freq_mask: int = 24,
        max_time_mask: int | None = None,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.features = features
        self.targets = targets
        self.spec = spec
        self.window_frames = window_frames
        self.mixup = mixup
        self.max_freq_mask = min(max_freq_mask, spec.n_mels)
        most = round(MASKED_SHARE * window_frames) if max_time_mask is None else max_time_mask
        self.max_time_mask = min(most, window_frames)
        chances = np.cumsum(weights(targets))
        self._chances = chances / chances[-1]

    def batch(self, size: int, n_frames: int) -> tuple[Floats, Floats]:
        """`size` normalised windows of so many frames (B, T, M) and their targets (B, C), both float32.

        A longer clip is cropped at random, a shorter one is followed by `PADDING`.
        """
        windows = np.full((size, n_frames, self.spec.n_mels), PADDING, np.float32)
        targets = np.empty((size, self.targets.shape[1]), np.float32)
        drawn = np.searchsorted(self._chances, self.rng.random(size), side="right")
        for window, target, i in zip(windows, targets, drawn, strict=True):
            frames, target[:] = self._clip(int(i), n_frames)
            window[: len(frames)] = frames
        windows = normalise(windows, self.spec)
        for window in windows:
            self._mask(window)
        return windows, targets

    def _clip(self, i: int, size: int) -> tuple[Floats, Floats]:
        """At most `size` frames of clip `i`, perhaps mixed with another, and their targets (C,).

        The other is drawn without balance, as the authors do. Waveforms weighted by lambda and 1 - lambda have energies
        weighted by the squares of both; what they have in common vanishes in the mean. Where the clips' lengths differ,
        the shorter one ends in silence.
        """
        frames = self._crop(i, size)
        if self.rng.random() >= self.mixup:
            return frames, self.targets[i]
        j = int(self.rng.integers(len(self.features)))
        share = float(self.rng.beta(BETA, BETA))
        targets = share * self.targets[i] + (1 - share) * self.targets[j]
        return mix(frames, self._crop(j, size), share), targets

    def _crop(self, i: int, size: int) -> Floats:
        spare = max(0, int(self.features.n_frames[i]) - size)
        return self.features.crop(i, int(self.rng.integers(spare + 1)), size)

    def _mask(self, frames: Floats) -> None:
        """Hide one band and one stretch of normalised `frames` in place (SpecAugment, Park et al. 2019, §2).

        They get the data's mean, as there: 0. The authors of AST write 0 *before* they normalise; with other data's
        mean that is a loud tile, and neither silence nor padding should look like something hidden.
        """
        n_frames, n_mels = frames.shape
        at, width = self._extent(n_mels, self.max_freq_mask)
        frames[:, at : at + width] = 0
        at, width = self._extent(n_frames, self.max_time_mask * n_frames // self.window_frames)
        frames[at : at + width] = 0

    def _extent(self, size: int, most: int) -> tuple[int, int]:
        """Where a mask starts within `size`, and its width of 0 to `most`."""
        width = int(self.rng.integers(most + 1))
        return int(self.rng.integers(size - width + 1)), width


def weights(targets: Floats) -> npt.NDArray[np.float64]:
    """How often each clip (n,) is to be drawn: the sum over its labels of 1 / (clips with that label).

    Clips without a label share the weight of one label.
    """
    n_carry = np.maximum(1, targets.sum(axis=0, dtype=np.float64))
    each = (1 / n_carry).astype(np.float32)  # in float64 the product would copy all targets
    balanced: npt.NDArray[np.float64] = (targets @ each).astype(np.float64)
    backgrounds = ~targets.any(axis=1)
    balanced[backgrounds] = 1 / max(1, backgrounds.sum())
    return balanced


def mix(one: Floats, other: Floats, share: float) -> Floats:
    """Log-mel of two sounds at amplitudes `share` and 1 - `share`, as long as the longer one."""
    energy = np.zeros((max(len(one), len(other)), one.shape[1]), np.float32)
    energy[: len(one)] += np.float32(share**2) * np.exp(one)
    energy[: len(other)] += np.float32((1 - share) ** 2) * np.exp(other)
    mixed: Floats = np.log(np.maximum(energy, np.float32(FLOOR)))
    return mixed
