"""How the daemon fares with 300 live streams on one core: nothing is skipped, and what that takes.

    python bench/streams.py [--quick]

The daemon's own composition with the rules of `config.yaml`, a model that costs nothing, and streams of 48 kHz at a hop
of 1 s in real time. Its threads, and one that plays the sound cards, share one core. All streams begin within 0.1 s, so
300 windows are complete at once each second: what waits, waits for the others.
"""

import argparse
import asyncio
import os
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import figure, finish

from models import load_spec
from streamer import cli_shared, edges
from streamer.app import App
from streamer.core import Reason
from streamer.settings import OutboxConfig
from streamer.sources.base import SourceInfo

RATE = 48000
BLOCK = RATE // 10
SETTLE_S = 12  # until windows are full


class Free:
    """A model that costs nothing."""

    def __init__(self, spec):
        self.spec = spec

    def infer(self, batch):
        return np.full((len(batch), len(self.spec.labels)), -5, np.float32)

    def close(self):
        pass


class Card:
    """A live source, filled by `play`."""

    overflows = 0

    def __init__(self):
        self.ring = self.clock = None

    def open(self):
        return SourceInfo("card", RATE, BLOCK, is_live=True, can_wait=False)

    def start(self, ring, clock):
        self.ring, self.clock = ring, clock

    def close(self):
        if self.ring:
            self.ring.close(Reason.STOP)


def play(cards, stopping):
    """Give a tenth of the cards their block every 10 ms, once all are open."""
    while any(card.ring is None for card in cards):
        time.sleep(0.01)
    began, tick = time.monotonic(), 0
    block = np.random.default_rng(0).normal(0, 0.01, BLOCK).astype(np.float32)
    for i, card in enumerate(cards):
        card.clock.anchor(0, began + i % 10 * 0.01 - BLOCK / RATE)
    while not stopping.wait(max(0.0, began + tick * 0.01 - time.monotonic())):
        for card in cards[tick % 10 :: 10]:
            card.ring.write(block)
        tick += 1


async def measured(app, seconds):
    """CPU seconds of this process in `seconds` of real time, once windows are full."""
    running = asyncio.create_task(app.run())
    await asyncio.sleep(SETTLE_S)
    began = time.process_time()
    await asyncio.sleep(seconds)
    took_s = time.process_time() - began
    app.stop()
    await running
    return took_s


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="100 streams, for 10 s")
    n_streams, seconds = (100, 10) if parser.parse_args().quick else (300, 45)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    settings = cli_shared.settings_of(argparse.Namespace(config=None, model=None))
    options = next(iter(settings.streams.values()))
    streams = {f"mic{i}": options for i in range(n_streams)}
    settings = settings.model_copy(update={"streams": streams, "sinks": {}, "outbox": OutboxConfig(path=None)})
    cards, stopping = [Card() for _ in streams], threading.Event()
    waiting = iter(cards)
    edges.build_source = lambda _: next(waiting)
    app = App(settings, Free(load_spec("starter")))
    threading.Thread(target=play, args=(cards, stopping), daemon=True).start()
    ms = 1e3 * asyncio.run(measured(app, seconds)) / (n_streams * seconds)
    stopping.set()
    os.sched_setaffinity(0, cores)
    stats, mb = app.stats.snapshot(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lost = stats.get("skipped", 0) + stats.get("overruns", 0)
    share = ms * n_streams / 1000
    print(f"{n_streams} live streams on one core: {ms:.2f} ms of CPU per stream and second, {share:.0%} of it")
    print(f"windows {stats['windows']}, skipped or lost {lost}, hop factor {stats['hop_factor']}, {mb:.0f} MB")
    print(f"from sound to rules, ms: {stats['latency_ms']}; of that waiting for a turn: {stats['queue_ms']}")
    finish("streams", [
        figure("cpu", round(ms, 3), "ms per stream and second", 3.0),
        figure("windows_lost", lost, "windows", 0),
        figure("latency_p50", stats["latency_ms"]["p50"], "ms"),
        figure("latency_p99", stats["latency_ms"]["p99"], "ms"),
        figure("memory_per_stream", round(mb / n_streams, 2), "MB"),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
