"""Clips as callers have them, in arrays, tensors or lists, made float32 and checked once.

torch is not imported here: where nobody did, nothing is a tensor.
"""

import logging
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

log = logging.getLogger(__name__)


def is_tensor(value: object) -> "TypeIs[Tensor]":
    """Whether it is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def batches(raw_speech: Any, frame_length: int) -> "list[npt.NDArray[np.float32] | Tensor]":
    """Batches (B, n): one of each clip in a list, or the only one, where `raw_speech` is a clip or a batch itself.

    Tensors stay tensors. Integers keep their scale, as in the reference extractor, but are warned about.

    Raises:
        ValueError: something is not real, not finite, not of one channel, or shorter than `frame_length`.
    """
    if _is_list_of_clips(raw_speech):
        named, max_axes = {f"raw_speech[{i}]": clip for i, clip in enumerate(raw_speech)}, 1
    else:
        named, max_axes = {"raw_speech": raw_speech}, 2
    arrays = {name: clip if is_tensor(clip) else _array(clip) for name, clip in named.items()}
    kinds = {name: _kind(clip) for name, clip in arrays.items()}
    for name, kind in kinds.items():
        _check_kind(name, named[name], kind)
        _check_shape(name, tuple(arrays[name].shape), max_axes, frame_length)
    if integers := sorted({kind for kind in kinds.values() if kind.startswith(("int", "uint"))}):
        log.warning(
            "raw_speech holds %s, used unscaled: samples in [-1, 1] are needed, so divide int16 by 32768",
            " and ".join(integers),
        )
    return [_float32(name, clip).reshape(-1, clip.shape[-1]) for name, clip in arrays.items()]


def _is_list_of_clips(raw_speech: Any) -> bool:
    if not isinstance(raw_speech, (list, tuple)) or not raw_speech:
        return False
    return isinstance(raw_speech[0], (list, tuple)) or getattr(raw_speech[0], "ndim", 0) > 0


def _kind(clip: "npt.NDArray[Any] | Tensor") -> str:
    return str(clip.dtype).removeprefix("torch.") if is_tensor(clip) else clip.dtype.name


def _array(clip: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(clip)
    except ValueError:  # lists of unequal lengths
        return np.empty((), object)


def _check_kind(name: str, clip: Any, kind: str) -> None:
    if not kind.startswith(("float", "bfloat", "int", "uint")):
        raise ValueError(
            f"{name} is a {type(clip).__name__} of {kind}; needed: real numbers in [-1, 1], in an array, tensor or list"
        )


def _check_shape(name: str, shape: tuple[int, ...], max_axes: int, frame_length: int) -> None:
    if not 1 <= len(shape) <= max_axes or 0 in shape or shape[-1] < frame_length:
        raise ValueError(
            f"{name} of shape {shape}: one channel is needed, (n,){' or a batch (B, n)' if max_axes == 2 else ''} "
            f"with n at least {frame_length}, one frame; take the mean of a stereo clip's channels"
        )


def _float32(name: str, clip: "npt.NDArray[Any] | Tensor") -> "npt.NDArray[np.float32] | Tensor":
    samples: npt.NDArray[np.float32] | Tensor
    if is_tensor(clip):
        samples = clip.float()
        is_finite = bool(samples.isfinite().all())
    else:
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is refused as such
            samples = clip.astype(np.float32, copy=False)
        is_finite = bool(np.isfinite(samples).all())
    if not is_finite:
        raise ValueError(f"{name} holds NaN or infinite samples; replace or leave out what is broken")
    return samples
