"""A folder of soundscapes with known truth, as sed_eval, the DCASE tasks and `models.train.soundscapes` write it.

In: audio files, `annotations.tsv` and, where it is there, `durations.tsv`. Out: each file with what sounds in it. What
does not fit together is refused in one sentence, by line.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path

from models.errors import DataError
from models.train.data import LEAVE_OUT, audio_in, cells_of, opened, several
from models.train.soundscapes import ANNOTATIONS, DURATIONS, Truth, joined

EVENTS = ("filename", "onset", "offset", "event_label")
LENGTHS = ("filename", "duration")
NEEDED = f"a folder with audio files and {ANNOTATIONS}, whose columns are {', '.join(EVENTS)}, with tabs between"
ROUNDED_S = 0.1  # by which lengths may differ: times are rounded, and codecs pad
Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Annotated:
    """A file, its length in seconds, and what sounds in it, by onset; nothing in a background."""

    path: Path
    seconds: float
    truths: tuple[Truth, ...]


def annotated(folder: Path) -> list[Annotated]:
    """The files that `annotations.tsv` names, then the others beside them, which are backgrounds.

    Sounds of one label that overlap are one. A row of a filename alone stands for a file in which nothing sounds, as in
    the DCASE tasks. Of audio the headers are read, no more.

    Args:
        folder: names of files are seen from it.

    Raises:
        DataError: no such folder, no annotations, or mistakes in them: by line, the first three and how many more.
    """
    if not (folder / ANNOTATIONS).is_file():
        raise DataError(f"{folder} {f'has no {ANNOTATIONS}' if folder.is_dir() else 'is no folder'}; needed: {NEEDED}")
    seconds = cache(_seconds)
    found: dict[Path, list[Truth]] = {}

    def add(path: Path, row: Row) -> None:
        found.setdefault(path, []).extend(_truths(path, row, seconds(path)))

    _each_row(folder, ANNOTATIONS, EVENTS, add)
    if (folder / DURATIONS).is_file():
        _each_row(folder, DURATIONS, LENGTHS, lambda path, row: _check_length(path, row, seconds(path)))
    homes = dict.fromkeys((folder, *(path.parent for path in found)))
    for background in (path for home in homes for path in audio_in(home)):
        found.setdefault(background, [])
    if not found:
        raise DataError(f"{folder} holds no audio files; needed: {NEEDED}")
    return [Annotated(path, seconds(path), joined(truths, 0.0)) for path, truths in found.items()]


def _each_row(folder: Path, name: str, needed: Sequence[str], take: Callable[[Path, Row], None]) -> None:
    """Give every row and its file to `take`; what that raises, once for each mistake, becomes one sentence."""
    table = folder / name
    try:
        rows = cells_of(table, "\t")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is no table in UTF-8 ({error}); needed: {', '.join(needed)}") from None
    columns = [column.lower() for column in rows[0][1]] if rows else []
    if not set(needed) <= set(columns):
        given = f"columns are {', '.join(columns)}" if columns else "it is empty"
        raise DataError(f"{table}: {given}; needed: {', '.join(needed)}, with tabs between")
    mistakes: dict[str, int] = {}
    for line, cells in rows[1:]:
        try:
            row = _row(columns, cells)
            take(_file(folder, row["filename"]), row)
        except DataError as error:
            mistakes.setdefault(str(error).removesuffix(LEAVE_OUT), line)
    if mistakes:
        said = several([f"line {line}: {mistake}" for mistake, line in mistakes.items()])
        raise DataError(f"{table}: {said}; correct these lines or remove them")


def _row(columns: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(columns):
        raise DataError(f"{len(cells)} cells, but the header has {len(columns)}")
    return dict(zip(columns, cells, strict=True))


def _file(folder: Path, name: str) -> Path:
    if not name:
        raise DataError("no filename")
    if not (folder / name).is_file():
        raise DataError(f"{name!r} is no file in {folder}")
    return folder / name


def _seconds(path: Path) -> float:
    with opened(path) as file:
        if not file.frames:
            raise DataError(f"{path} holds no samples{LEAVE_OUT}")
        return float(file.frames / file.samplerate)


def _truths(path: Path, row: Row, seconds: float) -> list[Truth]:
    """The sound of a row, if it has one."""
    label = row["event_label"]
    if not (label or row["onset"] or row["offset"]):
        return []
    if not label:
        raise DataError("no event_label")
    onset_s, offset_s = _time(row, "onset"), _time(row, "offset")
    if offset_s <= onset_s:
        raise DataError(f"offset {offset_s:g} is not after onset {onset_s:g}")
    if onset_s >= seconds or offset_s > seconds + ROUNDED_S:
        raise DataError(f"{label!r} at {onset_s:g} to {offset_s:g} s, but {path.name} lasts {seconds:.2f} s")
    return [Truth(onset_s, min(offset_s, seconds), label)]


def _check_length(path: Path, row: Row, seconds: float) -> None:
    stated_s = _time(row, "duration")
    if abs(stated_s - seconds) > ROUNDED_S:
        raise DataError(f"duration {stated_s:g}, but {path.name} lasts {seconds:.2f} s")


def _time(row: Row, column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = -1.0
    if not 0 <= value < inf:
        raise DataError(f"{column} {row[column]!r} is no time; write seconds from 0 on")
    return value
