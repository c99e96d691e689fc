"""A recording as a source: any format libsndfile reads, as if live or as fast as the reader takes it.

`blocks()` is the one way a file is read: the thread that plays it and offline replay both use it.
"""

import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import soundfile
from pydantic import BaseModel, ConfigDict, Field

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.errors import SourceError
from streamer.sources.base import MAX_BROKEN, Channel, Source, SourceInfo, mono, without_broken

log = logging.getLogger(__name__)

BLOCK_S = 0.1  # short beside a hop, long beside the cost of one read
PERIOD_S = 0.01  # in real time, as of a sound card: sound that waits for its block makes events late
ROOM_POLL_S = 0.01  # how soon a waiting file notices that the reader made room; a ring holds seconds
JOIN_S = 1.0  # the thread looks at the stop event every block; longer means the disk hangs

# RIFF and AIFF headers promise a length that libsndfile silently corrects, and tells only in its log.
CORRECTED = re.compile(r"^\s*(?:data|SSND|Riff size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_LENGTH = range(0x7FFF_0000, 2**32)  # bytes; what programs that write to a pipe promise


class Config(BaseModel):
    """`type: file` in the configuration."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    type: Literal["file"] = "file"
    path: Annotated[Path, Field(strict=False)]
    realtime: bool = True
    """Deliver at the pace of life; false: as fast as the reader takes it."""
    channel: Channel = "mix"


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from front to back.

    soundfile seeks after each read where it can, and after a seek libsndfile decodes MP3 wrongly for a while (its
    frames borrow bits from those before): read in blocks, an MP3 would be noise.
    """

    def seekable(self) -> bool:
        """Never, as far as `read` is concerned."""
        return False


def build(config: Config) -> Source:
    """The source that `config` describes; touches no file yet."""
    return FileSource(config)


class FileSource:
    """Plays a file once. It never loses samples: it waits for room in the ring."""

    overflows = 0  # no driver, no loss

    def __init__(self, config: Config) -> None:
        self._config = config
        self._file: SequentialFile | None = None
        self._ring: Ring | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def open(self) -> SourceInfo:
        """See `Source.open`."""
        self.close()
        self._stopping.clear()
        self._ring = None
        self._file = file = _open(self._config.path, self._config.channel)
        return SourceInfo(str(self._config.path), file.samplerate, _block_length(file), is_live=False, can_wait=True)

    def start(self, ring: Ring, clock: Clock) -> None:
        """See `Source.start`. Position 0 is captured now."""
        self._ring = ring
        thread = threading.Thread(target=self._play, args=(ring, clock), name="source-file", daemon=True)
        thread.start()
        self._thread = thread  # not before: one that could not be started can't be joined

    def close(self) -> None:
        """See `Source.close`."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
            self._thread = None
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._ring is not None:
            self._ring.close(Reason.STOP)

    def blocks(self) -> Iterator[Samples]:
        """The opened file from its start, in (n,) float32 blocks of at most `max_block`; broken samples become 0.

        Raises:
            SourceError: the file breaks off, can't be decoded, or is mostly broken; what there is was yielded before.
        """
        file = self._file
        if file is None:
            raise RuntimeError("open() the file first")
        n_read = n_broken = 0
        while len(block := self._read(file, n_read)):
            n_read += len(block)
            block, broken = without_broken(mono(block, self._config.channel))
            n_broken += broken
            yield block
        if n_broken > n_read * MAX_BROKEN:
            raise SourceError(
                f"{self._config.path}: {n_broken} of {n_read} samples are NaN, infinite or absurdly large: this is no "
                "sound; was it written in another sample format? Convert it again"
            )
        if n_broken:
            log.warning("%s: %d broken samples (NaN, infinite or huge) count as silence", self._config.path, n_broken)
        n_promised = _n_promised(file)
        if n_read < n_promised:
            raise SourceError(
                f"{self._config.path}: truncated: the header promises {n_promised / file.samplerate:.2f} s of sound, "
                f"the file ends after {n_read / file.samplerate:.2f} s; copy it again"
            )

    def _read(self, file: soundfile.SoundFile, n_read: int) -> Samples:
        """The next block, (n, channels); empty at the end."""
        try:
            if n_read == 0:
                file.seek(0)
            block: Samples = file.read(_block_length(file), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise SourceError(
                f"{self._config.path}: damaged or truncated after {n_read / file.samplerate:.2f} s ({error}); "
                "copy it again"
            ) from error
        return block

    def _portions(self, sample_rate: int) -> Iterator[Samples]:
        """What goes into the ring at once."""
        n = max(1, round(sample_rate * (PERIOD_S if self._config.realtime else BLOCK_S)))
        for block in self.blocks():
            yield from (block[start : start + n] for start in range(0, len(block), n))

    def _play(self, ring: Ring, clock: Clock) -> None:
        """Deliver until the end or `close`. A file that breaks off ends there: opening it again would not help."""
        began = time.monotonic()
        clock.anchor(0, began)
        try:
            for block in self._portions(clock.sample_rate):
                # A live block is there once its last sample was captured.
                due = began + (ring.written + len(block)) / clock.sample_rate
                if self._config.realtime and self._stopping.wait(max(0.0, due - time.monotonic())):
                    break
                while ring.room < len(block) and not self._stopping.wait(ROOM_POLL_S):
                    pass
                if self._stopping.is_set():
                    break
                ring.write(block)
        except SourceError as error:
            log.error("%s", error)  # noqa: TRY400  a sentence for the user; the trace tells nothing
        ring.close(Reason.STOP if self._stopping.is_set() else Reason.SOURCE_END)


def _open(path: Path, channel: Channel) -> SequentialFile:
    """The file, checked to hold sound and the wanted channel."""
    try:
        file = SequentialFile(path) if _has_bytes(path) else None
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:  # no path at all: a zero byte in it
        raise SourceError(f"{str(path)!r}: can't be read: {error}; check the path") from error
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name ending in .raw
        known = ", ".join(soundfile.available_formats())
        raise SourceError(f"{path}: not an audio file that can be read; known formats: {known}") from error
    if file is None or file.frames == 0:
        raise SourceError(f"{path}: empty: it holds no sound")
    if channel != "mix" and channel > file.channels:
        n_channels = file.channels
        file.close()
        raise SourceError(f"{path}: no channel {channel}; it has {n_channels}: choose 1 to {n_channels}, or mix")
    return file


def _has_bytes(path: Path) -> bool:
    """Whether the file holds anything; what is no file is refused before it is opened, where a pipe would block."""
    if path.exists() and not path.is_file():
        raise SourceError(f"{path}: is {'a folder' if path.is_dir() else 'not a regular file'}; name an audio file")
    with path.open("rb") as raw:
        return bool(raw.read(1))


def _block_length(file: SequentialFile) -> int:
    return max(1, round(int(file.samplerate) * BLOCK_S))


def _n_promised(file: SequentialFile) -> int:
    """Samples that the header promises, as far as it is known."""
    n_found: int = file.frames
    for promised, found in CORRECTED.findall(file.extra_info):
        if int(promised) > int(found) and int(promised) not in UNKNOWN_LENGTH:
            return round(n_found * int(promised) / int(found))
    return n_found
