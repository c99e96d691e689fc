"""Reading a recording: mono at the model's rate, and what is refused, each in its sentence."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from models.errors import DataError
from models.train import data

RATE = 16000


def noise(n=RATE, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


def written(path: Path, samples, rate=RATE, **kwargs) -> Path:
    soundfile.write(path, samples, rate, **kwargs)
    return path


def test_reading_mixes_channels_and_leaves_the_right_rate_alone(tmp_path):
    stereo = np.stack([noise(seed=1), noise(seed=2)], axis=1)
    samples = data.read(written(tmp_path / "x.wav", stereo, subtype="FLOAT"), RATE)
    assert samples.dtype == np.float32
    assert np.array_equal(samples, stereo.mean(axis=1))


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_higher_rates_are_resampled_as_if_at_once(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(data, "BLOCK", 1000)
    samples = noise(rate + 7)
    path = written(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
    assert data.read(path, RATE) == pytest.approx(soxr.resample(samples, rate, RATE), abs=1e-6)


def test_an_mp3_is_read_in_blocks_as_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 1 << 14)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * 44100) / 44100)
    path = written(tmp_path / "x.mp3", tone.astype(np.float32), 44100)
    whole = soxr.resample(soundfile.read(path, dtype="float32")[0], 44100, RATE)
    assert data.read(path, RATE) == pytest.approx(whole, abs=1e-3)


FLOATS = {"subtype": "FLOAT"}


@pytest.mark.parametrize(
    ("samples", "options", "sentence"),
    [
        (
            noise(8000),
            {"rate": 8000},
            "x.wav is sampled at 8000 Hz, at least 16000 Hz is needed: what lies above 4000 Hz ",
        ),
        (noise(15000), {"rate": 15999}, "above 7999 Hz is missing in it; leave it out or record it again$"),
        (np.append(noise(), np.nan), FLOATS, "x.wav has NaN or infinite samples, the first at 1.00 s; leave it out"),
        (np.append(noise(800), [np.inf, 0]), FLOATS, "x.wav has NaN or infinite samples, the first at 0.05 s; leave"),
        (np.zeros(RATE), {}, "x.wav holds digital silence only, 16000 samples of 0; leave it out"),
        (np.full(48000, 0.25), {"rate": 48000}, "x.wav holds digital silence only, 48000 samples of 0.25; leave it"),
        (noise(0), {}, "x.wav holds no samples; leave it out"),
        (noise(399), {}, r"x.wav holds 24\.9 ms, a frame takes 25 ms; leave it out or record it again$"),
    ],
)
def test_recordings_that_can_t_be_learned_from(tmp_path, samples, options, sentence):
    with pytest.raises(DataError, match=sentence):
        data.read(written(tmp_path / "x.wav", samples, **options), RATE)


def test_a_bad_sample_s_time_counts_from_the_file_s_start(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 1000)
    path = written(tmp_path / "x.wav", np.append(noise(8000), np.nan), subtype="FLOAT")
    with pytest.raises(DataError, match=r"the first at 0\.50 s"):
        data.read(path, RATE)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.wav", b"", r".*"),
        ("x.ogg", b"OggS but not really", r".*"),
        ("x.wav", None, "System error"),
        ("x.raw", b"1234", r".*samplerate.*"),
    ],
)
def test_files_that_are_no_sound(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        DataError, match=rf"{name} can't be read as sound \({reason}\); leave it out or record it again$"
    ):
        data.read(tmp_path / name, RATE)


def test_one_frame_is_enough(tmp_path):
    assert len(data.read(written(tmp_path / "x.wav", noise(400)), RATE)) == 400
