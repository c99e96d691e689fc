"""8-bit ranges of a model: what its products see when it hears sounds made here, and what rounding to them costs.

The sounds are coloured noises from -60 to 0 dBFS, steady and coming and going, with and without tones, so that loud,
quiet, tonal and silent windows are among them. Recordings give ranges no better: `docs/performance.md` has both.
"""

import numpy as np
import openvino as ov

from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.fbank import clip_features
from models.spec import Activation, ModelSpec
from streamer.backends._openvino_graph import Floats, Graph, Range
from streamer.backends.base import activate

N_WINDOWS = 24
N_OTHERS = 12  # to measure on
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def windows(spec: ModelSpec, n: int = N_WINDOWS, seed: int = 0) -> Floats:
    """Normalised windows (n, T, M) of sounds made in code; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
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
    """The graph with 8-bit products; its note `streamer`/`cost` says how far from float32 other sounds score."""
    exact = Graph(config, weights)
    ranges = _listen(core, exact, windows(spec))
    graph = Graph(config, weights, ranges).build()
    others = windows(spec, N_OTHERS, seed=1)
    scores = [_scores(core, each, others, spec.activation) for each in (exact.build(), graph)]
    graph.set_rt_info(f"{np.abs(scores[1] - scores[0]).max():.3f}", ["streamer", "cost"])
    return graph


def _listen(core: ov.Core, graph: Graph, heard: Floats) -> dict[str, Range]:
    """The lowest and highest input that each product had over all windows."""
    watching = core.compile_model(graph.build(watch=True), "CPU", EXACT)
    extremes = np.asarray([list(watching([window[None]]).values())[1:] for window in heard])  # windows, products, 2
    lowest, highest = extremes[..., 0].min(0), extremes[..., 1].max(0)
    return {name: (float(lowest[i]), float(highest[i])) for i, name in enumerate(graph.inputs)}


def _scores(core: ov.Core, graph: ov.Model, heard: Floats, activation: Activation) -> Floats:
    run = core.compile_model(graph, "CPU", EXACT)
    return activate(np.concatenate([run([window[None]])[0] for window in heard]), activation)
