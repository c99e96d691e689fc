"""Events as JSON lines, appended to a file, a pipe or standard output. States and readings aren't kept.

Event loop only. It waits for the reader of a pipe or terminal, and in a thread until a file is on its disk; to write to
one, which is quick, it stands still.
"""

import asyncio
import errno
import io
import logging
import os
import select
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamer.core import Message, Site
from streamer.outbox import Outbox, is_event
from streamer.paths import expanded
from streamer.payload import to_json
from streamer.sinks.base import Retry, Sink

log = logging.getLogger(__name__)
UNREAD = {errno.EPIPE, errno.ENXIO}     # a pipe whose reader left, or hasn't come yet


class Config(BaseModel):
    """Where the lines go."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    type: Literal["jsonl"] = "jsonl"
    path: Annotated[str, Field(min_length=1, description="file to append to; '-' is standard output")]


def build(config: Config, site: Site) -> Sink:
    """Make the sink; opens nothing yet. Its events carry their node themselves, so `site` isn't used."""
    del site
    return Jsonl(None if config.path == "-" else expanded(config.path))


class Jsonl:
    """Appends each event's payload as one line, whole or not at all, and at once. `path` None is standard output."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._retry = Retry(log)

    async def run(self, outbox: Outbox) -> None:
        """Write until the outbox is closed and empty; what can't be written is tried again, for ever."""
        try:
            while (message := await outbox.get()) is not None:
                if is_event(message):
                    await self._deliver(message)
                outbox.ack(message)
        finally:
            self._close()

    async def _deliver(self, message: Message) -> None:
        name = self._path or "standard output"
        try:
            line = to_json(message.payload) + b"\n"
        except ValueError as error:
            self._retry.dropped(message, error)
            return
        while True:
            try:
                await self._append(line)
            except OSError as error:
                self._close()       # opened anew, a file is looked at again: it may end in half a line
                check = "that somebody reads it" if error.errno in UNREAD else "its folder, permissions and free space"
                await self._retry.failed(
                    f"events can't be written to {name}: {error.strerror}; they wait in memory. Check {check}"
                )
            else:
                self._retry.succeeded(f"events are written to {name}")
                return

    async def _append(self, line: bytes) -> None:
        file = self._open()
        is_regular = _is_regular(file.fileno())
        chunk = len(line) if is_regular else select.PIPE_BUF
        written = 0
        try:
            while written < len(line):
                await _writable(file)
                written += file.write(line[written:written + chunk]) or 0      # None: there was no room after all
            if is_regular:
                await asyncio.to_thread(os.fsync, file.fileno())
        except OSError:
            if written and self._path is not None:      # half a line, as a full disk leaves it
                with suppress(OSError):
                    file.truncate(os.fstat(file.fileno()).st_size - written)
            raise

    def _open(self) -> io.FileIO:
        """Open what is at the path now: log rotation may have moved or removed the one we had."""
        if self._file is not None and self._is_in_place(self._file):
            return self._file
        self._close()
        if self._path is None:
            self._file = io.FileIO(_own(sys.stdout.fileno()), "w")
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self._path, "a", opener=_open_at_once)
            if _is_regular(self._file.fileno()) and _ends_amid_a_line(self._path):
                self._file.write(b"\n")
        return self._file

    def _is_in_place(self, file: io.FileIO) -> bool:
        try:
            return self._path is None or os.path.samestat(self._path.stat(), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _ends_amid_a_line(path: Path) -> bool:
    """Whether a power cut or a full disk left half a line at its end; not known of a file that we may only write."""
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), 1, max(0, path.stat().st_size - 1)) not in (b"", b"\n")
    except PermissionError:
        return False


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for a pipe's reader; nor do writes wait then."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _own(fd: int) -> int:
    """Another descriptor of the same, to be closed by the caller.

    Whatever can be opened anew doesn't block its writer then. To unblock `fd` itself would do so to all who share it:
    our standard error, and the shell after us.
    """
    if not _is_regular(fd):
        with suppress(OSError):     # a socket, or another user's terminal
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return os.dup(fd)


async def _writable(file: io.FileIO) -> None:
    """Wait until there is room for PIPE_BUF bytes."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_writer(file, ready.set)
    except PermissionError:         # epoll's word for what always is: regular files, /dev/null
        return
    try:
        await ready.wait()
    finally:
        loop.remove_writer(file)
