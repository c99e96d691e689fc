"""Training material and the training loop, small enough for a unit test."""

from itertools import combinations

import numpy as np
import pytest
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.errors import DataError
from models.fbank import fbank
from models.spec import FbankSpec
from models.train import mixing, training
from models.train.alarms import ALARMS, smoke_alarm
from models.train.features import Features
from models.train.mixing import Mixer
from models.train.recipe import Recipe
from models.train.teacher import Learn, Pupil, Teacher, _kept, teach
from models.train.training import Batches, fit, placed, train

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


def test_labels_say_what_is_heard():
    windows, labels = make_mixer().batch(64, 256)
    assert windows.shape == (64, 256, 128)
    assert np.isfinite(windows).all()
    heard = np.exp(windows * 2 * SPEC.std + SPEC.mean).sum(axis=(1, 2)) > 256 * 128 * 1e-6
    assert (heard | (labels.sum(axis=1) == 0)).all()  # nothing is labelled that can't be heard
    assert 0.2 < labels.mean() < 0.8


def test_what_a_step_learns_from_depends_on_seed_and_step_alone():
    config = ASTConfig(max_length=512, frequency_stride=16, time_stride=16)
    steps = {
        (seed, step): Batches(make_mixer(), Recipe(steps=4, batch=2, seed=seed), config)[step]
        for seed in (0, 1)
        for step in (1, 2)
    }
    again = Batches(make_mixer(), Recipe(steps=4, batch=2, seed=0), config)
    assert again[2][0] == steps[0, 2][0]  # whatever came before
    assert torch.equal(again[2][2][0], steps[0, 2][2][0])
    drawn = [windows.flatten()[:1000] for _, _, (windows, _) in steps.values()]
    assert not any(torch.equal(a, b) for a, b in combinations(drawn, 2))


def test_the_view_lies_where_the_patches_that_are_kept_look_for_it():
    config = ASTConfig(max_length=512)
    windows, view = torch.randn(2, 128, 128), slice(160, 288)
    whole = placed(windows, view, config)
    assert whole.shape == (2, 512, 128)
    assert torch.equal(whole[:, view], windows)
    assert not whole[:, :160].any()
    assert not whole[:, 288:].any()


@pytest.mark.filterwarnings("default:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 of workers
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

    def run(folder, check=None, workers=0):
        torch.manual_seed(0)
        model = ASTForAudioClassification(config)
        train(model, make_mixer(), recipe, folder, check=check, workers=workers)
        return ASTForAudioClassification.from_pretrained(folder).state_dict()

    def die(model):
        raise KeyboardInterrupt

    straight = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", check=die)  # after step 3; saved after step 2
    resumed = run(tmp_path / "killed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    helped = run(tmp_path / "helped", workers=2)
    assert all(torch.equal(straight[name], helped[name]) for name in straight)


@pytest.mark.parametrize("n_frames", [1, 2, 8, 30])
def test_sounds_of_any_length_are_mixed(n_frames):
    rng = np.random.default_rng(0)
    frames = rng.normal(-4, 1, (2 * n_frames, 128)).astype(np.float32)
    features = Features(frames, [0, n_frames], [n_frames, n_frames])
    mixer = Mixer(features, np.eye(2, dtype=np.float32), SPEC, 96, seed=0)
    windows, labels = mixer.batch(50, 96)
    assert np.isfinite(windows).all()
    assert labels.any()


def test_recordings_without_a_label_are_mixed_in_and_mean_nothing():
    frames = np.zeros((200, 128), np.float32)
    frames[100:, 60:] = -15.0
    mixer = Mixer(Features(frames, [0, 100], [100, 100]), np.array([[1.0], [0.0]], np.float32), SPEC, 96, seed=0)
    _, labels = mixer.batch(200, 96)
    assert 0.6 < labels.mean() < 0.8  # 0.88 of the windows hold something, a fifth of which has no label


def test_columns_say_when_a_label_sounds():
    mixer = make_mixer()
    mixer.column = 16
    windows, labels, columns = mixer.batch(64, 256)
    assert columns.shape == (64, 16, 2)
    assert set(np.unique(columns)) == {0.0, 1.0}
    slivers = columns.any(axis=1) & (labels == 0)  # too short to be a label
    assert slivers.mean() < 0.1
    power = np.exp(windows * 2 * SPEC.std + SPEC.mean).sum(axis=2).reshape(64, 16, 16).mean(axis=2)
    loud, quiet = (np.log(power)[columns.any(axis=2) == sounds] for sounds in (True, False))
    assert np.median(loud) > np.median(quiet) + 1


@pytest.mark.parametrize(("bins", "moved"), [(2, [0, 0, 0, 1, 2]), (0, [0, 1, 2, 3, 4]), (-2, [2, 3, 4, 4, 4])])
def test_sounds_move_in_pitch_by_whole_bins(bins, moved):
    energy = np.arange(5, dtype=np.float32)[None].repeat(3, axis=0)
    assert mixing._shift(energy, bins).tolist() == [moved] * 3


def test_some_windows_lack_what_a_narrow_band_lacks(monkeypatch):
    def lows(share):
        monkeypatch.setattr(mixing, "BAND_SHARE", share)
        monkeypatch.setattr(mixing, "CUT_SHARE", 0.0)
        windows, _ = make_mixer().batch(100, 96)
        top = np.exp(windows[:, :, -1] * 2 * SPEC.std + SPEC.mean).mean(axis=1)
        return np.median(top)

    assert lows(1.0) < 0.01 * lows(0.0)


def test_some_rooms_hum(monkeypatch):
    def overtones(share):  # how far single bins stand out of the background
        monkeypatch.setattr(mixing, "HUM_SHARE", share)
        mixer = make_mixer()
        spectra = np.array([mixer._background(96, -30.0).mean(axis=0) for _ in range(60)])
        shape = 10 * np.log10((spectra / mixer.noise.white.mean(axis=0))[:, 5:60])
        return np.median(np.abs(np.diff(shape, axis=1)).max(axis=1))

    assert overtones(1.0) > 2 * overtones(0.0)


def test_an_echo_decays_by_60_db_in_its_time():
    click = np.zeros((60, 1), np.float32)
    click[5] = 1.0
    heard = mixing._echoed(click, 0.5, -3.0, SPEC)[:, 0]
    assert heard[:5] == pytest.approx(0)
    assert heard[5] > 1
    tail = 10 * np.log10(heard[6:56])
    assert tail[0] - tail[-1] == pytest.approx(60 * 49 / 50, abs=0.5)
    assert heard.sum() == pytest.approx(1 + 10**-0.3, rel=0.01)


def test_a_pupil_foretells_the_teacher_at_the_patches_that_are_kept():
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_length=512,
        frequency_stride=16, time_stride=16,
    )  # fmt: skip
    torch.manual_seed(0)
    teacher, pupil = Teacher(config).eval(), Pupil(ASTForAudioClassification(config))
    windows = torch.randn(2, 512, 128)
    _, columns, (middle, top) = teacher(windows)
    assert columns.shape == (2, 32, config.num_labels)
    assert middle.shape[:2] == top.shape[:2] == (2, 8 * 32)
    row, column = 3, 20  # of the grid, time fastest
    louder = windows.clone()
    louder[:, 16 * column : 16 * column + 16, 16 * row : 16 * row + 16] += 10
    moved = (teacher(louder)[2][1] - top).abs().sum(dim=(0, 2)).reshape(8, 32).detach().numpy()
    centre = [np.average(np.arange(n), weights=moved.sum(axis=axis)) for n, axis in ((8, 1), (32, 0))]
    assert centre == pytest.approx([row, column], abs=0.5)
    view, keep = slice(16 * 18, 16 * 26), torch.tensor([row * 32 + column, 5 * 32 + 25])
    hint = torch.arange(8 * 8).reshape(1, 64, 1)
    assert _kept(hint, keep, view, config).flatten().tolist() == [3 * 8 + 2, 5 * 8 + 7]
    _, foretold = pupil(windows, keep)
    assert [each.shape for each in foretold] == [(2, 2, middle.shape[2]), (2, 2, top.shape[2])]
    loss = Learn(teacher)(pupil, [windows[:, view], torch.zeros(2, config.num_labels)], view, keep)
    loss.backward()
    assert all(each.grad is not None for each in pupil.parameters())
    assert all(each.grad is None for each in teacher.parameters())


def test_teacher_and_pupil_go_on_exactly_where_they_were_killed(tmp_path, monkeypatch):
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_length=512,
        frequency_stride=16, time_stride=16, id2label={0: "low", 1: "high"},
    )  # fmt: skip
    monkeypatch.setattr(training, "SAVE_S", 0.0)
    recipe = Recipe(steps=4, epoch=2, batch=2, warmup=2, optimiser="muon")

    def run(folder, kind, check=None):
        torch.manual_seed(0)
        mixer = make_mixer()
        if kind is Teacher:
            mixer.column = 16
            return fit(Teacher(config), mixer, recipe, folder, lesson=teach, check=check).averaged().state_dict()
        pupil, lesson = Pupil(ASTForAudioClassification(config)), Learn(Teacher(config).eval())
        return fit(pupil, mixer, recipe, folder, lesson=lesson, check=check).averaged().state_dict()

    def die(model):
        raise KeyboardInterrupt

    for kind in (Teacher, Pupil):
        straight = run(tmp_path / f"straight {kind.__name__}", kind)
        killed = tmp_path / kind.__name__
        with pytest.raises(KeyboardInterrupt):
            run(killed, kind, check=die)
        resumed = run(killed, kind)
        assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    with pytest.raises(DataError, match="is of another model; give another folder, or delete it"):
        run(tmp_path / "Teacher", Pupil)
