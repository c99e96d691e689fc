"""From recordings to a checkpoint the daemon loads: what `streamer train` does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import models
from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.errors import DataError
from models.train import finetune, training
from models.train.finetune import Choices, learn
from tests.models.small import SMALL

RATE = 16000
CHOICES = Choices(examples="clips", hold_out=2, epochs=2, batch=4, lr=3e-3)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A CSV of low tones, high tones and both, in two folds."""
    rng = np.random.default_rng(0)
    rows = ["file,labels,fold"]
    for i in range(12):
        labels = ("low", "high", "low;high")[i % 3]
        hz = {"low": [300], "high": [3000], "low;high": [300, 3000]}[labels]
        tones = sum(np.sin(2 * np.pi * f * np.arange(RATE) / RATE) for f in hz)
        samples = 0.1 * tones + rng.normal(0, 0.01 + 0.002 * i, RATE)
        soundfile.write(tmp_path / f"{i}.wav", samples, RATE)
        rows.append(f"{i}.wav,{labels},{1 + i // 6}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "list.csv"


def one_label_each(sounds: Path) -> Path:
    path = sounds.with_name("single.csv")
    path.write_text("\n".join(row for row in sounds.read_text().splitlines() if ";" not in row) + "\n")
    return path


@pytest.mark.parametrize("changes", [{"epochs": 15}, {"examples": "scenes", "epochs": 40, "batch": 8}])
def test_a_checkpoint_learns_new_labels(sounds: Path, folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    choices = replace(CHOICES, init=str(folder), **changes)
    record = learn(sounds, tmp_path / "out", choices)
    model, spec = models.load(tmp_path / "out")
    assert spec.labels == ("high", "low")
    assert spec.activation == "sigmoid"
    assert spec.window_frames == 64
    assert spec.fbank.n_mels == 32
    assert not model.training
    assert record["history"][-1]["mAP"] > 0.8, "tones a decade apart, of recordings never heard; chance is 0.67"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json", "training.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "training.json").read_text()) == json.loads(json.dumps(record))


def test_statistics_of_the_new_sounds_normalise_its_input(sounds: Path, folder: Path, tmp_path: Path) -> None:
    record = learn(sounds, tmp_path / "out", replace(CHOICES, init=str(folder)))
    spec = models.load_spec(tmp_path / "out").fbank
    assert (spec.mean, spec.std) == (record["mean"], record["std"])
    assert spec.mean != models.load_spec(folder).fbank.mean


def test_ontology_ids_of_labels_that_stay_are_kept(sounds: Path, folder: Path, tmp_path: Path) -> None:
    known = {"num_labels": 3, "id2label": {0: "rain", 1: "low", 2: "wind"}, "label_ids": ("/m/r", "/m/l", "/m/w")}
    ASTForAudioClassification(ASTConfig(**(SMALL | known))).save_pretrained(folder)
    learn(sounds, tmp_path / "out", replace(CHOICES, init=str(folder), epochs=1))
    assert models.load_spec(tmp_path / "out").label_ids == ("", "/m/l")


def test_the_head_is_fresh_unless_the_labels_are_the_same(
    sounds: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def train(model: ASTForAudioClassification, *_: Any, **__: Any) -> None:
        starts.append(model)
        raise Killed

    monkeypatch.setattr(finetune, "train", train)
    for labels in (("high", "low"), ("low", "high")):
        ASTForAudioClassification(ASTConfig(**(SMALL | {"id2label": dict(enumerate(labels))}))).save_pretrained(folder)
        with pytest.raises(Killed):
            learn(sounds, tmp_path / "out", replace(CHOICES, init=str(folder)))
        known = ASTForAudioClassification.from_pretrained(folder).classifier.dense.weight
        assert torch.equal(starts[-1].classifier.dense.weight, known) == (labels == ("high", "low"))
    odds = [np.log(2 / 1)] * 2  # each label is on 4 of the 6 recordings of fold 1
    assert starts[-1].classifier.dense.bias.tolist() == pytest.approx(odds, rel=1e-5)


def test_without_held_out_recordings_there_are_no_figures_but_a_model(
    sounds: Path, folder: Path, tmp_path: Path
) -> None:
    record = learn(sounds, tmp_path / "out", replace(CHOICES, init=str(folder), hold_out=0, epochs=1))
    assert set(record["history"][-1]) == {"step", "loss", "lr"}
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("n", "width", "init", "choices", "expected"),
    [
        # recordings  D                                      rate     steps  an epoch   warm-up
        (240, 768, "x", {}, (5e-5, 200, 8, 10)),
        (240, 192, "x", {}, (2e-4, 200, 8, 10)),
        (100_000, 768, "x", {}, (1e-5, 78_125, 3125, 1000)),
        (240, 192, None, {}, (1e-3, 1600, 64, 80)),
        (6400, 192, None, {}, (1e-3, 5000, 200, 250)),
        (240, 192, None, {"epochs": 2, "lr": 0.1, "batch": 8}, (0.1, 60, 30, 3)),
    ],
)
def test_the_recipe_follows_the_size_of_the_set_and_of_the_model(
    n: int, width: int, init: str | None, choices: dict[str, Any], expected: tuple[float, int, int, int]
) -> None:
    config = ASTConfig(hidden_size=width, num_attention_heads=3)
    recipe = finetune._recipe(Choices(init=init, **choices), n, config)
    assert (recipe.lr, recipe.steps, recipe.epoch, recipe.warmup) == pytest.approx(expected)


def test_one_label_a_clip_makes_a_softmax(sounds: Path, folder: Path, tmp_path: Path) -> None:
    learn(one_label_each(sounds), tmp_path / "out", replace(CHOICES, init=str(folder), loss="ce"))
    assert models.load_spec(tmp_path / "out").activation == "softmax"


def test_from_scratch_a_small_model_is_made(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "MIN_EPOCH", 1)
    learn(sounds, tmp_path / "out", replace(CHOICES, init=None, epochs=1, batch=2, max_length=96))
    model, spec = models.load(tmp_path / "out")
    assert spec.window_frames == 96
    assert model.config.hidden_size == 192


class Killed(BaseException):
    """As a SIGKILL would: nothing but `finally` runs."""


def state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(ASTForAudioClassification.from_pretrained(folder).state_dict())


def test_a_run_killed_at_any_moment_goes_on_exactly_where_it_was(
    sounds: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, and half-way through, each of its writes."""
    dropping = ASTForAudioClassification.from_pretrained(folder, hidden_dropout_prob=0.2)
    dropping.save_pretrained(folder)
    choices = replace(CHOICES, init=str(folder), epochs=1)
    straight = learn(sounds, tmp_path / "straight", choices)
    monkeypatch.setattr(training, "SAVE_S", 0.0)
    rename, write, left = Path.replace, Path.write_text, [0]

    def count_down() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def killing_rename(self: Path, target: Path) -> Path:
        count_down()
        return rename(self, target)

    def killing_write(self: Path, text: str, **options: str) -> int:
        write(self, text[: len(text) // 2], **options)
        count_down()
        return write(self, text, **options)

    monkeypatch.setattr(Path, "replace", killing_rename)
    monkeypatch.setattr(Path, "write_text", killing_write)
    kills = 0
    for moment in range(1, 40):
        left[0] = moment
        try:
            learn(sounds, tmp_path / str(moment), choices)
            break
        except Killed:
            kills += 1
        left[0] = 0
        resumed = learn(sounds, tmp_path / str(moment), choices)
        assert resumed["history"] == straight["history"]
        assert all(
            torch.equal(value, state(tmp_path / str(moment))[name])
            for name, value in state(tmp_path / "straight").items()
        )
    assert kills > 12, "8 states, the features, the record twice, the weights, two configurations"


def test_another_seed_gives_other_weights(sounds: Path, folder: Path, tmp_path: Path) -> None:
    states = []
    for seed in (0, 1):
        learn(sounds, tmp_path / str(seed), replace(CHOICES, init=str(folder), epochs=1, seed=seed))
        states.append(ASTForAudioClassification.from_pretrained(tmp_path / str(seed)).state_dict())
    assert not torch.equal(states[0]["classifier.dense.weight"], states[1]["classifier.dense.weight"])


def relabel(sounds: Path, folder: Path) -> None:
    rows = sounds.read_text()
    sounds.write_text(rows.replace("low,", "x,").replace("high,", "low,").replace("x,", "high,"))


def retrain(sounds: Path, folder: Path) -> None:
    model = ASTForAudioClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.dense.weight += 1  # type: ignore[operator]
    model.save_pretrained(folder)


def spoil(sounds: Path, folder: Path) -> None:
    (folder.parent / "out" / "training.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "choices", "named"),
    [
        (lambda *_: None, replace(CHOICES, lr=1e-3), "choices"),
        (relabel, CHOICES, "recordings"),
        (retrain, CHOICES, "init"),
        (spoil, CHOICES, "data, recordings, choices, init, labels, mean, std, held_out"),
    ],
)
def test_an_unfinished_run_of_something_else_is_not_gone_on_with(
    sounds: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], None],
    choices: Choices,
    named: str,
) -> None:
    def die(figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "SAVE_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        learn(sounds, tmp_path / "out", replace(CHOICES, init=str(folder)), watch=die)
    change(sounds, folder)
    with pytest.raises(DataError) as caught:
        learn(sounds, tmp_path / "out", replace(choices, init=str(folder)))
    found = set(str(caught.value).split("other ")[1].split(";")[0].split(", "))
    assert found == set(named.split(", "))
    assert str(caught.value).startswith(f"{tmp_path / 'out'} holds an unfinished run with other ")
    assert str(caught.value).endswith(
        "; go on with the same arguments and recordings, give another folder, "
        "or delete training.pt in it to begin again"
    )


def test_a_broken_state_is_named(sounds: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "SAVE_S", 0.0)
    choices = replace(CHOICES, init=str(folder))
    with pytest.raises(KeyboardInterrupt):
        learn(sounds, tmp_path / "out", choices, watch=die)
    torch.save({"other": 1}, tmp_path / "out" / "training.pt")
    with pytest.raises(DataError, match=r"training\.pt can't be read \('recipe'\); delete it to begin again$"):
        learn(sounds, tmp_path / "out", choices)


def test_a_finished_model_is_not_written_over(sounds: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"already holds a model; give another folder, or delete it$"):
        learn(sounds, folder, CHOICES)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (
            replace(CHOICES, loss="ce", examples="scenes"),
            "loss 'ce' needs examples 'clips': a scene may hold no sound, or several at once",
        ),
        (
            replace(CHOICES, loss="ce"),
            "loss 'ce' needs exactly one label a recording; take 'bce' where there are several or none",
        ),
    ],
)
def test_choices_that_do_not_go_together(sounds: Path, tmp_path: Path, choices: Choices, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        learn(sounds, tmp_path / "out", choices)
    assert str(caught.value) == sentence


def test_a_loss_that_is_no_number_ends_the_run(sounds: Path, folder: Path, tmp_path: Path) -> None:
    sentence = r"^the loss became nan at step \d+; begin again in another folder with a learning rate below 1e\+20$"
    with pytest.raises(DataError, match=sentence):
        learn(sounds, tmp_path / "out", replace(CHOICES, init=str(folder), lr=1e20, epochs=4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_in_bfloat16_it_learns_too_and_goes_on_after_a_kill(
    sounds: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = replace(CHOICES, init=str(folder), epochs=15)

    def die(figures: dict[str, float]) -> None:
        if figures["step"] == 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "SAVE_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        learn(sounds, tmp_path / "out", choices, device="cuda", dtype=torch.bfloat16, watch=die)
    record = learn(sounds, tmp_path / "out", choices, device="cuda", dtype=torch.bfloat16)
    assert record["history"][-1]["mAP"] > 0.9
    assert models.load_spec(tmp_path / "out").labels == ("high", "low")


def test_bfloat16_on_the_cpu_learns_too(sounds: Path, folder: Path, tmp_path: Path) -> None:
    record = learn(sounds, tmp_path / "out", replace(CHOICES, init=str(folder), epochs=15), dtype=torch.bfloat16)
    assert record["history"][-1]["mAP"] > 0.9
