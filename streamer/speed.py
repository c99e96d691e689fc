"""How fast this machine is: the line without its model, the model in every form that runs here, and what follows.

In: settings. Out: figures, and options for the configuration. One thread; nothing is heard or published.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import get_args

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from models.errors import ModelError
from models.fbank import OnlineFbank, clip_features
from models.spec import ModelSpec
from streamer import edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.backends.base import Backend, activate
from streamer.core import Samples, Scores, SegmentEnd
from streamer.engine import Engine
from streamer.errors import StreamerError
from streamer.line import build_line
from streamer.settings import FRAME_S, ModelConfig, Settings
from streamer.stats import Stats

MICROPHONE_HZ = 48000  # what sound cards deliver
N_HOPS = 24  # of which the second half counts: by then a window is full, and memory warm
BATCHES = (1, 4)  # windows: one stream, and streams that became ready together
REPEAT_S = 1.5  # for each batch size of each form
MOST_CALLS = 20  # a median needs no more
SLOW_S = 3.0  # for one window: who is that slow need not be tried with four
UTILISATION = 0.7  # of the time, so that a hop that takes longer than others holds up none
SAME = 0.01  # difference to float32 scores that no threshold notices
OPTION = re.compile(r"^(?:.*:\d+: )?model(?:\.\w+)*: ")  # and where in whose file

Batch = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Line:
    """Milliseconds of one hop, without the model: of its features alone, and of all (resampling to rules)."""

    features_ms: float
    all_ms: float


@dataclass(frozen=True, slots=True)
class Form:
    """The model in one number format in one back end; where that can't be had, `why`.

    `window_ms` are milliseconds a window, by batch size; `difference` is the largest one to a float32 score.
    """

    backend: str
    dtype: str
    window_ms: Mapping[int, float]
    difference: float | None = None
    why: str | None = None

    def of(self, n_streams: int) -> float:
        """Milliseconds a window with so many streams."""
        return self.window_ms[1] if n_streams == 1 else self.window_ms.get(max(BATCHES), self.window_ms[1])


@dataclass(frozen=True, slots=True)
class Advice:
    """What to configure: the form of the model, each stream's hop, and the shortest hop that all could have.

    No hops: the machine is too slow.
    """

    form: Form
    shortest_s: float
    hops_s: Mapping[str, float]


class Absent:
    """A back end that costs nothing: it hears nothing."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def warmup(self) -> None:
        """See `Backend.warmup`."""

    def infer(self, batch: Batch) -> Batch:
        """See `Backend.infer`."""
        return np.full((len(batch), len(self.spec.labels)), -10, np.float32)

    def close(self) -> None:
        """See `Backend.close`."""


def line(settings: Settings, spec: ModelSpec) -> Line:
    """Time a hop of the first stream, with its rules, from a microphone of 48 kHz."""
    name, options = next(iter(settings.streams.items()))
    hop = _noise(round(options.hop_s * MICROPHONE_HZ))
    ring, clock = Ring(8 * len(hop) + MICROPHONE_HZ, len(hop)), Clock(MICROPHONE_HZ)
    clock.anchor(0, time.monotonic())
    ours = build_line(settings, name, spec, Stats())
    ours.stream.attach(ring, clock, "every")

    def deliver(output: Scores | SegmentEnd) -> None:
        list(ours.reporter.report(output))

    engine = Engine(Absent(spec), [ours.stream], deliver)

    def pass_on() -> None:
        while engine.step():
            pass

    took = []
    for _ in range(N_HOPS):
        ring.write(hop)
        took.append(_seconds(pass_on))
    online = OnlineFbank(spec.fbank, spec.window_frames)
    fresh = _noise(round(options.hop_s * spec.fbank.sample_rate))
    features = [_seconds(lambda: online.accept(fresh)) for _ in range(N_HOPS)]
    return Line(*(median(each[N_HOPS // 2 :]) * 1e3 for each in (features, took)))


def forms() -> list[tuple[str, str]]:
    """Back ends and number formats to try; first the one that the others are compared with."""
    dtypes = [dtype for dtype in get_args(ModelConfig.model_fields["dtype"].annotation) if dtype != "auto"]
    every = [(backend, dtype) for backend in edges.known("backend") for dtype in dtypes]
    return sorted(every, key=lambda form: form != ("local", "float32"))


class Trial:
    """Forms of one model, each timed on the same sounds; differences are those to the first."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        self._settings = settings
        self._windows = np.stack([clip_features(x, spec.fbank, spec.window_frames) for x in _sounds(spec)])
        self._reference: Batch | None = None

    def run(self, backend: str, dtype: str) -> Form:
        """Time one form; one that this machine, or installation, can't have says why.

        Raises:
            ConfigError, CheckpointError, BackendError: it is the first, and there is nothing to compare others with.
        """
        try:
            loaded = self._load(backend, dtype)
            loaded.warmup()
            form = self._timed(backend, dtype, loaded)
            loaded.close()
        except ValidationError as error:
            return Form(backend, dtype, {}, why=_clause(error.errors()[0]["msg"].removeprefix("Value error, ")))
        except (StreamerError, ModelError, ImportError) as error:
            if self._reference is None:
                raise
            return Form(backend, dtype, {}, why=_clause(str(error)))
        return form

    def _load(self, backend: str, dtype: str) -> Backend:
        model = self._settings.model.model_dump() | {"backend": backend, "dtype": dtype}
        changed = ModelConfig.model_validate(model)
        return edges.build_backend(self._settings.model_copy(update={"model": changed}))

    def _timed(self, backend: str, dtype: str, loaded: Backend) -> Form:
        one = loaded.infer(self._windows[:1])
        took: dict[int, float] = {}
        for n in BATCHES:
            if n == 1 or took[1] < SLOW_S:
                took[n] = _median_s(lambda n=n: loaded.infer(self._windows[:n])) / n  # type: ignore[misc]
        logits = np.concatenate((one, *(loaded.infer(self._windows[i : i + 1]) for i in range(1, len(self._windows)))))
        scores = activate(logits, loaded.spec.activation)
        if self._reference is None:
            self._reference = scores
        difference = float(np.abs(scores - self._reference).max())
        return Form(backend, dtype, {n: seconds * 1e3 for n, seconds in took.items()}, difference)


def shortest_hop_s(form: Form, line: Line, n_streams: int) -> float:
    """The shortest hop that so many streams can have with it, a whole number of frames."""
    busy_s = (form.of(n_streams) + line.all_ms) / 1e3
    n_frames = ceil(round(busy_s * n_streams / UTILISATION / FRAME_S, 6))
    return round(max(1, n_frames) * FRAME_S, 2)


def advise(settings: Settings, found: list[Form], line: Line, window_s: float) -> Advice:
    """The fastest form whose scores are float32's, and hops that it sustains: the configured ones, if it can be.

    None where one would have to be longer than `window_s`, the model's window: sound between windows would be lost.
    """
    n = len(settings.streams)
    best = min(
        (form for form in found if form.difference is not None and form.difference <= SAME), key=lambda form: form.of(n)
    )
    shortest_s = shortest_hop_s(best, line, n)
    busy_s = (best.of(n) + line.all_ms) / 1e3
    hops_s = {name: stream.hop_s for name, stream in settings.streams.items()}
    if sum(busy_s / hop_s for hop_s in hops_s.values()) > UTILISATION:
        hops_s = {name: max(hop_s, shortest_s) for name, hop_s in hops_s.items()}
    if max(hops_s.values()) > window_s:
        hops_s = {}
    return Advice(best, shortest_s, hops_s)


def _sounds(spec: ModelSpec) -> Iterator[Samples]:
    """Four windows that differ in what a model would hear: noise, beeps, clicks, a sweep."""
    n, rate = round(spec.window_s * spec.fbank.sample_rate), spec.fbank.sample_rate
    t = np.arange(n) / rate
    noise = _noise(n)
    yield noise
    yield 0.1 * noise + np.float32(0.3) * (np.sin(2 * np.pi * 3100 * t) * (t % 1 < 0.5)).astype(np.float32)
    yield 0.1 * noise + 0.5 * (np.arange(n) % rate < 40).astype(np.float32)
    yield 0.1 * noise + np.float32(0.3) * np.sin(2 * np.pi * (200 + 300 * t) * t).astype(np.float32)


def _noise(n: int) -> Samples:
    return np.random.default_rng(0).normal(0, 0.05, n).astype(np.float32)


def _median_s(call: Callable[[], object]) -> float:
    took = [_seconds(call)]
    while sum(took) < REPEAT_S and len(took) < MOST_CALLS:
        took.append(_seconds(call))
    return median(took)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _clause(sentence: str) -> str:
    """A sentence from after the option that it is about, which nobody wrote, up to what to do about it."""
    return OPTION.sub("", sentence.splitlines()[0]).partition(";")[0][:120]
