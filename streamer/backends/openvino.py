"""The model in OpenVINO, on the CPU: bfloat16 and 8-bit products where torch is slower at them.

The graph is made from the checkpoint once and kept in the cache folder, under a name that tells checkpoint, window,
number format and versions apart: a daemon that finds it there never loads torch.
"""

import hashlib
import logging
from ctypes.util import find_library
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models import load_spec
from models.checkpoint import find, read_json
from models.spec import ModelSpec
from streamer.errors import BackendError, ConfigError
from streamer.settings import ModelConfig, Settings

if TYPE_CHECKING:
    import openvino as ov

log = logging.getLogger(__name__)
VERSION = 1  # of how graphs are made: another one makes them anew
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
DRIVERS = ("cuda", "amdhip64")  # libraries that a GPU of NVIDIA's or AMD's brings
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}


def is_installed() -> bool:
    """Whether OpenVINO can be imported; it is an extra."""
    return find_spec("openvino") is not None


def suits(config: ModelConfig) -> bool:
    """Whether `backend: auto` means this one: OpenVINO is installed, and there is no GPU that is faster still."""
    if not is_installed() or config.dtype == "float16" or config.device not in {"auto", "cpu"}:
        return False
    return config.dtype == "int8" or config.device == "cpu" or not _has_gpu()


def _has_gpu() -> bool:
    """Whether torch would run on a GPU. It is loaded to tell only where there is a driver for one."""
    if version("torch").endswith("+cpu") or not any(map(find_library, DRIVERS)):
        return False
    import torch

    return torch.cuda.is_available()


def build(settings: Settings) -> "OpenVino":
    """Load the checkpoint; `dtype: auto` is bfloat16 where the CPU multiplies it, else float32.

    Raises:
        CheckpointError: the checkpoint is missing or broken.
        ConfigError: OpenVINO is not installed, or the number format is not for this CPU.
        BackendError: OpenVINO can't run the model.
    """
    config = settings.model
    if not is_installed():
        where = settings.locate("model", "backend")
        raise ConfigError(f"{where}: OpenVINO is not installed; pip install -e '.[openvino]', or write 'local'")
    core = one_core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    fits = [dtype for dtype in ("float32", *CAPABILITIES) if CAPABILITIES.get(dtype) in {None, *able}]
    if config.dtype not in {"auto", *fits}:
        where = settings.locate("model", "dtype")
        raise ConfigError(f"{where}: this CPU does not compute in {config.dtype}; allowed: auto, {', '.join(fits)}")
    fast = "bfloat16" if "bfloat16" in fits else "float32"
    dtype = fast if config.dtype == "auto" else config.dtype
    return OpenVino(core, config.checkpoint, dtype, fast, window_frames=config.window_frames)


@cache
def one_core() -> "ov.Core":
    """The process's only Core, kept to its end, so that its CPU plugin is never unloaded.

    The plugin registers a stack for signal handlers in the thread that loads it, and unmaps it when it is unloaded. If
    that happens in another thread, or after another Core has registered its own, the thread keeps a stack that is gone,
    and its next signal ends the process. Thread: one at a time; `cache` doesn't lock.
    """
    import openvino as ov

    return ov.Core()


class OpenVino:
    """A loaded model. Thread: one calls `infer`.

    Args:
        core: OpenVINO.
        checkpoint: bundled name, folder or hub id.
        dtype: `float32`, `bfloat16`, `float16`, or `int8`.
        fast: what `int8` computes the rest in.
        window_frames: T; None: the checkpoint's own.
    """

    device = "cpu"

    def __init__(
        self, core: "ov.Core", checkpoint: str, dtype: str, fast: str, *, window_frames: int | None = None
    ) -> None:
        from streamer.backends._openvino_cache import kept, last_line

        self.spec = load_spec(checkpoint, max_length=window_frames)
        self.dtype = dtype
        self._say = last_line
        is_int8 = dtype == "int8"
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[fast if is_int8 else dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the other cores may be the busy ones
        }
        try:
            key = _key(checkpoint, self.spec, is_int8=is_int8)
            graph = kept(core, key, lambda: _made(core, checkpoint, self.spec, is_int8=is_int8))
            if is_int8:
                cost = graph.get_rt_info(["streamer", "cost"]).value
                log.info("int8: scores differ from float32 by up to %s on sounds made in code", cost)
            self._request = core.compile_model(graph, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise BackendError(f"checkpoint {checkpoint!r} can't be run by OpenVINO: {self._say(error)}") from error

    def warmup(self) -> None:
        """Run once on silence, so that the first real window is not slow."""
        self.infer(np.zeros((1, self.spec.window_frames, self.spec.fbank.n_mels), np.float32))

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (B, C) float32 of normalised windows (B, T, M) float32.

        Raises:
            BackendError: OpenVINO failed, or an answer is not a finite number.
        """
        try:
            logits: npt.NDArray[np.float32] = np.array(self._request.infer([batch])[0], np.float32)
        except RuntimeError as error:
            raise BackendError(f"the model failed in OpenVINO: {self._say(error)}") from error
        if not (np.isfinite(logits).all() and np.isfinite(batch).all()):  # 8 bits make a number of what is none
            raise BackendError(f"the model answered with NaN or infinity in {self.dtype}; try model.dtype: float32")
        return logits

    def close(self) -> None:
        """Let go of the weights."""
        del self._request


def _made(core: "ov.Core", checkpoint: str, spec: ModelSpec, *, is_int8: bool) -> "ov.Model":
    from models import load
    from streamer.backends._openvino_graph import Graph
    from streamer.backends._openvino_int8 import quantised

    model, _ = load(checkpoint, max_length=spec.window_frames)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    if not is_int8:
        return Graph(model.config, weights).build()
    log.info("measuring what the 8-bit numbers of %s must reach; once for each checkpoint", spec.name)
    return quantised(core, model.config, weights, spec)


def _key(checkpoint: str, spec: ModelSpec, *, is_int8: bool) -> str:
    """A name for all that a graph is made from."""
    from openvino import get_version

    config = read_json(find(checkpoint) / "config.json") | {"max_length": spec.window_frames}
    what = (VERSION, get_version(), spec.revision, spec.fbank, config, is_int8)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]
