"""The history: a row an event, whatever comes twice, late or broken."""

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from streamer.core import Message, Site
from streamer.database import Kind
from streamer.errors import SinkError
from streamer.outbox import Outbox
from streamer.sinks import base, sqlite
from streamer.sinks.sqlite import Query

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""
    monkeypatch.setattr(base, "FIRST_WAIT_S", 0.0)


def golden(name: str, **changes: Any) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text()) | changes


def event(name: str, **changes: Any) -> Message:
    return Message("mic/event", golden(name, **changes))


def keep(path: Path, *messages: Message, keep_days: float | None = None) -> Outbox:
    """Run a sink on `path` until it has taken the messages."""
    outbox = Outbox()
    for message in messages:
        outbox.put(message)
    outbox.close()
    sink = sqlite.build(sqlite.Config(path=str(path), keep_days=keep_days), Site("garage"))
    asyncio.run(asyncio.wait_for(sink.run(outbox), 10))
    return outbox


def rows(path: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT id, event_type, offset, end_reason, score_peak FROM events").fetchall()


def ids(path: Path, **query: Any) -> list[str]:
    return [found["id"] for found in sqlite.read(path, Query(**query))]


START = ("01J1", "start", None, None, 0.9123)
END = ("01J1", "end", "2026-11-22T12:00:14.475Z", "quiet", 0.95)
INTERRUPTED = ("01J1", "end", None, "interrupted", 0.9123)


@pytest.mark.parametrize(("messages", "row"), [
    (["start"], START),
    (["start", "end"], END),
    (["end"], END),                                     # its start was lost, or dropped
    (["start", "start", "end", "end"], END),            # each delivered twice
    (["start", "end", "start_replayed"], END),          # a start that comes again ends nothing
    (["start", "interrupted"], INTERRUPTED),
    (["end", "interrupted"], END),                      # who knows when stands
    (["interrupted", "end"], END),
    (["interrupted", "start"], INTERRUPTED),
])  # fmt: skip
def test_an_event_is_one_row(tmp_path: Path, messages: list[str], row: tuple[Any, ...]) -> None:
    path = tmp_path / "history" / "events.sqlite"
    assert keep(path, *(event(name, id="01J1", onset=golden("start")["onset"]) for name in messages)).pending == 0
    assert rows(path) == [row]


def test_a_message_that_comes_later_leaves_the_same_row(tmp_path: Path) -> None:
    def dump(name: str) -> list[str]:
        keep(tmp_path / name, event(name))
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as database:
            return list(database.iterdump())

    assert dump("start") == dump("start_replayed")


def test_what_is_read_is_the_event_as_published(tmp_path: Path) -> None:
    keep(tmp_path / "db", event("start"), event("end"))
    assert list(sqlite.read(tmp_path / "db", Query())) == [golden("end")]


def test_states_and_readings_are_no_history(tmp_path: Path) -> None:
    others = [Message("mic/status", "online", retain=True), Message("mic/level", {"rms_dbfs": -40.0}, qos=0)]
    keep(tmp_path / "db", *others, event("start"), *others)
    assert len(rows(tmp_path / "db")) == 1


def test_ten_thousand_that_waited_are_written_in_few_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = sqlite.write
    monkeypatch.setattr(sqlite, "write", lambda path, rows, days: (sizes.append(len(rows)), write(path, rows, days)))
    outbox = keep(tmp_path / "db", *(event("start", id=f"{n:05}") for n in range(1001)))
    assert (sizes, outbox.pending) == ([200] * 5 + [1], 0)
    assert ids(tmp_path / "db") == [f"{n:05}" for n in range(1001)]


def test_a_query(tmp_path: Path) -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    told = [
        event("start", id=str(n), onset=f"2026-11-22T12:0{n}:00.000Z", rule="bark" if n % 2 else "siren", stream="mic")
        for n in (3, 1, 2, 0)
    ]
    keep(tmp_path / "db", *told, event("start", id="4", onset="2026-11-22T12:04:00.000Z", stream="yard"))
    minute = timedelta(minutes=1)
    assert ids(tmp_path / "db") == ["0", "1", "2", "3", "4"]
    assert ids(tmp_path / "db", since=noon + minute, until=noon + 3 * minute) == ["1", "2"]
    assert ids(tmp_path / "db", since=noon + minute, stream="mic", limit=2) == ["2", "3"]
    assert ids(tmp_path / "db", rule="bark") == ["1", "3"]
    assert ids(tmp_path / "db", stream="yard") == ["4"]
    assert ids(tmp_path / "db", stream="'; DROP TABLE events --") == []
    assert ids(tmp_path / "db", since=datetime(1, 1, 1, tzinfo=UTC)) == ["0", "1", "2", "3", "4"]


def ago(days: float) -> str:
    return sqlite._iso(time.time() - 86_400 * days)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the clock at once."""
    monkeypatch.setattr(sqlite, "STEADY_S", 0.0)


@pytest.mark.usefixtures("steady")
def test_what_began_long_ago_is_forgotten(tmp_path: Path) -> None:
    keep(tmp_path / "db", event("end", id="old", onset=ago(90.1)), event("start", id="new", onset=ago(89.9)))
    assert ids(tmp_path / "db") == ["old", "new"]
    keep(tmp_path / "db", event("start", id="now", onset=ago(0)), keep_days=90.0)
    assert ids(tmp_path / "db") == ["new", "now"]


@pytest.mark.usefixtures("steady")
def test_what_just_came_is_kept_however_old(tmp_path: Path) -> None:
    """It waited for months; or there was no clock yet, and how old it is nobody will ever know."""
    keep(tmp_path / "db", event("start", id="old", onset=ago(100)), keep_days=90.0)
    assert ids(tmp_path / "db") == ["old"]
    keep(tmp_path / "db", event("start", id="no clock", onset="1970-01-01T00:00:09.000Z"), keep_days=90.0)
    assert ids(tmp_path / "db") == ["no clock"]
    keep(tmp_path / "db", event("start", id="new", onset=ago(0)), keep_days=90.0)
    assert ids(tmp_path / "db") == ["no clock", "new"]


def test_a_clock_that_jumps_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, ahead = [0.0], [1.8e9]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0] + ahead[0])
    monkeypatch.setattr(sqlite, "time", clock)
    sink = sqlite.Sqlite(tmp_path / "db", 90.0)
    n_days: list[float | None] = []
    monkeypatch.setattr(sqlite, "write", lambda path, rows, days: n_days.append(days))
    for at, years in ((0, 0), (3500, 0), (3700, 0), (9000, 30), (9100, 30), (9200, 0), (12_000, 0), (13_000, 0)):
        now[0], ahead[0] = at, 1.8e9 + years * 31_557_600
        asyncio.run(sink._deliver([]))
    assert n_days == [None, None, 90.0, None, None, None, None, 90.0]


def test_reading_and_writing_do_not_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "db"
    keep(path, *(event("start", id=str(n)) for n in range(3)))
    reader = sqlite.read(path, Query())
    assert next(reader)["id"] == "0"
    begun = time.monotonic()
    keep(path, event("start", id="9"))
    assert time.monotonic() - begun < sqlite.BUSY_S / 2
    assert [found["id"] for found in reader] == ["1", "2"], "as it was when the reading began"
    assert ids(path) == ["0", "1", "2", "9"]


def run_until(path: Path, caplog: pytest.LogCaptureFixture, mend: Callable[[], object]) -> Outbox:
    """Run a sink on one event until it has complained, mend what was wrong, and let it finish."""
    outbox = Outbox()
    outbox.put(event("start"))

    async def scenario() -> None:
        task = asyncio.create_task(sqlite.build(sqlite.Config(path=str(path)), Site("garage")).run(outbox))
        async with asyncio.timeout(10):
            while not caplog.messages:  # noqa: ASYNC110  a log tells nobody that it grew
                await asyncio.sleep(0.001)
            assert outbox.pending == 1
            mend()
            outbox.close()
            await task

    asyncio.run(scenario())
    return outbox


def test_a_folder_in_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "db"
    path.mkdir()
    assert run_until(path, caplog, path.rmdir).pending == 0
    why = "it can't be written (unable to open database file); check its folder and permissions"
    assert caplog.messages == [f"history {path}: {why}; events wait"]


def test_a_file_in_place_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file" / "db"
    path.parent.touch()
    assert run_until(path, caplog, path.parent.unlink).pending == 0
    assert caplog.messages == [f"history {path}: File exists; check its folder and permissions; events wait"]


def test_a_file_of_another_program_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE photos (id)")
    before = path.read_bytes()

    def mend() -> None:
        assert path.read_bytes() == before
        path.unlink()

    run_until(path, caplog, mend)
    assert caplog.messages == [f"history {path}: the file belongs to another program; give another path; events wait"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "db"
    keep(path, event("start", id="0"))
    opened = sqlite.open_database
    full = [True]

    def cramped(path: Path, kind: Kind) -> sqlite3.Connection:
        database = opened(path, kind)
        if full:
            database.execute("PRAGMA max_page_count = 1")   # as good as a full disk, to SQLite
        return database

    monkeypatch.setattr(sqlite, "open_database", cramped)
    outbox = Outbox()
    for n in range(1, 200):
        outbox.put(event("start", id=str(n), rule="x" * 500))

    async def scenario() -> None:
        task = asyncio.create_task(sqlite.build(sqlite.Config(path=str(path), keep_days=None), Site("g")).run(outbox))
        async with asyncio.timeout(10):
            while not caplog.messages:  # noqa: ASYNC110  a log tells nobody that it grew
                await asyncio.sleep(0.001)
            assert (outbox.pending, ids(path)) == (199, ["0"])
            full.clear()
            outbox.close()
            await task

    asyncio.run(scenario())
    assert caplog.messages == [f"history {path}: the disk is full; make room on it; events wait"]
    assert len(ids(path)) == 200


@pytest.mark.parametrize("text", [b"no database " * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_broken_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bytes) -> None:
    path = tmp_path / "db"
    path.write_bytes(text)
    assert keep(path, event("start")).pending == 0
    assert ids(path) == [golden("start")["id"]]
    [aside] = tmp_path.glob("db.broken-*")
    assert aside.read_bytes() == text
    [sentence] = caplog.messages
    assert sentence.startswith(f"history {path}: the file is broken (file is not a database); it is now db.broken-")
    assert sentence.endswith(", and a new one is begun; events wait")


def test_a_slow_disk_holds_up_neither_the_loop_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(sqlite, "write", lambda *_: release.wait(10))
    outbox = Outbox()
    outbox.put(event("start"))

    async def scenario() -> None:
        task = asyncio.create_task(sqlite.build(sqlite.Config(path=str(tmp_path / "db")), Site("g")).run(outbox))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled()
        release.set()       # the daemon waits for no thread; this loop does

    asyncio.run(scenario())
    assert outbox.pending == 1


def test_what_can_not_be_said_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = keep(tmp_path / "db", event("start", score=float("nan")), Message("mic/event", {}), event("end"))
    assert (outbox.pending, len(rows(tmp_path / "db"))) == (0, 1)
    assert [message.split(" (")[0] for message in caplog.messages] == ["a message for 'mic/event' can't be said"] * 2


def test_reading_what_is_not_there_or_no_history(tmp_path: Path) -> None:
    with pytest.raises(SinkError) as missing:
        ids(tmp_path / "none")
    assert str(missing.value) == (
        f"{tmp_path / 'none'}: no such file; it is made with the first event, by 'streamer run'"
    )
    assert not (tmp_path / "none").exists()
    (tmp_path / "text").write_text("no database" * 1000)
    with pytest.raises(SinkError) as broken:
        ids(tmp_path / "text")
    assert str(broken.value) == (
        f"{tmp_path / 'text'}: no history in it can be read (file is not a database); check that it is streamer's file"
    )


@pytest.mark.parametrize("config", [{}, {"path": ""}, {"path": "x", "keep_days": 0}, {"path": "x", "days": 3}])
def test_a_bad_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sqlite.Config.model_validate(config)


def test_a_path_may_begin_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keep(Path("~/events.sqlite"), event("start"))
    assert len(rows(tmp_path / "events.sqlite")) == 1
