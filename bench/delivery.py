"""Whether every event arrives while broker and process are killed again and again, and what delivery costs.

    python bench/delivery.py [--quick] [--seed N]

Loss: a child process puts numbered events of two streams into an outbox on disk, which the MQTT sink delivers to a
real mosquitto. Broker and child are killed (-9) at random moments and started anew. A subscriber notes what arrives. An
event that was put but not yet on the disk when the child died is put again by the next one, as a daemon that goes on
listening cannot; it tells them by the number of rows ever written, so one that was written and then lost is not put
again. So that what is measured is ours, the publisher is let to a broker only while the subscriber is at the same one:
a broker that is killed forgets whom it serves. And the subscriber has QoS 0: what it is sent lies in its kernel before
the publisher is answered, and it answers nothing, so no answer of its own meets a dead socket and has the client
library drop what it has not read. Patience between two connects is 0.2 s: all outages fit in two minutes.

Cost: events a second, and milliseconds from put to acknowledgement at 50 events a second, for the outbox in memory and
on disk, beside the client library (aiomqtt) publishing one message after the other, in turn in one run. The floor under
an event on disk is one flush of the disk and one round trip to the broker; both are printed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import aiomqtt
from figures import figure, finish

from streamer.core import Message, Site
from streamer.journal import Journal
from streamer.outbox import Outbox
from streamer.sinks import base, mqtt
from streamer.sinks._mqtt_connect import Client

RATE = 150  # events a second put while things are killed
PATIENCE_S = 0.2  # between two connects
STREAMS = ("mic", "yard")
EVENT = {
    "v": 1, "event_type": "update", "node": "bench", "rule": "smoke_alarm", "label": "Smoke detector, smoke alarm",
    "label_id": "/m/01y3hg", "score": 0.9123, "score_peak": 0.95, "onset": "2026-11-22T12:00:11.230Z", "offset": None,
    "onset_s": 11.0, "offset_s": None, "duration_s": None, "end_reason": None, "level_dbfs": -23.1, "window_s": 10.24,
    "hop_s": 1.0, "model": {"name": "starter", "revision": "sha256:0123456789abcdef"}, "latency_ms": 180,
    "replayed": False,
}  # fmt: skip


def event(number):
    stream = STREAMS[number % len(STREAMS)]
    return Message(f"{stream}/event", EVENT | {"id": f"{number:06}", "seq": number, "stream": stream})


def free_port():
    """One below those that Linux gives to clients: none gets it, or meets itself there, while the broker is dead."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit("delivery: no free port between 20000 and 32000")


class Broker:
    """A real mosquitto on a loopback port, in its `life`-th life."""

    def __init__(self, folder):
        self.port = free_port()
        self.life = 0
        self._config = folder / "mosquitto.conf"
        # Without a limit in flight a message is with the subscriber's kernel before its publisher is answered.
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n"
            "persistence false\nmax_inflight_messages 0\nlog_dest none\n"
        )
        self.start()

    def start(self):
        path = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if path is None:
            raise SystemExit("delivery: mosquitto isn't installed; run 'make system'")
        self.life += 1
        self.process = subprocess.Popen([path, "-c", str(self._config)], stderr=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()


# -- the child: what runs in a daemon between the rules and the broker -----------------------------------------------


async def child(path, port, n_events):
    base.FIRST_WAIT_S = base.LONGEST_WAIT_S = PATIENCE_S
    done = n_written(path)
    boxes = []
    journal = Journal(
        path, lambda found: boxes[0].adopt(found.waiting.get("mqtt", [])), lambda: [box.wake() for box in boxes]
    )
    boxes.append(Outbox(100_000, sink="mqtt", journal=journal))
    async with journal:
        sink = mqtt.build(mqtt.Config(host="127.0.0.1", port=port), Site("bench"))
        delivering = asyncio.create_task(sink.run(boxes[0]))
        began = time.monotonic()
        for i, number in enumerate(range(done + 1, n_events + 1)):
            boxes[0].put(event(number))
            await asyncio.sleep(max(0, began + i / RATE - time.monotonic()))
        boxes[0].close()
        await delivering


def n_written(path):
    """How many events were ever committed: rows are numbered as the events are, from 1."""
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path)) as file:
        return (file.execute("SELECT seq FROM sqlite_sequence WHERE name = 'waiting'").fetchone() or (0,))[0]


# -- loss ------------------------------------------------------------------------------------------------------------


class Gate:
    """A way to the broker that is open only in the life that the subscriber is `seen` in."""

    def __init__(self, broker):
        self.seen = 0
        self._broker = broker
        self._tasks = set()

    async def start(self):
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _pass(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
            if self.seen != self._broker.life:
                broker_writer.close()
                return
            ways = [asyncio.create_task(copy(reader, broker_writer)), asyncio.create_task(copy(broker_reader, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            broker_writer.close()
        except OSError:
            pass
        finally:
            writer.close()
            self._tasks.discard(asyncio.current_task())


async def copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def subscribe(broker, gate, heard):
    while True:
        life = broker.life
        with contextlib.suppress(aiomqtt.MqttError):
            async with Client("127.0.0.1", broker.port) as client:  # quiet about sockets that died
                await client.subscribe("streamer/bench/+/event", qos=0)
                if life == broker.life:  # else it may be the broker's next life that we are with
                    gate.seen = life
                    async for message in client.messages:
                        heard.append(json.loads(message.payload))
        await asyncio.sleep(0.01)


async def loss(folder, *, n_events, broker_kills, child_kills, seed):
    """Kill, and let live; what was heard, and how many seconds it took."""
    rng = random.Random(seed)
    broker, path, heard = Broker(folder), folder / "outbox.sqlite", []
    gate = Gate(broker)
    command = [sys.executable, __file__, "--child", str(path), str(n_events)]
    async with await gate.start():
        listening = asyncio.create_task(subscribe(broker, gate, heard))
        process = await asyncio.create_subprocess_exec(*command, str(gate.port))
        victims = ["broker"] * broker_kills + ["child"] * child_kills
        rng.shuffle(victims)
        span_s = n_events / RATE
        began = time.monotonic()
        for i, victim in enumerate(victims):
            at_s = span_s * (i + rng.random()) / len(victims)
            await asyncio.sleep(max(0, began + at_s - time.monotonic()))
            if victim == "broker":
                broker.kill()
                await asyncio.sleep(rng.random())
                broker.start()
            elif process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()
                process = await asyncio.create_subprocess_exec(*command, str(gate.port))
        code = await asyncio.wait_for(process.wait(), 300)
        await asyncio.sleep(0.5)  # the last ones are on their way to the subscriber
        listening.cancel()
    broker.kill()
    if code:
        raise SystemExit(f"delivery: the child ended with {code}")
    return heard, time.monotonic() - began


def verdict(heard, n_events):
    """Lost, out of order per stream, delivered again."""
    first = list(dict.fromkeys(each["seq"] for each in heard))
    lost = set(range(1, n_events + 1)) - set(first)
    per_stream = defaultdict(list)
    for number in first:
        per_stream[number % len(STREAMS)].append(number)
    disorder = sum(b < a for numbers in per_stream.values() for a, b in pairwise(numbers))
    return len(lost), disorder, len(heard) - len(first)


# -- cost ------------------------------------------------------------------------------------------------------------


async def bare(port, n, pause_s):
    """The client library alone: seconds in all, and of each event."""
    took = []
    async with aiomqtt.Client("127.0.0.1", port) as client:
        began = time.perf_counter()
        for number in range(n):
            message, put = event(number), time.perf_counter()
            await client.publish(message.topic, json.dumps(message.payload), 1)
            took.append(time.perf_counter() - put)
            if pause_s:
                await asyncio.sleep(pause_s)
        return time.perf_counter() - began, took


async def ours(port, n, pause_s, path=None):
    """An outbox and the MQTT sink: seconds in all, and of each event."""
    put, took, boxes = {}, [], []
    journal = Journal(path, lambda found: None, lambda: [box.wake() for box in boxes]) if path else None
    async with journal or contextlib.nullcontext():
        box = Outbox(100_000, sink="mqtt", journal=journal)
        boxes.append(box)
        ack = box.ack

        def acknowledged(message):
            ack(message)
            if isinstance(message.payload, dict):
                took.append(time.perf_counter() - put[message.payload["id"]])

        box.ack = acknowledged
        sink = mqtt.build(mqtt.Config(host="127.0.0.1", port=port), Site("bench"))
        delivering = asyncio.create_task(sink.run(box))
        while not sink.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        for number in range(n):
            message = event(number)
            put[message.payload["id"]] = time.perf_counter()
            box.put(message)
            if pause_s:
                await asyncio.sleep(pause_s)
        while box.pending:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        total = time.perf_counter() - began
        box.close()
        await delivering
    return total, took


def flush_ms(folder, n=50):
    """Median time of writing 1 kB and flushing it to the disk: the floor under an event on disk."""
    took = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(n):
            began = time.perf_counter()
            file.write(bytes(1024))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


async def cost(folder, *, rounds, n_fast, n_paced):
    """Per way: the median rate, and all times from put to acknowledgement at a calm pace."""
    broker = Broker(folder)
    await asyncio.sleep(0.3)
    rates, took = defaultdict(list), defaultdict(list)
    for i in range(rounds):
        ways = {
            "aiomqtt": lambda n, pause: bare(broker.port, n, pause),
            "memory": lambda n, pause: ours(broker.port, n, pause),
            "disk": lambda n, pause, i=i: ours(broker.port, n, pause, folder / f"cost-{i}-{n}.sqlite"),
        }
        for name, way in ways.items():
            total, _ = await way(n_fast, 0)
            rates[name].append(n_fast / total)
            took[name] += (await way(n_paced, 0.02))[1]
    broker.kill()
    return {name: statistics.median(values) for name, values in rates.items()}, took


def percentile_ms(times, p):
    return sorted(times)[min(len(times) - 1, round(p / 100 * len(times)))] * 1e3


# -- report ----------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="1,500 events, 6 kills of the broker, 2 of the process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, metavar=("FILE", "EVENTS", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        path, n_events, port = args.child
        asyncio.run(child(Path(path), int(port), int(n_events)))
        return
    n_events, broker_kills, child_kills = (1500, 6, 2) if args.quick else (10_000, 20, 5)
    rounds, n_fast, n_paced = (3, 2000, 50) if args.quick else (3, 3000, 250)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        heard, seconds = asyncio.run(
            loss(folder, n_events=n_events, broker_kills=broker_kills, child_kills=child_kills, seed=args.seed)
        )
        lost, disorder, again = verdict(heard, n_events)
        print(f"{n_events} events in {seconds:.0f} s, broker killed {broker_kills} times, process {child_kills} times:")
        print(
            f"  lost {lost}, out of order {disorder}, delivered again {again}"
            f" (of {len(heard)}, {sum(each['replayed'] for each in heard)} marked replayed)"
        )
        rates, took = asyncio.run(cost(folder, rounds=rounds, n_fast=n_fast, n_paced=n_paced))
        floor_ms = flush_ms(folder)
    print(f"one flush of the disk: {floor_ms:.2f} ms\n")
    print(f"{'':<22}{'events/s':>10}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}   put to acknowledged, at 50 events/s")
    names = {"aiomqtt": "aiomqtt, one by one", "memory": "outbox in memory", "disk": "outbox on disk"}
    for way, title in names.items():
        p50, p99 = (percentile_ms(took[way], p) for p in (50, 99))
        print(f"{title:<22}{rates[way]:10.0f}{rates[way] / rates['aiomqtt']:8.2f}{p50:9.2f}{p99:9.2f}")
    figures = [
        figure("events_lost", lost, "events", 0),
        figure("events_out_of_order", disorder, "events", 0),
        figure("events_delivered_again", again, "events"),
        figure("rate_on_disk", round(rates["disk"]), "events/s", better="higher"),
        figure("rate_on_disk_vs_aiomqtt", round(rates["disk"] / rates["aiomqtt"], 2), "ratio", 1.0, "higher"),
        figure("put_to_ack_on_disk_p50", round(percentile_ms(took["disk"], 50), 2), "ms"),
        figure("put_to_ack_on_disk_p99", round(percentile_ms(took["disk"], 99), 2), "ms"),
        figure("disk_flush", round(floor_ms, 2), "ms"),
    ]
    finish("delivery", figures)


if __name__ == "__main__":
    main()
