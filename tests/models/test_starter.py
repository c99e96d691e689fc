"""The recipe of the starter, from a folder of recordings to a checkpoint, with a step of each stage."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from models.audio_spectrogram_transformer import ASTForAudioClassification
from models.fbank import fbank
from models.spec import FbankSpec, ModelSpec
from models.train import starter
from models.train.mixing import make_noise
from models.train.teacher import Correct


@pytest.fixture
def esc10(tmp_path):
    """Two folds with a recording of each label, and one under CC Sampling+, which can't be read."""
    rng, rows = np.random.default_rng(0), []
    for label in starter.LABELS:
        (tmp_path / "esc10" / label).mkdir(parents=True)
        for fold in (1, 2):
            name = f"{label}/{fold}-{label}.wav"
            soundfile.write(tmp_path / "esc10" / name, rng.normal(0, 0.1, 44100), 44100)
            rows.append({"file": name, "fold": fold, "licence": "CC BY"})
    rows.append({"file": "rain/1-lost.wav", "fold": 1, "licence": "CC Sampling+"})
    with (tmp_path / "esc10" / "credits.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["file", "fold", "licence"])
        table.writeheader()
        table.writerows(rows)
    return tmp_path / "esc10"


@pytest.fixture
def run(esc10, monkeypatch):
    """Trains with two steps a stage; more options than these may follow the folder. Returns the model."""
    for name in ("TEACHER", "PUPIL", "FINISH"):
        monkeypatch.setattr(starter, name, replace(getattr(starter, name), batch=2))
    for name in ("ALARM_EXAMPLES", "OTHER_EXAMPLES"):
        monkeypatch.setattr(starter, name, 1)

    def train(folder, *more, device="cpu"):
        options = ["--data", esc10, "--out", folder, "--steps", "2", "2", "2", "--device", device, *more]
        monkeypatch.setattr(sys, "argv", ["starter", *map(str, options)])
        starter.main()
        return ASTForAudioClassification.from_pretrained(folder)

    return train


def test_a_run_leaves_a_checkpoint_that_says_which_fold_it_had_not_heard(run, tmp_path, monkeypatch):
    rates, make = [], starter.Mixer
    monkeypatch.setattr(starter, "Mixer", lambda *a, **k: rates.append(k["rates"]) or make(*a, **k))
    out = tmp_path / "hold2"
    assert len(run(out, "--hold-out", "2").config.id2label) == 13
    assert rates == [(16000,), (16000,), (16000, 44100, 48000)]
    measured = json.loads((out / starter.MEASURED).read_text())
    assert measured.keys() == {"hold_out", "seed", "top1"}
    assert (measured["hold_out"], measured["seed"]) == (2, 0)
    assert sorted(each.name for each in out.iterdir()) == [
        "config.json", starter.MEASURED, "model.safetensors", "preprocessor_config.json"
    ]  # fmt: skip
    run(out)
    assert not (out / starter.MEASURED).exists()


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def _not_deterministic_after(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # so that what the recipe sets goes again
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_not_deterministic_after")
@pytest.mark.filterwarnings("error:.*deterministic.*")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_GPU])])
def test_a_seed_gives_the_same_weights_again(run, tmp_path, device):
    first, again, other = (
        list(run(tmp_path / name, "--seed", seed, device=device).parameters())
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_backgrounds_and_what_is_made_come_through_microphones_of_the_rates_asked_for(monkeypatch):
    def top_db(frames):
        return 10 * np.log10(np.exp(frames[:, -2:]).mean() / np.exp(frames[:, 100:110]).mean())

    noises = {rate: make_noise(np.random.default_rng(0), FbankSpec(), 256, (rate,)).white for rate in (16000, 48000)}
    tops = {rate: top_db(np.log(white)) for rate, white in noises.items()}
    assert tops[16000] > tops[48000] + 3
    both = make_noise(np.random.default_rng(0), FbankSpec(), 256, (16000, 48000)).white
    assert len(both) == sum(map(len, noises.values()))
    hiss = np.random.default_rng(1).normal(0, 0.1, 32000).astype(np.float32)
    assert starter._sampled(hiss, 16000) is hiss
    for name in ("ALARM_EXAMPLES", "OTHER_EXAMPLES"):
        monkeypatch.setattr(starter, name, 1)
    hisses = [lambda rng, n, rate: rng.normal(0, 1, n).astype(np.float32)]
    monkeypatch.setattr(starter, "OTHERS", dict(enumerate(hisses)))
    spec = ModelSpec(name="", revision="", labels=tuple(starter.LABELS), label_ids=None, window_frames=256)
    monkeypatch.setattr(starter, "ALARMS", {})
    made = {rate: top_db(starter.material([], spec, 0, (rate,))[0][0]) for rate in noises}
    assert made[16000] > made[48000] + 3
    sampled = starter._sampled(hiss, 48000)
    assert len(sampled) == len(hiss)
    assert top_db(fbank(sampled, FbankSpec())) < tops[16000] - 3


def test_a_correction_asks_for_the_truth_of_the_wrong_labels_and_for_half_of_what_was_answered_of_the_others():
    model = starter.from_scratch(starter.small(max_length=64, num_hidden_layers=1, id2label={0: "a", 1: "b"}))
    bias = torch.tensor([9.0, 9.0])
    with torch.no_grad():
        model.classifier.dense.weight.zero_()
        model.classifier.dense.bias.copy_(bias)
    batch = [torch.zeros(3, 64, 128), torch.zeros(3, 2)]
    loss = Correct(model.eval(), [1])(model, batch, slice(0, 64), None)
    loss.backward()
    other, wrong = model.classifier.dense.bias.grad.tolist()
    assert wrong == pytest.approx(2 * other, rel=0.05)  # 1 is the answer for both; asked for are 0 and a half
