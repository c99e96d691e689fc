"""Sound ring: one capture thread writes, any one thread reads.

In: blocks of float32 at the source rate. Out: samples by absolute position. Oldest samples are overwritten; the writer
never waits. A copy that the writer may have crossed is thrown away, so torn audio is never handed out.
"""

from collections.abc import Callable

import numpy as np

from streamer.core import Reason, Samples
from streamer.errors import RingOverrun


class Ring:
    """Single writer, single reader, absolute positions.

    Args:
        capacity: samples kept.
        max_block: longest block `write` accepts, samples; that much of the oldest sound counts as gone, because the
            writer may be in the middle of overwriting it.
    """

    def __init__(self, capacity: int, max_block: int) -> None:
        if capacity < 2 * max_block:
            raise ValueError(f"capacity {capacity} must be at least twice max_block {max_block}")
        self.capacity = capacity
        self.max_block = max_block
        self.written = 0  # samples, published after the samples themselves are in place
        self.read_to = 0  # samples the reader is done with; sources that can wait look at it
        self.wanted = 0  # `written` from which on the reader is woken
        self.wake: Callable[[], None] | None = None  # called by who writes or closes; must return at once
        self.closed: Reason | None = None
        self._samples = np.zeros(capacity, np.float32)

    @property
    def oldest(self) -> int:
        """First position that can still be read safely."""
        return max(0, self.written + self.max_block - self.capacity)

    @property
    def room(self) -> int:
        """Samples that can be written before the reader would lose any."""
        return self.capacity - self.max_block - (self.written - self.read_to)

    def write(self, block: Samples) -> None:
        """Append `block`, at most `max_block` samples. Thread: the source's only."""
        n = len(block)
        if n > self.max_block:
            raise ValueError(f"block of {n} samples is longer than max_block {self.max_block}")
        at = self.written % self.capacity
        head = min(n, self.capacity - at)
        self._samples[at : at + head] = block[:head]
        self._samples[: n - head] = block[head:]
        self.written += n
        if self.wake and self.written >= self.wanted:
            self.wake()

    def close(self, reason: Reason) -> None:
        """No more samples will come; the first reason stands. Readers may still read what is there."""
        if self.closed is None:
            self.closed = reason
        if self.wake:
            self.wake()

    def read(self, start: int, n: int) -> Samples | None:
        """Copy `n` samples from absolute position `start`. Thread: the reader's.

        Args:
            start: position at the source rate, counted from the ring's making.
            n: samples; at most `capacity - max_block`.

        Returns:
            (n,) float32, or None while the writer has not got there.

        Raises:
            RingOverrun: the samples were overwritten before or while they were copied.
        """
        if n > self.capacity - self.max_block:
            raise ValueError(f"{n} samples asked for; at most {self.capacity - self.max_block} are kept")
        if start + n > self.written:
            return None
        if start < self.oldest:
            raise RingOverrun(self.oldest)
        at = start % self.capacity
        head = min(n, self.capacity - at)
        out = np.empty(n, np.float32)
        out[:head] = self._samples[at : at + head]
        out[head:] = self._samples[: n - head]
        if start < self.oldest:  # the writer came by while we copied
            raise RingOverrun(self.oldest)
        self.read_to = start + n
        return out
