"""The journal's file, and the one thread that touches it.

In: batches of changes, in order. Out: word of what was found, written, or went wrong.

The thread knows what the file should hold and brings it there. So after a fault (a full disk, a file that was broken or
removed) it needs no more than to try again.
"""

import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from streamer.core import Message
from streamer.database import FAULTS, Kind, explain, is_broken, open_database
from streamer.payload import to_json

log = logging.getLogger(__name__)

RETRY_S = 10.0      # a disk that was full has room again some time
REMIND_S = 600.0    # between two lines in the log about the same fault

KIND = Kind(
    """
    CREATE TABLE waiting (          -- an event that a sink has not delivered yet
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        sink TEXT NOT NULL,
        topic TEXT NOT NULL,
        payload TEXT NOT NULL       -- JSON
    );
    CREATE TABLE open (             -- an event that has started and not ended
        id TEXT PRIMARY KEY,
        topic TEXT NOT NULL,
        payload TEXT NOT NULL       -- of its start
    );
    CREATE TABLE kept (             -- an order to be obeyed in the next life too
        topic TEXT PRIMARY KEY,
        text TEXT NOT NULL,
        instead_of TEXT NOT NULL    -- what the configuration said when it was given
    );
    """,
    version=1,
    application_id=0x73_74_72_6D,   # 'strm'
)
TABLES = ("waiting", "open", "kept")


@dataclass(slots=True, eq=False)
class Entry:
    """An event for one sink; `text` is its payload as JSON, None if JSON can't say it.

    `may_leave` is the event loop's business, `row` the file's: None while it isn't in there. `since` is monotonic.
    """

    sink: str
    message: Message
    text: str | None
    may_leave: bool = False
    row: int | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Characters of JSON, near enough its bytes."""
        return len(self.text or "")


@dataclass(frozen=True, slots=True)
class Order:
    """An order that outlives the process, and what the configuration said when it was given."""

    topic: str
    text: str
    instead_of: str


@dataclass(slots=True)
class Batch:
    """Changes that reach the disk together: entries to save and to forget; starts, and orders, None to be forgotten."""

    new: dict[Entry, None] = field(default_factory=dict)    # a set that keeps its order
    gone: list[Entry] = field(default_factory=list)
    open: dict[str, Message | None] = field(default_factory=dict)
    kept: dict[str, Order | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.open or self.kept)


@dataclass(slots=True)
class Found:
    """What an earlier life left: each sink's events, oldest first; starts without an end; orders."""

    waiting: dict[str, list[Entry]] = field(default_factory=dict)
    open: list[Message] = field(default_factory=list)
    kept: list[Order] = field(default_factory=list)


class Listener(Protocol):
    """Who is told."""

    def on_found(self, found: Found) -> None:
        """The file is open for the first time; this was in it."""

    def on_written(self, entries: list[Entry]) -> None:
        """All that was handed over is on the disk, now these entries too."""

    def on_fault(self) -> None:
        """The file can't be written; it is tried again."""

    def on_closed(self) -> None:
        """The thread has ended."""


class JournalFile:
    """The file, and what should be in it. `start`, `write` and `close` are for any thread, all else for its own.

    Args:
        path: of the file; made, with its folder, where there is none.
        listener: is told what happens.
        call: calls its methods, in whatever thread they want.
    """

    def __init__(self, path: Path, listener: Listener, call: Callable[..., None]) -> None:
        self._path = path
        self._listener = listener
        self._call = call
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._database: sqlite3.Connection | None = None
        self._place: os.stat_result | None = None       # of the open file
        self._was_found = False                         # from then on it is we who know what it should hold
        self._saved: dict[Entry, None] = {}
        self._open: dict[str, Message] = {}
        self._kept: dict[str, Order] = {}
        self._todo = Batch()                            # what the file has to be told
        self._retry_at: float | None = None             # while there is a fault
        self._said: tuple[str, float] = ("", 0.0)       # about it, and when

    def start(self) -> None:
        """Open the file, and work."""
        self.write(Batch())
        # A daemon: a disk that hangs must not keep the process from ending.
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def write(self, batch: Batch) -> None:
        """Have changes written, all or none."""
        self._batches.put(batch)

    def close(self) -> None:
        """Try a last time to write what is not written yet, and end."""
        self._batches.put(None)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        is_ending = False
        while not is_ending:
            try:
                batch = self._batches.get(timeout=self._retry_at and max(0.0, self._retry_at - time.monotonic()))
            except queue.Empty:
                batch = Batch()
            if batch is None:
                is_ending, batch = True, Batch()
            try:
                self._take(batch)
                if is_ending or self._retry_at is None or time.monotonic() >= self._retry_at:
                    self._bring()
                else:
                    self._call(self._listener.on_fault)
            except Exception as error:  # noqa: BLE001  a mistake of ours must not end the thread, in silence
                self._fail(error)
        self._close()
        self._call(self._listener.on_closed)

    def _take(self, batch: Batch) -> None:
        todo = self._todo
        todo.new |= batch.new
        for entry in batch.gone:
            if entry in todo.new:
                del todo.new[entry]
            elif entry in self._saved:
                del self._saved[entry]
                todo.gone.append(entry)
        todo.open |= batch.open
        todo.kept |= batch.kept
        self._open = _updated(self._open, batch.open)
        self._kept = _updated(self._kept, batch.kept)

    def _bring(self) -> None:
        """Bring the file to what it should hold."""
        if self._database is None or not self._is_in_place():
            self._reopen()
        assert self._database is not None
        todo = self._todo
        with self._database as database:
            database.executemany("DELETE FROM waiting WHERE row = ?", [(entry.row,) for entry in todo.gone])
            rows = {entry: _insert(database, entry) for entry in todo.new}
            for key, start in todo.open.items():
                database.execute("DELETE FROM open WHERE id = ?", (key,))
                if start:
                    database.execute("INSERT INTO open VALUES (?, ?, ?)", (key, start.topic, _text(start)))
            for key, order in todo.kept.items():
                database.execute("DELETE FROM kept WHERE topic = ?", (key,))
                if order:
                    database.execute("INSERT INTO kept VALUES (?, ?, ?)", (key, order.text, order.instead_of))
        for entry, row in rows.items():
            entry.row = row
        self._saved |= todo.new
        self._todo = Batch()
        self._call(self._listener.on_written, list(rows))
        if self._retry_at is not None:
            self._retry_at, self._said = None, ("", 0.0)
            log.info("%s: events are kept on disk again", self._path)

    def _is_in_place(self) -> bool:
        """Whether the file that we write is still the one of that name."""
        try:
            return self._place is not None and os.path.samestat(self._path.stat(), self._place)
        except FileNotFoundError:
            return False

    def _reopen(self) -> None:
        """Open the file of that name, the first time to go on with what is in it, later to write it anew."""
        self._let_go()
        self._database = open_database(self._path, KIND, exclusive=True)
        if self._was_found:
            with self._database as database:
                for table in TABLES:
                    database.execute(f"DELETE FROM {table}")  # noqa: S608
        else:
            found = _load(self._database)
            self._was_found = True
            self._saved = {entry: None for entries in found.waiting.values() for entry in entries}
            self._open = {_id(start): start for start in found.open} | self._open
            self._kept = {order.topic: order for order in found.kept} | self._kept
            self._call(self._listener.on_found, found)
        self._place = self._path.stat()

    def _let_go(self) -> None:
        """Close the file. The next one has to be told of everything."""
        self._close()
        for entry in self._saved:
            entry.row = None
        self._todo = Batch(self._saved | self._todo.new, [], {**self._open}, {**self._kept})
        self._saved = {}

    def _close(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
        self._database = self._place = None

    def _fail(self, error: Exception) -> None:
        if is_broken(error):
            self._let_go()
        sentence = explain(self._path, error, own="node or outbox.path")
        now = time.monotonic()
        if sentence != self._said[0] or now - self._said[1] >= REMIND_S:
            self._said = sentence, now
            what = "%s: %s; events wait in memory meanwhile, where a crash would lose them"
            log.warning(what, self._path, sentence, exc_info=not isinstance(error, FAULTS))
        has_gone = is_broken(error) and not self._path.exists()     # set aside
        self._retry_at = now if has_gone else now + RETRY_S
        self._call(self._listener.on_fault)


def _updated(known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**known, **changes}.items() if value is not None}


def _insert(database: sqlite3.Connection, entry: Entry) -> int | None:
    values = (entry.sink, entry.message.topic, entry.text)
    return database.execute("INSERT INTO waiting VALUES (NULL, ?, ?, ?)", values).lastrowid


def _load(database: sqlite3.Connection) -> Found:
    """All that is in a file.

    Raises:
        sqlite3.DatabaseError: it is broken.
    """
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _broken(" ".join(verdict.split()))
    found = Found()
    try:
        for row, sink, topic, text in database.execute("SELECT row, sink, topic, payload FROM waiting ORDER BY row"):
            entry = Entry(sink, Message(topic, json.loads(text)), text, may_leave=True, row=row)
            found.waiting.setdefault(sink, []).append(entry)
        for topic, text in database.execute("SELECT topic, payload FROM open ORDER BY rowid"):
            found.open.append(Message(topic, json.loads(text)))
            _id(found.open[-1])
    except (ValueError, TypeError, KeyError) as error:
        raise _broken(repr(error)) from error
    found.kept += [Order(*row) for row in database.execute("SELECT topic, text, instead_of FROM kept")]
    return found


def _broken(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _id(start: Message) -> str:
    if not isinstance(start.payload, Mapping):
        raise TypeError("a start is no object")
    return str(start.payload["id"])


def _text(message: Message) -> str:
    return to_json(message.payload).decode()
