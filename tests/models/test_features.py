"""Features kept in a file: equal to the filterbank's, made once, remade when anything changed, never half there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.errors import DataError
from models.fbank import fbank
from models.spec import FbankSpec
from models.train import features as module
from models.train.data import Recording, read
from models.train.features import Features, check_headers, compute

SPEC = FbankSpec()
ROUNDING = 0.5 * np.spacing(np.float16(15.9))  # float16 below 16


def write(path: Path, seconds: float, seed: int) -> Recording:
    samples = np.random.default_rng(seed).normal(0, 10.0 ** (seed % 4 - 4), int(16000 * seconds))
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    return Recording(path, ("x",))


@pytest.fixture
def recordings(tmp_path):
    return [write(tmp_path / f"{i}.wav", 0.1 + 0.37 * i, i) for i in range(7)]


@pytest.fixture
def reads(monkeypatch):
    """The files read so far."""
    names = []

    def noted(path, rate):
        names.append(path.name)
        return read(path, rate)

    monkeypatch.setattr(module, "read", noted)
    return names


def test_they_are_the_filterbank_s_frames_to_float16(recordings, tmp_path):
    features = Features.build(recordings, SPEC, tmp_path / "new" / "features")
    assert len(features) == len(list(features)) == 7
    for recording, frames, n in zip(recordings, features, features.n_frames, strict=True):
        exact = fbank(read(recording.path, 16000))
        assert frames.dtype == np.float32
        assert frames.shape == exact.shape == (n, 128)
        assert np.abs(frames - exact).max() <= ROUNDING < 0.004
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["features"]


def test_a_crop_is_a_part_of_a_recording_and_never_of_the_next(recordings, tmp_path):
    features = Features.build(recordings, SPEC, tmp_path / "features")
    whole = features[3]
    assert np.array_equal(features.crop(3, 5, 10), whole[5:15])
    assert np.array_equal(features.crop(3, len(whole) - 4, 10), whole[-4:])
    assert features.crop(3, len(whole), 10).shape == (0, 128)
    assert np.array_equal(features[2:5][1], whole)
    with pytest.raises(IndexError):
        features[7]


def test_an_unchanged_set_is_read_once_and_serves_every_part_of_it(recordings, tmp_path, reads):
    first = Features.build(recordings, SPEC, tmp_path / "features")
    assert sorted(reads) == [f"{i}.wav" for i in range(7)]
    part = Features.build(recordings[4:1:-1], FbankSpec(mean=0.0, std=1.0), tmp_path / "features")
    assert len(reads) == 7
    assert all(np.array_equal(part[i], first[4 - i]) for i in range(3))
    assert len(Features.build([], SPEC, tmp_path / "features")) == 0


def touched(recordings, file):
    os.utime(recordings[2].path, ns=(1, 1))


def other_sound(recordings, file):
    write(recordings[2].path, 0.5, 9)


def one_more(recordings, file):
    recordings.append(write(file.parent / "more.wav", 0.5, 9))


def other_version(recordings, file):
    file.write_bytes(file.read_bytes()[:-1] + b"0")


def cut(recordings, file):
    file.write_bytes(file.read_bytes()[:-50])


def emptied(recordings, file):
    file.write_bytes(b"")


@pytest.mark.parametrize("change", [touched, other_sound, one_more, other_version, cut, emptied])
def test_whatever_changed_is_computed_anew(recordings, tmp_path, reads, change):
    file = tmp_path / "features"
    Features.build(recordings, SPEC, file)
    change(recordings, file)
    features = Features.build(recordings, SPEC, file)
    assert len(reads) == 7 + len(recordings)
    assert all(
        np.abs(frames - fbank(read(one.path))).max() <= ROUNDING
        for one, frames in zip(recordings, features, strict=True)
    )


def test_other_frame_settings_are_computed_anew(recordings, tmp_path):
    Features.build(recordings, SPEC, tmp_path / "features")
    spec = FbankSpec(n_mels=64)
    frames = Features.build(recordings, spec, tmp_path / "features")[1]
    assert np.abs(frames - fbank(read(recordings[1].path), spec)).max() <= ROUNDING


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(recordings, tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from models.spec import FbankSpec; from models.train import data, features as f\n"
        "frames = f.compute\n"
        "def dying(*args):\n"
        "    for i, part in enumerate(frames(*args)):\n"
        "        if i == 4: os.kill(os.getpid(), 9)\n"
        "        yield part\n"
        "f.compute = dying\n"
        "f.Features.build([data.Recording(Path(p), ()) for p in sys.argv[2:]], FbankSpec(), Path(sys.argv[1]))\n"
    )
    file = tmp_path / "features"
    paths = [str(recording.path) for recording in recordings]
    killed = subprocess.run([sys.executable, "-c", code, str(file), *paths], check=False)
    assert killed.returncode == -9
    assert not file.exists()
    assert (tmp_path / "features.partial").exists()
    assert len(Features.build(recordings, SPEC, file)) == 7
    assert not (tmp_path / "features.partial").exists()


def test_a_full_disk_is_one_sentence(recordings, tmp_path):
    (tmp_path / "features.partial").symlink_to("/dev/full")
    with pytest.raises(
        DataError, match=r"can't write .*/features \(No space left on device\): they take 92 .* or give another folder$"
    ):
        Features.build(recordings, SPEC, tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_a_folder_that_can_t_be_made_is_one_sentence(recordings, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"can't write features to .*file/features \([^)]*\); give another folder$"):
        Features.build(recordings, SPEC, tmp_path / "file" / "features")


def break_some(recordings, n):
    """Break the last `n`, each in its own way."""
    for recording, how in zip(recordings[::-1][:n], ("gone", "text", "silent", "short", "low"), strict=False):
        if how == "gone":
            recording.path.unlink()
        elif how == "text":
            recording.path.write_text("no sound")
        else:
            soundfile.write(
                recording.path,
                np.arange({"short": 9}.get(how, 9999)) % 2 * (how != "silent") / 2,
                8000 if how == "low" else 16000,
            )


def test_all_broken_recordings_are_named_in_one_sentence(recordings, tmp_path):
    break_some(recordings, 5)
    with pytest.raises(DataError) as caught:
        Features.build(recordings, SPEC, tmp_path / "features")
    sentence = str(caught.value).replace(f"{tmp_path}/", "")
    assert sentence.startswith(
        "5 of 7 recordings can't be used: 2.wav is sampled at 8000 Hz, at least 16000 Hz is needed"
    )
    assert "; 3.wav holds 0.6 ms, a frame takes 25 ms; 4.wav holds digital silence only, " in sentence
    assert sentence.endswith("; and 2 more; leave them out or record them again")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".wav") == []


def test_one_broken_recording_says_it_itself(recordings, tmp_path):
    break_some(recordings, 1)
    with pytest.raises(
        DataError, match=r"6\.wav can't be read as sound \(System error\); leave it out or record it again$"
    ):
        Features.build(recordings, SPEC, tmp_path / "features")


def test_headers_tell_of_missing_files_of_other_files_and_of_low_rates(recordings):
    check_headers(recordings, 16000)
    break_some(recordings, 5)  # silence and shortness show only in the sound
    with pytest.raises(
        DataError,
        match=r"^3 of 7 recordings can't be used: \S*2\.wav is sampled at 8000 Hz, .*; \S*5\.wav can't be read .*; "
        r"\S*6\.wav can't be read as sound \(System error\); leave them out or record them again$",
    ):
        check_headers(recordings, 16000)


def test_a_broken_set_does_not_cost_the_features_of_the_one_before(recordings, tmp_path, reads):
    file = tmp_path / "features"
    Features.build(recordings, SPEC, file)
    before = file.read_bytes()
    with pytest.raises(DataError):
        Features.build([*recordings, Recording(tmp_path / "gone.wav", ())], SPEC, file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("ahead_s", "most"),
    [
        (3600, module.AHEAD * 2 + 1),
        (0.25, 3),  # two recordings of 0.1 s, and the one that waits for room
        (0.05, 2),  # each alone
    ],
)
def test_reading_stays_a_few_recordings_or_seconds_ahead(tmp_path, monkeypatch, ahead_s, most):
    monkeypatch.setattr(module, "MAX_READERS", 2)
    monkeypatch.setattr(module, "AHEAD_S", ahead_s)
    one = write(tmp_path / "a.wav", 0.1, 1)
    asked = []

    class Asked(list):
        def __iter__(self):
            for recording in super().__iter__():
                asked.append(recording)
                yield recording

    computed = compute(Asked([one] * 40), SPEC)
    for _ in range(10):
        next(computed)
    computed.close()
    assert 10 <= len(asked) < 10 + most
