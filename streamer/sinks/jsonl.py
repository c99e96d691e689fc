"""Events as JSON lines, appended to a file or to standard output. States and readings aren't kept."""

import io
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamer.outbox import Outbox, is_event
from streamer.sinks.base import Retry, Sink, to_json

log = logging.getLogger(__name__)


class Config(BaseModel):
    """Where the lines go."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    type: Literal["jsonl"] = "jsonl"
    path: Annotated[str, Field(min_length=1, description="file to append to; '-' is standard output")]


def build(config: Config, node: str) -> Sink:
    """Make the sink; opens nothing yet. Its events carry their node themselves, so `node` isn't used."""
    del node
    return Jsonl(None if config.path == "-" else Path(config.path))


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
                    await self._deliver(to_json(message.payload) + b"\n")
                outbox.ack(message)
        finally:
            self._close()

    async def _deliver(self, line: bytes) -> None:
        name = self._path or "standard output"
        while True:
            try:
                self._append(line)
            except OSError as error:
                await self._retry.failed(
                    f"events can't be written to {name}: {error.strerror}; they wait in memory. "
                    "Check its folder, permissions and free space"
                )
            else:
                self._retry.succeeded(f"events are written to {name}")
                return

    def _append(self, line: bytes) -> None:
        file = self._open()
        written = 0
        try:
            while written < len(line):
                written += file.write(line[written:])
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
            self._file = io.FileIO(sys.stdout.fileno(), "w", closefd=False)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self._path, "a")
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
