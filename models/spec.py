"""What a caller must know to feed a model and to read its answer. No torch here."""

from dataclasses import dataclass, field
from typing import Literal

Activation = Literal["sigmoid", "softmax"]


@dataclass(frozen=True, slots=True)
class FbankSpec:
    """Log-mel filterbank settings; the defaults are AST's (Gong et al. 2021, §2.1, with the AudioSet statistics).

    Args:
        sample_rate: Hz.
        frame_length: samples a frame sees.
        frame_hop: samples between frames.
        n_mels: mel bins.
        mean: of the log-mel features the model was trained on.
        std: of the same; features become `(x - mean) / (2 * std)`.
    """

    sample_rate: int = 16000
    frame_length: int = 400
    frame_hop: int = 160
    n_mels: int = 128
    mean: float = -4.2677393
    std: float = 4.5689974

    def samples(self, n_frames: int) -> int:
        """Samples that `n_frames` consecutive frames span."""
        return (n_frames - 1) * self.frame_hop + self.frame_length

    def frames(self, n_samples: int) -> int:
        """Whole frames in `n_samples`."""
        return max(0, 1 + (n_samples - self.frame_length) // self.frame_hop)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A classifier as its caller sees it.

    Args:
        name: what it was loaded as.
        revision: `sha256:` and the hash of its weights.
        fbank: how to make its input.
        window_frames: T of its (B, T, M) input.
        labels: C display names, in the order of the scores.
        label_ids: C ontology ids (`/m/…`), empty strings where unknown.
        activation: what turns logits into scores.
        patch_frames: of a patch; no window is shorter.
    """

    name: str
    revision: str
    labels: tuple[str, ...]
    label_ids: tuple[str, ...]
    fbank: FbankSpec = field(default_factory=FbankSpec)
    window_frames: int = 1024
    activation: Activation = "sigmoid"
    patch_frames: int = 16

    @property
    def window_s(self) -> float:
        """Length of a window on the frame grid, seconds."""
        return self.window_frames * self.fbank.frame_hop / self.fbank.sample_rate
