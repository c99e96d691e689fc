"""Recordings: every sensible one is heard, every other is one clear sentence."""

import errno
import logging
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.errors import SourceError
from streamer.sources.file import Config, FileSource
from tests.fakes import wait_for
from tests.sources import sounds

RATE = 16000
NOISE = np.random.default_rng(1).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)


def read(path: Path, **options: Any) -> Samples:
    source = FileSource(Config(path=path, **options))
    source.open()
    try:
        return np.concatenate(list(source.blocks()))
    finally:
        source.close()


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "FLOAT", 0),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.flac", "PCM_16", 2**-15),
        ("a.aiff", "PCM_16", 2**-15),
    ],
)
def test_formats(tmp_path: Path, name: str, subtype: str, tolerance: float) -> None:
    found = read(sounds.write(tmp_path / name, NOISE, RATE, subtype))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, NOISE, atol=tolerance)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_formats(tmp_path: Path, name: str) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    found = read(sounds.write(tmp_path / name, tone, RATE, None))
    assert len(found) == RATE
    assert np.corrcoef(found, tone)[0, 1] > 0.999  # MP3 came out at 0.6 when soundfile sought after each block


@pytest.mark.parametrize(("channel", "expected"), [("mix", 0.25), (1, 0.5), (2, 0.0)])
def test_channels_count_from_one(tmp_path: Path, channel: Any, expected: float) -> None:
    stereo = np.tile(np.array([0.5, 0.0], np.float32), (100, 1))
    found = read(sounds.write(tmp_path / "a.wav", stereo, 44100), channel=channel)
    np.testing.assert_array_equal(found, np.full(100, expected, np.float32))


def test_blocks_are_short_and_the_file_can_be_read_again(tmp_path: Path) -> None:
    source = FileSource(Config(path=sounds.write(tmp_path / "a.wav", NOISE, RATE)))
    info = source.open()
    assert (info.sample_rate, info.max_block, info.is_live) == (RATE, 1600, False)
    assert {len(block) for block in source.blocks()} == {1600}
    np.testing.assert_array_equal(np.concatenate(list(source.blocks())), NOISE)
    source.close()


def test_broken_samples_become_silence_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = NOISE.copy()
    broken[[3, 4, 20_000]] = np.nan, 1e4, -np.inf
    path = sounds.write(tmp_path / "a.wav", broken, RATE)
    found = read(path)
    assert found[3] == found[4] == found[20_000] == 0
    assert np.isfinite(found).all()
    assert caplog.messages == [f"{path}: 3 broken samples (NaN, infinite or huge) count as silence"]


def test_a_file_of_mostly_broken_samples_is_no_sound(tmp_path: Path) -> None:
    garbage = (NOISE * 32767).astype("<i2").view("<f4")
    path = sounds.write(tmp_path / "a.wav", garbage.reshape(-1, 2), RATE)
    sentence = (
        rf"^{re.escape(str(path))}: \d+ of 8000 samples are NaN, infinite or absurdly large: this is no sound; "
        r"was it written in another sample format\? Convert it again$"
    )
    with pytest.raises(SourceError, match=sentence):
        read(path)


def test_a_one_sample_file_is_a_sound(tmp_path: Path) -> None:
    assert len(read(sounds.write(tmp_path / "a.wav", NOISE[:1], RATE))) == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.wav", None, r"a\.wav: no such file; check the path$"),
        ("folder", "folder", r"folder: is a folder; name an audio file$"),
        ("a.wav", b"", r"a\.wav: empty: it holds no sound$"),
        ("a.wav", b"Not a sound.\n" * 99, r"a\.wav: not an audio file that can be read; known formats: .*FLAC.*WAV"),
        ("a.raw", b"\0" * 999, r"a\.raw: not an audio file that can be read; known formats: "),
        ("a/b.wav", None, r"a/b\.wav: no such file; check the path$"),
        ("a" * 300, None, r"a{300}: can't be read: File name too long$"),
    ],
)
def test_what_is_no_sound_is_one_sentence(tmp_path: Path, name: str, content: Any, sentence: str) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=sentence) as caught:
        FileSource(Config(path=path)).open()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_name_that_no_file_can_have_is_a_sentence() -> None:
    with pytest.raises(SourceError, match=r"^'a\\x00b\.wav': can't be read: embedded null byte; check the path$"):
        FileSource(Config(path=Path("a\0b.wav"))).open()


def test_a_folder_that_may_not_be_searched_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)  # as root every folder may be searched
    with pytest.raises(SourceError, match=r"^private/a\.wav: can't be read: Permission denied$"):
        FileSource(Config(path=Path("private/a.wav"))).open()


def test_a_file_with_a_header_and_nothing_else_is_empty(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "a.wav", NOISE[:0], RATE)
    with pytest.raises(SourceError, match="empty: it holds no sound"):
        FileSource(Config(path=path)).open()


def test_a_channel_that_is_not_there(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "a.wav", NOISE, RATE)
    with pytest.raises(SourceError, match=r"a\.wav: no channel 2; it has 1: choose 1 to 1, or mix$"):
        FileSource(Config(path=path, channel=2)).open()


def truncate(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.wav", r"a\.wav: truncated: the header promises 2\.00 s of sound, the file ends after 1\.00 s; copy it a"),
        ("a.aiff", r"a\.aiff: truncated: the header promises 2\.00 s of sound, the file ends after 1\.00 s"),
        ("a.flac", r"a\.flac: damaged or truncated after \d\.\d\d s \(.+\); copy it again"),
        ("a.mp3", r"a\.mp3: truncated: the header promises 2\.00 s of sound, the file ends after \d\.\d\d s"),
    ],
)
@pytest.mark.usefixtures("_quiet_decoder")
def test_a_truncated_file_is_heard_up_to_there_and_then_an_error(tmp_path: Path, name: str, sentence: str) -> None:
    path = truncate(sounds.write(tmp_path / name, NOISE, RATE, None))
    source = FileSource(Config(path=path))
    source.open()
    heard: list[Samples] = []
    with pytest.raises(SourceError, match=sentence):
        heard.extend(source.blocks())
    assert sum(map(len, heard)) >= RATE // 2
    source.close()


@pytest.fixture
def _quiet_decoder(capfd: pytest.CaptureFixture[str]) -> None:
    """The MP3 decoder writes to the process's stderr; here that goes nowhere."""


def test_a_wav_written_to_a_pipe_is_not_truncated(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "a.wav", NOISE, RATE, "PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"  # what ffmpeg writes when it can't go back
    path.write_bytes(content)
    assert len(read(path)) == len(NOISE)


def test_live_a_truncated_file_ends_where_it_breaks_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = truncate(sounds.write(tmp_path / "a.wav", NOISE, RATE))
    source = FileSource(Config(path=path, realtime=False))
    ring = Ring(10 * RATE, source.open().max_block)
    source.start(ring, Clock(RATE))
    wait_for(lambda: ring.closed, "the end")
    assert ring.closed is Reason.SOURCE_END
    assert re.search(r"a\.wav: truncated", caplog.text)
    assert caplog.records[0].levelno == logging.ERROR
    source.close()


def test_in_real_time_a_block_comes_when_its_last_sample_is_due(tmp_path: Path) -> None:
    source = FileSource(Config(path=sounds.write(tmp_path / "a.wav", NOISE[: RATE // 2], RATE)))
    info = source.open()
    ring, clock = Ring(2 * RATE, info.max_block), Clock(RATE)
    source.start(ring, clock)
    while ring.closed is None:
        written = ring.written
        # Never early: what is there was captured. (How late is the machine's affair.)
        assert clock.monotonic(written) <= time.monotonic() + 1e-3 or written == 0
        time.sleep(0.002)
    assert ring.written == RATE // 2
    assert time.monotonic() >= clock.monotonic(RATE // 2)
    source.close()


@pytest.mark.parametrize(("realtime", "longest"), [(True, RATE // 100), (False, RATE // 10)])
def test_in_real_time_it_comes_in_the_small_blocks_of_a_sound_card(
    tmp_path: Path, *, realtime: bool, longest: int
) -> None:
    path = sounds.write(tmp_path / "a.wav", NOISE[: RATE // 4], RATE)
    source = FileSource(Config(path=path, realtime=realtime))
    ring, lengths = Ring(RATE, source.open().max_block), []
    ring.write = lambda block, write=ring.write: (lengths.append(len(block)), write(block))
    source.start(ring, Clock(RATE))
    wait_for(lambda: ring.closed, "the end")
    assert max(lengths) == longest
    np.testing.assert_array_equal(ring.read(0, RATE // 4), NOISE[: RATE // 4])
    source.close()


def test_config_is_strict() -> None:
    assert Config.model_validate({"type": "file", "path": "a.wav"}).path == Path("a.wav")
    for wrong in ({"realtime": "yes"}, {"channel": 0}, {"channel": "left"}, {"loop": True}, {"type": "stdin"}):
        with pytest.raises(ValidationError):
            Config.model_validate({"path": "a.wav", **wrong})
