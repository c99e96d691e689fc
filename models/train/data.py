"""Recordings as training material: mel energies, and where in them something sounds."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from models.checkpoint import CheckpointError
from models.fbank import fbank
from models.spec import FbankSpec

Floats = npt.NDArray[np.float32]
AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus"}
ACTIVE_DB = 30.0  # frames this far below a clip's loudest are its pauses


@dataclass(frozen=True, slots=True)
class Recording:
    """One labelled file; `labels` are names, `fold` is None where the data set has none."""

    path: Path
    labels: tuple[str, ...]
    fold: int | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording's mel energies (T, M) float32, scaled so that its active frames have unit mean energy.

    `active` (T,) bool: frames in which something sounds. `labels`: positions in the model's label list.
    """

    energy: Floats
    active: npt.NDArray[np.bool_]
    labels: tuple[int, ...]


def recordings(data: Path) -> list[Recording]:
    """Labelled files: a folder with a sub-folder per label, or a CSV of `file,labels[,fold]` (`;` between labels).

    Raises:
        CheckpointError: nothing usable there; the sentence says what is needed.
    """
    if data.is_dir():
        found = [
            Recording(path, (path.parent.name,)) for path in sorted(data.glob("*/*")) if path.suffix.lower() in AUDIO
        ]
    elif data.is_file():
        with data.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and not {"file", "labels"} <= set(rows[0]):
            raise CheckpointError(f"{data}: columns are {', '.join(rows[0])}; needed: file, labels and optionally fold")
        found = [
            Recording(
                data.parent / row["file"],
                tuple(label.strip() for label in row["labels"].split(";") if label.strip()),
                int(row["fold"]) if row.get("fold") else None,
            )
            for row in rows
        ]
    else:
        raise CheckpointError(f"data {str(data)!r} not found; give a folder with a sub-folder per label, or a CSV")
    if not found:
        raise CheckpointError(f"no recordings in {data}; needed: <label>/<file> with one of {', '.join(sorted(AUDIO))}")
    return found


def read(path: Path, sample_rate: int = 16000) -> Floats:
    """A whole file as mono at `sample_rate` Hz, (n,) float32.

    Raises:
        CheckpointError: it is no readable sound file.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise CheckpointError(f"{path} can't be read as sound: {error}") from None
    mono: Floats = soxr.resample(samples.mean(axis=1), rate, sample_rate).astype(np.float32)
    return mono


def clip(samples: Floats, labels: tuple[int, ...], spec: FbankSpec) -> Clip:
    """Mel energies of `samples`, and where they are active."""
    energy = np.exp(fbank(samples, spec))
    loudness = 10 * np.log10(np.convolve(energy.sum(axis=1), np.full(9, 1 / 9), "same"))
    active = loudness > loudness.max() - ACTIVE_DB
    return Clip(energy / energy[active].sum(axis=1).mean(), active, labels)
