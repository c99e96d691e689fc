"""Soundscapes composed in the mel domain: endless training windows from a few hundred clips.

Energies of sounds that overlap add up, so a window is a weighted sum of mel energies and one logarithm: a hundred times
cheaper than mixing waveforms, and every clip's features are computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from models.fbank import FLOOR, SILENCE, fbank, normalise
from models.spec import FbankSpec
from models.train.features import Features

Floats = npt.NDArray[np.float32]
N_SOUNDS = (0.12, 0.62, 0.2, 0.06)  # how often a window holds 0, 1, 2, 3 labelled sounds
OTHER_SHARE = 0.2  # of the sounds are recordings without a label, where there are any
SNR_DB, CLEAR_DB, CLEAR_SHARE = (-6.0, 25.0), (25.0, 45.0), 0.25  # over the background: in rooms, and as clips come
HUM_SHARE, ECHO_SHARE, BAND_SHARE = 0.35, 0.4, 0.15  # of backgrounds, of sounds, of windows
CUT_SHARE = 0.16  # of windows begin or end within sound, as streams and short files do; rare where a stream runs
LOW_CUT, HIGH_CUT = (0.0, 0.15), (0.72, 1.0)  # shares of the mel bins: up to 350 Hz and from 3.6 kHz may be gone
ACTIVE_DB = 30.0  # frames this far below a clip's loudest are its pauses …
FLOOR_DB = 10.0  # … and so are those less than this above the recording's own noise
STEADY_DB = 15.0  # what lies within this of the loudest is always sound, as `soundscapes.active` has it
RATES = (16000, 44100, 48000)  # Hz
KNOTS = np.linspace(-1, 1, 6)  # of a frequency response, over the mel bins
SMOOTH = 5  # frames over which loudness is taken
COLUMN_SHARE = 0.4  # of a column's frames make it one in which a label sounds
MIN_AUDIBLE = 25  # frames: a sound counts as present once a quarter of a second of it, or half of it, is in view
FULL_SCALE_DB = 48.6  # summed mel energy of a frame of white noise at 0 dBFS RMS, measured


@dataclass(frozen=True, slots=True)
class Sound:
    """What a recording is to the mixer.

    Args:
        active: (T,) bool, frames in which something sounds.
        audible: how many of them make it heard.
        gain: what scales its mel energies so that active frames have unit mean energy.
        labels: positions in the model's label list; none for a sound that is to mean nothing.
    """

    active: npt.NDArray[np.bool_]
    audible: int
    gain: float
    labels: tuple[int, ...]


def sound(frames: Floats, labels: tuple[int, ...] = ()) -> Sound:
    """Find where log-mel frames (T, M) are active, and how loud they are there."""
    energy = np.exp(frames).sum(axis=1)
    smooth = np.convolve(energy, np.full(SMOOTH, 1 / SMOOTH))[SMOOTH // 2 : SMOOTH // 2 + len(energy)]
    loudness = 10 * np.log10(smooth)
    noise = min(np.percentile(loudness, 10) + FLOOR_DB, loudness.max() - STEADY_DB)
    active = loudness > max(loudness.max() - ACTIVE_DB, noise)
    audible = min(MIN_AUDIBLE, (int(active.sum()) + 1) // 2)
    return Sound(active, audible, float(1 / energy[active].mean()), labels)


@dataclass(frozen=True, slots=True)
class Noise:
    """Long runs of backgrounds' mel energies (T, M), unit mean energy a frame: steady noise, and hums."""

    white: Floats
    hums: tuple[Floats, ...]


def make_noise(rng: np.random.Generator, spec: FbankSpec, window_frames: int, rates: Sequence[int]) -> Noise:
    """Backgrounds that hold for any room: white noise (coloured later, in the mel domain), hum of mains and motors.

    The noise is sampled at each of `rates` (Hz) and resampled, which takes a little off its top.
    """
    length_s = spec.samples(9 * window_frames) / spec.sample_rate
    hisses = [rng.normal(0, 0.1, round(length_s * rate)).astype(np.float32) for rate in rates]
    resampled = [soxr.resample(hiss, rate, spec.sample_rate) for hiss, rate in zip(hisses, rates, strict=True)]
    white = np.exp(np.concatenate([fbank(hiss, spec) for hiss in resampled]))
    hums = []
    for base_hz in (50.0, 60.0, 50.0, 60.0, 100.0, 120.0, *rng.uniform(30.0, 250.0, 6)):
        t = np.arange(spec.samples(window_frames + 200)) / spec.sample_rate
        gains = rng.uniform(0, 1, 24) * rng.uniform(0.5, 0.95) ** np.arange(24)
        wave = sum(g * np.sin(2 * np.pi * base_hz * (k + 1) * t + rng.uniform(0, 6)) for k, g in enumerate(gains))
        hums.append(np.exp(fbank(np.asarray(wave * 0.1, np.float32), spec)))
    return Noise(_unit(white), tuple(_unit(hum) for hum in hums))


def _unit(energy: Floats) -> Floats:
    scaled: Floats = energy / energy.sum(axis=1).mean()
    return scaled


class Mixer:
    """Draws training windows.

    Args:
        features: log-mel of n recordings.
        targets: (n, C), 1 where a recording has the label. Each label is drawn equally often; a fifth of what is drawn
            are recordings without one, which are to mean nothing.
        spec: the filterbank the features were made with.
        window_frames: T of a window.
        seed: of the backgrounds, and of what is drawn until `rng` is set.
        column: frames of a column of patches, to be told also in which of them each label sounds; 0: don't.
        rates: Hz, at which the backgrounds' microphones sample.
    """

    def __init__(
        self,
        features: Features,
        targets: Floats,
        spec: FbankSpec,
        window_frames: int,
        seed: int,
        *,
        column: int = 0,
        rates: Sequence[int] = RATES,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.spec = spec
        self.n_labels = targets.shape[1]
        self.window_frames = window_frames
        self.noise = make_noise(self.rng, spec, window_frames, rates)
        self.column = column
        self._features = features
        self._sounds = [sound(features[i], tuple(np.flatnonzero(row))) for i, row in enumerate(targets)]
        self._groups = [np.flatnonzero(of_label) for of_label in targets.T if of_label.any()]
        self._others = np.flatnonzero(~targets.any(axis=1))
        self._mel = np.linspace(-1, 1, spec.n_mels, dtype=np.float32)

    def batch(self, size: int, n_frames: int) -> tuple[Floats, ...]:
        """`size` normalised windows of so many frames (B, T, M), their labels (B, C), and their columns' (B, S, C)."""
        windows = np.empty((size, n_frames, self.spec.n_mels), np.float32)
        labels = np.zeros((size, self.n_labels), np.float32)
        sounding = np.zeros((size, n_frames, self.n_labels), bool)
        for i in range(size):
            windows[i], labels[i], sounding[i] = self.window(n_frames)
        windows = normalise(windows, self.spec)
        if not self.column:
            return windows, labels
        whole = sounding[:, : n_frames // self.column * self.column]
        share = whole.reshape(size, -1, self.column, self.n_labels).mean(axis=2)
        return windows, labels, (share > COLUMN_SHARE).astype(np.float32)

    def window(self, size: int) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Log-mel of `size` frames (size, M), not normalised, its labels (C,), and when each sounds (size, C)."""
        rng = self.rng
        first, last = self._extent(size)
        n_sounds = rng.choice(len(N_SOUNDS), p=N_SOUNDS)
        loudest_db = rng.uniform(-60, -3) if n_sounds else rng.uniform(-85, -6)
        snr_db = rng.uniform(*(CLEAR_DB if rng.random() < CLEAR_SHARE else SNR_DB)) if n_sounds else 0.0
        energy = np.zeros((size, self.spec.n_mels), np.float32)
        if rng.random() < 0.9:
            energy += self._background(size, loudest_db - snr_db)
        audible: dict[int, float] = {}
        sounding = np.zeros((size, self.n_labels), bool)
        for _ in range(n_sounds):
            index = self._draw()
            placed, active = self._place(index, size, first, last)
            if rng.random() < ECHO_SHARE:
                placed = _echoed(placed, rng.uniform(0.1, 0.9), rng.uniform(-18.0, 0.0), self.spec)
            quieter_db = rng.exponential(4.0) if audible else 0.0
            energy += placed * (_gain(FULL_SCALE_DB + loudest_db - quieter_db) * self._colour(4.0))
            for name in self._sounds[index].labels:
                audible[name] = audible.get(name, 0) + active.sum() / self._sounds[index].audible
                sounding[:, name] |= active
        energy *= self._colour(3.0)
        if rng.random() < BAND_SHARE:  # telephones, thrifty codecs, small speakers
            low, high = (round(rng.uniform(*share) * self.spec.n_mels) for share in (LOW_CUT, HIGH_CUT))
            energy[:, :low] *= _gain(-60.0)
            energy[:, high:] *= _gain(-60.0)
        labels = np.zeros(self.n_labels, np.float32)
        labels[[label for label, share in audible.items() if share >= 1]] = 1
        return self._finish(energy, first, last), labels, sounding

    def _draw(self) -> int:
        """A recording: of a label drawn first, or of none."""
        others = len(self._others) and (not self._groups or self.rng.random() < OTHER_SHARE)
        group = self._others if others else self._groups[self.rng.integers(len(self._groups))]
        return int(group[self.rng.integers(len(group))])

    def _extent(self, size: int) -> tuple[int, int]:
        """Frames [first, last) that hold sound: a stream just begun pads on the left, a short file on the right."""
        chance = self.rng.random()
        if chance < CUT_SHARE / 2:
            return size - int(self.rng.integers(size // 10, size)), size
        if chance < CUT_SHARE:
            return 0, int(self.rng.integers(size // 10, size))
        return 0, size

    def _background(self, size: int, level_db: float) -> Floats:
        """Room tone: coloured noise, perhaps with hum in it, swelling slowly."""
        rng = self.rng
        at = int(rng.integers(len(self.noise.white) - size))
        tilt_db = rng.choice([0.0, -12.0, -24.0, rng.uniform(-35, 8)])  # white, pink, brown, anything
        energy = _unit(self.noise.white[at : at + size] * _gain(tilt_db * self._mel) * self._colour(8.0))
        if rng.random() < HUM_SHARE:
            hum = self.noise.hums[rng.integers(len(self.noise.hums))]
            at = int(rng.integers(len(hum) - size))
            energy += _unit(hum[at : at + size]) * _gain(rng.uniform(-15.0, 30.0))
        if rng.random() < 0.3:
            turns = np.linspace(0, rng.uniform(0.2, 3) * 2 * np.pi, size, dtype=np.float32)
            energy = energy * _gain(rng.uniform(1, 8) * np.sin(turns + rng.uniform(0, 6)))[:, None]
        energy = _unit(energy)
        if rng.random() < 0.2:  # a burst: hiss and hum that come and go are no event either
            at, length = int(rng.integers(size)), int(rng.integers(10, 400))
            energy[:at] *= _gain(-40.0)
            energy[at + length :] *= _gain(-40.0)
        return energy * _gain(FULL_SCALE_DB + level_db)

    def _place(self, index: int, size: int, first: int, last: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """A sound somewhere in [first, last), stretched, shifted in pitch, perhaps repeated or cut by an edge."""
        rng = self.rng
        clip = self._sounds[index]
        span = np.flatnonzero(clip.active)
        pace = rng.uniform(0.85, 1.18)
        length = max(1, int((span[-1] + 1 - span[0]) / pace))
        source = (span[0] + np.arange(length) * pace).astype(int)
        if rng.random() < 0.35:  # longer than the clip: repeat it, as rain goes on and dogs bark again
            gap = 0 if clip.active[span[0] : span[-1] + 1].mean() > 0.9 else int(rng.integers(0, 100))
            pause = np.full(gap, -1)
            wanted = int(rng.integers(length, length + self.window_frames))
            source = np.tile(np.concatenate((source, pause)), 1 + wanted // (length + gap))[:wanted]
        if rng.random() < 0.25:  # only a part of it: the sound ends early, or began before the stream
            a = int(rng.integers(0, max(1, len(source) - 50)))
            source = source[a : a + int(rng.integers(50, len(source) + 51))]
        inside = min(clip.audible, len(source) // 2, (last - first) // 2)
        at = int(rng.integers(first - len(source) + inside, last - inside + 1))
        frames = np.arange(max(first, at), min(last, at + len(source)))
        picked = source[frames - at]
        energy = np.zeros((size, self.spec.n_mels), np.float32)
        active = np.zeros(size, bool)
        heard = picked >= 0
        sounding = np.exp(self._rows(index, picked[heard])) * np.float32(clip.gain)
        energy[frames[heard]] = _shift(sounding, int(rng.integers(-3, 4)))
        active[frames[heard]] = clip.active[picked[heard]]
        return energy, active

    def _rows(self, index: int, rows: npt.NDArray[np.int64]) -> Floats:
        """Frames `rows` of a recording; where they jump back, to repeat it, what lies between is not read."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) < 0) + 1)
        parts = [self._features.crop(index, run[0], run[-1] - run[0] + 1)[run - run[0]] for run in runs if len(run)]
        return np.concatenate(parts) if parts else np.empty((0, self.spec.n_mels), np.float32)

    def _colour(self, spread_db: float) -> Floats:
        """A smooth random frequency response (M,): rooms, distances, microphones."""
        knots = self.rng.normal(0, spread_db / 2, 6)
        return _gain(np.interp(self._mel, KNOTS, knots))

    def _finish(self, energy: Floats, first: int, last: int) -> Floats:
        """Logarithm, masks (SpecAugment, Park et al. 2019, gently), padding as streams and files pad."""
        rng = self.rng
        frames: Floats = np.log(np.maximum(energy, FLOOR))
        if rng.random() < 0.3:
            widest = max(1, self.spec.n_mels // 8)
            width, at = int(rng.integers(1, widest + 1)), int(rng.integers(self.spec.n_mels - widest))
            frames[:, at : at + width] = SILENCE
        if rng.random() < 0.3:
            width, at = int(rng.integers(1, 2 + len(frames) // 12)), int(rng.integers(len(frames)))
            frames[at : at + width] = SILENCE
        frames[:first] = SILENCE
        frames[last:] = 0.0  # the reference extractor's padding
        return frames


def _echoed(energy: Floats, rt60_s: float, wet_db: float, spec: FbankSpec) -> Floats:
    """`energy` (T, M) and its echo, which decays by 60 dB in `rt60_s` and has `wet_db` of its energy.

    The decay lasts 64 frames: sum of a^k z^-k for k < 64, which is the product of (1 + a^n z^-n) for n = 1, 2, 4 … 32.
    """
    decay = 10 ** (-6 * spec.frame_hop / spec.sample_rate / rt60_s)
    echo = energy * np.float32(10 ** (wet_db / 10) * (1 - decay))
    for n in (1, 2, 4, 8, 16, 32):
        earlier = echo[:-n] * np.float32(decay**n)
        echo = echo.copy()
        echo[n:] += earlier
    return energy + echo


def _shift(energy: Floats, bins: int) -> Floats:
    """Move sounds up (down when negative) in pitch by whole mel bins; the edge bin is repeated."""
    moved = np.empty_like(energy)
    low, high, n = max(0, bins), min(0, bins), energy.shape[1]
    moved[:, low : n + high] = energy[:, -high : n - low]
    moved[:, :low] = energy[:, :1]
    moved[:, n + high :] = energy[:, -1:]
    return moved


def _gain(db: float | npt.NDArray[np.floating]) -> Floats:
    """Decibels to an energy factor."""
    factor: Floats = np.power(10.0, np.asarray(db, np.float32) / 10).astype(np.float32)
    return factor
