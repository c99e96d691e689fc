"""`streamer bench`: what it prints, what it advises, and what it says of forms that can't be had."""

import json
from pathlib import Path

import pytest
import yaml

from models import load_spec
from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from streamer import cli, config, edges, speed
from streamer.backends.local import Local
from streamer.errors import ConfigError
from streamer.speed import Advice, Batch, Form, Line
from tests.models.small import SMALL, randomise

CONFIG = """
node: here
streams:
  hall: {source: {type: microphone}, hop_s: 0.5}
  yard: {source: {type: microphone}, hop_s: 0.1}
rules:
  siren: {type: threshold, labels: [Siren]}
"""
LINE = Line(features_ms=0.2, all_ms=1.0)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "REPEAT_S", 0.0)
    monkeypatch.setattr(speed, "N_HOPS", 4)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    model = ASTForAudioClassification(ASTConfig(**SMALL))
    randomise(model)
    model.save_pretrained(tmp_path / "small")
    ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def two_streams(tmp_path: Path) -> Path:
    (tmp_path / "two.yaml").write_text(CONFIG)
    return tmp_path / "two.yaml"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    assert cli.main(["bench", *map(str, arguments)]) == 0
    return capsys.readouterr()


def test_one_object_for_programs(small: Path, two_streams: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "-c", two_streams, "--model", small, "--json")
    found = json.loads(out)
    assert err == ""  # no bar where nobody looks
    assert (found["checkpoint"], found["streams"]) == (str(small), 2)
    forms = {(form["backend"], form["dtype"]): form for form in found["forms"]}
    reference = forms["local", "float32"]
    assert reference["difference"] == 0
    assert set(reference["window_ms"]) == {"1", "4"}
    assert 0 < forms["local", "bfloat16"]["difference"] < 0.1
    assert all((form["why"] is None) == bool(form["window_ms"]) for form in forms.values())
    assert found["features_ms"] > 0
    assert found["line_ms"] > 0
    assert set(found["config"]["streams"]) == {"hall", "yard"}


def test_the_configured_window_is_what_is_measured(
    small: Path, two_streams: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = set()
    infer = Local.infer

    def watch(self: Local, batch: Batch) -> Batch:
        shapes.add(batch.shape[1:])
        return infer(self, batch)

    monkeypatch.setattr(Local, "infer", watch)
    two_streams.write_text(CONFIG + "model: {window_s: 0.32}\n")
    run(capsys, "-c", two_streams, "--model", small, "--json")
    assert shapes == {(32, 32)}


def test_what_people_read_ends_with_options_that_can_be_configured(
    small: Path, two_streams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(capsys, "-c", two_streams, "--model", small)
    assert f"{small}, 2 streams" in out
    options = yaml.safe_load(out[out.index("model:\n") :])
    asked = yaml.safe_load(CONFIG)
    for name, stream in options["streams"].items():
        asked["streams"][name] |= stream
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(asked | {"model": options["model"]}))
    assert config.load(changed, edges.edge_config).model.backend == options["model"]["backend"]


def test_a_form_that_cannot_be_had_says_why_and_stops_no_other(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = edges.build_backend

    def refuse(settings):
        if settings.model.dtype == "float16":
            raise ConfigError("needs a GPU; write bfloat16")
        return build(settings)

    monkeypatch.setattr(edges, "build_backend", refuse)
    monkeypatch.setattr(
        speed, "forms", lambda: [("local", "float32"), ("local", "float16"), ("local", "int8"), ("ghost", "float32")]
    )
    out, _ = run(capsys, "--model", small)
    assert "local float16           not here: needs a GPU\n" in out
    assert "local int8              not here: dtype int8 is for backend openvino, on the CPU\n" in out
    assert "ghost float32           not here: No module named 'streamer.backends.ghost'\n" in out


@pytest.mark.parametrize(("sentence", "clause"), [
    ("/etc/my house/a: b.yaml:10: model.dtype: int8 is for openvino; pip install x", "int8 is for openvino"),
    ("config.yaml:3: model: no such thing\nand more", "no such thing"),
    ("model.dtype: int8 is for openvino; pip install x", "int8 is for openvino"),
    ("No module named 'a.model.b'", "No module named 'a.model.b'"),
    ("the model: it broke; try again", "the model: it broke"),
])  # fmt: skip
def test_why_a_form_is_not_here_points_to_no_line_of_a_file(sentence: str, clause: str) -> None:
    assert speed._clause(sentence) == clause


def test_a_model_that_cannot_run_at_all_is_a_mistake(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings):
        raise ConfigError("config.yaml:9: model.device: 'cuda' is not there; write 'cpu' or 'auto'")

    monkeypatch.setattr(edges, "build_backend", refuse)
    assert cli.main(["bench", "--model", str(small)]) == 2
    assert "write 'cpu' or 'auto'" in capsys.readouterr().err


def form(dtype: str, one_ms: float, four_ms: float, difference: float) -> Form:
    return Form("local", dtype, {1: one_ms, 4: four_ms}, difference)


@pytest.mark.parametrize(("n_streams", "hop_s"), [(1, 0.1), (2, 0.15), (4, 0.3)])
def test_the_shortest_hop_leaves_the_model_idle_for_a_third(n_streams: int, hop_s: float) -> None:
    assert speed.shortest_hop_s(form("float32", 69, 51.4, 0), LINE, n_streams) == hop_s


@pytest.mark.parametrize(
    ("forms", "dtype", "hops_s"),
    [
        ([form("float32", 20, 20, 0), form("bfloat16", 10, 10, 0.004)], "bfloat16", {"hall": 0.5, "yard": 0.1}),
        ([form("float32", 20, 20, 0), form("int8", 10, 10, 0.03)], "float32", {"hall": 0.5, "yard": 0.1}),
        ([form("float32", 69, 69, 0)], "float32", {"hall": 0.5, "yard": 0.2}),
        ([form("float32", 349, 349, 0)], "float32", {"hall": 1.0, "yard": 1.0}),
        ([form("float32", 999, 999, 0)], "float32", {}),  # 2.86 s: longer than the window
    ],
)
def test_advice(two_streams: Path, forms: list[Form], dtype: str, hops_s: dict[str, float]) -> None:
    """The fastest whose scores are float32's; hops stay as they are, or become as long as they must."""
    settings = config.load(two_streams, edges.edge_config)
    gone = Form("openvino", "int8", {}, why="not installed")
    advice = speed.advise(settings, [*forms, gone], LINE, 2.56)
    assert isinstance(advice, Advice)
    assert (advice.form.dtype, advice.hops_s) == (dtype, hops_s)


def test_the_line_is_timed_with_its_rules(two_streams: Path) -> None:
    found = speed.line(config.load(two_streams, edges.edge_config), load_spec("starter"))
    assert found.features_ms > 0
    assert found.all_ms > 0
