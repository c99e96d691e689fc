import asyncio
import contextlib
import errno
import io
import json
import logging
import os
import pty
import socket
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from streamer.core import Message, Site
from streamer.outbox import Outbox
from streamer.sinks import base, jsonl


def event(number: int) -> Message:
    return Message("mic/event", {"id": number, "label": "Gebell, laut: äöü"})


def lines(path: Path) -> list[Any]:
    return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]


async def until(is_done: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not is_done():  # noqa: ASYNC110  a sink says nothing when it changes
            await asyncio.sleep(0)


def write(path: str, *steps: Message | Callable[[], object]) -> Outbox:
    """Run a sink on `path` through messages, which it gets one by one, and things that happen between them."""
    outbox = Outbox()

    async def scenario() -> None:
        task = asyncio.create_task(jsonl.build(jsonl.Config(path=path), Site("node")).run(outbox))
        for step in steps:
            if isinstance(step, Message):
                outbox.put(step)
                await until(lambda: not outbox.pending)
            else:
                step()
        outbox.close()
        await asyncio.wait_for(task, 5)

    asyncio.run(scenario())
    return outbox


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""
    monkeypatch.setattr(base, "FIRST_WAIT_S", 0.0)


def test_events_are_appended_whole_lines_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id":0}\n')
    other = [Message("mic/status", "online", retain=True), Message("mic/level", {"rms_dbfs": -40}, qos=0)]
    outbox = write(str(path), event(1), *other, event(2))
    assert lines(path) == [0, 1, 2]
    assert '"label":"Gebell, laut: äöü"' in path.read_text(encoding="utf-8")
    assert outbox.pending == 0


def test_each_event_is_on_file_when_it_is_acknowledged(tmp_path: Path) -> None:
    path, seen = tmp_path / "events.jsonl", []
    write(str(path), event(1), lambda: seen.append(lines(path)), event(2), lambda: seen.append(lines(path)))
    assert seen == [[1], [1, 2]]


def test_an_event_waits_for_the_disk_and_the_loop_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, outbox, may_go_on = tmp_path / "events.jsonl", Outbox(), threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: may_go_on.wait(5))
    outbox.put(event(1))

    async def scenario() -> None:
        task = asyncio.create_task(jsonl.build(jsonl.Config(path=str(path)), Site("node")).run(outbox))
        await until(lambda: path.exists() and lines(path))
        await asyncio.sleep(0.02)
        assert outbox.pending == 1
        may_go_on.set()
        await until(lambda: not outbox.pending)
        outbox.close()
        await asyncio.wait_for(task, 5)

    asyncio.run(scenario())


@pytest.mark.usefixtures("hasty")
def test_what_the_disk_did_not_take_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fsync(_: int) -> None:
        if faults:
            raise faults.pop()

    monkeypatch.setattr(os, "fsync", fsync)
    write(str(tmp_path / "events.jsonl"), event(1), event(2))
    assert faults == []
    assert lines(tmp_path / "events.jsonl") == [1, 2]


@pytest.mark.parametrize("before", ['{"id":0}\n{"id":', '{"id":0}'])
def test_half_a_line_that_a_power_cut_left_is_ended(tmp_path: Path, before: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(before)
    write(str(path), event(1), event(2))
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"{before}\n")
    assert [json.loads(line)["id"] for line in text.removeprefix(before).splitlines()[1:]] == [1, 2]


@pytest.mark.parametrize("rotate", [lambda p: p.rename(p.with_suffix(".1")), Path.unlink])
def test_a_file_rotated_or_deleted_is_made_anew(tmp_path: Path, rotate: Callable[[Path], object]) -> None:
    path = tmp_path / "events.jsonl"
    write(str(path), event(1), lambda: rotate(path), event(2))
    assert lines(path) == [2]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "events.jsonl"
    write(str(path), event(1))
    assert lines(path) == [1]


def test_a_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    write("-", event(1), event(2))
    assert [json.loads(line)["id"] for line in capfd.readouterr().out.splitlines()] == [1, 2]


@pytest.mark.usefixtures("hasty")
def test_what_can_not_be_written_waits_and_the_log_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "folder"
    blocked.write_text("a file where a folder should be")
    outbox = Outbox()
    path = blocked / "events.jsonl"

    async def scenario() -> None:
        task = asyncio.create_task(jsonl.build(jsonl.Config(path=str(path)), Site("node")).run(outbox))
        for number in range(5):
            outbox.put(event(number))
        await until(lambda: caplog.messages)
        assert outbox.pending == 5
        blocked.unlink()
        outbox.close()
        await asyncio.wait_for(task, 5)

    asyncio.run(scenario())
    assert lines(path) == [0, 1, 2, 3, 4]
    hint = "Check its folder, permissions and free space"
    assert caplog.messages == [f"events can't be written to {path}: File exists; they wait in memory. {hint}"]


def disk(room: list[int], fault: int) -> type[io.FileIO]:
    """A disk whose writes take so many bytes each, fail where that is none, and then go well again."""

    class Disk(io.FileIO):
        def write(self, data: Any) -> int:
            allowed = room.pop(0) if room else len(data)
            if not allowed:
                raise OSError(fault, os.strerror(fault))
            return super().write(bytes(data)[:allowed])

    return Disk


@pytest.mark.usefixtures("hasty")
def test_a_disk_full_in_the_middle_of_a_line_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamer.sinks.jsonl.io.FileIO", disk([10_000, 10, 0], errno.ENOSPC))
    path = tmp_path / "events.jsonl"
    with caplog.at_level(logging.WARNING):
        write(str(path), event(1), event(2), event(3))
    assert lines(path) == [1, 2, 3]
    assert "No space left on device" in caplog.messages[0]


@pytest.mark.usefixtures("hasty")
def test_half_a_line_that_a_failing_disk_left_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingDisk(disk([10, 0], errno.EIO)):  # type: ignore[misc]
        def truncate(self, size: int | None = None) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("streamer.sinks.jsonl.io.FileIO", FailingDisk)
    path = tmp_path / "events.jsonl"
    write(str(path), event(1), event(2))
    half, *whole = path.read_bytes().splitlines()
    assert (len(half), [json.loads(line)["id"] for line in whole]) == (10, [1, 2])


def test_cancelling_leaves_the_rest_in_the_outbox(tmp_path: Path) -> None:
    outbox = Outbox()

    async def scenario() -> None:
        task = asyncio.create_task(jsonl.build(jsonl.Config(path=str(tmp_path)), Site("node")).run(outbox))
        outbox.put(event(1))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(scenario())
    assert outbox.pending == 1


def test_what_json_can_not_say_is_dropped_with_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    outbox = write(str(path), event(1), Message("mic/event", {"id": 2, "score": float("nan")}), event(3))
    assert (lines(path), outbox.pending) == ([1, 3], 0)
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert "a message for 'mic/event' can't be said (Out of range float values" in caplog.messages[0]


@contextlib.contextmanager
def pipe(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A reader that reads nothing by itself, of what the path of that kind leads to: (path, its descriptor)."""
    path = str(folder / "pipe")
    if kind == "fifo":
        os.mkfifo(path)
        reader, others = os.open(path, os.O_RDONLY | os.O_NONBLOCK), []
    else:
        path = "-"
        if kind == "terminal":
            reader, writer = pty.openpty()
            tty.setraw(writer)
        elif kind == "socket":
            reader, writer = (end.detach() for end in socket.socketpair())
        else:
            reader, writer = os.pipe()
        others = [writer]
        monkeypatch.setattr("streamer.sinks.jsonl.sys.stdout", SimpleNamespace(fileno=lambda: writer))
    try:
        yield path, reader
    finally:
        assert all(os.get_blocking(writer) for writer in others), "whoever shares it finds it changed"
        for fd in (reader, *others):
            os.close(fd)


@pytest.mark.parametrize("kind", ["stdout", "fifo", "terminal", "socket"])
def test_a_reader_that_stalls_holds_nobody_up_and_gets_all_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    outbox, read = Outbox(), bytearray()
    for number in range(200):       # a megabyte: more than any of them holds
        outbox.put(Message("mic/event", {"id": number, "label": "x" * 5000}))

    async def scenario(path: str, reader: int) -> None:
        task = asyncio.create_task(jsonl.build(jsonl.Config(path=path), Site("node")).run(outbox))
        before = -1
        while before != outbox.pending:     # until it is stuck
            before = outbox.pending
            await asyncio.sleep(0.02)
        assert 0 < outbox.pending
        outbox.close()
        asyncio.get_running_loop().add_reader(reader, lambda: read.extend(os.read(reader, 65536)))
        await asyncio.wait_for(task, 10)
        await until(lambda: read.endswith(b"\n") and json.loads(read.splitlines()[-1])["id"] == 199)
        asyncio.get_running_loop().remove_reader(reader)

    with pipe(kind, tmp_path, monkeypatch) as (path, reader):
        asyncio.run(scenario(path, reader))
    assert [json.loads(line)["id"] for line in read.splitlines()] == list(range(200))


def test_a_reader_that_stalls_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox()
    outbox.put(Message("mic/event", {"id": 1, "label": "x" * 1_000_000}))

    async def scenario(path: str) -> None:
        task = asyncio.create_task(jsonl.build(jsonl.Config(path=path), Site("node")).run(outbox))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()

    with pipe("stdout", tmp_path, monkeypatch) as (path, _):
        asyncio.run(scenario(path))
    assert outbox.pending == 1


@pytest.mark.usefixtures("hasty")
def test_a_pipe_nobody_reads_waits_for_a_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, outbox = tmp_path / "pipe", Outbox()
    os.mkfifo(path)
    outbox.put(event(1))

    async def scenario() -> bytes:
        task = asyncio.create_task(jsonl.build(jsonl.Config(path=str(path)), Site("node")).run(outbox))
        await until(lambda: caplog.messages)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        await until(lambda: not outbox.pending)
        first = os.read(reader, 65536)
        os.close(reader)
        outbox.put(event(2))
        await until(lambda: len(caplog.messages) == 2)
        assert outbox.pending == 1
        task.cancel()
        await asyncio.wait([task])
        return first

    assert json.loads(asyncio.run(scenario()))["id"] == 1
    wait = "they wait in memory. Check that somebody reads it"
    assert caplog.messages == [
        f"events can't be written to {path}: No such device or address; {wait}",
        f"events can't be written to {path}: Broken pipe; {wait}",
    ]


def test_nowhere_is_a_file_too() -> None:
    assert write("/dev/null", event(1)).pending == 0


@pytest.mark.parametrize("config", [{"path": ""}, {"path": 3}, {"path": "x", "file": "y"}, {}])
def test_a_bad_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        jsonl.Config.model_validate(config)


def test_a_path_may_begin_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/events.jsonl", event(1))
    assert lines(tmp_path / "events.jsonl") == [1]
