"""The OpenVINO back end: its graph, what it keeps, what it refuses, and when `auto` means it."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.spec import FbankSpec, ModelSpec
from streamer import edges
from streamer.backends import _openvino_int8 as int8
from streamer.backends import openvino
from streamer.backends._openvino_graph import ACTIVATIONS, Graph
from streamer.errors import ConfigError
from streamer.paths import cache_folder
from streamer.settings import ModelConfig
from tests.backends.conftest import Named
from tests.models.small import SMALL, random_settings, randomise, windows

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def of(settings: dict[str, object], seed: int = 0) -> tuple[ASTForAudioClassification, dict[str, np.ndarray]]:
    """A model with random weights, and these."""
    model = ASTForAudioClassification(ASTConfig(**settings)).eval()
    randomise(model, seed)
    return model, {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "settings", [*map(random_settings, range(8)), *(SMALL | {"hidden_act": name} for name in ACTIVATIONS)]
)
def test_the_graph_is_the_model_in_every_shape(settings: dict[str, object]) -> None:
    model, weights = of(settings)
    run = openvino.one_core().compile_model(Graph(model.config, weights).build(), "CPU", EXACT)
    for n in (1, 3):
        x = windows(model.config, n)
        with torch.inference_mode():
            wanted = model(x).logits.numpy()
        np.testing.assert_allclose(run([x.numpy()])[0], wanted, atol=2e-5, rtol=1e-4)


def test_every_activation_of_the_models_has_its_operation() -> None:
    from models.audio_spectrogram_transformer.configuration import HIDDEN_ACTS

    assert set(ACTIVATIONS) == set(HIDDEN_ACTS)


def test_eight_bits_are_of_the_range_that_was_heard() -> None:
    """A range four times too wide costs accuracy; and the graph notes what rounding costs on the sounds made here."""
    model, weights = of(SMALL)
    spec = ModelSpec("small", "", ("a", "b", "c"), ("", "", ""), FbankSpec(n_mels=32), window_frames=64)
    core = openvino.one_core()
    x = int8.windows(spec)
    with torch.inference_mode():
        exact = model(torch.from_numpy(x)).logits.numpy()
    graph = int8.quantised(core, model.config, weights, spec)
    constants = [node for node in graph.get_ops() if node.get_type_name() == "Constant"]
    n_products = sum(constant.get_element_type().get_type_name() == "i8" for constant in constants)
    assert n_products == 4 * SMALL["num_hidden_layers"] + 1  # in the last layer, q has a product of its own
    ranges = int8._listen(core, Graph(model.config, weights), x)
    wide = {name: (4 * low, 4 * high) for name, (low, high) in ranges.items()}
    far = [
        np.abs(core.compile_model(each, "CPU", EXACT)([x])[0] - exact).max()
        for each in (graph, Graph(model.config, weights, wide).build())
    ]
    assert far[0] < 0.1 < 2 * far[1]
    assert far[0] < far[1]
    assert 0 < float(graph.get_rt_info(["streamer", "cost"]).value) < 0.05


def test_sounds_for_eight_bits_are_the_same_each_time_and_of_all_levels() -> None:
    spec = ModelSpec("small", "", (), (), FbankSpec(), window_frames=128)
    x = int8.windows(spec)
    assert (x == int8.windows(spec)).all()
    loudness = np.sort(x.mean((1, 2)))
    assert loudness[0] < -0.5
    assert loudness[-1] > 0.3


BUILD = """
import logging, sys
logging.basicConfig(format="%(message)s", level="INFO")
from streamer import config, edges
text = sys.argv[1]
backend = edges.build_backend(config.parse(text, "c.yaml", edges.edge_config))
backend.warmup()
print("torch" in sys.modules)
"""


def ran(script: str, checkpoint: Path, dtype: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, which is given a configuration as its argument."""
    text = f"""
node: garage
model: {{checkpoint: {checkpoint}, backend: openvino, dtype: {dtype}}}
streams: {{mic: {{source: {{type: microphone}}}}}}
"""
    env = os.environ | {"CACHE_DIRECTORY": str(cache)}
    return subprocess.run([sys.executable, "-c", script, text], env=env, capture_output=True, text=True, check=False)


def test_a_second_start_finds_the_graph_and_needs_no_torch(small: Path, tmp_path: Path) -> None:
    said = []
    for _ in range(2):
        done = ran(BUILD, small, "int8", tmp_path)
        done.check_returncode()
        said.append((done.stdout.strip(), "once for each checkpoint" in done.stderr))
        assert "int8: scores differ from float32 by up to 0.0" in done.stderr
    assert said == [("True", True), ("False", False)]
    (folder,) = (tmp_path / "openvino").iterdir()
    assert {path.name for path in folder.iterdir()} == {"graph.xml", "graph.bin", "sha256"}


UNLOAD = """
import os, signal, sys, threading
from streamer import config, edges
settings = config.parse(sys.argv[1], "c.yaml", edges.edge_config)
models = [edges.build_backend(settings) for _ in range(2)]

def close():
    while models:
        models.pop(0).close()

closing = threading.Thread(target=close)
closing.start()
closing.join()
signal.signal(signal.SIGHUP, lambda *_: print("read again"))
os.kill(os.getpid(), signal.SIGHUP)
"""


def test_a_signal_is_survived_when_models_were_let_go_of_in_another_thread(small: Path, tmp_path: Path) -> None:
    """They are loaded in the main thread, which is the one that handles signals; the daemon loads in another."""
    done = ran(UNLOAD, small, "float32", tmp_path)
    assert (done.stdout, done.returncode, done.stderr) == ("read again\n", 0, "")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def blank(path: Path) -> None:
    """As a power cut leaves it: of the right length."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def flip(path: Path) -> None:
    """One bit, so that it is no ASCII any more."""
    data = path.read_bytes()
    path.write_bytes(bytes((data[0] ^ 0x80,)) + data[1:])


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [cut, blank, flip, remove])
@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "sha256"])
def test_a_broken_graph_is_made_anew(
    name: str, harm: Callable[[Path], None], named: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    settings = named(backend="openvino")
    x = windows(ASTConfig(**SMALL), 1).numpy()
    before = edges.build_backend(settings).infer(x)
    (kept,) = tmp_path.rglob(name)
    whole = kept.read_bytes()
    harm(kept)
    if kept.exists() and kept.read_bytes() == whole:
        return  # shorter than what is cut off
    for _ in range(2):  # the second finds a whole one again
        np.testing.assert_array_equal(edges.build_backend(settings).infer(x), before)
    assert [record.message.partition(": can't be used, made anew: ")[0] for record in caplog.records] == [
        str(kept.parent)
    ]


def test_a_cache_that_is_closed_to_us_stops_nothing(
    named: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied")
        return is_dir(path)

    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(Path, "is_dir", refuse)
    settings = named(backend="openvino")
    edges.build_backend(settings)
    assert ["made anew" in record.message or "not kept" in record.message for record in caplog.records] == [True, True]


def test_what_a_killed_start_left_is_swept(named: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    for name, age_s in (("making-old", 1e6), ("making-new", 0)):
        (tmp_path / "openvino" / name).mkdir(parents=True)
        os.utime(tmp_path / "openvino" / name, (time.time() - age_s,) * 2)
    edges.build_backend(named(backend="openvino"))
    assert [path.name for path in (tmp_path / "openvino").glob("making-*")] == ["making-new"]


def test_what_can_t_be_kept_is_made_each_time(
    named: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file"))
    caplog.set_level(logging.WARNING)
    edges.build_backend(named(backend="openvino")).warmup()
    (record,) = caplog.records
    assert ": not kept, so the next start takes as long: " in record.message


def test_without_a_home_nothing_is_kept(
    named: Named, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name")
    edges.build_backend(named(backend="openvino")).warmup()
    (record,) = caplog.records
    assert record.message == (
        "each start makes the graph of the model anew: there is no home folder to keep it in; set CACHE_DIRECTORY to a "
        "folder"
    )


def test_another_configuration_of_the_same_weights_is_another_graph(
    named: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    edges.build_backend(named(backend="openvino"))
    model, _ = of(SMALL | {"num_attention_heads": 2})
    other = named().model.checkpoint
    copy = tmp_path / "other"
    copy.mkdir()
    for path in Path(other).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    model.config.save_pretrained(copy)
    edges.build_backend(named(backend="openvino", checkpoint=str(copy)))
    assert len(list(cache_folder().rglob("*.xml"))) == 2


def test_another_window_is_another_graph(named: Named, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    for window_s, n_graphs in (("null", 1), (0.32, 2), (0.64, 2), (0.32, 2)):  # 0.64 is the checkpoint's own
        edges.build_backend(named(backend="openvino", window_s=window_s)).warmup()
        assert len(list(cache_folder().rglob("*.xml"))) == n_graphs


ON_THE_CPU = "dtype int8 is for backend openvino, on the CPU; write 'backend: auto' and 'device: auto'"


@pytest.mark.parametrize(("options", "sentence"), [
    ({"backend": "openvino", "device": "cuda"},
     "c.yaml:2: model: backend openvino runs on the CPU, not on device 'cuda'; write 'cpu' or 'auto'"),
    ({"backend": "openvino", "dtype": "float16"},
     "c.yaml:5: model.dtype: this CPU does not compute in float16; allowed: auto, float32, bfloat16, int8"),
    ({"backend": "local", "dtype": "int8"}, f"c.yaml:2: model: {ON_THE_CPU}"),
    ({"device": "cuda", "dtype": "int8"}, f"c.yaml:2: model: {ON_THE_CPU}"),
])  # fmt: skip
def test_what_it_refuses(named: Named, options: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov.Core, "get_property", lambda *given: ["FP32", "BF16", "INT8"])
    with pytest.raises(ConfigError) as caught:
        edges.build_backend(named(**options))
    assert str(caught.value) == sentence


def test_without_the_extra(named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.backend: OpenVINO is not installed; pip install -e '\.\[openv"):
        edges.build_backend(named(backend="openvino"))
    with pytest.raises(ConfigError, match=r"^c\.yaml:4: model\.dtype: int8 needs OpenVINO, which is not inst"):
        edges.build_backend(named(dtype="int8"))
    assert type(edges.build_backend(named())).__name__ == "Local"


@pytest.mark.parametrize(("build", "driver", "n_gpus", "options", "suits"), [
    ("2.13.0+cpu", "libcuda.so.1", 0, {}, True),
    ("2.13.0+cpu", None, 0, {"dtype": "float16"}, False),
    ("2.13.0", None, 1, {}, True),
    ("2.13.0", "libcuda.so.1", 0, {}, True),
    ("2.13.0", "libcuda.so.1", 1, {}, False),
    ("2.13.0", "libcuda.so.1", 1, {"device": "cpu"}, True),
    ("2.13.0", "libcuda.so.1", 1, {"dtype": "int8"}, True),
    ("2.13.0", "libcuda.so.1", 1, {"device": "cuda:0"}, False),
])  # fmt: skip
def test_when_auto_means_openvino(
    build: str, driver: str | None, n_gpus: int, options: dict[str, str], suits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "version", lambda name: build)
    monkeypatch.setattr(openvino, "find_library", lambda name: driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: n_gpus > 0)
    assert openvino.suits(ModelConfig(**options)) == suits
