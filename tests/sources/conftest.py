"""A pipe in place of standard input."""

import os
import threading
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def piped() -> Iterator[Callable[..., int]]:
    """`piped(*parts)` gives a file descriptor from which these bytes can be read, one write each, then the end."""
    ends: list[int] = []
    writers: list[threading.Thread] = []

    def pipe(*parts: bytes) -> int:
        reading, writing = os.pipe()
        ends.append(reading)
        writers.append(threading.Thread(target=_write, args=(writing, parts)))
        writers[-1].start()
        return reading

    yield pipe
    for end in ends:
        os.close(end)
    for writer in writers:
        writer.join()


def _write(fd: int, parts: tuple[bytes, ...]) -> None:
    try:
        with os.fdopen(fd, "wb", buffering=0) as pipe:
            for part in parts:
                for start in range(0, len(part), 4096):
                    pipe.write(part[start : start + 4096])
    except BrokenPipeError:
        pass  # the test read as much as it wanted
