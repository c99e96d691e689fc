"""What runs the model."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.spec import ModelSpec


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
