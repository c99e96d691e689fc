"""A history of events: a row for each in an SQLite file, which `streamer events` reads while it grows.

In: an outbox. Out: rows of the table `events`. Whatever touches the disk runs in threads of the loop's executor, so a
slow disk holds up nobody; a thread opens the file and closes it again, so none is left open when nobody waits any more.
"""

import asyncio
import json
import logging
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamer.core import Message, Site
from streamer.database import BUSY_S, FAULTS, Kind, explain, open_database
from streamer.errors import SinkError
from streamer.outbox import Outbox, is_event
from streamer.paths import expanded
from streamer.payload import to_json
from streamer.sinks.base import Retry, Sink

log = logging.getLogger(__name__)

STEADY_S = 3600.0       # so long a clock goes right before by its word events are deleted: time servers need minutes
JUMP_S = 60.0           # a clock put right by less deletes nothing that matters
UNSET = "2020"          # an onset before is of a clock that nobody had set: how old that event is, nobody knows
BATCH = 200             # events a transaction: after an outage ten thousand wait, and each costs the disk a wait

TABLE = """
CREATE TABLE events (
    id TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    stream TEXT NOT NULL,
    rule TEXT NOT NULL,
    label TEXT,
    event_type TEXT NOT NULL,   -- start while it goes on (or was never ended), then end
    onset TEXT NOT NULL,        -- ISO 8601, UTC, milliseconds: sorts as text
    offset TEXT,
    duration_s REAL,
    end_reason TEXT,
    score_peak REAL,
    payload TEXT NOT NULL       -- the newest message of the event, as JSON
) WITHOUT ROWID;
CREATE INDEX events_by_onset ON events (onset);
"""
HISTORY = Kind(TABLE, version=1, application_id=0)
COLUMNS = (
    "id", "node", "stream", "rule", "label", "event_type", "onset", "offset", "duration_s", "end_reason", "score_peak",
)  # fmt: skip
# An end stands, whatever comes again after it; one that knows when beats one that doesn't.
PUT = f"""
INSERT INTO events ({", ".join(COLUMNS)}, payload) VALUES ({", ".join("?" * (len(COLUMNS) + 1))})
ON CONFLICT (id) DO UPDATE SET ({", ".join(COLUMNS)}, payload) =
    ({", ".join(f"excluded.{column}" for column in (*COLUMNS, "payload"))})
WHERE events.event_type <> 'end'
    OR (excluded.event_type = 'end' AND (events.offset IS NULL OR excluded.offset IS NOT NULL))
"""  # noqa: S608  names of columns only
PRUNE = "DELETE FROM events WHERE onset >= ? AND onset < ? AND id NOT IN ({})"


class Config(BaseModel):
    """Where the history is kept, and for how long."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["sqlite"] = "sqlite"
    path: Annotated[str, Field(min_length=1, description="the file; made, with its folder, where there is none")]
    keep_days: Annotated[float, Field(gt=0)] | None = Field(default=90.0, description="null: for ever")


def build(config: Config, site: Site) -> Sink:
    """Make the sink; opens nothing yet. Its events carry their node themselves, so `site` isn't used."""
    del site
    return Sqlite(expanded(config.path), config.keep_days)


class Sqlite:
    """Keeps the newest message of each event, and forgets events that began over `keep_days` ago by a steady clock."""

    def __init__(self, path: Path, keep_days: float | None) -> None:
        self._path = path
        self._keep_days = keep_days
        self._ahead = self._steady_since = -math.inf    # of the clock, against monotonic time
        self._retry = Retry(log)

    async def run(self, outbox: Outbox) -> None:
        """Write until the outbox is closed and empty; what can't be written is tried again, for ever."""
        while (message := await outbox.get()) is not None:
            batch = [message]
            while is_event(batch[-1]) and len(batch) < BATCH and outbox.has_event:
                if (another := await outbox.get()) is None:
                    break
                batch.append(another)
            rows = [row for each in batch if is_event(each) and (row := self._row(each))]
            if rows:
                await self._deliver(rows)
            for each in batch:
                outbox.ack(each)

    def _row(self, message: Message) -> tuple[Any, ...] | None:
        """None, and a line in the log, for what can't be said in a row."""
        try:
            if not isinstance(message.payload, Mapping):
                raise ValueError("it is no object")  # noqa: TRY301, TRY004
            # A row is the same whether its message came at once or later.
            payload = to_json({**message.payload, "replayed": False}).decode()
            return (*(message.payload[column] for column in COLUMNS), payload)
        except (ValueError, KeyError) as error:
            self._retry.dropped(message, ValueError(str(error)))
            return None

    def _has_steady_clock(self) -> bool:
        """Whether the clock was not set anew lately; before it is first looked at it may have been."""
        now = time.monotonic()
        ahead = time.time() - now
        if abs(ahead - self._ahead) > JUMP_S:
            self._ahead, self._steady_since = ahead, now
        return now - self._steady_since >= STEADY_S

    async def _deliver(self, rows: Sequence[tuple[Any, ...]]) -> None:
        while True:
            keep_days = self._keep_days if self._has_steady_clock() else None
            try:
                await asyncio.to_thread(write, self._path, rows, keep_days)
            except SinkError as error:
                await self._retry.failed(f"history {self._path}: {error}; events wait")
            else:
                self._retry.succeeded(f"history {self._path}: events are kept")
                return


def write(path: Path, rows: Sequence[tuple[Any, ...]], keep_days: float | None) -> None:
    """Put rows into the file, all or none, and drop others older than `keep_days`. Blocks: not for the event loop.

    Raises:
        SinkError: it can't be done now; the sentence says why. A broken file has been set aside.
    """
    try:
        with closing(open_database(path, HISTORY)) as database, database:
            database.executemany(PUT, rows)
            if keep_days is not None:
                values = (UNSET, _iso(time.time() - 86_400 * keep_days), *(row[0] for row in rows))
                database.execute(PRUNE.format(", ".join("?" * len(rows))), values)
    except FAULTS as error:
        raise SinkError(explain(path, error)) from error


# -- what is read of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """Which events: begun at `since` or later and before `until`, of a stream, of a rule, the newest `limit`."""

    since: datetime | None = None
    until: datetime | None = None
    stream: str | None = None
    rule: str | None = None
    limit: int | None = None


def read(path: Path, query: Query) -> Iterator[dict[str, Any]]:
    """The newest message of each event asked for, in the order of their onsets. Changes nothing in the file.

    Raises:
        SinkError: the file can't be read, or holds no history; the sentence says why.
    """
    if not path.is_file():
        raise SinkError(f"{path}: no such file; it is made with the first event, by 'streamer run'")
    asked = {
        "onset >= ?": query.since and _iso(query.since.timestamp()),
        "onset < ?": query.until and _iso(query.until.timestamp()),
        "stream = ?": query.stream,
        "rule = ?": query.rule,
    }
    wanted = {test: value for test, value in asked.items() if value is not None}
    where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
    newest = f"SELECT payload, onset, id FROM events {where} ORDER BY onset DESC, id DESC LIMIT ?"  # noqa: S608
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            rows = database.execute(
                f"SELECT payload FROM ({newest}) ORDER BY onset, id",  # noqa: S608  values are bound
                (*wanted.values(), -1 if query.limit is None else query.limit),
            )
            for (payload,) in rows:
                yield json.loads(payload)
    except sqlite3.Error as error:
        raise SinkError(f"{path}: no history in it can be read ({error}); check that it is streamer's file") from error


def _iso(seconds: float) -> str:
    """UTC with milliseconds, as onsets are written; the first year where `seconds` reach back beyond it."""
    try:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
    except OverflowError:
        moment = datetime.min.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
