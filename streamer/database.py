"""SQLite files that are ours: opened so that what is committed stays, told from others' files, set aside when broken.

Blocks: not for the event loop.
"""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from streamer.errors import DatabaseError

BUSY_S = 5.0            # for a backup or a person at the sqlite3 prompt to let go
FAULTS = (OSError, sqlite3.Error, DatabaseError)    # what `explain` explains

WRITE = "it can't be written ({}); check its folder and permissions"
HELD = "another program holds the file; close it there, or, if that is another streamer, give each its own {own}"
ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; make room on it",
    sqlite3.SQLITE_BUSY: HELD,
    sqlite3.SQLITE_LOCKED: HELD,
    sqlite3.SQLITE_READONLY: WRITE,
    sqlite3.SQLITE_PERM: WRITE,
    sqlite3.SQLITE_CANTOPEN: WRITE,
    sqlite3.SQLITE_IOERR: "the disk fails ({}); check it, and the room on it",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What such a file holds: its tables in SQL, their version, and the `application_id` that tells it from others."""

    tables: str
    version: int
    application_id: int


def open_database(path: Path, kind: Kind, *, exclusive: bool = False) -> sqlite3.Connection:
    """Open the file, made with its folder where there is none; `exclusive` keeps every other process out.

    A commit returns when it is on the disk, also should the power fail.

    Raises:
        DatabaseError, sqlite3.Error, OSError: it can't be; `explain` says why.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        if exclusive:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = _version(database, kind)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        if not version:
            marks = f"PRAGMA application_id = {kind.application_id}; PRAGMA user_version = {kind.version};"
            database.executescript(f"BEGIN; {kind.tables} {marks} COMMIT;")
    except BaseException:
        database.close()
        raise
    return database


def _version(database: sqlite3.Connection, kind: Kind) -> int:
    """The version of the tables in it; 0 where there are none yet."""
    version: int
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application_id,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    is_ours = application_id == kind.application_id and version > 0
    if version > kind.version or (tables and not is_ours):
        whose = "a newer streamer" if is_ours else "another program"
        raise DatabaseError(f"the file belongs to {whose}; give another path")
    return version


def explain(path: Path, error: Exception, own: str = "path") -> str:
    """What went wrong with the file at `path`, for people; one that is beyond repair has been set aside.

    `own` says what of the configuration gives each streamer a file of its own.
    """
    if is_broken(error):
        return f"the file is broken ({error}); {_set_aside(path)}"
    match error:
        case OSError():
            return f"{error.strerror}; check its folder and permissions"
        case sqlite3.Error():
            return ADVICE.get(_code(error), "{}; check the file").format(error, own=own)
    return str(error)


def is_broken(error: Exception) -> bool:
    """Whether the file itself is beyond repair."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: Exception) -> int:
    """SQLite's primary code of an error; 0 if it is none of SQLite's."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _set_aside(path: Path) -> str:
    """Rename the file and what SQLite keeps beside it; say so."""
    aside = path.with_name(f"{path.name}.broken-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    try:
        path.rename(aside)
        for ending in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{path}{ending}").rename(f"{aside}{ending}")
    except OSError as error:
        return f"and can't be set aside: {error.strerror}; move it away"
    return f"it is now {aside.name}, and a new one is begun"
