"""Commands that make, measure and show models: what they print, and their sentences."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from streamer import cli
from tests.models.small import SMALL, randomise

RATE = 16000


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder per label: three tones each."""
    rng = np.random.default_rng(0)
    for label, hz in (("low", 300), ("high", 3000)):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for i in range(3):
            tone = 0.1 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE) + rng.normal(0, 0.01, RATE)
            soundfile.write(tmp_path / "sounds" / label / f"{i}.wav", tone, RATE)
    return tmp_path / "sounds"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small checkpoint that knows both."""
    model = ASTForAudioClassification(ASTConfig(**(SMALL | {"id2label": {0: "high", 1: "low"}})))
    randomise(model)
    model.save_pretrained(tmp_path / "small")
    ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:  # argparse
        code = int(exit_.code or 0)
    return code, *capsys.readouterr()


def test_train_then_evaluate_then_tag(
    sounds: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    options = ["--examples", "clips", "--epochs", 12, "--batch", 4, "--lr", 3e-3, "--hold-out", 0.3, "--tensorboard"]
    code, shown, _ = run(capsys, "train", "--data", sounds, "--out", out, "--init", small, "--json", *options)
    assert code == 0
    assert json.loads(shown)["step"] == 96
    assert list((out / "tensorboard").iterdir())

    picture = tmp_path / "confusion.png"
    code, shown, _ = run(
        capsys, "evaluate", "--model", out, "--data", sounds, "--json", "--confusion", picture
    )
    assert code == 0
    assert json.loads(shown)["accuracy"] == 1.0
    assert picture.read_bytes().startswith(b"\x89PNG")

    code, shown, _ = run(capsys, "tag", sounds / "low" / "0.wav", "--model", out, "--json")
    assert json.loads(shown.splitlines()[0])["scores"][0]["label"] == "low"


def test_stats(sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "stats", "--data", sounds, "--json")
    found = json.loads(shown)
    assert code == 0
    assert found["n_frames"] == 6 * 98
    _, text, _ = run(capsys, "stats", "--data", sounds)
    assert f"mean {found['mean']:.7f}" in text


def test_model_info_and_convert(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "model", "info", small, "--json")
    assert code == 0
    assert [each["label"] for each in json.loads(shown)["labels"]] == ["high", "low"]
    out = tmp_path / "longer"
    code, shown, _ = run(capsys, "model", "convert", small, out, "--max-length", 96)
    assert code == 0
    assert "is ready" in shown
    code, shown, _ = run(capsys, "model", "info", out)
    assert code == 0
    assert "96 frames" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--data", "no", "--out", "o"], "no"),
        (["train", "--data", "{sounds}", "--out", "o", "--loss", "ce"], "loss 'ce' needs examples 'clips'"),
        (["train", "--data", "{sounds}", "--out", "o", "--hold-out", "7"], "fold"),
        (["train", "--data", "{sounds}", "--out", "o", "--hold-out", "1.5"], "1.5 is neither a share under 1 nor"),
        (["train", "--data", "{sounds}", "--out", "o", "--epochs", "x"], "'x' is not a number"),
        (["train", "--data", "{sounds}", "--out", "o", "--lr", "7"], "7 is not between 0 and 1"),
        (["train", "--data", "{sounds}", "--out", "{small}"], "already holds a model"),
        (["train", "--data", "{sounds}", "--out", "o", "--init", "nothing"], "checkpoint 'nothing' not found"),
        (["train", "--data", "{sounds}", "--out", "o", "--device", "cuda:9"], "--device: 'cuda:9' is not there"),
        (["evaluate", "--data", "{sounds}", "--model", "starter"], "the model has no label 'high'"),
        (["model", "info", "nothing"], "checkpoint 'nothing' not found"),
    ],
)
def test_mistakes_get_a_sentence(
    sounds: Path,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown, said = run(capsys, *(argument.format(sounds=sounds, small=small) for argument in arguments))
    assert (code, shown) == (2, "")
    assert sentence in said
    assert "Traceback" not in said


def test_tensorboard_is_optional(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, said = run(capsys, "train", "--data", sounds, "--out", tmp_path / "out", "--tensorboard")
    assert code == 2
    assert said.strip() == "--tensorboard needs TensorBoard; run: pip install -e '.[train]'"


def test_results_do_not_depend_on_the_generator_left_by_others(
    sounds: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--examples", "clips", "--epochs", 1, "--batch", 2, "--seed", 5]
    states = []
    for i in range(2):
        torch.manual_seed(i)
        run(capsys, "train", "--data", sounds, "--out", tmp_path / str(i), "--init", small, *options)
        states.append((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert states[0] == states[1]


def test_what_may_not_be_read_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", forbidden)
    code, _, said = run(capsys, "stats", "--data", "sounds")
    assert code == 2
    assert said.strip() == "sounds may not be read or written by this user: Permission denied"
