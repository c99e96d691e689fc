"""A checkpoint's weights for windows of another length, height or stride.

Gong et al. 2021, §2.2, as the authors' code does it when it transfers from images and between data sets: the grid of
position embeddings is cut to its centre along an axis that became shorter, interpolated along one that became longer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.errors import CheckpointError

POSITIONS = "embeddings.position_embeddings"
BUILT_IN = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size", "qkv_bias",
)  # fmt: skip


def fit(state: Mapping[str, Tensor], old: ASTConfig, new: ASTConfig) -> dict[str, Tensor]:
    """The tensors of an `old` model for a `new` one; only position embeddings differ, and a head is left as it is.

    Args:
        state: by our names, of the encoder alone or of a classifier.
        old: what the checkpoint was made for.
        new: what is wanted.

    Raises:
        CheckpointError: they differ in what weights are bound to.
    """
    for name in BUILT_IN:
        was, wanted = getattr(old, name), getattr(new, name)
        if wanted != was:
            raise CheckpointError(
                f"{name} {wanted} is asked for, the checkpoint has {was} and can't change it; leave {name} out"
            )
    return {
        name: fit_positions(value, old, new) if name.endswith(POSITIONS) else value for name, value in state.items()
    }


def fit_positions(positions: Tensor, old: ASTConfig, new: ASTConfig) -> Tensor:
    """Position embeddings (1, 2 + F·S, D) of the old grid for the new one.

    A new stride first resamples each axis to the number of patches it would have made of the old window. Those of the
    two class tokens stay.
    """
    restrided = old.replace(frequency_stride=new.frequency_stride, time_stride=new.time_stride).grid
    if old.grid == restrided == new.grid:
        return positions
    x = positions[:, 2:].transpose(1, 2).reshape(1, -1, *old.grid).float()  # 1 D F S
    x = _resample(x, restrided)
    for axis, size in zip((2, 3), new.grid, strict=True):
        if size < x.shape[axis]:
            x = x.narrow(axis, x.shape[axis] // 2 - size // 2, size)
    x = _resample(x, new.grid)
    patches = x.flatten(2).transpose(1, 2).to(positions.dtype)  # 1 F·S D
    return torch.cat((positions[:, :2], patches), 1)


def _resample(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, D, F, S) linearly interpolated to another grid; the same one changes nothing."""
    if x.shape[2:] == grid:
        return x
    return functional.interpolate(x, grid, mode="bilinear", align_corners=False)
