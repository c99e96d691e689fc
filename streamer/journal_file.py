"""The journal's file, and the one thread that touches it.

In: entries to save and to forget, in order. Out: word of what was found, saved, or went wrong, from that thread.

The thread knows what the file should hold and brings it there, many changes a commit. So after a fault (a full disk, a
file that was broken or removed) it needs no more than to try again.
"""

import json
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from streamer.core import Message
from streamer.database import FAULTS, Kind, explain, is_broken, open_database

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


@dataclass(slots=True, eq=False)
class Entry:
    """An event for one sink; `text` is its payload as JSON, None if JSON can't say it. `row` is the file's business."""

    sink: str
    message: Message
    text: str | None
    may_leave: bool = False
    row: int | None = None

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
class Found:
    """What an earlier life left: each sink's events, oldest first; starts without an end; orders."""

    waiting: dict[str, list[Entry]] = field(default_factory=dict)
    open: list[Message] = field(default_factory=list)
    kept: list[Order] = field(default_factory=list)


class Listener(Protocol):
    """Who is told."""

    def on_found(self, found: Found) -> None:
        """The file is open; this was in it."""

    def on_saved(self, entries: list[Entry]) -> None:
        """These are on the disk."""

    def on_fault(self) -> None:
        """The file can't be written; it is tried again."""

    def on_closed(self) -> None:
        """The thread has ended."""


class JournalFile:
    """The file, and what should be in it. `start` and `do` are for any thread, all else for its own.

    Args:
        path: of the file; made, with its folder, where there is none.
        listener: is told what happens.
        call: calls its methods, in whatever thread they want.
    """

    def __init__(self, path: Path, listener: Listener, call: Callable[..., None]) -> None:
        self._path = path
        self._listener = listener
        self._call = call
        self._jobs: deque[tuple[Callable[[Any], None] | None, Any]] = deque()
        self._has_jobs = threading.Event()
        self._database: sqlite3.Connection | None = None
        self._place: os.stat_result | None = None       # of the open file
        self._saved: dict[Entry, None] = {}             # sets that keep their order
        self._unsaved: dict[Entry, None] = {}
        self._open: dict[str, Message] = {}             # starts, by id
        self._kept: dict[str, Order] = {}               # by topic
        self._stale_rows: list[int] = []                # of `waiting`, to be deleted
        self._stale_keys: dict[tuple[str, str], None] = {}  # tables and keys that the file has to be told of
        self._retry_at: float | None = None             # while there is a fault
        self._said: tuple[str, float] = ("", 0.0)       # about it, and when

    def start(self) -> None:
        """Open the file, and work."""
        # A daemon: a disk that hangs must not keep the process from ending.
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def do(self, job: Callable[[Any], None] | None, argument: Any = None) -> None:
        """Have a method called, and what it changed written; None: the last try to write, and the end."""
        self._jobs.append((job, argument))
        self._has_jobs.set()

    def put(self, entry: Entry) -> None:
        """One more to save."""
        self._unsaved[entry] = None
        match entry.message.payload:
            case {"event_type": "start", "id": str(event_id)}:
                self._open[event_id] = entry.message
            case {"event_type": "end", "id": str(event_id)}:
                self._open.pop(event_id, None)
            case _:
                return
        self._stale_keys["open", event_id] = None

    def forget(self, entry: Entry) -> None:
        """One less."""
        self._unsaved.pop(entry, None)
        if entry in self._saved:
            del self._saved[entry]
            assert entry.row is not None
            self._stale_rows.append(entry.row)

    def keep(self, order: Order) -> None:
        """An order to be found in the next life."""
        self._kept[order.topic] = order
        self._stale_keys["kept", order.topic] = None

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._try()
        is_ending = False
        while not is_ending:
            is_ending = self._take()
            if is_ending or self._retry_at is None or time.monotonic() >= self._retry_at:
                self._try()
        self._let_go()
        self._call(self._listener.on_closed)

    def _take(self) -> bool:
        """Wait for jobs, or for the time to try again, and do them; whether the end was among them."""
        self._has_jobs.wait(None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic()))
        self._has_jobs.clear()
        while self._jobs:
            job, argument = self._jobs.popleft()
            if job is None:
                return True
            job(argument)
        return False

    def _try(self) -> None:
        try:
            self._bring()
        except FAULTS as error:
            self._fail(error)

    def _bring(self) -> None:
        """Bring the file to what it should hold."""
        if self._database is None or not self._is_in_place():
            self._reopen()
        assert self._database is not None
        with self._database as database:
            database.executemany("DELETE FROM waiting WHERE row = ?", [(row,) for row in self._stale_rows])
            rows = {entry: _insert(database, entry) for entry in self._unsaved}
            for table, key in self._stale_keys:
                self._update(database, table, key)
        for entry, row in rows.items():
            entry.row = row
        self._saved |= self._unsaved
        self._unsaved.clear()
        self._stale_rows.clear()
        self._stale_keys.clear()
        if rows or self._retry_at is not None:
            self._call(self._listener.on_saved, list(rows))
        if self._retry_at is not None:
            self._retry_at, self._said = None, ("", 0.0)
            log.info("%s: events are kept on disk again", self._path)

    def _update(self, database: sqlite3.Connection, table: str, key: str) -> None:
        if table == "kept":
            order = self._kept[key]
            database.execute("REPLACE INTO kept VALUES (?, ?, ?)", (key, order.text, order.instead_of))
        elif message := self._open.get(key):
            database.execute("REPLACE INTO open VALUES (?, ?, ?)", (key, message.topic, to_text(message.payload)))
        else:
            database.execute("DELETE FROM open WHERE id = ?", (key,))

    def _is_in_place(self) -> bool:
        """Whether the file that we write is still the one of that name."""
        try:
            return self._place is not None and os.path.samestat(self._path.stat(), self._place)
        except FileNotFoundError:
            return False

    def _reopen(self) -> None:
        """Open the file of that name, whatever it is by now, and say what is in it."""
        self._let_go()
        self._database = open_database(self._path, KIND, exclusive=True)
        found = _load(self._database)
        self._place = self._path.stat()
        self._saved = {entry: None for entries in found.waiting.values() for entry in entries}
        self._open = {_id(message): message for message in found.open} | self._open
        self._kept = {order.topic: order for order in found.kept} | self._kept
        self._call(self._listener.on_found, found)

    def _let_go(self) -> None:
        """Close the file. The next one has to be told of everything."""
        if self._database is not None:
            self._database.close()
        self._database = self._place = None
        self._unsaved = self._saved | self._unsaved
        self._saved = {}
        self._stale_rows.clear()
        keys = [*(("open", key) for key in self._open), *(("kept", key) for key in self._kept)]
        self._stale_keys = dict.fromkeys(keys) | self._stale_keys

    def _fail(self, error: Exception) -> None:
        if is_broken(error):
            self._let_go()
        sentence = explain(self._path, error)
        now = time.monotonic()
        if sentence != self._said[0] or now - self._said[1] >= REMIND_S:
            self._said = sentence, now
            log.warning("%s: %s; events wait in memory meanwhile, where a crash would lose them", self._path, sentence)
        has_gone = is_broken(error) and not self._path.exists()     # set aside
        self._retry_at = now if has_gone else now + RETRY_S
        self._call(self._listener.on_fault)


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
        raise _broken(verdict)
    found = Found()
    try:
        for row, sink, topic, text in database.execute("SELECT row, sink, topic, payload FROM waiting ORDER BY row"):
            entry = Entry(sink, Message(topic, json.loads(text)), text, may_leave=True, row=row)
            found.waiting.setdefault(sink, []).append(entry)
        for topic, text in database.execute("SELECT topic, payload FROM open ORDER BY rowid"):
            found.open.append(Message(topic, json.loads(text)))
    except ValueError as error:
        raise _broken(str(error)) from error
    found.kept += [Order(*row) for row in database.execute("SELECT topic, text, instead_of FROM kept")]
    return found


def _broken(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _id(message: Message) -> str:
    assert isinstance(message.payload, Mapping)
    return str(message.payload["id"])


def to_text(payload: Mapping[str, Any] | str) -> str | None:
    """A payload as JSON; None for what JSON can't say."""
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return None
