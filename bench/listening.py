"""How many streams a machine bears, in real time, through ring, features, model and rules. No bench of its own."""

import argparse
import math
import time

import numpy as np

from streamer import cli_shared
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.engine import Engine
from streamer.line import build_line
from streamer.stats import Stats

RATE = 16000
BLOCK_S = 0.1  # and 85 ms of it are part of the latency: a hop's last frame ends 15 ms into the block after the hop
HOP_S = 1.0
BLOCKS = round(HOP_S / BLOCK_S)  # in a hop


class Room:
    """`n` streams that hear noise. Threads: the engine's, and one that stands for all microphones."""

    def __init__(self, settings, backend, n):
        options = next(iter(settings.streams.values())).model_copy(update={"hop_s": HOP_S})
        settings = settings.model_copy(update={"streams": {f"mic{i}": options for i in range(n)}})
        self.failure, self._stats, self._latencies_ms = None, Stats(), []
        self._lines = {name: build_line(settings, name, backend.spec, self._stats) for name in settings.streams}
        self._block = np.random.default_rng(0).normal(0, 0.02, round(BLOCK_S * RATE)).astype(np.float32)
        self._rings = [Ring(30 * RATE, len(self._block)) for _ in self._lines]
        self._began = time.monotonic()
        for i, (line, ring) in enumerate(zip(self._lines.values(), self._rings, strict=True)):
            clock = Clock(RATE)
            clock.anchor(0, self._at(0, i))
            line.stream.attach(ring, clock, "latest")
        self._engine = Engine(backend, [line.stream for line in self._lines.values()], self._take, self._stats)

    def _at(self, k, i):
        """When block `k` of stream `i` begins; hops of different streams end all over a second."""
        return self._began + (k + i % BLOCKS + i / len(self._rings)) * BLOCK_S

    def _take(self, output):
        line = self._lines[output.stream_id]
        for _ in line.reporter.report(output):
            pass
        self._latencies_ms.append((time.monotonic() - line.stream.captured(output.end)) * 1e3)

    def _fail(self, error):
        self.failure = error

    def listen(self, seconds):
        """Milliseconds of latency, p50 and p99, and windows skipped; the first three hops are for settling."""
        self._engine.start(self._fail)
        n_settling = 3 * BLOCKS
        for tick in range(n_settling + round(seconds / BLOCK_S)):
            if tick == n_settling:
                self._latencies_ms.clear()
            for i, ring in enumerate(self._rings):
                k = tick - i % BLOCKS
                time.sleep(max(0.0, self._at(k + 1, i) - time.monotonic()))
                if k >= 0:
                    ring.write(self._block)
        self._engine.stop()
        if self.failure:
            raise self.failure
        ordered = sorted(self._latencies_ms) or [math.inf]
        p50, p99 = (ordered[math.ceil(p * len(ordered)) - 1] for p in (0.5, 0.99))
        return p50, p99, self._stats.snapshot().get("skipped", 0)


def most_streams(backend, numbers, seconds):
    """The largest of `numbers` (ascending) of streams that was borne, with its latency p50 and p99; None if none was.

    Borne: no window is skipped, and p99 of the latency, from a window's last sample to what rules made of it, is under
    a hop.
    """
    settings = cli_shared.settings_of(argparse.Namespace(config=None, model=None))
    best = None
    for n in numbers:
        p50, p99, skipped = Room(settings, backend, n).listen(seconds)
        print(f"{n:5d} streams: latency p50 {p50:.1f} ms, p99 {p99:.1f} ms, {skipped} windows skipped")
        if skipped or p99 > HOP_S * 1e3:
            break
        best = n, p50, p99
    return best
