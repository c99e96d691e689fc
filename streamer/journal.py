"""Events on disk until they are delivered, so that they outlive the process.

In: what outboxes take in and what their sinks acknowledged. Out: leave for each event, once it is on the disk; at the
start, what an earlier life left. Event loop only; a thread of its own keeps the file.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from streamer.errors import ConfigError
from streamer.journal_file import Batch, Entry, Found, JournalFile, Order
from streamer.paths import default_outbox, expanded
from streamer.settings import Settings

log = logging.getLogger(__name__)

PATIENCE_S = 2.0    # a worn memory card stands still for a second now and then; an alarm must not wait for a dead one
CLOSE_S = 0.4       # at the end, of the 5 s that a stop may take


def place_of(settings: Settings) -> Path | None:
    """Where the journal of `settings` lies; None: they want none.

    Raises:
        ConfigError: in a home folder that is not there.
    """
    if (path := settings.outbox.path) is None:
        return None
    try:
        return default_outbox(settings.node) if path == "auto" else expanded(path)
    except ConfigError as error:
        raise ConfigError(f"{settings.locate('outbox', 'path')}: {error}") from None


class Journal:
    """Keeps entries on disk from `put` to `forget`. What is said in one go, without a wait, reaches the disk as one.

    Args:
        path: the file; made, with its folder, where there is none.
        found: gets what an earlier life left, as soon as the file could be opened.
        released: called when entries that waited for the disk may leave.
    """

    def __init__(self, path: Path, found: Callable[[Found], None], released: Callable[[], None]) -> None:
        self.path = path
        self.is_failing = False     # nothing waits for the disk then
        self.opened = asyncio.Event()   # or shown that it won't be soon
        self._found, self._released = found, released
        self._batch = Batch()       # for the file's thread, once it has written the one before
        self._is_busy = False
        self._waiting: deque[Entry] = deque()   # for the disk
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()
        self._file = JournalFile(path, self, self._on_loop)

    async def __aenter__(self) -> Self:
        """Begin to open the file."""
        self._loop = asyncio.get_running_loop()
        self._is_busy = True
        self._file.start()
        return self

    def put(self, entry: Entry) -> None:
        """Write an entry; it may leave once that is done, or after `PATIENCE_S`."""
        entry.may_leave = self.is_failing or entry.text is None
        if entry.text is not None:
            self._batch.new[entry] = None
            match entry.message.payload:
                case {"event_type": "start", "id": str(event_id)}:
                    self._batch.open[event_id] = entry.message
                case {"event_type": "end", "id": str(event_id)}:
                    self._batch.open[event_id] = None
            self._loop.call_soon(self._flush)
        if entry.may_leave:
            return
        self._waiting.append(entry)
        if self._timer is None:
            self._timer = self._loop.call_later(PATIENCE_S, self._lose_patience)

    def forget(self, entry: Entry) -> None:
        """Remove an entry: delivered, or given up."""
        entry.may_leave = True
        if entry in self._batch.new:
            del self._batch.new[entry]
        elif entry.text is not None:
            self._batch.gone.append(entry)
            self._loop.call_soon(self._flush)

    def keep(self, order: Order) -> None:
        """Remember an order; a later one on its topic takes its place."""
        self._batch.kept[order.topic] = order
        self._loop.call_soon(self._flush)

    def drop(self, order: Order) -> None:
        """Forget an order."""
        self._batch.kept[order.topic] = None
        self._loop.call_soon(self._flush)

    async def __aexit__(self, *exception: object) -> None:
        """Write what is left, for at most `CLOSE_S`."""
        self._file.write(self._batch)
        self._file.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), CLOSE_S)
        if self._timer:
            self._timer.cancel()

    # -- what the file's thread says -----------------------------------------------------------------------------

    def on_found(self, found: Found) -> None:
        """The file is open for the first time; this was in it."""
        self.is_failing = False
        self._found(found)
        self.opened.set()

    def on_written(self, entries: list[Entry]) -> None:
        """All that was handed over is on the disk, now these entries too."""
        self.is_failing = False
        for entry in entries:
            entry.may_leave = True
        self._go_on()

    def on_fault(self) -> None:
        """The file can't be written: nothing waits for it until it can."""
        self.is_failing = True
        self.opened.set()
        self._release()
        self._go_on()

    def on_closed(self) -> None:
        """The thread has ended."""
        self._closed.set()

    def _go_on(self) -> None:
        while self._waiting and self._waiting[0].may_leave:
            self._waiting.popleft()
        self._released()
        self._is_busy = False
        self._flush()

    def _flush(self) -> None:
        """Hand over what there is, unless the thread is busy: what it is slow with shall not pile up before it."""
        if self._batch and not self._is_busy:
            self._is_busy = True
            self._file.write(self._batch)
            self._batch = Batch()

    def _lose_patience(self) -> None:
        """A disk that takes too long counts as failing until it answers."""
        self._timer = None
        while self._waiting and self._waiting[0].may_leave:
            self._waiting.popleft()
        if not self._waiting:
            return
        if (wait_s := self._waiting[0].since + PATIENCE_S - time.monotonic()) > 0:
            self._timer = self._loop.call_later(wait_s, self._lose_patience)
            return
        log.warning("%s: the disk takes over %g s; events go out before they are on it", self.path, PATIENCE_S)
        self.is_failing = True
        self._release()

    def _release(self) -> None:
        while self._waiting:
            self._waiting.popleft().may_leave = True
        self._released()

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):    # the loop has ended, and nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)
