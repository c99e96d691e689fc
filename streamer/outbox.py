"""What waits for one sink: messages in, in the order they should leave.

In: `put`, by whoever has something to say. Out: `get` and `ack`, by one sink. Event loop only. With a journal each
event is on disk before it is given out, and leaves the disk when it was acknowledged.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from streamer.core import Message
from streamer.journal import Journal
from streamer.journal_file import Entry
from streamer.payload import to_json

log = logging.getLogger(__name__)

MAX_EVENTS = 10_000
MAX_BYTES = 16_000_000
LATE_S = 5.0    # an event that waited longer than that is a replay: a receiver that works takes it in less


def is_event(message: Message) -> bool:
    """Whether `message` must arrive, and in order; else only the newest of its topic matters (a state or a reading)."""
    return message.qos > 0 and not message.retain


class Outbox:
    """Messages for the sink of that name: states leave first, then events, then readings.

    Events are kept until acknowledged; over `max_events` or `max_bytes` (of JSON) the oldest that isn't being delivered
    is dropped and counted in `dropped`. Of a state or reading only the newest value of each topic is kept, so those
    need no other bound.
    """

    def __init__(
        self,
        max_events: int = MAX_EVENTS,
        *,
        max_bytes: int = MAX_BYTES,
        sink: str = "",
        journal: Journal | None = None,
    ) -> None:
        self.dropped = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._sink = sink
        self._journal = journal
        self._bytes = 0                                 # of all events below
        self._is_overflowing = False                    # and that was said
        self._events: deque[Entry] = deque()            # waiting, oldest first
        self._replays = 0                               # so many of them, the first, were there at the last resync
        self._given: deque[Entry] = deque()             # got and not acknowledged: older than any that waits
        self._states: dict[str, Message] = {}           # newest value of every state topic there ever was
        self._due: dict[str, Message] = {}              # those of them to deliver
        self._readings: dict[str, Message] = {}
        self._is_closed = False
        self._changed = asyncio.Event()

    @property
    def pending(self) -> int:
        """Events not acknowledged yet."""
        return len(self._given) + len(self._events)

    @property
    def has_event(self) -> bool:
        """Whether an event waits for nothing but to be got."""
        return bool(self._events) and self._events[0].may_leave

    @property
    def left(self) -> list[Entry]:
        """Events not acknowledged yet, oldest first."""
        return [*self._given, *self._events]

    def put(self, message: Message) -> None:
        """Take a message to deliver; returns at once."""
        if message.retain:
            self._states[message.topic] = self._due[message.topic] = message
        elif is_event(message):
            self._put_event(Entry(self._sink, message, _text(message), may_leave=True))
        else:
            self._readings[message.topic] = message
        self.wake()

    def _put_event(self, entry: Entry) -> None:
        self._events.append(entry)
        self._bytes += entry.size
        if self._journal:
            self._journal.put(entry)
        self._drop()

    def adopt(self, entries: Sequence[Entry]) -> None:
        """Take events that an earlier life of this sink left, oldest first: they come before all others."""
        self._events.extendleft(reversed(entries))
        self._bytes += sum(entry.size for entry in entries)
        self._replays += len(entries)
        self._drop()
        self.wake()

    def wake(self) -> None:
        """Let `get` look again: there is something new, or what waited for the disk may leave."""
        self._changed.set()

    async def get(self) -> Message | None:
        """Wait for the next message to deliver; None once the outbox is closed and has none left to give."""
        while (message := self._next()) is None and (self._events or not self._is_closed):
            self._changed.clear()
            await self._changed.wait()
        return message

    def ack(self, message: Message) -> None:
        """Forget an event that was got since the last `resync` and delivered; other messages need none."""
        for i, given in enumerate(self._given):
            if given.message is message:
                del self._given[i]
                self._forget(given)
                self._is_overflowing &= self.pending > 0
                return

    def knows(self, topic: str) -> bool:
        """Whether a state with this topic was ever put."""
        return topic in self._states

    def resync(self) -> None:
        """Start over on a new connection: what the old one may have lost is to be got again.

        Every event not acknowledged, got or not, comes again in order, with its payload's `replayed` (if it has one)
        true. Every state topic's newest value comes again. Readings are dropped.
        """
        self._events.extendleft(reversed(self._given))
        self._given.clear()
        self._replays = len(self._events)   # marked as they leave: ten thousand at once would hold up the loop
        self._readings.clear()
        self.restate()

    def restate(self) -> None:
        """Give every state topic's newest value again: somebody who wasn't there wants to know."""
        self._due = dict(self._states)
        self.wake()

    def close(self) -> None:
        """Say that no more will be put: `get` gives what is left, then None."""
        self._is_closed = True
        self.wake()

    def _next(self) -> Message | None:
        if self._due:
            return self._due.pop(next(iter(self._due)))
        if self._events and self._events[0].may_leave:
            self._given.append(self._take())
            return self._given[-1].message
        if self._readings:
            return self._readings.pop(next(iter(self._readings)))
        return None

    def _take(self) -> Entry:
        entry = self._events.popleft()
        is_replay = self._replays > 0 or time.monotonic() - entry.since > LATE_S
        self._replays = max(0, self._replays - 1)
        if is_replay:
            entry.message = replayed(entry.message)
        return entry

    def _drop(self) -> None:
        while self._events and (self.pending > self._max_events or self._bytes > self._max_bytes):
            self._forget(self._take())
            self.dropped += 1
            if not self._is_overflowing:
                what = "sink %s: over %d events or %.1f MB wait for it; from now on the oldest are dropped"
                log.warning(what, self._sink, self._max_events, self._max_bytes / 1e6)
                self._is_overflowing = True

    def _forget(self, entry: Entry) -> None:
        self._bytes -= entry.size
        if self._journal:
            self._journal.forget(entry)


def _text(message: Message) -> str | None:
    try:
        return to_json(message.payload).decode()
    except ValueError:      # its sink will say so
        return None


def replayed(event: Message) -> Message:
    """The event as it is told to a receiver for whom it had to wait."""
    if isinstance(event.payload, Mapping) and "replayed" in event.payload:
        return replace(event, payload={**event.payload, "replayed": True})
    return event
