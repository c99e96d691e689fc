"""Stand-ins for the edges: each keeps the contract of its Protocol and does as little as possible."""

import threading
import time
from collections.abc import Callable

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.sources.base import SourceInfo

PATIENCE_S = 20.0  # only a failing test waits this long


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Return once `condition()` holds; fail, saying `what` was awaited, when it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_S:g} s in vain for {what}")
        time.sleep(0.002)


class FakeSource:
    """Delivers an array as fast as the ring takes it; sample 0 was captured when it started.

    Args:
        samples: (n,) float32, what is heard each time the source is opened.
        sample_rate: Hz.
        end: why the sound ends; None: it goes silent without ending, as a stalled device does.
    """

    def __init__(
        self, samples: Samples, sample_rate: int = 16000, max_block: int = 1600, end: Reason | None = Reason.SOURCE_END
    ) -> None:
        self.overflows = 0
        self.n_opened = 0
        self._samples = samples
        self._info = SourceInfo("fake", sample_rate, max_block, is_live=False)
        self._end = end
        self._ring: Ring | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def open(self) -> SourceInfo:
        """See `Source.open`."""
        self.close()
        self._ring = None
        self._stopping.clear()
        self.n_opened += 1
        return self._info

    def start(self, ring: Ring, clock: Clock) -> None:
        """See `Source.start`."""
        self._ring = ring
        clock.anchor(0, time.monotonic())
        self._thread = threading.Thread(target=self._deliver, args=(ring,), name="source-fake", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """See `Source.close`."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._ring is not None:
            self._ring.close(Reason.STOP)

    def _deliver(self, ring: Ring) -> None:
        n = self._info.max_block
        for start in range(0, len(self._samples), n):
            block = self._samples[start : start + n]
            while ring.room < len(block) and not self._stopping.wait(0.001):
                pass
            if self._stopping.is_set():
                return
            ring.write(block)
        if self._end is not None:
            ring.close(self._end)
