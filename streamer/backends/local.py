"""The model in this process, in torch, on the CPU or a CUDA device."""

import re
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch

from models import load
from models.audio_spectrogram_transformer.inference import InferenceAST
from models.checkpoint import to_dtype
from streamer.backends._cuda import Graphs
from streamer.errors import BackendError, ConfigError
from streamer.settings import DEVICE, Settings


def build(settings: Settings) -> "Local":
    """Load the checkpoint onto the device; `auto` picks what the hardware is good at.

    Raises:
        CheckpointError: the checkpoint is missing or broken.
        ConfigError: the device is not there, or the number format is not for torch.
        BackendError: the model can't be put on it.
    """
    config = settings.model
    if config.dtype == "int8":
        where = settings.locate("model", "dtype")
        raise ConfigError(f"{where}: int8 needs OpenVINO, which is not installed; pip install -e '.[openvino]'")
    try:
        device = pick_device(config.device)
    except LookupError as error:
        raise ConfigError(f"{settings.locate('model', 'device')}: {error}") from None
    n_windows = len(settings.streams)
    return Local(config.checkpoint, device, config.dtype, n_windows=n_windows, window_frames=config.window_frames)


def pick_device(device: str) -> str:
    """Torch's name of the device to run on.

    Raises:
        LookupError: that is no device's name, or this machine has none of it.
    """
    if not re.fullmatch(DEVICE, device):
        raise LookupError(f"must be auto, cpu, cuda or cuda:N with the number of a GPU, not '{device}'")
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0  # an old driver counts, but can't run
    if device == "auto":
        return "cuda" if n_gpus else "cpu"
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= n_gpus:
        raise LookupError(f"'{device}' is not there: CUDA devices that torch finds: {n_gpus}; write 'cpu' or 'auto'")
    return device


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; where it does not, torch emulates it, several times slower."""
    return bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001  there is no public way to ask


HALVES = (torch.bfloat16, torch.float16)


def pick_dtype(dtype: str, device: str, halves: Collection[torch.dtype] = HALVES) -> torch.dtype:
    """The number format to compute in; `auto` is the first of `halves` that the hardware multiplies, else float32."""
    return to_dtype(dtype, auto=next((half for half in halves if _is_fast(half, device)), torch.float32))


def _is_fast(half: torch.dtype, device: str) -> bool:
    if not device.startswith("cuda"):
        return half is torch.bfloat16 and _cpu_has_bfloat16()
    if half is torch.bfloat16:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cuda.get_device_capability(device) >= (7, 0)  # with tensor cores; GPUs before are slower in float16


class Local:
    """A loaded model. Thread: one calls `infer`.

    Args:
        checkpoint: a bundled name, a folder or a hub id.
        device: torch's name of it.
        dtype: a number format's name, or `auto`.
        n_windows: of the largest batch that a GPU is prepared for; larger ones are computed in pieces.
        window_frames: T; None: the checkpoint's own.
    """

    def __init__(
        self, checkpoint: str, device: str, dtype: str, *, n_windows: int = 1, window_frames: int | None = None
    ) -> None:
        self.device = device
        self.dtype = pick_dtype(dtype, device)
        try:
            model, self.spec = load(checkpoint, device=device, dtype=self.dtype, max_length=window_frames)
            self._model = InferenceAST(model)
            self._graphs = self._make_graphs(n_windows) if device.startswith("cuda") else None
        except RuntimeError as error:
            raise BackendError(f"checkpoint {checkpoint!r} can't be put on {device!r}: {error}") from error

    def _make_graphs(self, n_windows: int) -> Graphs:
        shape = self.spec.window_frames, self.spec.fbank.n_mels
        return Graphs(self._model, self.device, shape, len(self.spec.labels), n_windows)

    def warmup(self) -> None:
        """Run once on silence, so that the first real window is not slow; a GPU records its passes.

        Raises:
            BackendError: as `infer`.
        """
        if self._graphs:
            try:
                self._graphs.record()
            except RuntimeError as error:
                raise self._failure(error) from error
        self.infer(np.zeros((1, self.spec.window_frames, self.spec.fbank.n_mels), np.float32))

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (B, C) float32 of normalised windows (B, T, M) float32.

        Raises:
            BackendError: the device failed, or an answer is not a finite number.
        """
        try:
            logits = self._graphs.infer(batch) if self._graphs else self._infer_plainly(batch)
        except RuntimeError as error:
            raise self._failure(error) from error
        if not np.isfinite(logits).all():
            raise BackendError(f"the model answered with NaN or infinity in {self.dtype}; try model.dtype: float32")
        return logits

    def _infer_plainly(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            windows = torch.from_numpy(batch).to(self.device, self.dtype)
            logits: npt.NDArray[np.float32] = self._model(windows).float().cpu().numpy()
        return logits

    def _failure(self, error: RuntimeError) -> BackendError:
        """What torch says in its first line; the rest is advice for programmers."""
        said = str(error).partition("\n")[0]
        hint = "; only a new process gets the GPU back; nvidia-smi and dmesg tell more" if "CUDA error" in said else ""
        return BackendError(f"the model failed on {self.device!r}: {said}{hint}")

    def close(self) -> None:
        """Let go of the weights, and of what a GPU recorded with them."""
        del self._model, self._graphs
