"""Electronic alarms, synthesised to their standards: real devices synthesise them too.

Every function returns (n,) float32 samples with a peak of 1, drawn from `rng`: tone and timing vary as products do.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
RATE = 16000  # Hz
PIEZO_HZ = (2900.0, 3400.0)  # resonance of smoke alarm sounders
LOW_HZ = (500.0, 540.0)  # the 520 Hz square wave for sleeping areas (NFPA 72)
PULSE_S = 0.5  # ISO 8201: three pulses of 0.5 s with gaps of 0.5 s, then 1.5 s of silence
PAUSE_S = 1.5


def _tone(hz: npt.NDArray[np.float64] | float, n: int, harmonics: Mapping[int, float]) -> npt.NDArray[np.float64]:
    """A tone of fixed or moving pitch with the given overtones; none above the Nyquist frequency."""
    pitch = np.broadcast_to(np.asarray(hz, np.float64), (n,))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(
        (gain * np.sin(k * phase) * (k * pitch < RATE / 2) for k, gain in harmonics.items()), start=np.zeros(n)
    )


def _pulse(tone: npt.NDArray[np.float64], edge_s: float = 0.005) -> npt.NDArray[np.float64]:
    """Soften both ends: sounders take milliseconds to swing in."""
    edge = min(len(tone) // 2, int(edge_s * RATE))
    ramp = np.linspace(0, 1, edge)
    tone[:edge] *= ramp
    tone[len(tone) - edge :] *= ramp[::-1]
    return tone


def _peak(samples: npt.NDArray[np.float64]) -> Floats:
    scaled: Floats = (samples / np.abs(samples).max()).astype(np.float32)
    return scaled


def smoke_alarm(rng: np.random.Generator, seconds: float = 12.0, hz: float | None = None) -> Floats:
    """The three-pulse evacuation signal of ISO 8201 on a piezo of about 3.1 kHz, now and then on the 520 Hz sounder.

    Args:
        rng: source of the device's variation.
        seconds: length; the signal starts with the first pulse.
        hz: pitch, drawn when None.
    """
    low = hz is None and rng.random() < 0.2
    pitch = hz if hz is not None else rng.uniform(*(LOW_HZ if low else PIEZO_HZ))
    harmonics = {1: 1.0, 3: 0.33, 5: 0.2, 7: 0.14, 9: 0.11} if low else {1: 1.0, 2: rng.uniform(0, 0.3)}
    pace = rng.uniform(0.92, 1.08)
    out = np.zeros(int(seconds * RATE))
    at = 0
    for i in range(len(out)):  # one turn a pulse
        n = int(pace * PULSE_S * RATE)
        if at >= len(out):
            break
        pulse = _pulse(_tone(pitch * (1 + rng.normal(0, 0.001)), n, harmonics))[: len(out) - at]
        out[at : at + len(pulse)] = pulse
        at += n + int(pace * (PAUSE_S if i % 3 == 2 else PULSE_S) * RATE)
    return _peak(out)


def siren(rng: np.random.Generator, seconds: float = 10.0) -> Floats:
    """An emergency siren: wail or yelp (a sweep between two pitches), or the European two-tone horn."""
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    low = rng.uniform(350, 750)
    kind = rng.choice(["wail", "yelp", "two-tone"])
    if kind == "two-tone":
        hold_s = rng.uniform(0.4, 1.0)
        hz = np.where((t / hold_s).astype(int) % 2, low, low * rng.uniform(1.25, 1.5))
    else:
        period_s = rng.uniform(2.5, 7.0) if kind == "wail" else rng.uniform(0.2, 0.6)
        turn = (t / period_s + rng.random()) % 1
        rise = rng.uniform(0.3, 0.7)
        hz = low * (rng.uniform(1.8, 2.8) ** np.where(turn < rise, turn / rise, (1 - turn) / (1 - rise)))
    decay = rng.uniform(0.3, 0.8)
    return _peak(_pulse(_tone(hz, n, {k: decay ** (k - 1) for k in range(1, 9)})))


def beep(rng: np.random.Generator, seconds: float = 8.0) -> Floats:
    """Plain beeps of household devices and reversing lorries: one pitch, even spacing.

    Pulses that could be one of a smoke alarm's, by length and by pitch even after the mixer has shifted both, are left
    to `smoke_alarm`: taking a beep for an alarm does less harm than the reverse.
    """
    hz = rng.uniform(400, 4500)
    like_alarm = any(low * 0.8 < hz < high * 1.25 for low, high in (PIEZO_HZ, LOW_HZ))
    on_s = rng.uniform(0.04, 0.2) if like_alarm else rng.uniform(0.05, 0.9)
    off_s = rng.uniform(0.05, 1.2)
    n_pulses = int(rng.integers(1, 9))
    harmonics = {1: 1.0, 2: rng.uniform(0, 0.4), 3: rng.uniform(0, 0.4)}
    out = np.zeros(int(seconds * RATE))
    for i in range(n_pulses):
        at = int(i * (on_s + off_s) * RATE)
        if at >= len(out):
            break
        pulse = _pulse(_tone(hz, int(on_s * RATE), harmonics))[: len(out) - at]
        out[at : at + len(pulse)] = pulse
    return _peak(out)


ALARMS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "Smoke detector, smoke alarm": smoke_alarm,
    "Siren": siren,
    "Beep, bleep": beep,
}
"""Label → a maker of one example."""
