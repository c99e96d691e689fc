"""The model in OpenVINO, on the CPU: bfloat16 and 8-bit products where torch is slower at them.

The graph is made from the checkpoint once and kept in the cache folder, under a name that tells checkpoint, number
format and versions apart: a daemon that finds it there never loads torch.
"""

import hashlib
import logging
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models import load_spec
from models.checkpoint import find, read_json
from models.spec import ModelSpec
from streamer.errors import BackendError, ConfigError
from streamer.paths import cache_folder
from streamer.settings import ModelConfig, Settings

if TYPE_CHECKING:
    import openvino as ov

log = logging.getLogger(__name__)
VERSION = 1  # of how graphs are made: another one makes them anew
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}


def is_installed() -> bool:
    """Whether OpenVINO can be imported; it is an extra."""
    return find_spec("openvino") is not None


def suits(config: ModelConfig) -> bool:
    """Whether `backend: auto` means this one: OpenVINO is installed, and there is no GPU that is faster still."""
    return is_installed() and config.dtype != "float16" and (config.device == "cpu" or _is_all_there_is(config.device))


def _is_all_there_is(device: str) -> bool:
    if device != "auto":
        return False
    if version("torch").endswith("+cpu"):  # a build that knows no GPU; asking it would mean loading it
        return True
    import torch

    return not torch.cuda.is_available()


def build(settings: Settings) -> "OpenVino":
    """Load the checkpoint; `dtype: auto` is bfloat16 where the CPU multiplies it, else float32.

    Raises:
        CheckpointError: the checkpoint is missing or broken.
        ConfigError: OpenVINO is not installed, or the device or the number format is not for it.
        BackendError: OpenVINO can't run the model.
    """
    config = settings.model
    if not is_installed():
        where = settings.locate("model", "backend")
        raise ConfigError(f"{where}: OpenVINO is not installed; pip install 'streamer[openvino]', or write 'local'")
    if config.device not in {"auto", "cpu"}:
        where = settings.locate("model", "device")
        raise ConfigError(f"{where}: backend openvino runs on the CPU, not on '{config.device}'; write 'cpu' or 'auto'")
    import openvino as ov

    core = ov.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    fits = [dtype for dtype in ("float32", *CAPABILITIES) if CAPABILITIES.get(dtype) in {None, *able}]
    if config.dtype not in {"auto", *fits}:
        where = settings.locate("model", "dtype")
        raise ConfigError(f"{where}: this CPU does not compute in {config.dtype}; allowed: auto, {', '.join(fits)}")
    fast = "bfloat16" if "bfloat16" in fits else "float32"
    return OpenVino(core, config.checkpoint, fast if config.dtype == "auto" else config.dtype, fast)


class OpenVino:
    """A loaded model. Thread: one calls `infer`.

    Args:
        core: OpenVINO.
        checkpoint: bundled name, folder or hub id.
        dtype: `float32`, `bfloat16`, `float16`, or `int8`.
        fast: what `int8` computes the rest in.
    """

    device = "cpu"

    def __init__(self, core: "ov.Core", checkpoint: str, dtype: str, fast: str) -> None:
        self.spec = load_spec(checkpoint)
        self.dtype = dtype
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[fast if dtype == "int8" else dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the other cores may be the busy ones
        }
        try:
            graph = _graph(core, checkpoint, self.spec, is_int8=dtype == "int8")
            if dtype == "int8":
                log.info("int8: scores differ from float32 by up to %s", graph.get_rt_info(["streamer", "cost"]).value)
            self._request = core.compile_model(graph, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise BackendError(f"checkpoint {checkpoint!r} can't be run by OpenVINO: {_first_line(error)}") from error

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
            raise BackendError(f"the model failed in OpenVINO: {_first_line(error)}") from error
        if not (np.isfinite(logits).all() and np.isfinite(batch).all()):  # 8 bits make a number of what is none
            raise BackendError(f"the model answered with NaN or infinity in {self.dtype}; try model.dtype: float32")
        return logits

    def close(self) -> None:
        """Let go of the weights."""
        del self._request


def _graph(core: "ov.Core", checkpoint: str, spec: ModelSpec, *, is_int8: bool) -> "ov.Model":
    """The checkpoint's graph from the cache, or made now and put there."""
    try:
        path = cache_folder() / "openvino" / f"{_key(checkpoint, spec, is_int8=is_int8)}.xml"
    except ConfigError as error:
        log.warning("each start makes the graph of the model anew: %s", error)
        return _made(core, checkpoint, is_int8=is_int8)
    if path.is_file():
        try:
            return core.read_model(path)
        except RuntimeError as error:
            log.warning("%s: broken, made anew: %s", path, _first_line(error))
    graph = _made(core, checkpoint, is_int8=is_int8)
    try:
        _keep(graph, path)
        return core.read_model(path)  # mapped from the disk, which takes less memory than what made it
    except (OSError, RuntimeError) as error:
        log.warning("%s: not kept, so the next start takes as long: %s", path, _first_line(error))
    return graph


def _made(core: "ov.Core", checkpoint: str, *, is_int8: bool) -> "ov.Model":
    from models import load
    from streamer.backends._openvino_graph import Graph
    from streamer.backends._openvino_int8 import quantised

    model, spec = load(checkpoint)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    if not is_int8:
        return Graph(model.config, weights).build()
    log.info("measuring what the 8-bit numbers of %s must reach; once for each checkpoint", spec.name)
    return quantised(core, model.config, weights, spec)


def _key(checkpoint: str, spec: ModelSpec, *, is_int8: bool) -> str:
    """A name for all that a graph is made from."""
    from openvino import get_version

    config = read_json(find(checkpoint) / "config.json")
    what = (VERSION, get_version(), spec.revision, spec.fbank, config, is_int8)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def _keep(graph: "ov.Model", path: Path) -> None:
    """Write a graph so that no reader ever finds half of one."""
    import openvino as ov

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        ov.save_model(graph, Path(folder) / path.name, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the one that is looked for comes last
            (Path(folder) / path.name).with_suffix(suffix).replace(path.with_suffix(suffix))


def _first_line(error: Exception) -> str:
    """OpenVINO's messages carry its source lines; the last one says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
