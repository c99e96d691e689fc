"""Evaluation of small random checkpoints on sounds made here: scores, ensembles, averages, folds, mistakes."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from models import load
from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from models.errors import CheckpointError, DataError
from models.fbank import clip_features
from models.train.alarms import beep, smoke_alarm
from models.train.data import Recording, targets
from models.train.evaluate import clip_scores, evaluate, feature_windows, window_scores
from models.train.features import Features
from models.train.metrics import measure
from models.train.report import Member
from tests.models.small import SMALL, randomise

RATE = 16000
SIZE = 64 * 160  # samples, one window of the small model
LABELS = tuple(SMALL["id2label"].values())


def checkpoint(folder, seed=0, mean=-4.2677393, **changes):
    """A folder with a small random model; returns its name as a caller gives it."""
    model = ASTForAudioClassification(ASTConfig(**SMALL | changes))
    randomise(model, seed)
    model.save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=64, mean=mean).save_pretrained(folder)
    return str(folder)


def sound(label, rng):
    if label == LABELS[2]:
        return smoke_alarm(rng, 1.0, hz=3100.0)
    return beep(rng, 1.0) if label == LABELS[1] else rng.normal(0, 0.1, RATE).astype(np.float32)


@pytest.fixture
def recordings(tmp_path):
    """Twelve sounds of a second: four of each label, two of each in each of two folds."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(12):
        label, path = LABELS[i % 3], tmp_path / f"{i}.wav"
        soundfile.write(path, sound(label, rng), RATE, subtype="FLOAT")
        made.append(Recording(path, (label,), fold=1 + i // 6))
    return made


@pytest.fixture
def name(tmp_path):
    return checkpoint(tmp_path / "model")


def by_hand(name, samples):
    """Scores of each window of `samples`, one forward pass each."""
    model, spec = load(name)
    with torch.inference_mode():
        return np.stack(
            [
                model(torch.from_numpy(clip_features(samples[at : at + SIZE], spec.fbank, 64)[None]))
                .logits[0]
                .sigmoid()
                .numpy()
                for at in range(0, len(samples), SIZE)
            ]
        )


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_a_clip_scores_the_mean_of_its_windows_by_their_length(tmp_path, name, batch, capsys):
    noise = np.random.default_rng(3).normal(0, 0.1, 3 * SIZE).astype(np.float32)
    lengths = [
        # samples           frames of each window
        (SIZE // 2,         [30]),  # padded
        (SIZE,              [62]),
        (2 * SIZE + 4000,   [62, 62, 23]),
        (SIZE + 399,        [62]),  # the rest is shorter than a frame
        (SIZE + 400,        [62, 1]),
    ]  # fmt: skip
    clips = []
    for i, (n, _) in enumerate(lengths):
        soundfile.write(tmp_path / f"{i}.wav", noise[:n], RATE, subtype="FLOAT")
        clips.append(Recording(tmp_path / f"{i}.wav", ()))
    model, spec = load(name)
    found = clip_scores(model, spec, clips, batch=batch)
    assert (found.shape, found.dtype) == ((5, 3), np.float32)
    for scores, (n, frames) in zip(found, lengths, strict=True):
        expected = np.average(by_hand(name, noise[:n])[: len(frames)], axis=0, weights=frames)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert capsys.readouterr().err == ""  # the bar is for terminals


def test_one_more_frame_hardly_changes_a_clip_s_score(tmp_path, name):
    tone = (0.5 * np.sin(np.arange(SIZE + 400) * 0.4)).astype(np.float32)
    clips = [Recording(tmp_path / "a.wav", ()), Recording(tmp_path / "b.wav", ())]
    for clip, samples in zip(clips, (tone[:SIZE], tone), strict=True):
        soundfile.write(clip.path, samples, RATE, subtype="FLOAT")
    window, rest = by_hand(name, tone)
    scores, longer = clip_scores(*load(name), clips)
    np.testing.assert_allclose(longer, scores, atol=1.1 / 63 * np.abs(window - rest).max())
    assert np.abs(window - rest).max() > 0.01  # a plain mean would be off by half of it


def test_features_from_a_file_score_as_the_sounds_do(tmp_path, name, recordings):
    model, spec = load(name)
    features = Features.build(recordings, spec.fbank, tmp_path / "features")
    scores = window_scores(model, spec, feature_windows(features, spec), len(recordings))
    np.testing.assert_allclose(scores, clip_scores(model, spec, recordings), atol=0.005)  # float16


def test_softmax_models_share_one_score(tmp_path, recordings):
    model, spec = load(checkpoint(tmp_path / "soft", problem_type="single_label_classification"))
    np.testing.assert_allclose(clip_scores(model, spec, recordings).sum(axis=1), 1, atol=1e-5)


def test_a_model_in_training_is_scored_without_dropout_and_left_in_training(tmp_path, recordings):
    model, spec = load(checkpoint(tmp_path / "dropping", hidden_dropout_prob=0.5))
    calm = clip_scores(model, spec, recordings)
    model.train()
    assert np.array_equal(clip_scores(model, spec, recordings), calm)
    assert model.training


def test_one_model_is_measured_as_its_scores_are(name, recordings):
    model, spec = load(name)
    found = evaluate([name], recordings)
    assert found.metrics == measure(clip_scores(model, spec, recordings), targets(recordings, LABELS), LABELS)
    assert found.members == (Member(name, spec.revision),)
    assert found.confusion.sum() == 12
    assert not found.folds


def test_an_ensemble_is_the_mean_of_scores(tmp_path, name, recordings):
    names = [name, checkpoint(tmp_path / "other", seed=1, mean=-5.0)]
    scores = np.mean([clip_scores(*load(each), recordings) for each in names], axis=0)
    assert evaluate(names, recordings).metrics == measure(scores, targets(recordings, LABELS), LABELS)
    assert evaluate([name, name], recordings).metrics == evaluate([name], recordings).metrics
    assert "mean of the scores of" in evaluate(names, recordings).table()


def test_an_average_is_the_model_with_the_mean_of_the_weights(tmp_path, recordings):
    names = [checkpoint(tmp_path / f"step{seed}", seed) for seed in range(3)]
    states = [load(each)[0].state_dict() for each in names]
    mean, _ = load(names[0])
    mean.load_state_dict({key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]})
    mean.save_pretrained(tmp_path / "mean")
    ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(tmp_path / "mean")
    found = evaluate(names, recordings, average=True)
    expected = evaluate([str(tmp_path / "mean")], recordings)
    assert found.metrics == expected.metrics
    assert found.metrics != evaluate(names, recordings).metrics  # an ensemble is something else
    assert "average of the weights of" in found.table()


def test_a_model_of_each_fold_hears_its_own_fold_only(tmp_path, recordings):
    names = {fold: checkpoint(tmp_path / f"fold{fold}", seed=fold) for fold in (1, 2)}
    template = str(tmp_path / "fold{fold}")
    found = evaluate([template], recordings)
    alone = {fold: evaluate([names[fold]], recordings, fold=fold) for fold in names}
    assert found.folds == {fold: each.metrics for fold, each in alone.items()}
    assert [(each.name, each.fold) for each in found.members] == [(names[1], 1), (names[2], 2)]
    assert np.array_equal(found.confusion, alone[1].confusion + alone[2].confusion)
    assert found.metrics.accuracy == pytest.approx(np.mean([each.metrics.accuracy for each in alone.values()]))
    aps = [each.metrics.mean_ap for each in alone.values()]
    assert found.over_folds()["mAP"] == (pytest.approx(np.mean(aps)), pytest.approx(np.std(aps, ddof=1)))
    only = evaluate([template], recordings, fold=2)
    assert only.folds == {2: alone[2].metrics}
    assert only.over_folds()["mAP"] is None  # one fold has no deviation
    assert [row["fold"] for row in found.to_dict()["folds"]] == [1, 2]


def test_json_is_strict_and_the_same_each_time(name, recordings):
    first, again = (json.dumps(evaluate([name], recordings).to_dict(), allow_nan=False) for _ in range(2))
    assert first == again
    values = json.loads(first)
    assert set(values) == {
        "models", "average", "n", "accuracy", "mAP", "AUC", "d_prime", "notes", "per_label", "folds", "over_folds",
        "confusion",
    }  # fmt: skip
    assert values["models"][0]["revision"].startswith("sha256:")
    assert (values["n"], values["folds"], values["over_folds"]) == (12, [], None)
    assert np.sum(values["confusion"]["counts"]) == 12


def test_the_table_of_folds(tmp_path, recordings):
    for fold in (1, 2):
        checkpoint(tmp_path / f"fold{fold}", seed=fold)
    found = evaluate([str(tmp_path / "fold{fold}")], recordings)
    lines = found.table().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("fold"))
    assert [line.split()[0] for line in lines[start : start + 5]] == ["fold", "1", "2", "mean", "std"]
    assert lines[start + 1].split()[1:3] == ["6", f"{found.folds[1].accuracy:.3f}"]
    assert lines[start + 3].split()[1] == f"{found.over_folds()['accuracy'][0]:.3f}"


def test_unknown_labels_are_named(tmp_path):
    def unknown(label, labels):
        with pytest.raises(DataError) as caught:
            targets([Recording(tmp_path / "x.wav", (label,))], labels)
        return str(caught.value).removeprefix(f"{tmp_path}/")

    rest = "Rename the label in the data, or give a model that was trained on it"
    assert unknown("Smoke detektor", LABELS) == (
        "x.wav: the model has no label 'Smoke detektor'; it has 'Speech', 'Sjödjur: “bark”', 'Smoke detector'. "
        f"Did you mean 'Smoke detector'? {rest}"
    )
    assert unknown("Bark", [str(i) for i in range(10)]) == (
        f"x.wav: the model has no label 'Bark'; it has '0', '1', '2', '3', '4' and 5 more. {rest}"
    )


def test_mistakes_in_the_data_are_named(name, recordings, tmp_path):
    homeless = [replace(each, fold=None) for each in recordings]
    with pytest.raises(DataError, match=r"the data have no fold 4; known: 1, 2$"):
        evaluate([name], recordings, fold=4)
    with pytest.raises(DataError, match="fold 4 was asked for, but the data have no folds; give a CSV with a column"):
        evaluate([name], homeless, fold=4)
    with pytest.raises(DataError, match=r"0\.wav has no fold, but 'runs/\{fold\}' is a model of each fold; give a CSV"):
        evaluate(["runs/{fold}"], homeless)
    with pytest.raises(DataError, match="there are no recordings to evaluate"):
        evaluate([name], [])
    soundfile.write(tmp_path / "3.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "7.wav", np.zeros(9), RATE)
    with pytest.raises(DataError, match=r"^2 of 12 .*3\.wav holds digital silence .*; .*7\.wav holds .*; leave them"):
        evaluate([name], recordings)


def test_models_that_do_not_fit_together_are_named(tmp_path, name, recordings):
    renamed = checkpoint(tmp_path / "renamed", id2label={0: "Speech", 1: "Bark", 2: "Smoke detector"})
    with pytest.raises(CheckpointError, match=r"renamed' and '.*model' have different labels \(number 1 is 'Bark' and"):
        evaluate([name, renamed], recordings)
    with pytest.raises(CheckpointError, match=r"model' was given; an average of weights needs two checkpoints or more"):
        evaluate([name], recordings, average=True)
    wide = checkpoint(tmp_path / "wide", intermediate_size=100)
    with pytest.raises(
        CheckpointError, match=r"differ in intermediate_size \(100 and 96\); weights can be averaged only"
    ):
        evaluate([name, wide], recordings, average=True)
    shifted = checkpoint(tmp_path / "shifted", mean=-5.0)
    with pytest.raises(CheckpointError, match=r"differ in fbank \(.*mean=-5\.0"):
        evaluate([name, shifted], recordings, average=True)


def test_mistakes_show_before_the_first_clip_is_scored(tmp_path, recordings, monkeypatch):
    checkpoint(tmp_path / "fold1")  # fold 2 has no model
    monkeypatch.setattr("models.train.evaluate.clip_scores", lambda *args, **kwargs: pytest.fail("scored a clip"))
    with pytest.raises(CheckpointError, match="fold2"):
        evaluate([str(tmp_path / "fold{fold}")], recordings)
    for broken in recordings[1:3]:
        broken.path.write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"^2 of 6 recordings can't be used: .*1\.wav can't be read .*2\.wav can't be"):
        evaluate([str(tmp_path / "fold1")], recordings, fold=1)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(DataError, match="needs scikit-learn"):
        evaluate([str(tmp_path / "fold1")], recordings)
