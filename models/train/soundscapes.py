"""Soundscapes with known truth: recordings and alarms in rooms, at drawn moments and signal-to-noise ratios.

    python -m models.train.soundscapes --data ESC10 --out FOLDER --hours 1 --seed 0

After Salamon et al. 2017, "Scaper: A Library for Soundscape Synthesis and Augmentation". What is annotated is where a
sound has energy, not the padded clip it came in; stretches of one label less than `PAUSE_S` apart are one event. FOLDER
gets WAV files, `annotations.tsv` and `durations.tsv` with the columns that sed_eval and the DCASE tasks read.
"""

import argparse
import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from models.errors import DataError
from models.train import alarms
from models.train.arguments import number, whole
from models.train.data import Recording, opened, recordings
from models.train.rooms import TONES, Floats, Maker, reverberated

Sound = Callable[[np.random.Generator, int], Floats]
"""Draws one example at a rate in Hz: (n,) float32."""
FRAME_S = 0.02  # of energy
ACTIVE_DB = 30.0  # frames this far below a sound's loudest are its pauses …
FLOOR_DB = 10.0  # … and so are those less than this above the recording's own noise
STEADY_DB = 15.0  # what lies within this of the loudest is always sound: rain has no pauses to find the noise in
PAUSE_S = 2.0  # seconds; a shorter pause is part of the event, as `release_s` of the rules has it
FADE_S = 0.01  # both ends of what is cut out of a recording
QUIETEST = 10 ** (-90 / 20)  # RMS; a background below it is taken for this loud, lest a sound be inaudible
LEAST_S = 0.05  # what is shorter, or cut shorter by the end, is no sound
ANNOTATIONS, DURATIONS = "annotations.tsv", "durations.tsv"


@dataclass(frozen=True, slots=True)
class Truth:
    """One sound: seconds from the start, and its SNR over the background in dB, the best of its stretches'."""

    onset_s: float
    offset_s: float
    label: str
    snr_db: float = float("nan")


@dataclass(frozen=True, slots=True)
class Soundscape:
    """(n,) float32 samples in [-1, 1] at `rate` Hz, and what sounds in them, by onset."""

    samples: Floats
    rate: int
    truths: tuple[Truth, ...]


@dataclass(frozen=True, slots=True)
class Bank:
    """What soundscapes are made of: examples of each label, each label drawn equally often, and backgrounds."""

    foregrounds: Mapping[str, Sequence[Sound]]
    backgrounds: Sequence[Sound] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """How they are made; pairs are the bounds of uniform draws.

    Args:
        gap_s: mean seconds between the onsets of sounds, which come as by chance (a Poisson process).
        snr_db: RMS of a sound where it is active over that of the background meanwhile.
        room_dbfs: RMS of the background.
        reverb: chance that a sound has an echo, whose time and energy are drawn from `rt60_s` and `wet_db`.
        repeats: times that a steady recording is played on end, at most: helicopters last longer than clips.
        rates: Hz, of which each soundscape has one.
    """

    gap_s: tuple[float, float] = (8.0, 30.0)
    snr_db: tuple[float, float] = (-5.0, 20.0)
    room_dbfs: tuple[float, float] = (-65.0, -30.0)
    reverb: float = 0.5
    rt60_s: tuple[float, float] = (0.15, 0.8)
    wet_db: tuple[float, float] = (-18.0, -3.0)
    repeats: int = 4
    rates: Sequence[int] = field(default=(16000, 44100, 48000))


# -- what they are made of ---------------------------------------------------------------------------------------------


def bank(
    data: Path | None = None,
    *,
    folds: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    with_alarms: bool = True,
) -> Bank:
    """Recordings of a folder per label, alarms made in code, and rooms.

    Args:
        data: as `models.train.data.recordings` takes it; those without a label are backgrounds. None: no recordings.
        folds: only recordings whose file's name begins with one of these and a hyphen, or that a CSV gives this fold.
        names: what labels are called in the annotations, where not as in the data.
        with_alarms: smoke alarms, sirens and beeps too.

    Raises:
        DataError: no usable recordings there.
    """
    found = [each for each in recordings(data) if _is_of(each, folds)] if data else []
    if data and not found:
        named = "name files <fold>-….ogg, or give a CSV with a column 'fold'"
        raise DataError(f"{data} has no recordings of fold {', '.join(folds)}; {named}")
    foregrounds: dict[str, list[Sound]] = {}
    for each in found:
        for label in each.labels:
            foregrounds.setdefault((names or {}).get(label, label), []).append(partial(_recorded, each.path))
    if with_alarms:
        for label, make in alarms.ALARMS.items():
            foregrounds.setdefault(label, []).append(partial(_alarm, make))
    return Bank(foregrounds, [partial(_recorded, each.path) for each in found if not each.labels])


def _is_of(recording: Recording, folds: Collection[str]) -> bool:
    own = recording.path.name.split("-")[0] if recording.fold is None else str(recording.fold)
    return not folds or own in folds


def _recorded(path: Path, rng: np.random.Generator, rate: int) -> Floats:
    """A whole file as mono at `rate` Hz, be its own lower or higher."""
    with opened(path) as file:
        mono = file.read(file.frames, dtype="float32", always_2d=True).mean(axis=1)
        samples: Floats = soxr.resample(mono, file.samplerate, rate).astype(np.float32)
    return samples


def _alarm(make: Callable[[np.random.Generator], Floats], rng: np.random.Generator, rate: int) -> Floats:
    samples: Floats = soxr.resample(make(rng), alarms.RATE, rate).astype(np.float32)
    return samples


def made(maker: Maker, seconds: tuple[float, float]) -> Sound:
    """One of `rooms`' makers as a sound that lasts between so many seconds."""
    return lambda rng, rate: maker(rng, int(rng.uniform(*seconds) * rate), rate)


# -- where a sound is --------------------------------------------------------------------------------------------------


def active(samples: Floats, rate: int) -> npt.NDArray[np.bool_]:
    """Frames of `FRAME_S` in which a recording sounds: not its pauses, its padding or its own noise."""
    size = int(FRAME_S * rate)
    if len(samples) < LEAST_S * rate:
        return np.zeros(0, bool)
    padded = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size).astype(np.float64)
    level = 10 * np.log10((padded**2).mean(axis=1) + 1e-20)
    loudest = level.max()
    noise = min(np.percentile(level, 10) + FLOOR_DB, loudest - STEADY_DB)
    is_active: npt.NDArray[np.bool_] = (level > max(loudest - ACTIVE_DB, noise)) & (loudest > -150)
    return is_active


def runs(is_active: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open ranges of frames that are active."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_active, [False])).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def joined(truths: Iterable[Truth], pause_s: float = PAUSE_S) -> tuple[Truth, ...]:
    """One event for all of a label that lie less than `pause_s` apart or over one another; by onset."""
    events: list[Truth] = []
    newest: dict[str, int] = {}
    for truth in sorted(truths, key=lambda each: (each.onset_s, each.label)):
        at = newest.get(truth.label)
        if at is not None and truth.onset_s - events[at].offset_s < pause_s:
            last = events[at]
            offset_s, snr_db = max(last.offset_s, truth.offset_s), max(last.snr_db, truth.snr_db)
            events[at] = Truth(last.onset_s, offset_s, truth.label, snr_db)
        else:
            newest[truth.label] = len(events)
            events.append(truth)
    return tuple(events)


# -- composing ---------------------------------------------------------------------------------------------------------


def compose(made_of: Bank, seconds: float, seed: Sequence[int], options: Options | None = None) -> Soundscape:
    """One soundscape; the same `seed` gives the same. Without foregrounds it is a room in which nothing happens."""
    options = options or Options()
    rng = np.random.default_rng(seed)
    rate = int(rng.choice(options.rates))
    room = _room(made_of.backgrounds, rng, int(seconds * rate), rate) * _gain(rng.uniform(*options.room_dbfs))
    mix, truths = room.copy(), list[Truth]()
    gap_s, at_s = rng.uniform(*options.gap_s), 0.0
    while made_of.foregrounds and (at_s := at_s + rng.exponential(gap_s)) < seconds - LEAST_S:
        label, at = str(rng.choice(list(made_of.foregrounds))), int(at_s * rate)
        examples = made_of.foregrounds[label]
        sound = _varied(examples[int(rng.integers(len(examples)))](rng, rate), rng, rate, options)
        sound, snr_db = sound[: len(mix) - at], rng.uniform(*options.snr_db)
        behind = room[at : at + len(sound)]
        if frames := runs(active(sound, rate)):
            mix[at : at + len(sound)] += sound * _at_snr(sound, behind, rate, snr_db)
            truths += [Truth(at_s + a * FRAME_S, min(at_s + b * FRAME_S, seconds), label, snr_db) for a, b in frames]
    peak = float(np.abs(mix).max())
    return Soundscape(mix / np.float32(max(1.0, peak / 0.99)), rate, joined(truths))


def _room(recorded: Sequence[Sound], rng: np.random.Generator, n: int, rate: int) -> Floats:
    """A background of RMS 1: half of the time a recorded one, if there are any, else one or two tones."""
    if recorded and rng.random() < 0.5:
        sound = recorded[int(rng.integers(len(recorded)))](rng, rate)
        room = np.resize(np.roll(sound, int(rng.integers(len(sound)))), n)
    else:
        names = rng.choice(list(TONES), rng.integers(1, 3), replace=False)
        room = sum(
            (TONES[name](rng, n, rate) * np.float32(rng.uniform(0.2, 1)) for name in names), np.zeros(n, np.float32)
        )
    rms: Floats = (room / (_rms(room) or 1.0)).astype(np.float32)
    return rms


def _varied(sound: Floats, rng: np.random.Generator, rate: int, options: Options) -> Floats:
    """The active part of a recording, with soft ends, perhaps on end and with an echo."""
    frames, size, fade = active(sound, rate), int(FRAME_S * rate), int(FADE_S * rate)
    if not frames.any():
        return sound[:0]
    first, last = runs(frames)[0][0], runs(frames)[-1][1]
    sound = sound[first * size : last * size].copy()
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    sound[:fade] *= ramp[: len(sound)]
    sound[-fade:] *= ramp[::-1][-len(sound) :]
    if frames[first:last].mean() > 0.9 and last - first > 1 / FRAME_S:  # lasts: more than a second without a pause
        sound = np.tile(sound, int(rng.integers(1, options.repeats + 1)))
    if rng.random() < options.reverb:
        sound = reverberated(sound, rng, rate, rng.uniform(*options.rt60_s), rng.uniform(*options.wet_db))
    return sound


def _at_snr(sound: Floats, behind: Floats, rate: int, snr_db: float) -> np.float32:
    """What to scale a sound by, so that where it is active it is so much louder than what is behind it."""
    heard = np.repeat(active(sound, rate), int(FRAME_S * rate))[: len(sound)]
    return np.float32(max(_rms(behind), QUIETEST) / _rms(sound[heard])) * _gain(snr_db)


def _rms(samples: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _gain(db: float) -> np.float32:
    return np.float32(10 ** (db / 20))


# -- files -------------------------------------------------------------------------------------------------------------


def write(folder: Path, soundscapes: Iterable[tuple[str, Soundscape]]) -> None:
    """WAV files of 16 bits by name, and their annotations and durations; each as soon as it is there.

    Raises:
        DataError: the folder holds something already, or can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} can't be made: {error.strerror}; name another folder") from None
    if any(folder.iterdir()):
        raise DataError(f"{folder} is not empty, and other sound in it would count as background; name another folder")
    with (
        (folder / ANNOTATIONS).open("w", newline="", encoding="utf-8") as annotations,
        (folder / DURATIONS).open("w", newline="", encoding="utf-8") as durations,
    ):
        events, lengths = (csv.writer(file, delimiter="\t", lineterminator="\n") for file in (annotations, durations))
        events.writerow(("filename", "onset", "offset", "event_label"))
        lengths.writerow(("filename", "duration"))
        for name, each in soundscapes:
            soundfile.write(folder / name, each.samples, each.rate, subtype="PCM_16")
            lengths.writerow((name, f"{len(each.samples) / each.rate:.3f}"))
            events.writerows((name, f"{t.onset_s:.3f}", f"{t.offset_s:.3f}", t.label) for t in each.truths)


def main() -> None:
    """Write soundscapes as the arguments say."""
    from models.train.starter import LABELS  # brings torch

    parser = argparse.ArgumentParser(prog="python -m models.train.soundscapes", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="a folder per label, or a CSV; without it alarms alone sound")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--folds", nargs="+", default=(), help="only recordings of these folds: <fold>-….ogg")
    parser.add_argument("--hours", type=number(0, 1e5), default=1.0, help="of all soundscapes together (1)")
    parser.add_argument("--seconds", type=number(0, 3600), default=60.0, help="of each soundscape (60)")
    parser.add_argument("--seed", type=whole, default=0, help="another makes other soundscapes (0)")
    args = parser.parse_args()
    n = max(1, round(args.hours * 3600 / args.seconds))
    try:
        made_of = bank(args.data, folds=args.folds, names={folder: name for folder, (name, _) in LABELS.items()})
        write(args.out, ((f"{i:05}.wav", compose(made_of, args.seconds, (args.seed, i))) for i in range(n)))
    except DataError as error:
        parser.error(str(error))
    print(f"{n} soundscape{'s' if n > 1 else ''} of {args.seconds:g} s in {args.out}")


if __name__ == "__main__":
    main()
