"""A microphone, through PortAudio in a child process (`_capture.py`).

Sound servers die and hang, and PortAudio then blocks or spins for ever; a child can always be killed and made anew.
Each `open` starts one, and with it a fresh PortAudio that sees the devices of that moment.
"""

import json
import logging
import select
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import IO, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason
from streamer.errors import DeviceNotFound, SourceError
from streamer.sources._capture import HEADER, MAGIC, Device, Kind, Request
from streamer.sources.base import Channel, Mender, Source, SourceInfo

log = logging.getLogger(__name__)

HELLO_S = 10.0  # a loaded machine opens a device in 2 s; a hung sound server never answers
WAKE_S = 0.2  # how soon threads that wait for a silent child notice `kill`: closing a pipe does not wake them
KILL_S = 1.0  # a process stuck in a driver survives SIGKILL for as long as the driver likes
CHATTER_BYTES = 2000  # of the child's last words
CHATTER_PAUSE_S = 0.01  # at most 400 kB/s: a flood (1 GB in 12 s was seen) then blocks the child instead of us
CHATTER_READ = 4096


class Config(BaseModel):
    """`type: microphone` in the configuration."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["microphone"] = "microphone"
    device: Annotated[str, Field(min_length=1)] = "default"
    """An id, a name, or a part of one name, of those `streamer devices` lists; `default`: the system's."""
    channel: Channel = "mix"
    sample_rate: Annotated[int, Field(ge=1000, le=768_000)] | None = None
    """Hz; null: the device's own."""
    zeros_s: Annotated[float, Field(gt=0)] | None = 60.0
    """Digital silence this long means a dead or muted microphone; null: it never does."""


def build(config: Config) -> Source:
    """The source that `config` describes; touches no device yet."""
    return Microphone(config)


def devices(timeout_s: float = HELLO_S) -> list[Device]:
    """All capture devices of this machine.

    Raises:
        SourceError: PortAudio is missing, or the sound system does not answer.
    """
    child = _Child("the list of microphones", Request())
    try:
        return [Device(**device) for device in child.hello(timeout_s)]
    finally:
        child.kill()


class Microphone:
    """A capture device; each opening runs one child process and, once started, one thread that reads from it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._child: _Child | None = None
        self._ring: Ring | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # over the above and the next
        self._generation = 0
        self.overflows = 0

    def open(self) -> SourceInfo:
        """See `Source.open`. Blocks for at most `HELLO_S`; raises SourceError soon after a `close` meanwhile."""
        generation = self._let_go()
        config = self._config
        child = _Child(f"microphone '{config.device}'", Request(config.device, config.channel, config.sample_rate))
        with self._lock:
            is_wanted = self._generation == generation
            if is_wanted:
                self._child = child
        if not is_wanted:
            child.kill()
        try:
            hello = child.hello(HELLO_S)
        except SourceError:
            child.kill()
            raise
        return SourceInfo(hello["description"], hello["sample_rate"], hello["max_block"], is_live=True, can_wait=False)

    def start(self, ring: Ring, clock: Clock) -> None:
        """See `Source.start`. Where `close` came first, only the ring is closed."""
        with self._lock:
            if self._child is None:
                ring.close(Reason.STOP)
                return
            arguments = (self._child, ring, clock)
            self._ring = ring
            thread = threading.Thread(target=self._deliver, args=arguments, name="source-microphone", daemon=True)
            thread.start()
            self._thread = thread  # not before: one that could not be started can't be joined

    def close(self) -> None:
        """See `Source.close`. Any thread; takes little more than `KILL_S` at worst, also while PortAudio hangs."""
        self._let_go()

    def _let_go(self) -> int:
        """End what runs, and an `open` under way in another thread; returns the number of the new generation."""
        with self._lock:
            self._generation += 1
            generation = self._generation
            ring, child, thread = self._ring, self._child, self._thread
            self._ring = self._child = self._thread = None
        if ring is not None:
            ring.close(Reason.STOP)
        if child is not None:
            child.kill(thread)
        return generation

    def _deliver(self, child: "_Child", ring: Ring, clock: Clock) -> None:
        """Copy blocks into the ring until the child ends, whether killed by `close` or by itself."""
        mender = Mender(child.name)
        try:
            while (frame := child.read()) is not None:
                _, is_overflow, captured, payload = frame
                block = mender.mend(np.frombuffer(payload, np.float32))
                self.overflows += is_overflow
                clock.anchor(ring.written, captured)
                ring.write(block)
        except ValueError as error:
            log.error("%s: %s", child.name, error)  # noqa: TRY400  the trace tells nothing
        mender.tell()
        if ring.closed is None:
            log.warning("%s: lost: %s", child.name, child.last_words())
            ring.close(Reason.SOURCE_LOST)


class _Child:
    """A running `_capture` process: its frames, its last words, its death."""

    def __init__(self, name: str, request: Request) -> None:
        self.name = name
        # -P: a queue.py in the working directory must not stand in for Python's own.
        command = [sys.executable, "-P", "-m", "streamer.sources._capture", json.dumps(asdict(request))]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)  # noqa: S603
        except OSError as error:
            raise SourceError(
                f"{name}: the capture process can't be started: {error.strerror}; "
                "is the machine out of memory, or of open files (ulimit -n)?"
            ) from error
        self._is_killed = False
        self._chatter = b""
        self._listener = threading.Thread(target=self._listen, name="source-microphone-stderr", daemon=True)
        try:
            self._listener.start()
        except RuntimeError:  # too many threads; nobody else would end the process
            with self._process:
                self._process.kill()
            raise

    def hello(self, timeout_s: float) -> Any:
        """What the child says first, decoded.

        Raises:
            SourceError: it says what is wrong, or says nothing in time.
        """
        try:
            frame = self.read(time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise SourceError(
                f"{self.name}: no answer from the sound system within {timeout_s:g} s; "
                "is the sound server hung? Restart it"
            ) from error
        except ValueError as error:  # also where `close` came meanwhile
            raise SourceError(f"{self.name}: {error}") from error
        if self._is_killed:
            raise SourceError(f"{self.name}: closed while it was being opened")
        if frame is None:
            raise SourceError(f"{self.name}: the capture process ended: {self.last_words()}")
        kind, _, _, payload = frame
        answer = json.loads(payload)
        if kind == Kind.ERROR:
            error_type = DeviceNotFound if answer["error"] == DeviceNotFound.__name__ else SourceError
            raise error_type(answer["sentence"])
        return answer

    def read(self, deadline: float | None = None) -> tuple[Kind, bool, float, bytes] | None:
        """The next frame: kind, is_overflow, captured (monotonic s), payload; None once the child ended.

        Raises:
            ValueError: it is not a frame.
            TimeoutError: `deadline` (monotonic s) passed.
        """
        header = self._take(HEADER.size, deadline)
        if header is None:
            return None
        magic, kind, is_overflow, n_bytes, captured = HEADER.unpack(header)
        if magic != MAGIC:
            raise ValueError(f"the capture process sent {header!r} where a frame must start")
        payload = self._take(n_bytes, deadline)
        return None if payload is None else (Kind(kind), bool(is_overflow), captured, payload)

    def _take(self, n: int, deadline: float | None) -> bytes | None:
        data = bytearray()
        while len(data) < n:
            if not (chunk := self._read(self._process.stdout, n - len(data), deadline)):
                return None
            data += chunk
        return bytes(data)

    def _read(self, pipe: IO[bytes] | None, n: int, deadline: float | None = None) -> bytes:
        """Up to `n` bytes as soon as there are any; none once the pipe ended or `kill` was called."""
        assert pipe is not None
        while not self._is_killed:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            left_s = WAKE_S if deadline is None else deadline - time.monotonic()
            if poll.poll(max(0.0, min(WAKE_S, left_s)) * 1000):
                return pipe.read(n)
            if left_s <= 0:
                raise TimeoutError
        return b""

    def _listen(self) -> None:
        """Keep the end of what the child prints, and no more."""
        while chunk := self._read(self._process.stderr, CHATTER_READ):
            self._chatter = (self._chatter + chunk)[-CHATTER_BYTES:]
            time.sleep(CHATTER_PAUSE_S)

    def last_words(self) -> str:
        """The last line the child printed, or that it printed none."""
        self._listener.join(CHATTER_PAUSE_S * 10)
        lines = self._chatter.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it gave no reason"

    def kill(self, reader: threading.Thread | None = None) -> None:
        """End the process, wait for it, its listener and its `reader`, but not for long. Only the first call counts."""
        if self._is_killed:
            return
        self._is_killed = True
        self._process.kill()
        try:
            self._process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            log.warning("%s: capture process %d can't be killed: it hangs in a driver", self.name, self._process.pid)
        for thread in (reader, self._listener):
            if thread is not None:
                thread.join(KILL_S)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
