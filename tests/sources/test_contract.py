"""What every source keeps, whatever it reads from."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.sources import file, microphone, stdin
from streamer.sources.base import Source
from tests.fakes import FakeSource, wait_for
from tests.sources import sounds

RATE = 8000
SOUND = np.linspace(-0.5, 0.5, 3 * RATE + 1, dtype=np.float32)  # no whole number of blocks


@pytest.fixture(params=["file", "stdin", "fake"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A source that delivers SOUND and then ends."""
    made: Source
    match request.param:
        case "file":
            config = file.Config(path=sounds.write(tmp_path / "a.wav", SOUND, RATE), realtime=False)
            made = file.build(config)
        case "stdin":
            config_ = stdin.Config(sample_rate=RATE, format="f32le")
            made = stdin.StdinSource(config_, request.getfixturevalue("piped")(SOUND.tobytes()))
        case _:
            made = FakeSource(SOUND, RATE)
    yield made
    made.close()


def test_delivers_everything_in_order_then_ends(source: Source) -> None:
    info = source.open()
    assert info.sample_rate == RATE
    assert info.description
    ring = Ring(RATE * 10, info.max_block)
    source.start(ring, Clock(RATE))
    wait_for(lambda: ring.closed, "the end")
    assert ring.closed is Reason.SOURCE_END
    assert ring.written == len(SOUND)
    np.testing.assert_array_equal(ring.read(0, len(SOUND)), SOUND)
    assert source.overflows == 0


def test_dates_the_first_sample_about_now(source: Source) -> None:
    before = time.monotonic()
    info = source.open()
    ring, clock = Ring(RATE * 10, info.max_block), Clock(RATE)
    source.start(ring, clock)
    wait_for(lambda: ring.closed, "the end")
    assert before - info.max_block / RATE <= clock.monotonic(0) <= time.monotonic()


def test_closes_in_any_state(source: Source) -> None:
    source.close()
    source.open()
    source.close()
    source.close()
    info = source.open()
    ring = Ring(2 * info.max_block, info.max_block)
    source.start(ring, Clock(RATE))
    source.close()
    source.close()
    assert ring.closed in {Reason.STOP, Reason.SOURCE_END}  # a live source may have been through already


def test_leaves_no_thread_behind(source: Source) -> None:
    before = set(threading.enumerate())
    info = source.open()
    source.start(Ring(RATE * 10, info.max_block), Clock(RATE))
    source.close()
    assert {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("source")} == set()


def test_closes_and_starts_again_after_a_thread_that_could_not_be_started(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    info = source.open()
    ring = Ring(RATE * 10, info.max_block)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            source.start(ring, Clock(RATE))
    source.close()
    assert ring.closed is Reason.STOP
    ring = Ring(RATE * 10, source.open().max_block)
    source.start(ring, Clock(RATE))
    wait_for(lambda: ring.closed, "the end")
    assert ring.written == len(SOUND)


@pytest.mark.parametrize("name", ["file", "fake"])
def test_a_source_that_can_wait_waits_for_the_reader(name: str, tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "a.wav", SOUND, RATE)
    source: Source = FakeSource(SOUND, RATE)
    if name == "file":
        source = file.build(file.Config(path=path, realtime=False))
    info = source.open()
    assert not info.is_live
    ring = Ring(2 * info.max_block, info.max_block)
    source.start(ring, Clock(RATE))
    heard: list[Samples] = []
    while ring.read_to < len(SOUND):
        wait_for(lambda: ring.written > ring.read_to, "sound")
        block = ring.read(ring.read_to, min(100, ring.written - ring.read_to))
        assert block is not None
        heard.append(block)
    np.testing.assert_array_equal(np.concatenate(heard), SOUND)
    source.close()


@pytest.mark.parametrize("name", ["file", "fake"])
def test_close_ends_the_waiting_for_a_reader_that_never_reads(name: str, tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "a.wav", SOUND, RATE)
    source: Source = FakeSource(SOUND, RATE)
    if name == "file":
        source = file.build(file.Config(path=path, realtime=False))
    info = source.open()
    ring = Ring(2 * info.max_block, info.max_block)
    source.start(ring, Clock(RATE))
    wait_for(lambda: ring.room < info.max_block, "the ring to fill")
    source.close()
    assert ring.closed is Reason.STOP


@pytest.mark.parametrize("build", [file.build, microphone.build, stdin.build])
def test_building_touches_nothing(build: Callable[..., Source]) -> None:
    configs = {
        file.build: file.Config(path=Path("no/such/file.wav")),
        microphone.build: microphone.Config(device="no such microphone"),
        stdin.build: stdin.Config(sample_rate=RATE, format="s16le"),
    }
    build(configs[build]).close()
