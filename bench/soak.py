"""A day of sound through the whole daemon at full speed: does it grow, lose, or drift?

    python bench/soak.py [--quick]

First two streams (48 and 16 kHz, hop 1 s) with a model that costs nothing and hears a tone where one sounds, then one
(16 kHz, hop 10 s) with the starter: each a day, or with --quick half an hour. It is the daemon's own composition
(rings, engine's thread, rules, outbox on disk, a JSON-lines sink), but for its sources, which deliver as fast as the
rings take it. A tone of 3 s sounds every ten minutes. The sound card's clock is 50 ppm fast and its blocks come up to
20 ms late: uncorrected that would be 4.3 s after a day.

Memory is compared between the second and the last quarter; open files and threads must not change after the first.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import figure, finish

from models import load_spec
from streamer import config, edges
from streamer.app import App
from streamer.core import Reason
from streamer.sources.base import SourceInfo

DAY_S = 24 * 3600
BLOCK_S = 0.1
TONE_S, EVERY_S, TONE_HZ = 3, 600, 3100.0
FAST = 5e-5  # the card's clock
LATE_S = 0.02
N_SAMPLES = 400  # of memory, in each phase
TONE = "Smoke detector, smoke alarm"

SETTINGS = """
node: soak
streams:
{streams}
rules:
  tone: {{type: threshold, labels: ["{label}"], onset_threshold: 0.3, offset_threshold: 0.3}}
  siren: {{type: threshold, labels: ["Siren"], onset_threshold: 0.9999, min_windows: 2, of_windows: 3}}
  many: {{type: count, rule: tone, n: 3, within_s: 3600}}
sinks:
  events: {{type: jsonl, path: {folder}/events.jsonl}}
outbox: {{path: {folder}/outbox.sqlite}}
"""
STREAM = "  {name}: {{source: {{type: file, path: unused.wav}}, hop_s: {hop_s}}}"


class Tone:
    """A model that costs nothing and hears the tone: how far its band stands out in the loudest frame."""

    def __init__(self, spec):
        self.spec = spec

    def warmup(self):
        pass

    def infer(self, batch):
        logits = np.full((len(batch), len(self.spec.labels)), -9, np.float32)
        band = batch[:, :, 78:92].max(axis=2) - batch[:, :, :40].mean(axis=2)  # B T
        logits[:, self.spec.labels.index(TONE)] = 20 * (band.max(axis=1) - 1.2)
        return logits

    def close(self):
        pass


class Day:
    """A source of `seconds` of room noise with tones, as fast as the ring takes it, timed as a sound card times it."""

    overflows = 0

    def __init__(self, rate, seconds):
        self.info = SourceInfo(f"{seconds} s at {rate} Hz", rate, round(BLOCK_S * rate), is_live=False, can_wait=True)
        rng = np.random.default_rng(0)
        self._noise = rng.normal(0, 1e-3, 61 * rate).astype(np.float32)  # of a length that tones don't fit into
        self._tone = (0.1 * np.sin(2 * np.pi * TONE_HZ * np.arange(rate * TONE_S) / rate)).astype(np.float32)
        self._lateness_s = rng.uniform(0, LATE_S, 997)
        self._n, self.rate, self._stopping = round(seconds * rate), rate, threading.Event()
        self.began, self.began_utc, self.has_ended = 0.0, 0.0, False

    def open(self):
        return self.info

    def start(self, ring, clock):
        self.began, self.began_utc = time.monotonic(), time.time()
        threading.Thread(target=self._deliver, args=(ring, clock), name="source-day", daemon=True).start()

    def close(self):
        self._stopping.set()

    def true_s(self, sample):
        """When a sample was captured, in seconds since it began."""
        return sample / self.rate / (1 + FAST)

    def _deliver(self, ring, clock):
        size = self.info.max_block
        for i, start in enumerate(range(0, self._n, size)):
            while ring.room < size:
                if self._stopping.wait(0.001):
                    return
            clock.anchor(start, self.began + self.true_s(start) + self._lateness_s[i % len(self._lateness_s)])
            ring.write(self._block(start, size))
        self.has_ended = True
        ring.close(Reason.SOURCE_END)

    def _block(self, start, size):
        at = start % (len(self._noise) - size)
        block, in_tone = self._noise[at : at + size], start % (EVERY_S * self.rate) - EVERY_S // 2 * self.rate
        return block + self._tone[in_tone : in_tone + size] if 0 <= in_tone < len(self._tone) else block


# -- one phase -------------------------------------------------------------------------------------------------------


def resident_kb():
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


async def watch(app, sources, n_hops, samples):
    """Note memory, open files and threads at even steps of the sound, until the first source has delivered all."""
    for i in range(N_SAMPLES):
        while app.stats.snapshot().get("windows", 0) < n_hops * i / N_SAMPLES:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if any(source.has_ended for source in sources):
            return
        n_files, n_threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208
        samples.append((resident_kb(), n_files, n_threads))


def phase(name, model, rates, hop_s, seconds):
    """Run one daemon to the end of its sources; its figures."""
    sources = {f"mic{i}": Day(rate, seconds) for i, rate in enumerate(rates)}
    waiting = iter(sources.values())
    edges.build_source = lambda _: next(waiting)
    samples, began, cpu = [], time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        streams = "\n".join(STREAM.format(name=name, hop_s=hop_s) for name in sources)
        text = SETTINGS.format(streams=streams, label=TONE, folder=folder)
        app = App(config.parse(text, "soak.yaml", edges.edge_config), model)
        n_hops = len(rates) * int((seconds - 0.05) / hop_s)

        async def run():
            watching = asyncio.create_task(watch(app, sources.values(), n_hops, samples))
            await app.run()
            watching.cancel()

        asyncio.run(run())
        events = [json.loads(line) for line in Path(folder, "events.jsonl").read_text().splitlines()]
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    print(f"\n{name}: {len(rates)} x {seconds / 3600:g} h of sound in {took_s:.0f} s", flush=True)
    figures = [*growth(name, samples), *losses(name, app, len(rates), hop_s, seconds)]
    figures += drift(name, events, sources, hop_s, seconds)
    return [*figures, figure(f"{name}_cpu", round(1e3 * cpu_s / (len(rates) * seconds), 3), "ms per stream and second")]


def growth(name, samples):
    kb, n_files, n_threads = np.array(samples).T
    quarter = len(kb) // 4
    second, last = float(kb[quarter : 2 * quarter].mean()), float(kb[3 * quarter :].mean())
    grown = 100 * (last / second - 1)
    print(f"  memory: {second / 1024:.1f} MB in the second quarter, {last / 1024:.1f} in the last: {grown:+.2f} %")
    print("  by eighths, MB:", " ".join(f"{part.mean() / 1024:.1f}" for part in np.array_split(kb, 8)))
    n_files, n_threads = (n[quarter:].astype(int).tolist() for n in (n_files, n_threads))
    print(f"  open files {min(n_files)}..{max(n_files)}, threads {min(n_threads)}..{max(n_threads)}")
    return [
        figure(f"{name}_memory_growth", round(grown, 3), "%", 1.0),
        figure(f"{name}_memory", round(last / 1024, 1), "MB"),
        figure(f"{name}_files_spread", max(n_files) - min(n_files), "files", 0),
        figure(f"{name}_threads_spread", max(n_threads) - min(n_threads), "threads", 0),
    ]


def losses(name, app, n_streams, hop_s, seconds):
    stats, fbank = app.stats.snapshot(), app.backend.spec.fbank
    n_wanted = n_streams * -(-fbank.frames(seconds * fbank.sample_rate) // round(hop_s * 100))  # the last may be short
    lost = n_wanted - stats["windows"]
    known = {what: stats.get(what, 0) for what in ("skipped", "overruns", "dropped_events")}
    print(f"  windows: {stats['windows']} of {n_wanted}; {known}")
    return [
        figure(f"{name}_windows_lost", lost, "windows", 0),
        figure(f"{name}_counted_losses", sum(known.values()), "losses", 0),
    ]


def drift(name, events, sources, hop_s, seconds):
    """How far told onsets are from the tones, by samples and by UTC; and how many tones are not told."""
    n_tones = sum(1 for at in range(EVERY_S // 2, seconds, EVERY_S) if at + TONE_S < seconds) * len(sources)
    missing, worst_s, drift_s, worst_utc_s = n_tones, 0.0, 0.0, 0.0
    for stream, source in sources.items():
        told = [event for event in events if event["stream"] == stream and event["rule"] == "tone"]
        starts = [event for event in told if event["event_type"] == "start"]
        if [event["id"] for event in starts] != [event["id"] for event in told if event["event_type"] == "end"]:
            raise SystemExit(f"{stream}: some start has no end")
        missing -= len(starts)
        for event in starts:
            off_s = event["onset_s"] - (event["onset_s"] // EVERY_S + 0.5) * EVERY_S
            worst_s = max(worst_s, abs(off_s))
            utc_s = datetime.fromisoformat(event["onset"]).timestamp() - source.began_utc
            true_s = source.true_s(event["onset_s"] * source.rate)
            worst_utc_s = max(worst_utc_s, abs(utc_s - true_s))
        drift_s = max(drift_s, abs(off_s - (starts[0]["onset_s"] - EVERY_S / 2)))
    print(f"  tones: {n_tones - missing} of {n_tones} told; onsets off by {worst_s:.3f} s at most, the last one "
          f"{drift_s:.3f} s more than the first; their UTC off from the truth by {1e3 * worst_utc_s:.1f} ms at most")
    return [
        figure(f"{name}_tones_missed", abs(missing), "events", 0),
        figure(f"{name}_onset_error", round(worst_s, 3), "s", hop_s),
        figure(f"{name}_onset_drift", round(drift_s, 3), "s", hop_s),
        figure(f"{name}_clock_error", round(1e3 * worst_utc_s, 1), "ms", 1e3 * hop_s),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="half an hour of sound in each phase")
    seconds = 1800 if parser.parse_args().quick else DAY_S
    logging.basicConfig(level=logging.WARNING)
    spec = load_spec("starter")
    figures = phase("free", Tone(spec), (48000, 16000), 1.0, seconds)
    text = SETTINGS.format(streams=STREAM.format(name="mic", hop_s=10.0), label=TONE, folder="/tmp")
    starter = edges.build_backend(config.parse(text, "soak.yaml", edges.edge_config))
    starter.warmup()
    figures += phase("starter", starter, (16000,), 10.0, seconds)
    finish("soak", figures)


if __name__ == "__main__":
    main()
