"""Capture time: sample position at the source rate ↔ monotonic seconds ↔ UTC.

The source anchors positions to the monotonic clock as blocks arrive; between anchors time runs at the nominal rate.
Small jitter is ignored; a step (samples were lost, the sound card drifted) starts a new anchor from there on, and
leaves the time of earlier samples as it was, so that what was said of them stays true.
"""

import time
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime

TOLERANCE_S = 0.05  # blocks arrive up to a few 10 ms late on a busy machine; real gaps are a block or more
MAX_ANCHORS = 256  # one sound card drifts by TOLERANCE_S in about 15 minutes; events are far shorter than 256 of those


class Clock:
    """Position ↔ time for one opening of one source.

    Args:
        sample_rate: of the positions, Hz.
        monotonic: seconds; a fake in tests and replays.
        utc: seconds since 1970 as `time.time`.
    """

    def __init__(
        self, sample_rate: int, monotonic: Callable[[], float] = time.monotonic, utc: Callable[[], float] = time.time
    ) -> None:
        self.sample_rate = sample_rate
        self._monotonic = monotonic
        self._utc = utc
        self._anchors: tuple[tuple[int, float], ...] = ()  # replaced whole, so that readers need no lock

    def anchor(self, position: int, captured: float) -> None:
        """Sample `position` was captured at monotonic time `captured`. Thread: the source's."""
        if not self._anchors or abs(captured - self.monotonic(position)) > TOLERANCE_S:
            self._anchors = (*self._anchors[1 - MAX_ANCHORS :], (position, captured))

    def monotonic(self, position: int) -> float:
        """Monotonic seconds at which sample `position` was (or will be) captured."""
        anchors = self._anchors
        if not anchors:
            return self._monotonic()
        at, captured = anchors[max(0, bisect_right(anchors, position, key=lambda anchor: anchor[0]) - 1)]
        return captured + (position - at) / self.sample_rate

    def utc(self, position: int) -> datetime:
        """Capture time of sample `position`, right also after the system's clock was set."""
        return datetime.fromtimestamp(self._utc() + self.monotonic(position) - self._monotonic(), UTC)
