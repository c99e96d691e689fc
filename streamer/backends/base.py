"""What runs the model."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.spec import Activation, ModelSpec


class Backend(Protocol):
    """A loaded model. One thread calls `infer`."""

    spec: ModelSpec

    def warmup(self) -> None:
        """Run once on silence, so that the first real window is not slow."""

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (B, C) float32 of normalised windows (B, T, M) float32.

        Raises:
            BackendError: the model failed or answered with something that is not a finite number.
        """

    def close(self) -> None:
        """Let go of the model."""


def activate(logits: npt.NDArray[np.float32], activation: Activation) -> npt.NDArray[np.float32]:
    """Logits (B, C) to scores in [0, 1]: independent labels, or shares of one."""
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
