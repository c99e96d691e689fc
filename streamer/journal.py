"""Events on disk until they are delivered, so that they outlive the process.

In: what outboxes take in and what their sinks acknowledged. Out: leave for each event, once it is on the disk; at the
start, what an earlier life left. Event loop only; a thread of its own keeps the file.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from streamer.journal_file import Entry, Found, JournalFile, Order

log = logging.getLogger(__name__)

PATIENCE_S = 2.0    # a worn memory card stands still for a second now and then; an alarm must not wait for a dead one
OPEN_S = 3.0        # at the start; a broken file is read through in less
CLOSE_S = 0.4       # at the end, of the 5 s that a stop may take


def default_path(node: str) -> Path:
    """Where a journal lies if nobody says otherwise: systemd's state folder, or the user's."""
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(folder or f"{state}/streamer").expanduser() / f"outbox-{node}.sqlite"


class Journal:
    """Keeps entries on disk from `put` to `forget`.

    Args:
        path: the file; made, with its folder, where there is none.
        found: gets what an earlier life left, as soon as the file could be opened.
        released: called when entries that waited for the disk may leave.
    """

    def __init__(self, path: Path, found: Callable[[Found], None], released: Callable[[], None]) -> None:
        self.is_failing = False     # nothing waits for the disk then
        self._found, self._released = found, released
        self._waiting: deque[tuple[float, Entry]] = deque()     # for the disk, and since when
        self._timer: asyncio.TimerHandle | None = None
        self._opened = asyncio.Event()
        self._closed = asyncio.Event()
        self._path = path
        self._file = JournalFile(path, self, self._on_loop)

    async def __aenter__(self) -> Self:
        """Begin; returns when `found` was called, or a fault or `OPEN_S` showed that it won't be soon."""
        self._loop = asyncio.get_running_loop()
        self._file.start()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._opened.wait(), OPEN_S)
        return self

    def put(self, entry: Entry) -> None:
        """Write an entry; it may leave once that is done, or after `PATIENCE_S`."""
        entry.may_leave = self.is_failing or entry.text is None
        if entry.text is not None:
            self._file.do(self._file.put, entry)
        if entry.may_leave:
            return
        self._waiting.append((time.monotonic(), entry))
        if self._timer is None:
            self._timer = self._loop.call_later(PATIENCE_S, self._lose_patience)

    def forget(self, entry: Entry) -> None:
        """Remove an entry: delivered, or given up."""
        entry.may_leave = True
        self._file.do(self._file.forget, entry)

    def keep(self, order: Order) -> None:
        """Remember an order; a later one on its topic takes its place."""
        self._file.do(self._file.keep, order)

    async def __aexit__(self, *exception: object) -> None:
        """Write what is left, for at most `CLOSE_S`."""
        self._file.do(None)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), CLOSE_S)
        if self._timer:
            self._timer.cancel()

    # -- what the file's thread says --------------------------------------------------------------------------

    def on_found(self, found: Found) -> None:
        """The file is open."""
        self.is_failing = False
        self._found(found)
        self._opened.set()

    def on_saved(self, entries: list[Entry]) -> None:
        """These are on the disk."""
        self.is_failing = False
        for entry in entries:
            entry.may_leave = True
        while self._waiting and self._waiting[0][1].may_leave:
            self._waiting.popleft()
        self._released()

    def on_fault(self) -> None:
        """The file can't be written: nothing waits for it until it can."""
        self.is_failing = True
        self._opened.set()
        self._release(time.monotonic())

    def on_closed(self) -> None:
        """The thread has ended."""
        self._closed.set()

    def _lose_patience(self) -> None:
        self._timer = None
        since = time.monotonic() - PATIENCE_S
        if self._waiting and self._waiting[0][0] <= since:
            log.warning("%s: the disk takes over %g s; events go out before they are on it", self._path, PATIENCE_S)
            self._release(since)
        if self._waiting:
            wait_s = self._waiting[0][0] - since
            self._timer = self._loop.call_later(wait_s, self._lose_patience)

    def _release(self, since: float) -> None:
        while self._waiting and self._waiting[0][0] <= since:
            self._waiting.popleft()[1].may_leave = True
        self._released()

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):    # the loop has ended, and nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)
