"""What everything but the model costs, and how streams share a model that is too slow.

    python bench/engine.py [--quick]

Cost: many streams in one process, fed as microphones feed them, in blocks of 0.1 s, one after the other; CPU time per
stream and second of sound, by stage, at a hop of 1 s with the rules of `config.yaml`. With a model that costs nothing,
and with the starter, whose own time is taken off. The floor beside it is what can't be left out: the features of a hop
and its resampling, measured alone. There is no peer: no other project runs many streams through one model.

Load: live streams that want 0.5 to 16 times what their model can do. Its time is simulated, so the same comes out on
every machine. The peer is a pass that holds a window of every stream, as this engine once had it.

Gate: what `gate_dbfs` saves and misses; `bench/gate.py` is that alone.

Batch: how many windows a second the starter does on this machine, by windows in a pass.
"""

import argparse
import asyncio
import logging
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import soxr

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import figure, finish
from gate import gate

from models.fbank import OnlineFbank
from models.spec import FbankSpec
from streamer import cli_shared, edges, engine
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.line import build_line
from streamer.outbox import Outbox
from streamer.payload import to_json
from streamer.stats import Stats
from streamer.stream import Stream

RATE = 16000
BLOCK_S = 0.1
SETTLE_S = 12  # until windows are full
STAGES = ("write", "poll", "engine", "idle", "rules", "deliver")


def room(seconds, rate=RATE):
    return np.random.default_rng(0).normal(0, 0.02, round(seconds * rate)).astype(np.float32)


# -- cost ------------------------------------------------------------------------------------------------------------


class Free:
    """A model that costs nothing."""

    def __init__(self, spec):
        self.spec = spec

    def infer(self, batch):
        return np.full((len(batch), len(self.spec.labels)), -5, np.float32)


class Meter:
    """CPU seconds of this thread by stage; what is measured within a stage is not the stage's own."""

    def __init__(self):
        self.took_s = dict.fromkeys((*STAGES, "model"), 0.0)
        self._within_s = 0.0

    def of(self, stage, function):
        def call(*args):
            began, outside_s = time.thread_time(), self._within_s
            self._within_s = 0.0
            result = function(*args)
            took_s = time.thread_time() - began
            self.took_s[stage] += took_s - self._within_s
            self._within_s = outside_s + took_s
            return result

        return call


class Rig:
    """Lines of the configuration's first stream, their rings, and what is behind the model; each method is a stage."""

    def __init__(self, settings, backend, n_streams, rate, meter):
        options = next(iter(settings.streams.values()))
        settings = settings.model_copy(update={"streams": {f"mic{i}": options for i in range(n_streams)}})
        self.lines = {name: build_line(settings, name, backend.spec, Stats()) for name in settings.streams}
        self.rings = [Ring(20 * rate, round(BLOCK_S * rate)) for _ in self.lines]
        self._scores, self._messages, self._outbox, self._block = [], [], Outbox(), room(BLOCK_S, rate)
        self._outbox.close()  # so that it says when it is empty
        for line, ring in zip(self.lines.values(), self.rings, strict=True):
            clock = Clock(rate)
            clock.anchor(0, time.monotonic())
            line.stream.attach(ring, clock, "back_off")
            line.stream.poll = meter.of("poll", line.stream.poll)
        streams = [line.stream for line in self.lines.values()]
        self.one = engine.Engine(backend, streams, self._scores.append)
        self._runner = asyncio.Runner()

    def write(self, tick):
        for i, ring in enumerate(self.rings):
            if tick >= i % round(1 / BLOCK_S):  # so hops are complete at ten different moments of a second
                ring.write(self._block)

    def engine(self, tick):
        while self.one.step():
            pass

    def idle(self, tick):
        for _ in range(round(BLOCK_S / engine.IDLE_S) - 1):
            self.one.step()

    def rules(self, tick):
        for output in self._scores:
            self._messages.extend(self.lines[output.stream_id].reporter.report(output))
        self._scores.clear()

    def deliver(self, tick):
        for message in self._messages:
            self._outbox.put(message)
        self._messages.clear()
        self._runner.run(self._sink())

    async def _sink(self):
        while (message := await self._outbox.get()) is not None:
            to_json(message.payload)
            self._outbox.ack(message)

    def close(self):
        self._runner.close()


def cost(settings, backend, n_streams, seconds, rate):
    """Milliseconds of CPU per stream and second of sound, by stage."""
    meter = Meter()
    infer, backend.infer = backend.infer, meter.of("model", backend.infer)
    rig = Rig(settings, backend, n_streams, rate, meter)
    stages = [meter.of(stage, getattr(rig, stage)) for stage in ("write", "engine", "idle", "rules", "deliver")]
    for tick in range(round((SETTLE_S + seconds) / BLOCK_S)):
        if tick == round(SETTLE_S / BLOCK_S):
            meter.took_s = dict.fromkeys(meter.took_s, 0.0)
        for stage in stages:
            stage(tick)
    rig.close()
    backend.infer = infer
    return {stage: 1e3 * meter.took_s[stage] / (n_streams * seconds) for stage in (*STAGES, "model")}


def floor_ms(rate):
    """Milliseconds for the features and, where there is any, the resampling of 1 s of sound, alone."""
    ms = median_ms(OnlineFbank(FbankSpec(), 1024).accept, room(1))
    if rate == RATE:
        return ms
    resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
    return ms + median_ms(resampler.resample_chunk, room(1, rate))


def median_ms(function, *args):
    took = []
    for _ in range(200):
        began = time.thread_time()
        function(*args)
        took.append(time.thread_time() - began)
    return statistics.median(took) * 1e3


def costs(settings, starter, *, quick):
    free, figures = Free(starter.spec), []
    cases = (("free_16k", free, 100, RATE), ("free_48k", free, 100, 48000), ("starter_48k", starter, 20, 48000))
    print("CPU milliseconds per stream and second of sound; without `model`, `all` is what the goal is for")
    print(f"{'':12}" + "".join(f"{stage:>9}" for stage in (*STAGES, "all", "floor", "model")))
    for name, backend, n_streams, rate in cases:
        ms = cost(settings, backend, n_streams, 5 if quick else 20, rate)
        floor, model = floor_ms(rate), ms.pop("model")
        total = sum(ms.values())
        print(f"{name:12}" + "".join(f"{value:9.3f}" for value in (*ms.values(), total, floor, model)))
        figures.append(figure(f"cost_{name}", round(total, 3), "ms", 3.0))
        figures.append(figure(f"floor_{name}", round(floor, 3), "ms"))
        figures.append(figure(f"streams_per_core_{name}", int(1000 / total), "streams", 300, "higher"))
    return figures


# -- load ------------------------------------------------------------------------------------------------------------


class Rush:
    """Live streams before a model that needs `window_s` for a window, in a time of their own."""

    def __init__(self, spec, n_streams, window_s, late="back_off"):
        self.now, self.spec, self.waits_s = 0.0, spec, {f"mic{i}": [] for i in range(n_streams)}
        self.stats, self._window_s, self._block = Stats(), window_s, np.zeros(round(BLOCK_S * RATE), np.float32)
        streams = [Stream(name, spec, 1.0, stats=self.stats) for name in self.waits_s]
        self._rings = [Ring(20 * RATE, len(self._block)) for _ in streams]
        for i, (stream, ring) in enumerate(zip(streams, self._rings, strict=True)):
            clock = Clock(RATE, lambda: self.now)
            clock.anchor(0, (i * 7 % n_streams) / n_streams)  # they begin at some moment of the first second
            stream.attach(ring, clock, late)
        self._starts = [(i * 7 % n_streams) / n_streams for i in range(n_streams)]
        self._engine = engine.Engine(self, streams, self._note, self.stats, lambda: self.now)

    def infer(self, batch):
        self.now += self._window_s * len(batch)
        return np.zeros((len(batch), len(self.spec.labels)), np.float32)

    def _note(self, scores):
        at = (self._starts[int(scores.stream_id[3:])]) + scores.end / RATE
        self.waits_s[scores.stream_id].append(self.now - at)

    def live(self, seconds):
        until = self.now + seconds
        while self.now < until:
            for start, ring in zip(self._starts, self._rings, strict=True):
                while start + (ring.written + len(self._block)) / RATE <= self.now:
                    ring.write(self._block)
            if not self._engine.step():
                self.now += engine.IDLE_S


def load(spec, *, quick):
    n_streams, seconds, figures = 20, 60 if quick else 120, []
    print(f"\n{n_streams} live streams, hop 1 s; wait: from a window's last sample to its scores")
    print(f"{'load':>5} {'':16}{'hop x':>6}{'looks/s':>9}{'fewest/most':>12}{'p50 s':>8}{'p99 s':>8}")
    for demand in (0.5, 0.9, 1.5, 3, 6, 16):
        for way in ("one pass for all", "bounded, latest", "bounded, auto"):
            is_bounded = way != "one pass for all"
            bound = {"PASS_S": engine.PASS_S if is_bounded else 1e9, "MOST": engine.MOST if is_bounded else 10**6}
            with mock.patch.multiple(engine, **bound):
                rush = Rush(spec, n_streams, demand / n_streams, "back_off" if way == "bounded, auto" else "latest")
                rush.live(60)
                rush.waits_s = {name: [] for name in rush.waits_s}
                rush.live(seconds)
            counts = [len(waits) for waits in rush.waits_s.values()]
            waits = sorted(wait for waits in rush.waits_s.values() for wait in waits)
            p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
            factor, fair = rush.stats.snapshot()["hop_factor"], min(counts) / max(counts)
            looks = sum(counts) / seconds / n_streams
            print(f"{demand:5g} {way:16}{factor:6d}{looks:9.2f}{fair:12.2f}{p50:8.2f}{p99:8.2f}")
            if demand == 3 and way != "bounded, latest":
                which = "auto" if way == "bounded, auto" else "one_pass"
                figures.append(figure(f"wait_p99_at_3x_{which}", round(p99, 3), "s"))
            if demand == 3 and way == "bounded, auto":
                figures.append(figure("fewest_to_most_windows_at_3x", round(fair, 3), "ratio", 0.9, "higher"))
    return figures


def batches(starter, *, quick):
    figures = []
    print("\nthe starter, by windows in a pass")
    for n in (1, 2, 4, 8, 16):
        batch, took = np.random.default_rng(0).normal(0, 0.5, (n, 1024, 128)).astype(np.float32), []
        for _ in range(3 if quick else 7):
            began = time.perf_counter()
            starter.infer(batch)
            took.append(time.perf_counter() - began)
        per_s = n / statistics.median(took)
        print(f"{n:5d} {per_s:8.1f} windows/s {1e3 * statistics.median(took):8.1f} ms a pass")
        figures.append(figure(f"starter_batch_{n}", round(per_s, 1), "windows/s", better="higher"))
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="less sound")
    quick = parser.parse_args().quick
    logging.getLogger("streamer").setLevel(logging.ERROR)  # what it says of the load is in the table
    settings = cli_shared.settings_of(argparse.Namespace(config=None, model=None))
    starter = edges.build_backend(settings)
    starter.warmup()
    figures = costs(settings, starter, quick=quick) + load(starter.spec, quick=quick) + batches(starter, quick=quick)
    figures += gate(settings, starter, quick=quick)
    finish("engine", figures)


if __name__ == "__main__":
    main()
