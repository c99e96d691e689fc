"""The daemon in one process, with stand-ins at its edges: what it says when things break, and how it stops."""

import asyncio
import threading
import time

import numpy as np
import pytest

from streamer import app, config, edges, supervisor
from streamer.core import Reason
from streamer.errors import BackendError, SourceError
from tests.fakes import FakeBackend, FakeSource, loudness, spec_of

SETTINGS = """
node: garage
streams:
  room: {source: {type: file, path: unused.wav}, hop_s: 0.1}
  hall: {source: {type: file, path: unused.wav}, hop_s: 0.1}
rules:
  noise: {type: threshold, labels: [Noise]}
sinks:
  all: {type: jsonl, path: "-"}
"""
NOISE = np.random.default_rng(0).normal(0, 0.3, 16000).astype(np.float32)


class Collector:
    """A sink that keeps everything."""

    def __init__(self):
        self.messages = []

    async def run(self, outbox):
        while (message := await outbox.get()) is not None:
            self.messages.append(message)
            outbox.ack(message)

    def of(self, topic):
        return [message.payload for message in self.messages if message.topic == topic]

    def phases(self, stream):
        return [event["event_type"] for event in self.of(f"{stream}/event")]


@pytest.fixture
def daemon(monkeypatch):
    """Build an App over the given sources and back end; returns it with its sink and its stop event."""

    def build(room, hall=None, backend=None):
        sources = iter((room, hall or FakeSource(NOISE[:1600])))
        sink = Collector()
        model = backend or FakeBackend(spec_of("Noise", window_frames=50), lambda window: [8 * loudness(window) + 2])
        monkeypatch.setattr(edges, "build_backend", lambda _: model)
        monkeypatch.setattr(edges, "build_source", lambda _: next(sources))
        monkeypatch.setattr(edges, "build_sink", lambda *_: sink)
        stop = asyncio.Event()
        return app.App(config.parse(SETTINGS, "test", edges.edge_config), stop), sink, stop

    return build


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the sink is a plain list
            await asyncio.sleep(0.005)


def test_ends_by_itself_when_every_source_has_ended(daemon):
    made, sink, _ = daemon(FakeSource(NOISE))
    asyncio.run(made.run())
    assert sink.phases("room") == ["start", "end"]
    assert sink.of("room/event")[1]["end_reason"] == "source_end"
    assert sink.of("room/noise/state")[-1]["state"] == "OFF"
    assert sink.of("room/status")[-1] == "offline"


def test_stop_ends_open_events_before_it_says_offline(daemon):
    made, sink, stop = daemon(FakeSource(NOISE, end=None))

    async def run():
        running = asyncio.ensure_future(made.run())
        await until(lambda: sink.phases("room"))
        stop.set()
        await running

    asyncio.run(run())
    assert sink.phases("room") == ["start", "end"]
    assert sink.of("room/event")[-1]["end_reason"] == "stop"


def test_what_a_slow_model_says_after_the_farewell_is_not_published(daemon, monkeypatch):
    monkeypatch.setattr("streamer.engine.DRAIN_S", 0.05)
    is_busy, may_go_on = threading.Event(), threading.Event()

    def hear(window):
        is_busy.set()
        may_go_on.wait(10)
        return [9.0]

    made, sink, stop = daemon(
        FakeSource(NOISE, end=None), backend=FakeBackend(spec_of("Noise", window_frames=50), hear)
    )

    async def run():
        running = asyncio.ensure_future(made.run())
        await until(is_busy.is_set)
        stop.set()
        await running
        may_go_on.set()
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert sink.phases("room") == []


def test_a_failing_model_ends_open_events_and_the_process(daemon):
    n_windows = 0

    def hear(window):
        nonlocal n_windows
        n_windows += 1
        if n_windows > 6:
            raise BackendError("out of memory")
        return [9.0]

    made, sink, _ = daemon(FakeSource(NOISE), backend=FakeBackend(spec_of("Noise", window_frames=50), hear))
    with pytest.raises(BackendError, match="out of memory"):
        asyncio.run(made.run())
    assert sink.phases("room") == ["start", "end"]


def test_a_model_that_hangs_ends_the_process(daemon, monkeypatch):
    monkeypatch.setattr(app, "STUCK_S", 0.3)
    monkeypatch.setattr("streamer.engine.DRAIN_S", 0.05)
    may_go_on = threading.Event()

    def hear(window):
        may_go_on.wait(10)
        return [0.0]

    made, _, _ = daemon(FakeSource(NOISE, end=None), backend=FakeBackend(spec_of("Noise", window_frames=50), hear))
    with pytest.raises(BackendError, match="no answer"):
        asyncio.run(made.run())
    may_go_on.set()


@pytest.mark.parametrize("error", [SourceError("no such device"), OSError("too many open files")])
def test_a_source_that_fails_is_tried_again_and_the_others_go_on(daemon, monkeypatch, caplog, error):
    monkeypatch.setattr(supervisor, "FIRST_WAIT_S", 0.01)
    broken = FakeSource(NOISE)
    opened, open_really = 0, broken.open

    def open_third_time():
        nonlocal opened
        opened += 1
        if opened < 3:
            raise error
        return open_really()

    broken.open = open_third_time
    made, sink, _ = daemon(broken, FakeSource(NOISE))
    asyncio.run(made.run())
    assert sink.phases("room") == sink.phases("hall") == ["start", "end"]
    assert sink.of("room/status")[:2] == ["offline", "stalled"]
    assert str(error) in caplog.text


def test_a_lost_source_ends_its_event_and_is_opened_again(daemon, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_WAIT_S", 0.01)
    lossy = FakeSource(NOISE, end=Reason.SOURCE_LOST)
    made, sink, stop = daemon(lossy)

    async def run():
        running = asyncio.ensure_future(made.run())
        await until(lambda: len(sink.phases("room")) >= 4)
        stop.set()
        await running

    asyncio.run(run())
    assert lossy.n_opened >= 2
    assert sink.phases("room")[:4] == ["start", "end", "start", "end"]
    assert sink.of("room/event")[1]["end_reason"] == "source_lost"
    onsets = [event["onset_s"] for event in sink.of("room/event")]
    assert onsets == sorted(onsets)
    assert "stalled" in sink.of("room/status")


def test_one_constant_value_is_a_dead_microphone(daemon, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(supervisor, "WATCH_S", 0.01)
    stuck = FakeSource(np.full(16000 * 30, 1.0, np.float32), end=None)
    monkeypatch.setattr(app, "getattr", lambda *_: 0.005, raising=False)  # zeros_s: 300 hops take longer
    made, sink, stop = daemon(stuck)

    async def run():
        running = asyncio.ensure_future(made.run())
        await until(lambda: stuck.n_opened >= 2)
        stop.set()
        await running

    asyncio.run(run())
    assert "stalled" in sink.of("room/status")


def test_calls_get_threads_that_nobody_waits_for():
    threads, may_end = app.Threads(), threading.Event()
    waiting = [threads.submit(may_end.wait, 10) for _ in range(40)]  # none waits for another's thread
    assert threads.submit(lambda: "done").result(5) == "done"
    began = time.monotonic()
    threads.shutdown(wait=True)
    assert not any(future.done() for future in waiting)
    may_end.set()
    assert time.monotonic() - began < 5
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(5)
