"""How long after a sound its message reaches a subscriber, and where that time goes.

    python bench/latency.py [--quick]

A child process runs the daemon as it is: the default configuration with its rules, the starter, the outbox on disk, the
MQTT sink. Its microphone is a file played in real time; the sound is made here. One more rule, asked last, hears
everything and ends what it heard with the next window, so each hop brings exactly one event, a start or an end in turn:
QoS 1, on disk before it leaves. Broker (mosquitto) and subscriber are processes of their own on the same machine.

What is timed begins when the last sample that a hop needs was captured. Stages, each from the end of the one before:

    block     until the source put that sample into the ring: a driver, or a file, delivers blocks
    queue     until the engine polled the stream, and found the hop complete
    features  the poll: resampling, filterbank, level
    model     the forward pass
    rules     the way to the event loop, all rules, the event's JSON
    outbox    until the event was on disk and the sink took it
    network   sink, broker, subscriber

The stamps are taken around the daemon's own methods, from outside. Hops of the first 2 s, while sinks connect, are left
out. Percentiles by nearest rank; a percentile of the sum is no sum of percentiles.

Beside it, in the same run: the client library (aiomqtt) alone publishing such events to the same subscriber, and one
flush of the disk. With the block, which is the source's, they are the floor under all but the model.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import aiomqtt
import soundfile
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from delivery import flush_ms
from figures import figure, finish

from streamer import config, edges
from streamer.app import App
from streamer.audio.ring import Ring
from streamer.cli_shared import packaged_config
from streamer.core import Scores, Window
from streamer.demo import RATE, scene
from streamer.outbox import Outbox
from streamer.reporter import Reporter
from streamer.stream import Stream
from tests.integration.broker import Broker

STAGES = ("block", "queue", "features", "model", "rules", "outbox", "network")
GOAL_MS = 15.0  # p99 of all stages but the model
SETTLE_S = 2.0
N_ALONE = 100  # events, at 50 a second
HOPS = {1.0: 105.0, 0.25: 63.0}  # hop: how long it is listened to, s
PROBE = {"type": "threshold", "labels": "any", "onset_threshold": 1e-6, "offset_threshold": 1e-6}


# -- the child: the daemon, with stamps ------------------------------------------------------------------------------


class Stamps:
    """When each hop, by its end in samples, was captured and passed each stage: monotonic seconds."""

    def __init__(self):
        self.hops = {}
        self.events = {}  # sequence number of the probe's event -> hop
        self._writes = []  # samples in the ring, and since when
        self._scored = self._told = None  # the hop that is with the model, and with the rules

    def wrap(self, owner, name, before=None, after=None):
        """Look at each call of a method: `before(self, *arguments)`, `after(began, result, self, *arguments)`."""
        method = getattr(owner, name)

        def stamped(*arguments):
            if before:
                before(*arguments)
            began = time.monotonic()
            result = method(*arguments)
            if after:
                after(began, result, *arguments)
            return result

        setattr(owner, name, stamped)

    def watch(self, backend):
        self.wrap(Ring, "write", after=self.written)
        self.wrap(Stream, "poll", after=self.polled)
        self.wrap(backend, "infer", after=self.inferred)
        self.wrap(Reporter, "report", before=self.reporting)
        self.wrap(Outbox, "put", after=self.put)
        self.wrap(Outbox, "_next", after=self.taken)

    def written(self, began, _, ring, block):
        self._writes.append((ring.written, time.monotonic()))

    def polled(self, began, window, stream):
        if isinstance(window, Window):
            writes = [since for n, since in self._writes if n >= window.end]  # the file is at the model's rate
            self._writes = self._writes[-100:]
            self.hops[window.end] = {
                "captured": stream.captured(window.end),
                "block": writes[0],
                "queue": began,
                "features": time.monotonic(),
            }
            self._scored = window.end

    def inferred(self, began, *_):
        self.hops[self._scored]["model"] = time.monotonic()

    def reporting(self, reporter, output):
        self._told = output.end if isinstance(output, Scores) else None

    def put(self, began, _, outbox, message):
        if is_probe(message) and self._told:
            self.events[message.payload["seq"]] = self._told
            self.hops[self._told]["rules"] = time.monotonic()

    def taken(self, began, message, outbox):
        if message and is_probe(message) and message.payload["seq"] in self.events:
            self.hops[self.events[message.payload["seq"]]]["outbox"] = time.monotonic()


def is_probe(message):
    return isinstance(message.payload, dict) and message.payload.get("rule") == "probe"


def child(folder):
    """Run the daemon until its file ends; write what was stamped."""
    settings = config.load(folder / "config.yaml", edges.edge_config)
    backend, stamps = edges.build_backend(settings), Stamps()
    backend.warmup()
    stamps.watch(backend)
    asyncio.run(App(settings, backend).run())
    found = {seq: stamps.hops[hop] | {"end_s": hop / RATE} for seq, hop in stamps.events.items()}
    (folder / "stamps.json").write_text(json.dumps(found))


# -- the parent: broker, subscriber, sums ----------------------------------------------------------------------------


def configure(folder, hop_s, port):
    """The default configuration on a file, with the probe."""
    options = yaml.safe_load(packaged_config().read_text())
    stream = {"source": {"type": "file", "path": str(folder / "scene.wav")}, "hop_s": hop_s, "late": "latest"}
    options |= {"node": "bench", "streams": {"mic": stream}, "outbox": {"path": str(folder / "outbox.sqlite")}}
    options["rules"]["probe"] = PROBE | {"max_duration_s": hop_s}
    options["sinks"]["mqtt"] = {"type": "mqtt", "host": "127.0.0.1", "port": port}
    (folder / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False))


async def subscribe(port, received):
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("streamer/bench/mic/event", qos=1)
        async for message in client.messages:
            now = time.monotonic()
            payload = json.loads(message.payload)
            if payload["rule"] == "probe":
                received[payload["seq"]] = now


async def alone(port, received):
    """Milliseconds from publish to reception of events that the client library publishes by itself."""
    sent = {}
    async with aiomqtt.Client("127.0.0.1", port) as client:
        for seq in range(N_ALONE):
            payload = json.dumps({"rule": "probe", "seq": -1 - seq, "padding": "x" * 600})  # as long as an event
            sent[-1 - seq] = time.monotonic()
            await client.publish("streamer/bench/mic/event", payload, qos=1)
            await asyncio.sleep(0.02)
    return [(received[seq] - at) * 1e3 for seq, at in sent.items() if seq in received]


async def measured(folder, hop_s, seconds):
    """Milliseconds of each stage, a row for each hop; how many messages never came; the client library alone."""
    received = {}
    soundfile.write(folder / "scene.wav", scene(seconds), RATE)
    with Broker(folder) as broker:
        configure(folder, hop_s, broker.port)
        listening = asyncio.create_task(subscribe(broker.port, received))
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--child", folder)
        if await process.wait():
            raise SystemExit(f"latency: the daemon ended with {process.returncode}")
        await asyncio.sleep(0.5)  # the last ones are on their way
        bare = await alone(broker.port, received)
        listening.cancel()
        await asyncio.wait([listening])
    stamps = json.loads((folder / "stamps.json").read_text())
    hops = [hop | {"network": received.get(int(seq))} for seq, hop in stamps.items() if hop["end_s"] > SETTLE_S]
    came = [hop for hop in hops if hop["network"]]
    pairs = list(pairwise(("captured", *STAGES)))
    return [{to: (hop[to] - hop[start]) * 1e3 for start, to in pairs} for hop in came], len(hops) - len(came), bare


def percentiles(values):
    """p50, p95, p99 by nearest rank."""
    ordered = sorted(values)
    return [ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in (50, 95, 99)]


def report(hop_s, rows, n_lost):
    """Print a table; return its figures."""
    sums = {name: [row[name] for row in rows] for name in STAGES}
    sums["all"] = [sum(row.values()) for row in rows]
    sums["all but the model"] = [sum(row.values()) - row["model"] for row in rows]
    print(f"\nhop {hop_s:g} s, {len(rows)} events, {n_lost} lost{'ms p50':>21}{'p95':>9}{'p99':>9}")
    figures = [figure(f"hop_{hop_s:g}s_lost", n_lost, "events", 0)]
    for name, values in sums.items():
        found = percentiles(values)
        print(f"{name:<42}" + "".join(f"{value:9.2f}" for value in found))
        for p, value in zip((50, 95, 99), found, strict=True):
            goal = GOAL_MS if (name, p) == ("all but the model", 99) else None
            label = name.replace(" ", "_")
            figures.append(figure(f"hop_{hop_s:g}s_{label}_p{p}", round(value, 2), "ms", goal))
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a third of the time: p99 is the slowest hop then")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    figures = []
    for hop_s, seconds in HOPS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows, n_lost, bare = asyncio.run(measured(Path(folder), hop_s, seconds / 3 if args.quick else seconds))
            floor_ms = flush_ms(Path(folder))
        figures += report(hop_s, rows, n_lost)
    p50, _, p99 = percentiles(bare)
    print(f"\naiomqtt alone, from publish to reception: p50 {p50:.2f}, p99 {p99:.2f} ms")
    print(f"one flush of the disk: {floor_ms:.2f} ms")
    figures += [figure("aiomqtt_alone_p50", round(p50, 2), "ms"), figure("aiomqtt_alone_p99", round(p99, 2), "ms")]
    figures.append(figure("disk_flush", round(floor_ms, 2), "ms"))
    finish("latency", figures)


if __name__ == "__main__":
    main()
