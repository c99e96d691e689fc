"""Raw PCM: any bytes in any portions become the right samples."""

import errno
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.errors import SourceError
from streamer.sources.stdin import Config, StdinSource
from tests.fakes import wait_for

RATE = 16000
RAMP = np.arange(-3000, 3000, dtype="<i2")
Piped = Callable[..., int]


def heard(config: Config, fd: int) -> Samples:
    source = StdinSource(config, fd)
    info = source.open()
    assert info.is_live
    ring = Ring(10 * RATE, info.max_block)
    source.start(ring, Clock(RATE))
    wait_for(lambda: ring.closed, "the end of the input")
    source.close()
    assert ring.closed is Reason.SOURCE_END
    samples = ring.read(0, ring.written)
    assert samples is not None
    return samples


def test_s16(piped: Piped) -> None:
    found = heard(Config(sample_rate=RATE, format="s16le"), piped(RAMP.tobytes()))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, RAMP / np.float32(32768))


def test_f32_with_broken_samples(piped: Piped, caplog: pytest.LogCaptureFixture) -> None:
    samples = np.array([0.5, np.nan, -0.25, np.inf, 1.5, -1001, 1000], "<f4")
    found = heard(Config(sample_rate=RATE, format="f32le"), piped(samples.tobytes()))
    np.testing.assert_array_equal(found, np.array([0.5, 0, -0.25, 0, 1.5, 0, 1000], np.float32))
    assert caplog.messages == ["standard input: 3 broken samples (NaN, infinite or huge) count as silence"]


@pytest.mark.parametrize("channels", [1, 2])
def test_16_bit_sound_taken_for_float_is_named(piped: Piped, caplog: pytest.LogCaptureFixture, channels: int) -> None:
    noise = np.random.default_rng(1).normal(0, 300, 6 * channels * RATE).astype("<i2")  # 3 s, were it float
    found = heard(Config(sample_rate=RATE, format="f32le", channels=channels), piped(noise.tobytes()))
    assert np.abs(found).max() <= 1000
    first, named, counted = caplog.messages
    assert re.search(r"^standard input: \d+ broken samples", first)
    assert re.search(r"^standard input: \d+ of the first 1\d{4} samples are no sound; is this really f32le\?$", named)
    assert re.search(r"^standard input: \d+ broken samples", counted)


@pytest.mark.parametrize(("channel", "expected"), [("mix", 0.375), (1, 0.5), (2, 0.25)])
def test_channels_count_from_one(piped: Piped, channel: int, expected: float) -> None:
    stereo = np.tile(np.array([0.5, 0.25], "<f4"), 50)
    config = Config(sample_rate=RATE, format="f32le", channels=2, channel=channel)
    np.testing.assert_array_equal(heard(config, piped(stereo.tobytes())), np.full(50, expected, np.float32))


def has_written(ring: Ring, n: int) -> bool:
    return ring.written == n


@given(cuts=st.lists(st.integers(0, 2400), max_size=8), channels=st.sampled_from([1, 2, 3]))
def test_samples_split_over_reads_are_put_together(cuts: list[int], channels: int) -> None:
    data = RAMP[:1200].tobytes()
    edges = sorted({0, *cuts, len(data)})
    reading, writing = os.pipe()
    source = StdinSource(Config(sample_rate=RATE, format="s16le", channels=channels, channel=1), reading)
    ring = Ring(RATE, source.open().max_block)
    source.start(ring, Clock(RATE))
    for start, end in pairwise(edges):
        os.write(writing, data[start:end])
        # Once all whole frames so far are there, the rest of this portion waits for the next.
        wait_for(partial(has_written, ring, end // (2 * channels)), "all whole frames")
    os.close(writing)
    wait_for(lambda: ring.closed, "the end of the input")
    source.close()
    os.close(reading)
    expected = RAMP[:1200].reshape(-1, channels)[:, 0] / np.float32(32768)
    np.testing.assert_array_equal(ring.read(0, 1200 // channels), expected)


def test_half_a_sample_at_the_end_is_dropped_and_logged(piped: Piped, caplog: pytest.LogCaptureFixture) -> None:
    found = heard(Config(sample_rate=RATE, format="f32le"), piped(np.ones(3, "<f4").tobytes() + b"\0\0\0"))
    np.testing.assert_array_equal(found, np.ones(3, np.float32))
    assert caplog.messages == ["standard input: ended in the middle of a sample; 3 bytes dropped"]


def test_an_empty_input_just_ends(piped: Piped) -> None:
    assert len(heard(Config(sample_rate=RATE, format="s16le"), piped())) == 0


def test_close_while_nothing_comes() -> None:
    reading, writing = os.pipe()
    source = StdinSource(Config(sample_rate=RATE, format="s16le"), reading)
    ring = Ring(RATE, source.open().max_block)
    source.start(ring, Clock(RATE))
    source.close()
    assert ring.closed is Reason.STOP
    # Nothing reads the pipe any more: what comes now is still there for the next opening.
    os.write(writing, RAMP.tobytes())
    assert len(os.read(reading, 1_000_000)) == 2 * len(RAMP)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("is_reload", [False, True])
def test_a_sample_split_over_two_openings_is_put_together(is_reload: bool) -> None:
    data = RAMP[:2000].tobytes()
    reading, writing = os.pipe()
    config = Config(sample_rate=RATE, format="s16le")
    source = StdinSource(config, reading)
    heard = []
    for part in (data[:2001], data[2001:]):
        ring = Ring(RATE, source.open().max_block)
        source.start(ring, Clock(RATE))
        os.write(writing, part)
        wait_for(partial(has_written, ring, 1000), "all whole samples")
        source.close()
        heard.append(ring.read(0, ring.written))
        source = StdinSource(config, reading) if is_reload else source
    os.close(writing)
    os.close(reading)
    np.testing.assert_array_equal(np.concatenate(heard), RAMP[:2000] / np.float32(32768))


def test_a_closed_input_is_a_sentence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(SourceError, match=r"^standard input is closed; pipe raw sound into it: arecord -t raw"):
        StdinSource(Config(sample_rate=RATE, format="s16le"), reading).open()


def test_a_folder_is_a_sentence(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(SourceError, match=r"^standard input is a folder; pipe raw sound into it: arecord -t raw"):
        StdinSource(Config(sample_rate=RATE, format="s16le"), folder).open()
    os.close(folder)


def test_an_input_that_fails_is_lost(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(fd: int, n: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    reading, writing = os.pipe()
    os.write(writing, b"sound")
    source = StdinSource(Config(sample_rate=RATE, format="s16le"), reading)
    ring = Ring(RATE, source.open().max_block)
    monkeypatch.setattr(os, "read", fail)
    source.start(ring, Clock(RATE))
    wait_for(lambda: ring.closed, "the loss")
    assert ring.closed is Reason.SOURCE_LOST
    assert caplog.messages == ["standard input: can't be read any more: Input/output error"]
    monkeypatch.undo()
    source.close()
    os.close(reading)
    os.close(writing)


def test_a_terminal_is_a_sentence() -> None:
    keyboard, screen = os.openpty()
    try:
        with pytest.raises(SourceError, match=r"^standard input is a terminal; pipe raw sound into it: arecord -t raw"):
            StdinSource(Config(sample_rate=RATE, format="s16le"), screen).open()
    finally:
        os.close(keyboard)
        os.close(screen)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"channel": 3, "channels": 2}, "no channel 3 among 2: choose 1 to 2, or mix"),
        ({"channel": 0}, "greater than or equal to 1"),
        ({"format": "s24le"}, "'s16le' or 'f32le'"),
        ({"sample_rate": 0}, "greater than or equal to 1000"),
        ({"sample_rate": 16000.5}, "valid integer"),
        ({"zeros_s": 0}, "greater than 0"),
        ({"zeros_s": float("inf")}, "finite number"),
        ({"loop": True}, "Extra inputs are not permitted"),
    ],
)
def test_config_is_strict(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Config.model_validate({"type": "stdin", "sample_rate": 16000, "format": "s16le", **wrong})


def test_a_fast_writer_is_held_back_and_nothing_is_lost() -> None:
    wanted = np.random.default_rng(0).integers(-30000, 30000, 16000 * 4, np.int16)
    read_end, write_end = os.pipe()
    source = StdinSource(Config(type="stdin", sample_rate=16000, format="s16le"), read_end)
    info = source.open()
    ring = Ring(4 * info.max_block, info.max_block)
    source.start(ring, Clock(16000))

    def write() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(wanted.tobytes())

    writer = threading.Thread(target=write)
    writer.start()
    heard = []
    while ring.closed is None or ring.read_to < ring.written:
        if n := ring.written - ring.read_to:
            block = ring.read(ring.read_to, n)
            assert block is not None
            heard.append(block)
    writer.join()
    source.close()
    os.close(read_end)
    assert np.array_equal(np.concatenate(heard) * 32768, wanted)
