"""What turns scores into events: pure, fed one stream's scores in order."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from ulid import ULID

from streamer.core import Event, Reason, Scores, StreamInfo


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule stands: its name, its stream, the capture time of a position, and ids for its events."""

    name: str
    info: StreamInfo
    utc: Callable[[int], datetime]
    new_id: Callable[[], str] = lambda: str(ULID())

    def samples(self, seconds: float) -> int:
        """A length of sound in samples."""
        return round(seconds * self.info.sample_rate)

    def shown(self, samples: int) -> str:
        """A position, or a length of sound, for people: `4.00 s`."""
        return f"{samples / self.info.sample_rate:.2f} s"


class Rule(Protocol):
    """One rule watching one stream.

    `watches` names the rules whose events it is told, and none else; they are asked first. `labels` are those it may
    report by itself: none if it watches others, or hears anything. `why` says, after each update, in a few words for
    people why an event started, goes on, ended, or did not start.
    """

    watches: tuple[str, ...]
    labels: tuple[str, ...]
    why: str

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> Sequence[Event]:
        """Take one window's scores, and what the rules it watches made of them; return what started or ended by it."""

    def flush(
        self, at: int, reason: Reason, heard: Sequence[Event] = (), stopped: Collection[str] = ()
    ) -> Sequence[Event]:
        """End whatever is open at position `at`, where sound stops, or the rule, or one that it watches, is stopped.

        `heard` is what the rules it watches ended by it, `stopped` names the rules that are stopped, none where it is
        the sound. While a rule is asleep it is flushed instead of updated: it hears of what it watches all the same.
        """


@runtime_checkable
class Remembering(Protocol):
    """A rule that knows of the time before a break: `known` is the newest news of the rule it watches.

    One of the same options may be given that when a configuration takes over; its positions mean nothing any more.
    """

    known: Event | None


@runtime_checkable
class Tunable(Protocol):
    """The options of a rule whose threshold can be set while it runs."""

    onset_threshold: float

    def with_onset(self, threshold: float) -> Any:
        """The same options with another onset threshold; raises ValueError for one that can't be."""
