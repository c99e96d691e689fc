"""Training material and the training loop, small enough for a unit test."""

import numpy as np
import pytest
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.fbank import fbank
from models.spec import FbankSpec
from models.train import training
from models.train.alarms import ALARMS, smoke_alarm
from models.train.features import Features
from models.train.mixing import Mixer
from models.train.recipe import Recipe
from models.train.training import train

RATE = 16000
SPEC = FbankSpec()


def pulses(samples):
    """(start_s, length_s) of each stretch of sound."""
    loud = np.abs(samples).reshape(-1, RATE // 100).max(axis=1) > 0.1
    edges = np.flatnonzero(np.diff(np.concatenate(([0], loud.astype(int), [0])))) / 100
    return [(float(start), float(end - start)) for start, end in edges.reshape(-1, 2)]


def test_smoke_alarm_is_the_three_pulse_pattern_of_iso_8201():
    found = pulses(smoke_alarm(np.random.default_rng(0), 12.0, hz=3100.0))
    starts = np.array([start for start, _ in found])
    assert [length for _, length in found[:6]] == pytest.approx([0.5] * 6, rel=0.1)
    assert np.diff(starts[:7]) == pytest.approx([1, 1, 2, 1, 1, 2], rel=0.1)
    spectrum = np.abs(np.fft.rfft(smoke_alarm(np.random.default_rng(0), 1.0, hz=3100.0)))
    assert spectrum.argmax() == pytest.approx(3100, rel=0.01)


@pytest.mark.parametrize("label", ALARMS)
def test_alarms_differ_by_seed_and_only_by_seed(label):
    first, again, other = (ALARMS[label](np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert len(first) != len(other) or not np.array_equal(first, other)
    assert np.abs(first).max() == pytest.approx(1.0)


def make_mixer(seed=0):
    rng = np.random.default_rng(0)
    tones = [np.sin(2 * np.pi * hz * np.arange(RATE) / RATE).astype(np.float32) for hz in (400, 2000)]
    noisy = [tone + rng.normal(0, 0.01, RATE).astype(np.float32) for tone in tones]
    frames = [fbank(tone, SPEC) for tone in noisy]
    features = Features(np.concatenate(frames), [0, len(frames[0])], [len(each) for each in frames])
    return Mixer(features, np.eye(2, dtype=np.float32), SPEC, 512, seed)


def test_labels_say_what_is_in_view():
    mixer = make_mixer()
    view = slice(256, 512)
    windows, labels = mixer.batch(64, view)
    silence = (np.log(np.float32(1.1920929e-07)) - SPEC.mean) / (2 * SPEC.std)
    assert windows.shape == (64, 512, 128)
    assert windows[:, :256] == pytest.approx(silence)
    assert np.isfinite(windows).all()
    heard = np.exp(windows[:, view] * 2 * SPEC.std + SPEC.mean)[:, :, :].sum(axis=(1, 2)) > 256 * 128 * 1e-6
    assert (heard | (labels.sum(axis=1) == 0)).all()  # nothing is labelled that can't be heard
    assert 0.2 < labels.mean() < 0.8


def test_a_killed_run_goes_on_exactly_where_it_was(tmp_path, monkeypatch):
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=512,
        frequency_stride=16,
        time_stride=16,
    )
    recipe = Recipe(steps=6, epoch=3, batch=2, warmup=2)
    monkeypatch.setattr(training, "SAVE_S", 0.0)

    def run(folder, check=None):
        torch.manual_seed(0)
        model = ASTForAudioClassification(config)
        train(model, make_mixer(), recipe, folder, check=check)
        return ASTForAudioClassification.from_pretrained(folder).state_dict()

    def die(model):
        raise KeyboardInterrupt

    straight = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", check=die)  # after step 3; saved after step 2
    resumed = run(tmp_path / "killed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize("n_frames", [1, 2, 8, 30])
def test_sounds_of_any_length_are_mixed(n_frames):
    rng = np.random.default_rng(0)
    frames = rng.normal(-4, 1, (2 * n_frames, 128)).astype(np.float32)
    features = Features(frames, [0, n_frames], [n_frames, n_frames])
    mixer = Mixer(features, np.eye(2, dtype=np.float32), SPEC, 96, seed=0)
    windows, labels = mixer.batch(50, slice(0, 96))
    assert np.isfinite(windows).all()
    assert labels.any()


def test_recordings_without_a_label_are_mixed_in_and_mean_nothing():
    frames = np.zeros((200, 128), np.float32)
    frames[100:, 60:] = -15.0
    mixer = Mixer(Features(frames, [0, 100], [100, 100]), np.array([[1.0], [0.0]], np.float32), SPEC, 96, seed=0)
    _, labels = mixer.batch(200, slice(0, 96))
    assert 0.2 < labels.mean() < 0.7
