"""What a source of sound is: it fills a ring and says when each sample was captured.

A source is opened, delivers, and is closed; it may be opened again (a new ring each time, perhaps at another rate).
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Samples

log = logging.getLogger(__name__)
Channel = Annotated[int, Field(ge=1)] | Literal["mix"]
"""Which channel to listen to, counted from 1 as sockets are labelled, or `mix`: the mean of all."""

MAX_AMPLITUDE = 1e3  # 60 dB above full scale: no sound, and the squares of much larger ones overflow in the model
TELL_S = 60.0  # from one line about broken samples to the next
MAX_BROKEN = 0.25  # of all samples; of 16-bit sound taken for float half are broken, namely the negative ones


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What an opened source delivers: mono at `sample_rate` Hz, in blocks of at most `max_block` samples.

    A source that `is_live` should deliver all the time: one that stops has stalled. Those that can wait hold back
    while the ring has no room; of the others a slow reader loses sound.
    """

    description: str
    sample_rate: int
    max_block: int
    is_live: bool
    can_wait: bool


class Source(Protocol):
    """A source of sound. Every method but `open` returns at once."""

    def open(self) -> SourceInfo:
        """Claim the device or file. May block for seconds: never call it on the event loop.

        Raises:
            SourceError: it can't be opened now; the sentence says why and what to do.
        """

    def start(self, ring: Ring, clock: Clock) -> None:
        """Deliver into `ring` from a thread of the source's own, until the sound ends or `close`.

        At the natural end (a file's last sample) the thread calls `ring.close(Reason.SOURCE_END)`; when the device is
        lost, `ring.close(Reason.SOURCE_LOST)`. Capture time goes to `clock.anchor`.
        """

    def close(self) -> None:
        """Stop delivering and let go; safe to call twice, and in any state.

        Closes the ring with `Reason.STOP` if it is open.
        """

    @property
    def overflows(self) -> int:
        """How often the driver said it lost samples, since the source was made."""


def mono(block: Samples, channel: Channel) -> Samples:
    """One channel, or the mean of all, of (n, channels) float32; `channel` must be there."""
    if channel != "mix":
        return block[:, channel - 1]
    with np.errstate(over="ignore", invalid="ignore"):  # broken samples stay broken
        return block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]


def without_broken(block: Samples) -> tuple[Samples, int]:
    """(n,) samples with zeros in place of the broken ones, which would spread in filters, and how many those were.

    Broken are NaN, infinity and what exceeds `MAX_AMPLITUDE`.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN
        broken = ~(np.abs(block) <= MAX_AMPLITUDE)
    n_broken = int(np.count_nonzero(broken))
    return (np.where(broken, np.float32(0), block) if n_broken else block), n_broken


class Mender:
    """Puts zeros in place of a live source's broken samples, and says so now and then. Thread: the source's."""

    def __init__(self, name: str) -> None:
        self.n_broken = 0
        self._name = name
        self._n_told = 0
        self._told = -math.inf  # when, the last time

    def mend(self, block: Samples) -> Samples:
        """See `without_broken`."""
        block, n_broken = without_broken(block)
        self.n_broken += n_broken
        if n_broken and time.monotonic() - self._told >= TELL_S:
            self.tell()
        return block

    def tell(self) -> None:
        """Log how many there were since the last time, if any."""
        if n_new := self.n_broken - self._n_told:
            log.warning("%s: %d broken samples (NaN, infinite or huge) count as silence", self._name, n_new)
            self._n_told, self._told = self.n_broken, time.monotonic()
