"""Stand-ins for the edges: each keeps the contract of its Protocol and does as little as possible."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from models.spec import ModelSpec
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
        self._info = SourceInfo("fake", sample_rate, max_block, is_live=False, can_wait=True)
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
        thread = threading.Thread(target=self._deliver, args=(ring,), name="source-fake", daemon=True)
        thread.start()
        self._thread = thread

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


def spec_of(*labels: str, window_frames: int = 1024) -> ModelSpec:
    """A model that knows `labels`, and hears `window_frames` frames at once."""
    ids = tuple(f"/m/{label.lower()}" for label in labels)
    return ModelSpec("fake", "sha256:0", labels, ids, window_frames=window_frames)


class FakeBackend:
    """Gives each window the logits that a plain function hears in it.

    Args:
        spec: the model it pretends to be.
        hear: logits (C,) of one normalised window (T, M).
    """

    def __init__(self, spec: ModelSpec, hear: Callable[[Samples], Sequence[float]]) -> None:
        self.spec = spec
        self.batches: list[int] = []  # windows in each call
        self._hear = hear

    def warmup(self) -> None:
        """See `Backend.warmup`."""

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Backend.infer`."""
        self.batches.append(len(batch))
        return np.array([self._hear(window) for window in batch], np.float32)

    def close(self) -> None:
        """See `Backend.close`."""


def loudness(window: Samples) -> float:
    """Level of the loudest frame in a normalised window (T, M): -1.28 in digital silence, over 0 in plain noise."""
    return float(window.mean(axis=1).max())
