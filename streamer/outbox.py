"""What waits for one sink: messages in, in the order they should leave; in memory.

In: `put`, by whoever has something to say. Out: `get` and `ack`, by one sink. Event loop only.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from streamer.core import Message


def is_event(message: Message) -> bool:
    """Whether `message` must arrive, and in order; else only the newest of its topic matters (a state or a reading)."""
    return message.qos > 0 and not message.retain


class Outbox:
    """Messages for one sink: states leave first, then events, then readings.

    Events are kept until acknowledged; over `max_events` the oldest that isn't being delivered is dropped and counted
    in `dropped`. Of a state or reading only the newest value of each topic is kept, so those need no other bound.
    """

    def __init__(self, max_events: int = 10_000) -> None:
        self.dropped = 0
        self._max_events = max_events
        self._events: deque[Message] = deque()          # waiting, oldest first
        self._replays = 0                               # so many of them, the first, were there at the last resync
        self._given: deque[Message] = deque()           # got and not acknowledged: older than any that waits
        self._states: dict[str, Message] = {}           # newest value of every state topic there ever was
        self._due: dict[str, Message] = {}              # those of them to deliver
        self._readings: dict[str, Message] = {}
        self._is_closed = False
        self._changed = asyncio.Event()

    @property
    def pending(self) -> int:
        """Events not acknowledged yet."""
        return len(self._given) + len(self._events)

    def put(self, message: Message) -> None:
        """Take a message to deliver; returns at once."""
        if message.retain:
            self._states[message.topic] = self._due[message.topic] = message
        elif is_event(message):
            self._events.append(message)
            if self.pending > self._max_events:
                self._take()
                self.dropped += 1
        else:
            self._readings[message.topic] = message
        self._changed.set()

    async def get(self) -> Message | None:
        """Wait for the next message to deliver; None once the outbox is closed and has none left to give."""
        while (message := self._next()) is None and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        return message

    def ack(self, message: Message) -> None:
        """Forget an event that was got since the last `resync` and delivered; other messages need none."""
        for i, given in enumerate(self._given):
            if given is message:
                del self._given[i]
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
        self._due = dict(self._states)
        self._readings.clear()
        self._changed.set()

    def close(self) -> None:
        """Say that no more will be put: `get` gives what is left, then None."""
        self._is_closed = True
        self._changed.set()

    def _next(self) -> Message | None:
        if self._due:
            return self._due.pop(next(iter(self._due)))
        if self._events:
            self._given.append(self._take())
            return self._given[-1]
        if self._readings:
            return self._readings.pop(next(iter(self._readings)))
        return None

    def _take(self) -> Message:
        event = self._events.popleft()
        if not self._replays:
            return event
        self._replays -= 1
        return _replayed(event)


def _replayed(event: Message) -> Message:
    if isinstance(event.payload, Mapping) and "replayed" in event.payload:
        return replace(event, payload={**event.payload, "replayed": True})
    return event
