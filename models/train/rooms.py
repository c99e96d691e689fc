"""What a room sounds like without the sounds that are listened for, made in code: its tone, its echo, talk and music.

Every maker takes a generator, a number of samples and a rate in Hz, and returns (n,) float32 of RMS 1. They are meant
for measuring: a detector that calls one of them an alarm is wrong.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Maker = Callable[[np.random.Generator, int, int], Floats]
LOWEST_HZ = 20.0  # below it a coloured noise stays flat: else brown noise is nothing but rumble no microphone passes
VOWELS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""Formants of five vowels of men (Peterson and Barney 1952, table II)."""


def coloured(rng: np.random.Generator, n: int, rate: int, db_per_octave: float) -> Floats:
    """Noise whose power falls (or, positive, rises) by so many dB an octave: white 0, pink -3, brown -6."""
    hz = np.maximum(np.fft.rfftfreq(n, 1 / rate), LOWEST_HZ)
    shape = hz ** (db_per_octave / (20 * np.log10(2)))
    return _unit(np.fft.irfft(np.fft.rfft(rng.normal(0, 1, n)) * shape, n))


def white(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Hiss of a preamplifier."""
    return coloured(rng, n, rate, 0.0)


def pink(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """A room with people far away."""
    return coloured(rng, n, rate, -3.0)


def brown(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """A room with machines behind walls."""
    return coloured(rng, n, rate, -6.0)


def hum(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Mains at 50 or 60 Hz with overtones, over a little hiss."""
    mains, t = float(rng.choice([50.0, 60.0])), np.arange(n) / rate
    gains = rng.uniform(0, 1, 20) * rng.uniform(0.5, 0.95) ** np.arange(20)
    tones = sum((g * np.sin(2 * np.pi * mains * (k + 1) * t + rng.uniform(0, 6)) for k, g in enumerate(gains)), 0 * t)
    return _unit(_unit(tones) + 0.05 * white(rng, n, rate))


def fan(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """A fan: air, and blades that pass 40 to 250 times a second."""
    t = np.arange(n) / rate
    wobble = np.cumsum(1 + 0.01 * np.sin(2 * np.pi * rng.uniform(0.05, 0.4) * t)) / rate
    blades, depth = rng.uniform(40, 250), rng.uniform(0.1, 0.5)
    tones = sum((np.sin(2 * np.pi * blades * k * wobble + rng.uniform(0, 6)) / k for k in range(1, 6)), 0 * t)
    air = coloured(rng, n, rate, rng.uniform(-5, -2)) * (1 + depth * np.sin(2 * np.pi * blades * wobble))
    return _unit(air + rng.uniform(0.05, 0.4) * tones)


def traffic(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """A street: rumble, and cars that pass, four to twelve a minute."""
    t = np.arange(n) / rate
    swell = np.full(n, 0.3)
    for at in rng.uniform(0, n / rate, rng.poisson(n / rate / 60 * rng.uniform(4, 12))):
        swell += rng.uniform(0.3, 1.5) / (1 + ((t - at) / rng.uniform(0.6, 2.5)) ** 2)
    tyres = _limited(coloured(rng, n, rate, -3.0), rate, 200, rng.uniform(1200, 2500))
    return _unit((coloured(rng, n, rate, -6.0) + 0.7 * tyres) * swell)


TONES: Mapping[str, Maker] = {
    "white": white, "pink": pink, "brown": brown, "hum": hum, "fan": fan, "traffic": traffic
}  # fmt: skip
"""Name → what sounds all the time."""


# -- other sounds ------------------------------------------------------------------------------------------------------


def speech(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Like talk: a voice with a melody, vowels and hisses four times a second, and pauses to breathe."""
    pitch, out, at = rng.uniform(90, 230), np.zeros(n), 0
    while at < n:
        size = min(n - at, int(rng.uniform(0.12, 0.35) * rate))
        kind = rng.choice(3, p=[0.7, 0.18, 0.12])
        if kind == 0:
            out[at : at + size] = _vowel(rng, size, rate, pitch * 2 ** rng.normal(0, 0.2))
        elif kind == 1:
            out[at : at + size] = 0.25 * _limited(white(rng, size, rate), rate, 2500, 7500) * np.hanning(size)
        at += size + (int(rng.uniform(0.3, 1.2) * rate) if rng.random() < 0.12 else 0)
    return _unit(out)


def music(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Like music: struck chords of a key, a bass and a drum, at 80 to 150 beats a minute."""
    beat, root, out = int(60 / rng.uniform(80, 150) * rate), rng.uniform(110, 220), np.zeros(n)
    for at in range(0, n, beat):
        size = min(n - at, 2 * beat)
        t = np.arange(size) / rate
        degree = int(rng.choice([0, 5, 7, 9]))
        for step in (-12, 0, int(rng.choice([3, 4])), 7, int(rng.choice([12, 14, 16]))):
            hz = root * 2 ** ((degree + step) / 12)
            tone = sum((np.sin(2 * np.pi * hz * k * t) / k**1.5 for k in range(1, 7) if hz * k < rate / 2), 0 * t)
            out[at : at + size] += rng.uniform(0.3, 1) * tone * np.exp(-t * rng.uniform(1.5, 5))
        out[at : at + size] += 0.8 * white(rng, size, rate) * np.exp(-t * rng.uniform(20, 60))
    return _unit(out)


def knocks(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Things put down, doors, steps: damped resonances with noise, at odd moments."""
    out, at = np.zeros(n), 0
    while at < n:
        size = min(n - at, int(0.4 * rate))
        t = np.arange(size) / rate
        body = sum((np.sin(2 * np.pi * hz * t) for hz in rng.uniform(80, 1200, 3)), 0 * t)
        out[at : at + size] += rng.uniform(0.2, 1) * (body + white(rng, size, rate)) * np.exp(-t * rng.uniform(15, 60))
        at += int(rng.uniform(0.2, 1.5) * rate)
    return _unit(out)


def things(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Nothing in particular, at odd moments: struck, with partials that fade each in its time, or blown and gliding."""
    out, at = np.zeros(n), 0
    while at < n:
        size = min(n - at, int(rng.uniform(0.05, 1.0) * rate))
        t = np.arange(size) / rate
        if rng.random() < 0.5:
            for hz in 150 * 50 ** rng.uniform(0, 1, rng.integers(3, 9)):
                fade = np.exp(-t * 4 * 50 ** rng.uniform(0, 1))
                out[at : at + size] += rng.uniform(0.2, 1) * fade * np.sin(2 * np.pi * hz * t + rng.uniform(0, 6))
        else:
            way = np.interp(t, np.linspace(0, size / rate, 5), rng.normal(0, 0.35, 5).cumsum())
            phase = 2 * np.pi * np.cumsum(200 * 15 ** rng.uniform() * 2**way) / rate
            for k in range(1, rng.integers(2, 8)):
                out[at : at + size] += np.sin(k * phase) * np.hanning(size) / k ** rng.uniform(0.5, 2.5)
        at += int(rng.exponential(0.5) * rate) + size // 4
    return _unit(_limited(_unit(out) + 0.02 * white(rng, n, rate), rate, 20, rate / 2.2))


OTHERS: Mapping[str, Maker] = {"speech-like": speech, "music-like": music, "knocks": knocks}
"""Name → sounds that come and go and are none of the starter's, which is taught so with other draws of them."""


def meows(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Like cats: a voice that rises and falls by a third of an octave within a second, now and then."""
    out, at = np.zeros(n), 0
    while at < n:
        size = min(n - at, int(rng.uniform(0.5, 1.2) * rate))
        t = np.arange(size) / max(1, size)
        pitch = rng.uniform(450, 800) * 2 ** (rng.uniform(0.1, 0.5) * np.sin(np.pi * t**0.7))
        phase, centre = 2 * np.pi * np.cumsum(pitch) / rate, rng.uniform(1000, 2500)
        for k in range(1, 9):
            gain = 1 / (1 + ((k * pitch - centre) / 700) ** 2) * (k * pitch < rate / 2)
            out[at : at + size] += gain * np.sin(k * phase) * np.hanning(size)
        at += size + int(rng.uniform(0.3, 3.0) * rate)
    return _unit(out)


def clinks(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Glasses and cutlery: high partials that belong to no pitch and ring for a tenth of a second or so."""
    out, at = np.zeros(n), 0
    while at < n:
        size = min(n - at, int(0.6 * rate))
        t = np.arange(size) / rate
        for hz in rng.uniform(1800, 7500, 5):
            out[at : at + size] += rng.uniform(0.2, 1) * np.sin(2 * np.pi * hz * t) * np.exp(-t * rng.uniform(8, 50))
        at += int(rng.uniform(0.1, 1.5) * rate)
    return _unit(out)


def whistling(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """Somebody whistles: one partial that glides from note to note and trembles, with a little breath."""
    note_s = rng.uniform(0.2, 0.6)
    notes = rng.uniform(900, 1500) * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 12], int(n / rate / note_s) + 2) / 12)
    t = np.arange(n) / rate
    pitch = np.interp(t / note_s + 0.3 * np.sin(2 * np.pi * t / note_s) / (2 * np.pi), np.arange(len(notes)), notes)
    tone = np.sin(2 * np.pi * np.cumsum(pitch * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * t))) / rate)
    return _unit(tone * (np.sin(2 * np.pi * t / rng.uniform(2, 4)) > -0.6) + 0.03 * white(rng, n, rate))


def typing(rng: np.random.Generator, n: int, rate: int) -> Floats:
    """A keyboard: clicks of a few milliseconds, six a second or so, in bursts."""
    out, at = np.zeros(n), 0
    while at < n:
        size = min(n - at, int(0.03 * rate))
        t = np.arange(size) / rate
        click = white(rng, size, rate) + np.sin(2 * np.pi * rng.uniform(1500, 4000) * t)
        out[at : at + size] += rng.uniform(0.3, 1) * click * np.exp(-t * rng.uniform(150, 400))
        at += int(rng.uniform(0.06, 0.3) * rate) + (int(rng.uniform(0.5, 2) * rate) if rng.random() < 0.08 else 0)
    return _unit(out)


STRANGERS: Mapping[str, Maker] = {"meows": meows, "clinks": clinks, "whistling": whistling, "typing": typing}
"""Name → more such sounds, of which the starter never heard any: they tell how it takes what it doesn't know."""


# -- echo --------------------------------------------------------------------------------------------------------------


def reverberated(samples: Floats, rng: np.random.Generator, rate: int, rt60_s: float, wet_db: float) -> Floats:
    """`samples` in a room: the echo follows, so more samples come back.

    Args:
        samples: (n,), dry.
        rng: draws the room's impulse response: noise that decays exponentially (Polack 1988).
        rate: Hz.
        rt60_s: seconds in which the echo falls by 60 dB.
        wet_db: energy of the echo's impulse response, to the direct sound's.
    """
    n = int(rt60_s * rate)
    echo = rng.normal(0, 1, n) * 10 ** (-3 * np.arange(n) / n)
    echo[: int(0.002 * rate)] = 0  # the nearest wall is a third of a metre behind
    response = echo * 10 ** (wet_db / 20) / np.sqrt((echo**2).sum())
    response[0] = 1
    size = 1 << (len(samples) + n - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    return heard[: len(samples) + n - 1].astype(np.float32)


# -- parts -------------------------------------------------------------------------------------------------------------


def _unit(samples: Doubles | Floats) -> Floats:
    """RMS 1; silence stays silent."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    return (samples / (rms or 1.0)).astype(np.float32)


def _limited(samples: Floats, rate: int, low_hz: float, high_hz: float) -> Floats:
    """What lies between two frequencies, with slopes of some 12 dB an octave."""
    hz = np.fft.rfftfreq(len(samples), 1 / rate)
    shape = 1 / (1 + (low_hz / np.maximum(hz, 1.0)) ** 2) / (1 + (hz / high_hz) ** 2)
    return _unit(np.fft.irfft(np.fft.rfft(samples) * shape, len(samples)))


def _vowel(rng: np.random.Generator, n: int, rate: int, pitch_hz: float) -> Doubles:
    """A voiced syllable: overtones of a gliding pitch, shaped by a vowel's formants."""
    t = np.arange(n) / rate
    phase = 2 * np.pi * pitch_hz * (t + rng.uniform(-0.3, 0.1) * t**2)
    formants = VOWELS_HZ[rng.integers(len(VOWELS_HZ))]
    out = np.zeros(n)
    for k in range(1, int(min(4000, rate / 2) / pitch_hz)):
        gain = sum(1 / (1 + ((k * pitch_hz - hz) / 90) ** 2) for hz in formants)
        out += gain * k**-0.5 * np.sin(k * phase)
    return out * np.hanning(n)
