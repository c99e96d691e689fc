"""The log-mel of every recording of a set: computed once, kept in one file, never in memory as a whole.

In: recordings. Out: frames by recording, read from a memory map. An hour takes 92 MB: float16 holds log-mel, which lies
between -16 and 16, to 0.004 (digital silence becomes -15.945 for -15.942), less than 0.0005 once normalised.

The file: all frames (N, M) as little-endian float16, an index in JSON, its length in 8 bytes, `MAGIC`: what tells that
it is whole stands at its end.
"""

import errno
import json
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from models.errors import DataError
from models.fbank import fbank
from models.spec import FbankSpec
from models.train.data import LEAVE_OUT, Recording, opened, read, several

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
STORED = np.dtype("<f2")
MAGIC = b"logmel 1"  # changes with what `fbank` computes
TAIL = 8 + len(MAGIC)  # bytes
MAX_READERS = 8  # threads: decoding, resampling and the filterbank all run outside the interpreter's lock
AHEAD = 2  # recordings a reader may be ahead of the writer, and
AHEAD_S = 3600  # seconds of sound all readers may be ahead, at most 0.13 MB each: a longer recording is read alone


class Features(Sequence[Floats]):
    """Log-mel of n recordings, not normalised.

    Args:
        frames: (N, M), the recordings one after the other, in memory or mapped.
        starts: (n,) each one's first frame.
        n_frames: (n,) how many are its own.
    """

    def __init__(self, frames: npt.NDArray[np.floating], starts: npt.ArrayLike, n_frames: npt.ArrayLike) -> None:
        self._frames = frames
        self._starts: Counts = np.asarray(starts, np.int64)
        self.n_frames: Counts = np.asarray(n_frames, np.int64)

    @classmethod
    def build(cls, recordings: Sequence[Recording], spec: FbankSpec, file: Path) -> "Features":
        """Features of `recordings`, in their order: from `file` if it has them all and none has changed, else computed.

        A file made for a whole set thus serves any part of it. `spec`'s mean and std don't matter.

        Raises:
            DataError: recordings that can't be used, all in one sentence; or `file` can't be written.
        """
        index = _index(file, spec)
        if not all(_matches(index, recording.path) for recording in recordings):
            _write(recordings, spec, file)
            index = _index(file, spec)
        n_total = max((entry["start"] + entry["n_frames"] for entry in index.values()), default=0)
        shape = (n_total, spec.n_mels)
        frames = np.memmap(file, STORED, "r", shape=shape) if index else np.empty(shape, STORED)
        entries = [index[_name(recording.path)] for recording in recordings]
        return cls(frames, [entry["start"] for entry in entries], [entry["n_frames"] for entry in entries])

    def __len__(self) -> int:
        return len(self.n_frames)

    @overload
    def __getitem__(self, i: int) -> Floats: ...
    @overload
    def __getitem__(self, i: slice) -> "Features": ...
    def __getitem__(self, i: int | slice) -> "Floats | Features":
        """All frames of recording `i`, (T, M) float32; of a slice, the features of those recordings."""
        if isinstance(i, slice):
            return Features(self._frames, self._starts[i], self.n_frames[i])
        return self.crop(i, 0, int(self.n_frames[i]))

    def crop(self, i: int, start: int, size: int) -> Floats:
        """At most `size` frames of recording `i` from its frame `start`, (<= size, M) float32; only they are read."""
        first, last = int(self._starts[i]), int(self._starts[i] + self.n_frames[i])
        return np.array(self._frames[first + start : min(first + start + size, last)], np.float32)


def compute(recordings: Sequence[Recording], spec: FbankSpec, what: str = "features") -> Generator[Floats]:
    """Log-mel (T, M) float32 of each recording, in order, read by several threads; `what` names the progress bar.

    Raises:
        DataError: after the last recording, if some can't be used: three with their reasons, and how many more.
    """
    broken = []
    with tqdm(total=len(recordings), desc=what, unit="file", disable=None) as progress:
        for future in _read_ahead(recordings, spec):
            try:
                yield future.result()
            except DataError as error:
                broken.append(str(error))
            progress.update()
    _refuse(broken, len(recordings))


def check_headers(recordings: Sequence[Recording], sample_rate: int) -> None:
    """Open every file and decode none: what is wrong with most broken ones shows in seconds.

    Raises:
        DataError: some aren't there, are no sound, or have a rate below `sample_rate` Hz; named as by `compute`.
    """
    broken = []
    for recording in recordings:
        try:
            with opened(recording.path, sample_rate):
                pass
        except DataError as error:
            broken.append(str(error))
    _refuse(broken, len(recordings))


def _refuse(broken: Sequence[str], n: int) -> None:
    """Raise if any of `n` recordings are broken, in one sentence."""
    if len(broken) == 1:
        raise DataError(broken[0])
    if broken:
        reasons = several([reason.removesuffix(LEAVE_OUT) for reason in broken])
        raise DataError(
            f"{len(broken)} of {n} recordings can't be used: {reasons}; leave them out or record them again"
        )


def _read_ahead(recordings: Sequence[Recording], spec: FbankSpec) -> Iterator[Future[Floats]]:
    n_readers = min(MAX_READERS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(n_readers, "features")
    waiting: deque[tuple[Future[Floats], float]] = deque()
    try:
        for recording in recordings:
            length_s = _seconds(recording.path)
            while waiting and (len(waiting) >= AHEAD * n_readers or sum(s for _, s in waiting) + length_s > AHEAD_S):
                yield waiting.popleft()[0]
            waiting.append((pool.submit(_log_mel, recording.path, spec), length_s))
        while waiting:
            yield waiting.popleft()[0]
    finally:
        pool.shutdown(cancel_futures=True)


def _seconds(path: Path) -> float:
    """Length as the file's header has it; 0 for a broken file, which takes no memory."""
    try:
        with opened(path) as file:
            return float(file.frames / file.samplerate)
    except DataError:
        return 0.0


def _log_mel(path: Path, spec: FbankSpec) -> Floats:
    return fbank(read(path, spec.sample_rate), spec)


# -- the file ----------------------------------------------------------------------------------------------------------


def _write(recordings: Sequence[Recording], spec: FbankSpec, file: Path) -> None:
    """Compute and store; under its own name the file is whole from the first moment."""
    partial = file.with_name(file.name + ".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            _store(recordings, spec, out)
        partial.replace(file)
    except OSError as error:  # recordings that can't be read are DataErrors
        is_full = error.errno == errno.ENOSPC
        remedy = ": they take 92 MB for an hour of sound; free some space, or" if is_full else ";"
        raise DataError(f"can't write features to {file} ({error.strerror}){remedy} give another folder") from None
    finally:
        with suppress(OSError):  # as a rule it is there no more
            partial.unlink()


def _store(recordings: Sequence[Recording], spec: FbankSpec, out: BinaryIO) -> None:
    stamps = [_stamp(recording.path) for recording in recordings]  # before reading: a change meanwhile will be noticed
    entries, start = [], 0
    with closing(compute(recordings, spec)) as computed:
        for recording, stamp, frames in zip(recordings, stamps, computed, strict=True):
            out.write(frames.astype(STORED).tobytes())
            entries.append({"path": _name(recording.path), "stamp": stamp, "start": start, "n_frames": len(frames)})
            start += len(frames)
    index = json.dumps({"spec": _settings(spec), "recordings": entries}).encode()
    out.write(index + len(index).to_bytes(8, "little") + MAGIC)
    out.flush()
    os.fsync(out.fileno())


def _index(file: Path, spec: FbankSpec) -> dict[str, dict[str, Any]]:
    """What `file` holds, by path; nothing if it is not there, not whole, or made with other settings."""
    try:
        with file.open("rb") as stored:
            size = stored.seek(0, os.SEEK_END)
            stored.seek(max(0, size - TAIL))
            tail = stored.read()
            n_bytes = int.from_bytes(tail[:8], "little")
            if tail[8:] != MAGIC or n_bytes > size - TAIL:
                return {}
            stored.seek(size - TAIL - n_bytes)
            index = json.loads(stored.read(n_bytes))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if index["spec"] != _settings(spec):
        return {}
    return {entry["path"]: entry for entry in index["recordings"]}


def _matches(index: dict[str, dict[str, Any]], path: Path) -> bool:
    entry = index.get(_name(path))
    return entry is not None and entry["stamp"] == _stamp(path)


def _name(path: Path) -> str:
    return str(path.absolute())


def _stamp(path: Path) -> list[int] | None:
    """Size and time of change; None if there is no such file, which reading it will report."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _settings(spec: FbankSpec) -> list[int]:
    return [spec.sample_rate, spec.frame_length, spec.frame_hop, spec.n_mels]
