"""Raw PCM from standard input, as `arecord -t raw` or `ffmpeg -f s16le -` write it.

Samples count as captured when they arrive: feed it as sound happens. A reader that is too slow loses sound, as with a
microphone.
"""

import logging
import os
import select
import stat
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.errors import SourceError
from streamer.sources.base import MAX_BROKEN, Channel, Mender, Source, SourceInfo, mono

log = logging.getLogger(__name__)

BLOCK_S = 0.1  # at most this much is taken at once
ROOM_POLL_S = 0.01  # how soon we notice that the reader made room; a ring holds seconds
POLL_MS = 50  # how soon a silent input notices `close`
JOIN_S = 1.0  # many times POLL_MS
STDIN = 0  # file descriptor
DTYPES: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
S16_SCALE = np.float32(2**-15)
RESTS: dict[tuple[int, int], bytes] = {}  # by file descriptor and bytes in a frame: the begun frame, for who reads on


class Config(BaseModel):
    """`type: stdin` in the configuration."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["stdin"] = "stdin"
    sample_rate: Annotated[int, Field(ge=1000, le=768_000)]
    format: Literal["s16le", "f32le"]
    channels: Annotated[int, Field(ge=1, le=64)] = 1
    """Interleaved in the input."""
    channel: Channel = "mix"
    zeros_s: Annotated[float, Field(gt=0)] | None = 60.0
    """Digital silence this long means that whatever writes is dead or muted; null: it never does."""

    @model_validator(mode="after")
    def _channel_is_there(self) -> "Config":
        if self.channel != "mix" and self.channel > self.channels:
            raise ValueError(f"no channel {self.channel} among {self.channels}: choose 1 to {self.channels}, or mix")
        return self


def build(config: Config) -> Source:
    """The source that `config` describes, on this process's standard input."""
    return StdinSource(config)


class StdinSource:
    """Reads raw PCM until it ends.

    Args:
        config: the format of the bytes.
        fd: where they come from; never closed by us.
    """

    overflows = 0  # whatever writes into the pipe may lose sound, and does not tell us

    def __init__(self, config: Config, fd: int = STDIN) -> None:
        self._config = config
        self._fd = fd
        self._frame_bytes = DTYPES[config.format].itemsize * config.channels
        self._max_block = max(1, round(config.sample_rate * BLOCK_S))
        self._ring: Ring | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def open(self) -> SourceInfo:
        """See `Source.open`."""
        self.close()
        self._stopping.clear()
        self._ring = None
        example = "arecord -t raw -f S16_LE -r 16000 | streamer run"
        try:
            kind = os.fstat(self._fd).st_mode
        except OSError as error:
            raise SourceError(f"standard input is closed; pipe raw sound into it: {example}") from error
        if stat.S_ISCHR(kind) and os.isatty(self._fd):
            raise SourceError(f"standard input is a terminal; pipe raw sound into it: {example}")
        if stat.S_ISDIR(kind):
            raise SourceError(f"standard input is a folder; pipe raw sound into it: {example}")
        return SourceInfo("standard input", self._config.sample_rate, self._max_block, is_live=True, can_wait=True)

    def start(self, ring: Ring, clock: Clock) -> None:
        """See `Source.start`."""
        self._ring = ring
        thread = threading.Thread(target=self._deliver, args=(ring, clock), name="source-stdin", daemon=True)
        thread.start()
        self._thread = thread  # not before: one that could not be started can't be joined

    def close(self) -> None:
        """See `Source.close`."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
            self._thread = None
        if self._ring is not None:
            self._ring.close(Reason.STOP)

    def _deliver(self, ring: Ring, clock: Clock) -> None:
        """Copy into the ring until the end or `close`."""
        reason = Reason.SOURCE_END
        mender = Mender("standard input")
        n_read = 0
        rate = self._config.sample_rate
        try:
            for data in self._frames():
                block = mender.mend(self._decode(data))
                clock.anchor(ring.written, time.monotonic() - len(block) / rate)
                while ring.room < len(block) and not self._stopping.wait(ROOM_POLL_S):
                    pass  # unread, the pipe holds its writer back: nothing is lost here
                if self._stopping.is_set():
                    break
                ring.write(block)
                if n_read < rate <= n_read + len(block) and mender.n_broken > rate * MAX_BROKEN:
                    share = f"{mender.n_broken} of the first {n_read + len(block)} samples"
                    log.warning("standard input: %s are no sound; is this really %s?", share, self._config.format)
                n_read += len(block)
        except OSError as error:
            log.error("standard input: can't be read any more: %s", error.strerror)  # noqa: TRY400  as in file.py
            reason = Reason.SOURCE_LOST
        mender.tell()
        ring.close(Reason.STOP if self._stopping.is_set() else reason)

    def _frames(self) -> Iterator[bytes]:
        """Whole frames until the end or `close`; what is read of the next one waits in `RESTS`, over openings too."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        key = self._fd, self._frame_bytes
        while not self._stopping.is_set():
            if not poll.poll(POLL_MS):
                continue
            rest = RESTS.get(key, b"")
            if not (received := os.read(self._fd, self._max_block * self._frame_bytes - len(rest))):
                RESTS.pop(key, None)
                if rest:
                    log.warning("standard input: ended in the middle of a sample; %d bytes dropped", len(rest))
                return
            data = rest + received
            end = len(data) - len(data) % self._frame_bytes
            RESTS[key] = data[end:]
            yield data[:end]

    def _decode(self, data: bytes) -> Samples:
        """(n,) float32 from whole frames of bytes."""
        samples = np.frombuffer(data, DTYPES[self._config.format]).astype(np.float32)
        if self._config.format == "s16le":
            samples *= S16_SCALE
        return mono(samples.reshape(-1, self._config.channels), self._config.channel)
