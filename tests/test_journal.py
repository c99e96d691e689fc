"""Events on disk: what a process killed at any instant leaves, and what a failing disk can't stop."""

import asyncio
import contextlib
import errno
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from streamer import database, journal, journal_file
from streamer.core import Message
from streamer.errors import ConfigError
from streamer.journal import Journal, place_of
from streamer.journal_file import Batch, Entry, Found, Order
from streamer.outbox import Outbox
from streamer.settings import ModelConfig, OutboxConfig, Settings, StreamConfig


def event(number: int, kind: str = "update") -> Message:
    return Message("mic/event", {"id": f"{number:04}", "event_type": kind, "replayed": False})


class Life:
    """One life of a process: a journal, and an outbox for each sink."""

    def __init__(self, path: Path, *sinks: str, **bounds: int) -> None:
        self.found = Found()
        self.journal = Journal(path, self._adopt, self._wake)
        self.boxes = {sink: Outbox(sink=sink, journal=self.journal, **bounds) for sink in sinks}

    def _adopt(self, found: Found) -> None:
        self.found = found
        for sink, box in self.boxes.items():
            box.adopt(found.waiting.get(sink, []))

    def _wake(self) -> None:
        for box in self.boxes.values():
            box.wake()

    def put(self, *messages: Message) -> None:
        for message in messages:
            for box in self.boxes.values():
                box.put(message)


def live(path: Path, life: Callable[[Life], Coroutine[Any, Any, None]], *sinks: str, **bounds: int) -> Life:
    """Live through it, to its orderly end."""
    lived = Life(path, *(sinks or ("a",)), **bounds)

    async def scenario() -> None:
        async with lived.journal, asyncio.timeout(10):
            await lived.journal.opened.wait()
            await life(lived)

    asyncio.run(scenario())
    return lived


async def nothing(life: Life) -> None:
    """Begin and end."""


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.payload["id"]) for message in messages]


def waiting(found: Found) -> list[Message]:
    """Events of the sink 'a'."""
    return [entry.message for entry in found.waiting["a"]]


async def take(box: Outbox, n: int, *, ack: bool = True) -> list[Message]:
    got = []
    for _ in range(n):
        message = await box.get()
        assert message is not None
        got.append(message)
        if ack:
            box.ack(message)
    return got


def rows(path: Path, table: str = "waiting") -> list[tuple[Any, ...]]:
    """As another program sees it, once the process has ended."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        return file.execute(f"SELECT * FROM {table}").fetchall()


def test_what_was_not_acknowledged_is_there_in_the_next_life(tmp_path: Path) -> None:
    async def first(life: Life) -> None:
        life.put(*(event(n) for n in range(6)))
        await take(life.boxes["a"], 4)
        await take(life.boxes["b"], 1)
        await take(life.boxes["b"], 2, ack=False)

    async def second(life: Life) -> None:
        life.put(event(6))
        for sink, wanted in (("a", [4, 5, 6]), ("b", [1, 2, 3, 4, 5, 6])):
            got = await take(life.boxes[sink], len(wanted))
            assert numbers(got) == wanted
            assert [message.payload["replayed"] for message in got] == [n < 6 for n in wanted]

    live(tmp_path / "folder" / "outbox", first, "a", "b")
    live(tmp_path / "folder" / "outbox", second, "a", "b")
    assert rows(tmp_path / "folder" / "outbox") == []


def test_an_event_is_on_the_disk_before_it_is_given_out(tmp_path: Path) -> None:
    path = tmp_path / "outbox"

    async def check(life: Life) -> None:
        life.put(event(1))
        await take(life.boxes["a"], 1, ack=False)
        copy = tmp_path / "copy"  # a crash now would leave just this: the file and its write-ahead log
        copy.write_bytes(path.read_bytes())
        copy.with_name("copy-wal").write_bytes(path.with_name("outbox-wal").read_bytes())
        assert [row[1:3] for row in rows(copy)] == [("a", "mic/event")]

    live(path, check)


def test_starts_without_an_end_are_found(tmp_path: Path) -> None:
    async def first(life: Life) -> None:
        life.put(event(1, "start"), event(2, "start"), event(1, "end"), event(3, "start"))
        await take(life.boxes["a"], 4)

    async def second(life: Life) -> None:
        assert numbers(life.found.open) == [2, 3]
        life.put(event(2, "end"))

    live(tmp_path / "outbox", first, "a", "b")
    live(tmp_path / "outbox", second)
    assert numbers(live(tmp_path / "outbox", nothing).found.open) == [3]


def test_orders_are_kept_the_newest_of_each_topic(tmp_path: Path) -> None:
    async def first(life: Life) -> None:
        for text in ("0.5", "0.7"):
            life.journal.keep(Order("mic/bark/threshold/set", text, "0.3"))

    live(tmp_path / "outbox", first)
    assert live(tmp_path / "outbox", nothing).found.kept == [Order("mic/bark/threshold/set", "0.7", "0.3")]


def test_events_of_a_sink_that_left_stay(tmp_path: Path) -> None:
    async def first(life: Life) -> None:
        life.put(event(1))

    live(tmp_path / "outbox", first, "a", "b")
    live(tmp_path / "outbox", nothing, "a")
    assert [row[1] for row in rows(tmp_path / "outbox")] == ["a", "b"]


@pytest.mark.parametrize(("bounds", "left"), [({"max_events": 3}, [7, 8, 9]), ({"max_bytes": 150}, [8, 9])])
def test_what_the_bound_drops_leaves_the_disk(tmp_path: Path, bounds: dict[str, int], left: list[int]) -> None:
    async def first(life: Life) -> None:
        life.put(*(event(n) for n in range(10)))
        assert life.boxes["a"].dropped == 10 - len(left)

    live(tmp_path / "outbox", first, **bounds)
    assert numbers(waiting(live(tmp_path / "outbox", nothing).found)) == left


@pytest.mark.parametrize("value", [float("nan"), "\ud800", object()])
def test_what_json_cannot_say_passes_by_the_disk(tmp_path: Path, value: object) -> None:
    async def first(life: Life) -> None:
        life.put(Message("mic/event", {"score": value}), event(1))
        await take(life.boxes["a"], 2, ack=False)

    live(tmp_path / "outbox", first)
    assert len(rows(tmp_path / "outbox")) == 1


CHILD = """
import asyncio, sys
from pathlib import Path
from streamer import journal as module
from streamer.core import Message
from streamer.journal import Journal
from streamer.outbox import Outbox

module.PATIENCE_S = 60.0  # what leaves without the disk, since that is slow, is not what is looked at here

async def main():
    async def offer():
        while True:
            print((await box.get()).payload["id"], flush=True)      # offered, never acknowledged
    async with Journal(Path(sys.argv[1]), lambda found: None, lambda: box.wake()) as journal:
        box = Outbox(100_000, sink="a", journal=journal)
        asyncio.create_task(offer())
        for number in range(100_000):
            box.put(Message("mic/event", {"id": f"{number:06}", "event_type": "start", "replayed": False}))
            if number % 7 == 0:
                await asyncio.sleep(0)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("offered", [1, 50, 700])
def test_killed_at_any_instant_it_has_lost_nothing_that_was_offered(tmp_path: Path, offered: int) -> None:
    path = tmp_path / "outbox"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(offered)]
        child.send_signal(signal.SIGKILL)
        seen += child.stdout.readlines()
    ids = [line.strip() for line in seen if line.endswith("\n")]
    found = live(path, nothing).found
    assert [message.payload["id"] for message in waiting(found)][: len(ids)] == ids
    assert len(found.open) == len(waiting(found))


# -- disks that fail ---------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(journal_file, "RETRY_S", 0.01)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  files and logs tell nobody that they changed
        await asyncio.sleep(0.002)


@pytest.mark.usefixtures("hasty")
def test_a_full_disk_holds_up_no_event_and_gets_them_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path, insert, is_full = tmp_path / "outbox", journal_file._insert, [True]
    bulky = [Message("mic/event", {"id": f"{n:04}", "event_type": "start", "x": "x" * 4000}) for n in range(50)]

    def cramped(file: sqlite3.Connection, entry: Entry) -> int | None:
        file.execute(f"PRAGMA max_page_count = {1 if is_full else 1_000_000}")  # as good as a full disk, to SQLite
        return insert(file, entry)

    monkeypatch.setattr(journal_file, "_insert", cramped)

    async def life(life: Life) -> None:
        life.put(*bulky)
        assert numbers(await take(life.boxes["a"], 49)) == list(range(49))
        assert life.journal.is_failing
        is_full.clear()
        await until(lambda: not life.journal.is_failing)

    live(path, life)
    assert numbers(waiting(live(path, nothing).found)) == [49]
    assert caplog.messages == [
        f"{path}: the disk is full; make room on it; events wait in memory meanwhile, where a crash would lose them",
        f"{path}: events are kept on disk again",
    ]


@pytest.mark.parametrize("text", [b"no database " * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_broken_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bytes) -> None:
    path = tmp_path / "outbox"
    path.write_bytes(text)

    async def life(life: Life) -> None:
        life.put(event(1))

    live(path, life)
    assert len(rows(path)) == 1
    [aside] = tmp_path.glob("outbox.broken-*")
    assert aside.read_bytes() == text
    [sentence] = caplog.messages
    assert sentence.startswith(f"{path}: the file is broken (file is not a database); it is now outbox.broken-")
    assert ", and a new one is begun; events wait in memory meanwhile" in sentence


def test_a_file_broken_in_the_middle_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox"

    async def first(life: Life) -> None:
        life.put(*(Message("mic/event", {"id": f"{n:04}", "x": "x" * 3000}) for n in range(30)))

    live(path, first)
    text = bytearray(path.read_bytes())
    text[8192:12288] = b"\x55" * 4096
    path.write_bytes(text)
    assert live(path, nothing).found.waiting == {}
    assert len(list(tmp_path.glob("outbox.broken-*"))) == 1


@pytest.mark.parametrize("damage", [
    """UPDATE open SET payload = '{"ie": "0001"}'""",
    "UPDATE open SET payload = '[]'",
    "UPDATE waiting SET payload = '{'",
])  # fmt: skip
def test_a_file_whose_rows_make_no_sense_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "outbox"

    async def first(life: Life) -> None:
        life.put(event(1, "start"))

    live(path, first)
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute(damage)
    assert live(path, nothing).found == Found()
    assert len(list(tmp_path.glob("outbox.broken-*"))) == 1
    assert "the file is broken" in caplog.text


@pytest.mark.usefixtures("hasty")
def test_a_mistake_of_ours_leaves_the_thread_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    insert, is_broken = journal_file._insert, [True]

    def clumsy(file: sqlite3.Connection, entry: Entry) -> int | None:
        if is_broken:
            raise KeyError("clumsy")
        return insert(file, entry)

    monkeypatch.setattr(journal_file, "_insert", clumsy)

    async def life(life: Life) -> None:
        life.put(event(1))
        await take(life.boxes["a"], 1, ack=False)
        assert life.journal.is_failing
        is_broken.clear()
        await until(lambda: not life.journal.is_failing)

    live(tmp_path / "outbox", life)
    assert len(rows(tmp_path / "outbox")) == 1
    assert "KeyError: 'clumsy'" in caplog.text


@pytest.mark.usefixtures("hasty")
def test_a_copy_of_the_file_in_its_place_is_brought_to_what_we_know(tmp_path: Path) -> None:
    """As a disk that was plugged in again, or a backup that was restored: its past is not ours to tell again."""
    path = tmp_path / "state" / "outbox"

    async def life(life: Life) -> None:
        life.put(event(1, "start"), event(2, "start"))
        await take(life.boxes["a"], 1, ack=False)
        shutil.copytree(path.parent, tmp_path / "copy")
        path.parent.rename(tmp_path / "old")
        (tmp_path / "copy").rename(path.parent)
        life.found = Found()
        life.put(event(2, "end"))
        assert numbers(await take(life.boxes["a"], 2, ack=False)) == [2, 2]
        assert life.found == Found()

    live(path, life)
    found = live(path, nothing).found
    assert numbers(waiting(found)) == [1, 2, 2]
    assert numbers(found.open) == [1]


@pytest.mark.usefixtures("hasty")
def test_a_file_that_is_removed_is_made_anew_with_all_that_waits(tmp_path: Path) -> None:
    path = tmp_path / "outbox"

    async def life(life: Life) -> None:
        life.put(event(1, "start"), event(2, "start"))
        await take(life.boxes["a"], 1)
        path.unlink()
        life.put(event(3, "start"))
        await until(path.exists)

    live(path, life)
    found = live(path, nothing).found
    assert numbers(waiting(found)) == [2, 3]
    assert numbers(found.open) == [1, 2, 3]


def test_an_event_of_a_file_that_is_gone_is_not_taken_to_be_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload hands on in memory what is not."""
    path = tmp_path / "outbox"

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def life(life: Life) -> None:
        life.put(event(1))
        await take(life.boxes["a"], 1, ack=False)

    async def card_fails(lived: Life) -> None:
        await life(lived)
        path.unlink()
        monkeypatch.setattr(journal_file, "open_database", fail)
        lived.put(event(2))
        await take(lived.boxes["a"], 1, ack=False)

    lived = live(path, life)
    assert [entry.row is None for entry in lived.boxes["a"].left] == [False]
    lived = live(path, card_fails)
    assert [entry.row is None for entry in lived.boxes["a"].left] == [True, True, True]


def test_another_programs_file_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "photos"
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE photos (id)")
    before = path.read_bytes()

    async def life(life: Life) -> None:
        life.put(event(1))
        await take(life.boxes["a"], 1)

    live(path, life)
    assert path.read_bytes() == before
    [sentence] = caplog.messages
    assert sentence.startswith(f"{path}: the file belongs to another program; give another path; events wait in memory")


@pytest.mark.usefixtures("hasty")
def test_two_processes_do_not_share_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox"
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    holder = f"""
import asyncio, sys
from pathlib import Path
from streamer.journal import Journal
async def main():
    async with Journal(Path({str(path)!r}), lambda found: print("open", flush=True), lambda: None):
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""

    async def life(life: Life) -> None:
        assert life.journal.is_failing
        life.put(event(1))
        await take(life.boxes["a"], 1, ack=False)
        other.communicate("")
        await until(lambda: not life.journal.is_failing)

    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", holder], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        live(path, life)
    assert len(rows(path)) == 1
    advice = "close it there, or, if that is another streamer, give each its own node or outbox.path"
    said = f"{path}: another program holds the file; {advice}; events wait in memory"
    assert caplog.messages[0].startswith(said)


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    async def life(life: Life) -> None:
        life.put(event(1))
        await take(life.boxes["a"], 1)

    live(tmp_path / "file" / "outbox", life)
    assert "File exists; check its folder and permissions; events wait in memory" in caplog.text


def test_a_disk_that_hangs_delays_an_event_by_no_more_than_our_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "PATIENCE_S", 0.03)
    monkeypatch.setattr(journal, "CLOSE_S", 0.01)
    hung = threading.Event()
    insert = journal_file._insert
    monkeypatch.setattr(journal_file, "_insert", lambda *args: (hung.wait(10), insert(*args))[1])

    async def life(life: Life) -> None:
        try:
            life.put(event(1), event(2))
            assert numbers(await take(life.boxes["a"], 2)) == [1, 2]
            life.put(event(3))
            assert numbers(await take(life.boxes["a"], 1)) == [3]
        finally:
            hung.set()

    live(tmp_path / "outbox", life)
    said = f"{tmp_path / 'outbox'}: the disk takes over 0.03 s; events go out before they are on it"
    assert caplog.messages == [said]


def test_what_is_delivered_while_the_disk_hangs_does_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PATIENCE_S", 0.01)
    hung, insert = threading.Event(), journal_file._insert
    monkeypatch.setattr(journal_file, "_insert", lambda *args: (hung.wait(10), insert(*args))[1])

    async def life(life: Life) -> None:
        try:
            for number in range(50):
                life.put(event(number))
                await take(life.boxes["a"], 1)
            assert len(life.journal._batch.new) + len(life.journal._batch.gone) <= 2
            assert life.journal._file._batches.qsize() <= 1
        finally:
            hung.set()

    live(tmp_path / "outbox", life)
    assert rows(tmp_path / "outbox") == []


def test_what_was_put_in_one_go_is_on_the_disk_for_every_sink_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str]] = []
    write = journal_file.JournalFile.write

    def noted(file: journal_file.JournalFile, batch: Batch) -> None:
        batches.append([f"{entry.sink}{entry.message.payload['id']}" for entry in batch.new])
        write(file, batch)

    monkeypatch.setattr(journal_file.JournalFile, "write", noted)

    async def life(life: Life) -> None:
        for number in range(3):
            life.put(event(number))
            await take(life.boxes["a"], 1)

    live(tmp_path / "outbox", life, "a", "b")
    assert [batch for batch in batches if batch] == [[f"a{n:04}", f"b{n:04}"] for n in range(3)]


def test_what_is_dropped_while_it_waits_for_the_disk_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "PATIENCE_S", 0.05)

    async def life(life: Life) -> None:
        life.put(event(1), event(2))
        await take(life.boxes["a"], 1)
        await asyncio.sleep(0.1)

    live(tmp_path / "outbox", life, max_events=1)
    assert caplog.messages == ["sink a: over 1 events or 16.0 MB wait for it; from now on the oldest are dropped"]


def test_a_closed_outbox_gives_what_still_waits_for_the_disk(tmp_path: Path) -> None:
    async def life(life: Life) -> None:
        life.put(*(event(n) for n in range(5)))
        life.boxes["a"].close()
        assert numbers(await take(life.boxes["a"], 5)) == list(range(5))
        assert await life.boxes["a"].get() is None

    live(tmp_path / "outbox", life)


AUTO, HOME = "auto", "/home/a"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder, as services in containers are."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)


def settings_of(path: str | None) -> Settings:
    streams = {"mic": StreamConfig(source=ModelConfig())}
    return Settings(node="garage", streams=streams, outbox=OutboxConfig(path=path))


@pytest.mark.parametrize(("environment", "configured", "path"), [
    ({"HOME": HOME, "STATE_DIRECTORY": "/var/lib/streamer:/other"}, AUTO, "/var/lib/streamer/outbox-garage.sqlite"),
    ({"HOME": HOME, "XDG_STATE_HOME": "/home/a/state"}, AUTO, "/home/a/state/streamer/outbox-garage.sqlite"),
    ({"HOME": HOME}, AUTO, "/home/a/.local/state/streamer/outbox-garage.sqlite"),
    ({"STATE_DIRECTORY": "/var/lib/streamer"}, AUTO, "/var/lib/streamer/outbox-garage.sqlite"),
    ({"HOME": HOME}, "~/out.sqlite", "/home/a/out.sqlite"),
    ({}, "/srv/out.sqlite", "/srv/out.sqlite"),
])  # fmt: skip
@pytest.mark.usefixtures("homeless")
def test_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], configured: str, path: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place_of(settings_of(configured)) == Path(path)


@pytest.mark.parametrize(("configured", "sentence"), [
    (AUTO, "outbox.path: there is no home folder to keep events in; set outbox.path to a file, or to null"),
    ("~/x", "outbox.path: '~/x' lies in a home folder that is not there; write the path in full"),
])  # fmt: skip
@pytest.mark.usefixtures("homeless")
def test_a_home_folder_that_is_not_there(configured: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        place_of(settings_of(configured))
    assert str(caught.value) == sentence


@pytest.mark.usefixtures("homeless")
def test_none_is_wanted() -> None:
    assert place_of(settings_of(None)) is None
