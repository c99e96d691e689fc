"""The ring: what comes out is what went in, or an error; never a mixture."""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.errors import RingOverrun


def ramp(start: int, n: int) -> Samples:
    """Samples whose value is their position; float32 holds integers exactly up to 2**24."""
    return (np.arange(start, start + n) % 2**24).astype(np.float32)


def fill(ring: Ring, n: int) -> None:
    """Write `n` more samples of the ramp, in longest blocks."""
    end = ring.written + n
    while ring.written < end:
        ring.write(ramp(ring.written, min(ring.max_block, end - ring.written)))


class Interrupted(np.ndarray[Any, np.dtype[np.float32]]):
    """Memory that lets a test act in the middle of the reader's or the writer's copy."""

    on_read: Callable[[], None] | None = None
    on_write: Callable[[], None] | None = None

    def __getitem__(self, key: Any) -> Any:
        values = np.asarray(super().__getitem__(key)).copy()
        if (act := self.on_read) is not None:
            self.on_read = None
            act()
            values = np.concatenate([values[:1], np.asarray(super().__getitem__(key))[1:]])  # a copy crossed by a write
        return values

    def __setitem__(self, key: Any, values: Any) -> None:
        super().__setitem__(key, values)
        if (act := self.on_write) is not None:
            self.on_write = None
            act()


def interrupt(ring: Ring) -> Interrupted:
    ring._samples = memory = ring._samples.view(Interrupted)
    return memory


def test_reads_what_was_written() -> None:
    ring = Ring(capacity=100, max_block=10)
    fill(ring, 95)
    np.testing.assert_array_equal(ring.read(20, 30), ramp(20, 30))
    assert ring.read_to == 50


def test_a_reader_ahead_of_the_writer_gets_none() -> None:
    ring = Ring(100, 10)
    fill(ring, 20)
    assert ring.read(11, 10) is None
    assert ring.read_to == 0


def test_overwritten_samples_raise_and_say_what_is_left() -> None:
    ring = Ring(100, 10)
    fill(ring, 150)
    with pytest.raises(RingOverrun, match="samples before position 60 were overwritten") as caught:
        ring.read(59, 5)
    assert caught.value.oldest == 60
    np.testing.assert_array_equal(ring.read(60, 90), ramp(60, 90))


@pytest.mark.parametrize("n_crossing", [1, 10, 80, 250])
def test_a_copy_that_the_writer_crossed_is_never_handed_out(n_crossing: int) -> None:
    ring = Ring(100, 10)
    fill(ring, 150)
    interrupt(ring).on_read = lambda: fill(ring, n_crossing)
    with pytest.raises(RingOverrun):
        ring.read(60, 40)


def test_a_copy_beside_which_the_writer_wrote_is_good() -> None:
    ring = Ring(100, 10)
    fill(ring, 150)
    interrupt(ring).on_read = lambda: fill(ring, 20)
    np.testing.assert_array_equal(ring.read(80, 40), ramp(80, 40))


def test_what_the_writer_is_in_the_middle_of_overwriting_is_gone_already() -> None:
    ring = Ring(100, 10)
    fill(ring, 150)
    caught: list[object] = []

    def read_while_half_written() -> None:
        assert ring.written == 150, "the block must not count before it is there"
        caught.append(ring.read(60, 90))
        with pytest.raises(RingOverrun):
            ring.read(59, 5)
        caught.append("overrun")

    interrupt(ring).on_write = read_while_half_written
    fill(ring, 10)
    np.testing.assert_array_equal(caught[0], ramp(60, 90))
    assert caught[1] == "overrun"


@pytest.mark.usefixtures("_eager_threads")
def test_a_writer_and_a_reader_at_full_speed_never_share_a_torn_copy() -> None:
    ring = Ring(capacity=16384, max_block=4096)
    writer = threading.Thread(target=fill, args=(ring, 4096 * 1500))
    writer.start()
    n_good = 0
    while writer.is_alive():
        start = ring.oldest
        try:
            block = ring.read(start, 8192)
        except RingOverrun:
            continue
        if block is not None:
            np.testing.assert_array_equal(block, ramp(start, 8192))
            n_good += 1
    writer.join()
    assert n_good > 0
    np.testing.assert_array_equal(ring.read(ring.oldest, 12288), ramp(ring.oldest, 12288))


@pytest.fixture
def _eager_threads() -> Iterator[None]:
    """Threads change places as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@given(
    blocks=st.lists(st.integers(0, 16), max_size=40),
    start=st.integers(-20, 700),
    n=st.integers(0, 48),
)
def test_any_history_any_read(blocks: list[int], start: int, n: int) -> None:
    ring = Ring(capacity=64, max_block=16)
    for length in blocks:
        ring.write(ramp(ring.written, length))
    end = sum(blocks)
    assert ring.written == end
    assert ring.oldest == max(0, end - 48)
    if start + n > end:
        assert ring.read(start, n) is None
    elif start < ring.oldest:
        with pytest.raises(RingOverrun):
            ring.read(start, n)
    else:
        np.testing.assert_array_equal(ring.read(start, n), ramp(start, n))


@given(st.lists(st.tuples(st.integers(0, 16), st.integers(0, 48)), max_size=40))
def test_who_writes_only_into_room_loses_nothing(steps: list[tuple[int, int]]) -> None:
    ring = Ring(64, 16)
    for n_write, n_read in steps:
        fill(ring, min(n_write, ring.room))
        assert ring.room >= 0
        block = ring.read(ring.read_to, min(n_read, ring.written - ring.read_to))
        assert block is not None
    assert ring.oldest <= ring.read_to


def test_the_first_reason_to_close_stands_and_the_rest_can_be_read() -> None:
    ring = Ring(100, 10)
    fill(ring, 20)
    ring.close(Reason.SOURCE_LOST)
    ring.close(Reason.STOP)
    assert ring.closed is Reason.SOURCE_LOST
    np.testing.assert_array_equal(ring.read(0, 20), ramp(0, 20))


def test_the_reader_is_woken_when_there_is_what_it_wants() -> None:
    ring, wakes = Ring(100, 10), list[int]()
    ring.wake, ring.wanted = lambda: wakes.append(ring.written), 15
    for _ in range(3):
        ring.write(np.zeros(6, np.float32))
    assert wakes == [18]
    ring.wanted = 1000
    ring.close(Reason.STOP)
    assert wakes == [18, 18]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity 19 must be at least twice max_block 10"):
        Ring(19, 10)
    with pytest.raises(ValueError, match="block of 11 samples is longer than max_block 10"):
        Ring(100, 10).write(ramp(0, 11))
    with pytest.raises(ValueError, match="91 samples asked for; at most 90 are kept"):
        Ring(100, 10).read(0, 91)
