"""What turns scores into events: pure, fed one stream's scores in order."""

from collections.abc import Sequence
from typing import Protocol

from streamer.core import Event, Reason, Scores


class Rule(Protocol):
    """One rule watching one stream."""

    def update(self, scores: Scores) -> Sequence[Event]:
        """Take one window's scores; return what started or ended by it."""

    def flush(self, at: int, reason: Reason) -> Sequence[Event]:
        """End whatever is open: sound stops at position `at`."""
