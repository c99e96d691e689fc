"""Labelled recordings: finding, dividing and reading them. What can't be learned from is refused in one sentence."""

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from models.errors import DataError
from models.sound import SequentialFile

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus"}
BACKGROUND = "background"  # the folder of sounds that have no label
NEEDED = f"a sub-folder for each label with files in it ({', '.join(sorted(AUDIO))}), or a CSV with columns file,labels"
LEAVE_OUT = "; leave it out or record it again"
MIN_S = 0.025  # one frame of the filterbank
BLOCK = 1 << 18  # samples read at once: hours at 48 kHz in stereo never lie in memory whole


@dataclass(frozen=True, slots=True)
class Recording:
    """One labelled file; `labels` are names, none for a background; `fold` is None where the data set has none."""

    path: Path
    labels: tuple[str, ...]
    fold: int | None = None


# -- finding -----------------------------------------------------------------------------------------------------------


def recordings(data: Path) -> list[Recording]:
    """The recordings of a data set.

    Args:
        data: a folder, or a CSV in UTF-8. In a folder each sub-folder is a label and holds its files directly; files in
            `background` have no label. A CSV has the columns `file` (absolute, or seen from the CSV's folder), `labels`
            (`;` between them, empty for none) and, if wanted, `fold` (a whole number from 1). Hidden files are ignored.

    Raises:
        DataError: nothing usable there, or mistakes in the CSV: by line, the first three and how many more.
    """
    if data.is_dir():
        return _of_folder(data)
    if data.is_file():
        return _of_csv(data)
    raise DataError(f"data {str(data)!r} not found; needed: {NEEDED}")


def check(data: Path, found: Sequence[Recording]) -> None:
    """Refuse what no classifier can be trained on.

    Raises:
        DataError: there are fewer than two labels.
    """
    names = labels(found)
    if len(names) < 2:
        holds = f"one label, {names[0]!r}" if names else "no labels"
        rename = "" if all(one.labels for one in found) else f", or give sounds of {BACKGROUND!r} a label of their own"
        raise DataError(f"{data} holds {holds}; at least two are needed: add a folder of another sound{rename}")


def several(mistakes: Sequence[str]) -> str:
    """The first three of `mistakes`, and how many more there are."""
    rest = [f"and {len(mistakes) - 3} more"] if len(mistakes) > 3 else []
    return "; ".join([*mistakes[:3], *rest])


def cells_of(table: Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Line and stripped cells of each row that holds anything; UnicodeDecodeError or csv.Error if it is no table."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    return [(line, cells) for line, cells in rows if any(cells)]


def _of_folder(data: Path) -> list[Recording]:
    files = [path for folder in _visible(data) if folder.is_dir() for path in _visible(folder)]
    for folder in files:  # `data/train/bark/1.wav` would become a label 'train'
        if folder.is_dir() and any(path.suffix.lower() in AUDIO for path in folder.rglob("*")):
            raise DataError(
                f"{folder} holds sound files, but a label's folder holds its files directly: give {folder.parent} as "
                "data if its sub-folders are the labels, or list the files in a CSV"
            )
    found = [
        Recording(path, () if path.parent.name.casefold() == BACKGROUND else (path.parent.name,))
        for path in files
        if path.suffix.lower() in AUDIO and path.is_file()
    ]
    loose = audio_in(data)
    others = sorted({path.suffix.lower() or path.name for path in files if path.is_file()} - AUDIO)
    if not found:
        ends = f"; its files end in {', '.join(others)}" if others else ""
        raise DataError(f"no recordings in {data}{ends}{_in_no_folder(loose)}; needed: {NEEDED}")
    if others or loose:
        log.warning("%s: left out files that end in %s%s", data, ", ".join(others) or "nothing", _in_no_folder(loose))
    return found


def _in_no_folder(loose: Sequence[Path]) -> str:
    return f"; {loose[0].name} and {len(loose) - 1} more lie in no label's folder" if loose else ""


def audio_in(folder: Path) -> list[Path]:
    """What lies in a folder, not hidden, that looks like sound by its name; sorted."""
    return [path for path in _visible(folder) if path.suffix.lower() in AUDIO]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _of_csv(data: Path) -> list[Recording]:
    try:
        rows = cells_of(data)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{data} is no CSV in UTF-8 ({error}); needed: {NEEDED}") from None
    columns = [name.lower() for name in rows[0][1]] if rows else []
    if not {"file", "labels"} <= set(columns):
        given = f"columns are {', '.join(columns)}" if columns else "it is empty"
        raise DataError(f"{data}: {given}; needed: file, labels and optionally fold, with commas between")
    lines: dict[Path, int] = {}
    found, mistakes = [], []
    for line, cells in rows[1:]:
        try:
            recording = _of_row(data.parent, columns, cells)
        except DataError as error:
            mistakes.append(f"line {line} {error}")
            continue
        found.append(recording)
        first = lines.setdefault(recording.path.resolve(), line)
        if first != line:
            mistakes.append(f"line {line} lists {recording.path.name} again, first on line {first}")
    if mistakes:
        raise DataError(f"{data}: {several(mistakes)}")
    if not found:
        raise DataError(f"no recordings in {data}: it has columns, but no rows")
    return found


def _of_row(folder: Path, columns: Sequence[str], cells: Sequence[str]) -> Recording:
    """One row; a mistake is a sentence that goes on from "line 3"."""
    if len(cells) != len(columns):
        raise DataError(f"has {len(cells)} cells, the header {len(columns)} (labels with a comma need quotes)")
    row = dict(zip(columns, cells, strict=True))
    path, fold = folder / row["file"], row.get("fold") or None
    if not row["file"]:
        raise DataError("names no file")
    if not path.is_file():
        raise DataError(f"names {row['file']!r}, which is no file in {folder}")
    if fold is not None and not (fold.isdecimal() and int(fold) >= 1):
        raise DataError(f"has fold {fold!r}, not a whole number from 1")
    names = dict.fromkeys(label.strip() for label in row["labels"].split(";") if label.strip())
    return Recording(path, tuple(names), None if fold is None else int(fold))


# -- dividing ----------------------------------------------------------------------------------------------------------


def labels(found: Iterable[Recording]) -> tuple[str, ...]:
    """All labels, sorted."""
    return tuple(sorted({label for recording in found for label in recording.labels}))


def targets(found: Sequence[Recording], names: Sequence[str]) -> Floats:
    """What a model with the labels `names` (C,) should answer: (n, C), 1 where a recording has the label, else 0.

    Raises:
        DataError: a recording has a label that is not among `names`.
    """
    column = {name: i for i, name in enumerate(names)}
    wanted = np.zeros((len(found), len(names)), np.float32)
    for row, recording in zip(wanted, found, strict=True):
        for label in recording.labels:
            if label not in column:
                raise DataError(f"{recording.path}: {_unknown(label, names)}")
            row[column[label]] = 1
    return wanted


def _unknown(label: str, labels: Sequence[str]) -> str:
    known = ", ".join(repr(name) for name in labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    close = get_close_matches(label, labels, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"the model has no label {label!r}; it has {known}.{hint} Rename the label in the data, "
        "or give a model that was trained on it"
    )


def split(found: Sequence[Recording], hold_out: float, seed: int) -> tuple[list[Recording], list[Recording]]:
    """Recordings to train on, and those held out to measure with; both in the order given.

    Args:
        found: the data set.
        hold_out: 0 for nothing; from 1 a fold's number; between, the share of each label's recordings. A recording
            of several labels is held out only if each of them has some of its share left, and every label keeps one
            recording at least.
        seed: of the draw of a share.

    Raises:
        DataError: no such fold, a label has recordings nowhere else, or nothing would be held out.
    """
    if hold_out == 0:
        return list(found), []
    if 0 < hold_out < 1:
        held = _draw(found, hold_out, seed)
    elif hold_out >= 1 and float(hold_out).is_integer():
        held = _fold(found, int(hold_out))
    else:
        raise DataError(f"hold-out {hold_out} is neither a share between 0 and 1 nor a fold's number; 0 holds out none")
    return (
        [one for one, is_held in zip(found, held, strict=True) if not is_held],
        [one for one, is_held in zip(found, held, strict=True) if is_held],
    )


def _fold(found: Sequence[Recording], fold: int) -> list[bool]:
    folds = sorted({one.fold for one in found if one.fold is not None})
    if fold not in folds:
        known = f"known: {', '.join(map(str, folds))}" if folds else "the data set has no fold column: give a share"
        raise DataError(f"fold {fold} not found; {known}")
    held = [one.fold == fold for one in found]
    only = set(labels(found)) - set(labels(one for one in found if one.fold != fold))
    if only:
        raise DataError(f"label {min(only)!r} has recordings in fold {fold} alone: nothing is left to train it on")
    return held


def _draw(found: Sequence[Recording], share: float, seed: int) -> list[bool]:
    """Whether each recording is held out: at most `share` of every label, backgrounds being one more."""
    total = Counter(label for one in found for label in one.labels or (None,))
    left = {label: min(round(share * n), n - 1) for label, n in total.items()}
    held = [False] * len(found)
    for i in np.random.default_rng(seed).permutation(len(found)):
        its = found[i].labels or (None,)
        if all(left[label] for label in its):
            held[i] = True
            for label in its:
                left[label] -= 1
    if not any(held):
        raise DataError(
            f"a share of {share} of each label's recordings holds out nothing: no label has more than "
            f"{max(total.values(), default=0)}; add some or take a larger share, or hold out 0 to measure nothing"
        )
    measured = {label for one, is_held in zip(found, held, strict=True) if is_held for label in one.labels or (None,)}
    for label in [label for label in total if label not in measured]:
        log.warning("%s: none held out of %d, so nothing measures it", label or BACKGROUND, total[label])
    return held


# -- reading -----------------------------------------------------------------------------------------------------------


def read(path: Path, sample_rate: int = 16000) -> Floats:
    """A whole file as mono at `sample_rate` Hz, (n,) float32.

    Raises:
        DataError: it can't be read as sound, has a lower rate, is shorter than a frame, is silent or not finite.
    """
    with opened(path, sample_rate) as file:
        blocks = list(_mono(file, path, sample_rate))
    samples: Floats = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if len(samples) < MIN_S * sample_rate:
        length = f"{1000 * len(samples) / sample_rate:.1f} ms, a frame takes {1000 * MIN_S:.0f} ms"
        raise DataError(f"{path} holds {length if len(samples) else 'no samples'}{LEAVE_OUT}")
    return samples


@contextmanager
def opened(path: Path, sample_rate: int = 0) -> Iterator[soundfile.SoundFile]:
    """A file to read from, not decoded yet; DataError if it is no sound, now or later, or below `sample_rate` Hz."""
    try:
        with SequentialFile(path) as file:
            if file.samplerate < sample_rate:
                raise DataError(
                    f"{path} is sampled at {file.samplerate} Hz, at least {sample_rate} Hz is needed: what lies above "
                    f"{file.samplerate // 2} Hz is missing in it{LEAVE_OUT}"
                )
            yield file
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: no rate is known of a .raw
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise DataError(f"{path} can't be read as sound ({reason}){LEAVE_OUT}") from None


def _mono(file: soundfile.SoundFile, path: Path, sample_rate: int) -> Iterator[Floats]:
    """Blocks at `sample_rate`; equal to resampling the file at once."""
    resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32")
    lowest, highest, n = np.inf, -np.inf, 0
    while len(block := file.read(BLOCK, "float32", always_2d=True)):
        mono = block.mean(axis=1)
        if not np.isfinite(mono).all():
            at_s = (n + int(np.isfinite(mono).argmin())) / file.samplerate
            raise DataError(f"{path} has NaN or infinite samples, the first at {at_s:.2f} s{LEAVE_OUT}")
        lowest, highest, n = min(lowest, mono.min()), max(highest, mono.max()), n + len(mono)
        yield resampler.resample_chunk(mono) if file.samplerate != sample_rate else mono
    if file.samplerate != sample_rate and n:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)
    if n and lowest == highest:
        raise DataError(f"{path} holds digital silence only, {n} samples of {lowest:g}{LEAVE_OUT}")
