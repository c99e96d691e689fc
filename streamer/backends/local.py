"""The model in this process, in torch, on the CPU or a CUDA device."""

import re

import numpy as np
import numpy.typing as npt
import torch

from models import load
from models.audio_spectrogram_transformer.inference import InferenceAST
from models.checkpoint import to_dtype
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
        raise ConfigError(f"{where}: int8 is for backend openvino on a CPU; pip install 'streamer[openvino]'")
    try:
        device = pick_device(config.device)
    except LookupError as error:
        raise ConfigError(f"{settings.locate('model', 'device')}: {error}") from None
    return Local(config.checkpoint, device, config.dtype)


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


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """The number format to compute in: bfloat16 where the hardware multiplies it, else float32."""
    on_gpu = device.startswith("cuda")
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_has_bfloat16()
    return to_dtype(dtype, auto=torch.bfloat16 if fast else torch.float32)


class Local:
    """A loaded model. Thread: one calls `infer`."""

    def __init__(self, checkpoint: str, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = pick_dtype(dtype, device)
        try:
            model, self.spec = load(checkpoint, device=device, dtype=self.dtype)
            self._model = InferenceAST(model)
        except RuntimeError as error:
            raise BackendError(f"checkpoint {checkpoint!r} can't be put on {device!r}: {error}") from error

    def warmup(self) -> None:
        """Run once on silence, so that the first real window is not slow."""
        self.infer(np.zeros((1, self.spec.window_frames, self.spec.fbank.n_mels), np.float32))

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (B, C) float32 of normalised windows (B, T, M) float32.

        Raises:
            BackendError: the device failed, or an answer is not a finite number.
        """
        try:
            with torch.inference_mode():
                windows = torch.from_numpy(batch).to(self.device, self.dtype)
                logits: npt.NDArray[np.float32] = self._model(windows).float().cpu().numpy()
        except RuntimeError as error:
            raise BackendError(f"the model failed on {self.device!r}: {error}") from error
        if not np.isfinite(logits).all():
            raise BackendError(f"the model answered with NaN or infinity in {self.dtype}; try model.dtype: float32")
        return logits

    def close(self) -> None:
        """Let go of the weights."""
        del self._model
