"""8-bit ranges of a model: what its products see when it hears sounds made here, and what rounding to them costs.

The sounds are coloured noises from -60 to 0 dBFS, steady and coming and going, with and without tones, so that loud,
quiet, tonal and silent windows are among them. Recordings give ranges no better: `docs/performance.md` has both.
"""

import numpy as np
import openvino as ov

from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.fbank import clip_features
from models.spec import ModelSpec
from streamer.backends._openvino_graph import Floats, Graph, Range

N_WINDOWS = 24


def windows(spec: ModelSpec, n: int = N_WINDOWS) -> Floats:
    """Normalised windows (n, T, M) of sounds made in code; the same ones each time."""
    rng = np.random.default_rng(0)
    return np.stack([clip_features(_sound(rng, i, spec), spec.fbank, spec.window_frames) for i in range(n)])


def _sound(rng: np.random.Generator, i: int, spec: ModelSpec) -> Floats:
    rate, n = spec.fbank.sample_rate, spec.fbank.samples(spec.window_frames)
    t = np.arange(n) / rate
    spectrum = np.fft.rfft(rng.normal(size=n))
    tilt = rng.uniform(0, 1)  # white to brown
    noise = np.fft.irfft(spectrum * (np.arange(len(spectrum)) + 1.0) ** -tilt, n)
    gain = rng.uniform(0, 1, int(t[-1] * 4) + 2) ** 2 if i % 2 else np.ones(2)
    sound = noise / np.abs(noise).max() * np.interp(t, np.linspace(0, t[-1], len(gain)), gain)
    sound *= 10 ** (rng.uniform(-60, 0) / 20)
    if i % 3 == 0:
        pitch, pulses = rng.uniform(80, rate / 4), rng.uniform(0.5, 4)
        partials = (np.sin(2 * np.pi * pitch * k * t) for k in range(1, 6) if pitch * k < rate / 2)
        sound += sum(partials, start=np.zeros(n)) * ((t * pulses) % 1 < 0.5) * 10 ** (rng.uniform(-40, -14) / 20)
    return np.asarray(np.clip(sound, -1, 1), np.float32)


def quantised(core: ov.Core, config: ASTConfig, weights: dict[str, Floats], spec: ModelSpec) -> ov.Model:
    """The graph with 8-bit products, and the note `streamer`/`cost`: how far its scores are from float32's at most."""
    heard = windows(spec)
    logits, ranges = _listen(core, Graph(config, weights), heard)
    graph = Graph(config, weights, ranges).build()
    rounded = core.compile_model(graph, "CPU")
    far = np.abs(_scores(np.concatenate([rounded([window[None]])[0] for window in heard])) - _scores(logits))
    graph.set_rt_info(f"{far.max():.3f}", ["streamer", "cost"])
    return graph


def _listen(core: ov.Core, graph: Graph, heard: Floats) -> tuple[Floats, dict[str, Range]]:
    """Logits (n, C) of the windows, and the lowest and highest input that each product had over all of them."""
    watching = core.compile_model(graph.build(watch=True), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    seen = [list(watching([window[None]]).values()) for window in heard]
    extremes = np.asarray([row[1:] for row in seen])  # windows, products, 2
    lowest, highest = extremes[..., 0].min(0), extremes[..., 1].max(0)
    ranges = {name: (float(lowest[i]), float(highest[i])) for i, name in enumerate(graph.inputs)}
    return np.concatenate([row[0] for row in seen]), ranges


def _scores(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
