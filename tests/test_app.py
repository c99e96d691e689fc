"""The daemon in one process, with stand-ins at its edges: what it says when things break, and how it stops."""

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from streamer import app, config, edges, engine, journal, journal_file, supervisor
from streamer.core import Reason, StreamRules
from streamer.errors import BackendError, CommandError, SourceError
from streamer.outbox import is_event
from streamer.sinks import _mqtt_connect
from streamer.sources import stdin
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
outbox: {path: null}
"""
SILENCE = np.zeros(1600, np.float32)
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
    """Build an App over the given sources and back end; returns it with its sink."""

    def build(room, hall=None, backend=None, settings=SETTINGS):
        sources = iter((room, hall or FakeSource(NOISE[:1600])))
        sink = Collector()
        model = backend or FakeBackend(spec_of("Noise", window_frames=50), lambda window: [8 * loudness(window) + 2])
        monkeypatch.setattr(edges, "build_backend", lambda _: model)
        monkeypatch.setattr(edges, "build_source", lambda _: next(sources))
        monkeypatch.setattr(edges, "build_sink", lambda *_: sink)
        made = app.App(config.parse(settings, "test", edges.edge_config))
        return made, sink

    return build


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the sink is a plain list
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(made):
    """The daemon at work, told to stop at the end."""
    task = asyncio.ensure_future(made.run())
    try:
        yield
    finally:  # also after a failure: its engine's thread would spoil the tests that follow
        made.stop()
        await task


def test_sinks_are_told_of_streams_rules_and_thresholds(monkeypatch):
    told = []
    monkeypatch.setattr(edges, "build_backend", lambda _: FakeBackend(spec_of("Noise"), lambda _: [0]))
    monkeypatch.setattr(edges, "build_sink", lambda _, site: told.append(site))
    app.App(config.parse(SETTINGS, "test", edges.edge_config))
    noise = ({"noise": ("Noise",)}, frozenset({"noise"}))
    assert told[0].streams == (StreamRules("room", *noise), StreamRules("hall", *noise))


def test_ends_by_itself_when_every_source_has_ended(daemon):
    made, sink = daemon(FakeSource(NOISE))
    asyncio.run(made.run())
    assert sink.phases("room") == ["start", "end"]
    assert sink.of("room/event")[1]["end_reason"] == "source_end"
    assert sink.of("room/noise/state")[-1]["state"] == "OFF"
    assert sink.of("room/status")[-1] == "offline"


def test_stop_ends_open_events_before_it_says_offline(daemon):
    made, sink = daemon(FakeSource(NOISE, end=None))

    async def run():
        async with running(made):
            await until(lambda: sink.phases("room"))

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

    made, sink = daemon(
        FakeSource(NOISE, end=None), backend=FakeBackend(spec_of("Noise", window_frames=50), hear)
    )

    async def run():
        async with running(made):
            await until(is_busy.is_set)
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

    made, sink = daemon(FakeSource(NOISE), backend=FakeBackend(spec_of("Noise", window_frames=50), hear))
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

    made, _ = daemon(FakeSource(NOISE, end=None), backend=FakeBackend(spec_of("Noise", window_frames=50), hear))
    with pytest.raises(BackendError, match="no answer"):
        asyncio.run(made.run())
    may_go_on.set()


class Live(FakeSource):
    """Delivers silence without end, 20 times as fast as life, after what it begins with."""

    def __init__(self, begins=SILENCE):
        super().__init__(begins)
        self._info = replace(self._info, is_live=True, can_wait=False)

    def _deliver(self, ring):
        ring.write(self._samples)
        while not self._stopping.wait(0.005):
            ring.write(SILENCE)


@pytest.fixture
def alert(monkeypatch):
    """A daemon of two streams notices within half a second that one gives no windows."""
    monkeypatch.setattr(app, "STUCK_S", 0.25)
    monkeypatch.setattr(app, "STRETCHES", 1)
    monkeypatch.setattr(app, "LOOK_S", 0.01)
    monkeypatch.setattr(supervisor, "WATCH_S", 0.01)
    monkeypatch.setattr("streamer.engine.IDLE_S", 0.01)


@pytest.mark.usefixtures("alert")
@pytest.mark.parametrize("room", [Live(), FakeSource(np.zeros(16000 * 30, np.float32), end=None)])
def test_a_stream_that_gets_sound_and_gives_no_windows_ends_the_process(daemon, monkeypatch, room):
    made, sink = daemon(room, Live())
    monkeypatch.setattr(made._supervisors["room"].line.stream, "poll", lambda: None)
    with pytest.raises(BackendError, match=r"stream room: \d+ s of sound came, none was heard"):
        asyncio.run(asyncio.wait_for(made.run(), 20))
    assert sink.of("room/status")[-1] == "offline"


@pytest.mark.usefixtures("alert")
@pytest.mark.parametrize("option", ["gate_dbfs: 0", "late: auto", "late: latest", "late: every"])
def test_a_stream_that_skips_windows_does_not(daemon, option):
    made, _ = daemon(
        Live(),
        FakeSource(NOISE, end=None),  # and one that just falls silent
        FakeBackend(spec_of("Noise", window_frames=50), lambda _: [time.sleep(0.05)] and [0.0]),
        SETTINGS.replace("hop_s: 0.1", f"hop_s: 0.1, {option}"),
    )
    end = time.monotonic() + 1.0

    async def run():
        async with running(made):
            await until(lambda: time.monotonic() > end)

    asyncio.run(run())


# -- a model that is slower than a stop may take -----------------------------------------------------------------------


@pytest.fixture
def slow(daemon, monkeypatch):
    """A daemon whose model takes until `may_go_on` for its first pass, and what happens meanwhile."""
    monkeypatch.setattr("streamer.engine.DRAIN_S", 0.02)
    is_busy, may_go_on = threading.Event(), threading.Event()

    def hear(window):
        is_busy.set()
        may_go_on.wait(10)
        return [9.0]

    made, sink = daemon(FakeSource(NOISE, end=None), backend=FakeBackend(spec_of("Noise", window_frames=50), hear))

    async def run(meanwhile):
        running = asyncio.ensure_future(made.run())
        try:
            await until(is_busy.is_set)
            made.stop(Reason.RELOAD, keep_backend=True)
            await meanwhile(made, running, may_go_on)
            await running
        finally:
            may_go_on.set()

    return lambda meanwhile: asyncio.run(run(meanwhile)), sink


def test_a_reload_waits_for_the_pass_in_hand(slow):
    run, sink = slow

    async def takes_longer_than_a_stop_may(made, running, may_go_on):
        await asyncio.wait((running,), timeout=0.1)
        assert not running.done()
        may_go_on.set()

    run(takes_longer_than_a_stop_may)
    assert [event["end_reason"] for event in sink.of("room/event")] == [None, "reload"]


def test_a_reload_that_finds_a_model_hanging_ends_the_process(slow, monkeypatch):
    monkeypatch.setattr(app, "STUCK_S", 0.2)
    run, _ = slow

    async def hangs(made, running, may_go_on):
        await asyncio.wait((running,), timeout=10)

    with pytest.raises(BackendError, match=r"no answer|hangs"):
        run(hangs)


def test_a_stop_does_not_wait_for_what_a_reload_waits_for(slow):
    run, sink = slow

    async def is_told_to_stop(made, running, may_go_on):
        await asyncio.wait((running,), timeout=0.1)
        made.stop()
        await asyncio.wait((running,), timeout=5)
        assert running.done()

    run(is_told_to_stop)
    assert sink.phases("room") == []
    assert sink.of("room/status")[-1] == "offline"


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
    made, sink = daemon(broken, FakeSource(NOISE))
    asyncio.run(made.run())
    assert sink.phases("room") == sink.phases("hall") == ["start", "end"]
    assert sink.of("room/status")[:2] == ["offline", "stalled"]
    assert str(error) in caplog.text


def test_a_source_that_can_not_be_closed_is_opened_again_and_the_others_go_on(daemon, monkeypatch, caplog):
    monkeypatch.setattr(supervisor, "FIRST_WAIT_S", 0.01)
    lossy, troubles = FakeSource(NOISE, end=Reason.SOURCE_LOST), [OSError("the driver says no")]

    def close():
        FakeSource.close(lossy)
        if lossy.n_opened and troubles:
            raise troubles.pop()

    lossy.close = close
    made, sink = daemon(lossy, FakeSource(NOISE, end=None))

    async def run():
        async with running(made):
            await until(lambda: lossy.n_opened >= 2 and sink.phases("hall"))

    asyncio.run(run())
    assert "stream room: its source can't be closed" in caplog.messages
    assert sink.of("hall/event")[-1]["end_reason"] == "stop"


def test_a_lost_source_ends_its_event_and_is_opened_again(daemon, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_WAIT_S", 0.01)
    lossy = FakeSource(NOISE, end=Reason.SOURCE_LOST)
    made, sink = daemon(lossy)

    async def run():
        async with running(made):
            await until(lambda: len(sink.phases("room")) >= 4)

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
    made, sink = daemon(stuck)

    async def run():
        async with running(made):
            await until(lambda: stuck.n_opened >= 2)

    asyncio.run(run())
    assert "stalled" in sink.of("room/status")


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_input_of_nothing_is_dead_too(daemon, caplog, value):
    reading, writing = os.pipe()
    os.write(writing, np.full(8000, value, "<f4").tobytes())
    source = "{type: stdin, sample_rate: 16000, format: f32le, zeros_s: 0.01}"
    made, sink = daemon(
        stdin.StdinSource(stdin.Config(sample_rate=16000, format="f32le"), reading),
        settings=SETTINGS.replace("{type: file, path: unused.wav}", source, 1),
    )

    async def run():
        async with running(made):
            await until(lambda: "stalled" in sink.of("room/status"))

    asyncio.run(run())
    os.close(reading)
    os.close(writing)
    assert "nothing but silence of one value from standard input" in caplog.text
    assert ("standard input: 1600 broken samples" in caplog.text) == np.isnan(value)


def test_a_dead_microphone_that_pops_when_it_is_opened_stays_dead_until_there_is_sound(daemon, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(supervisor, "WATCH_S", 0.01)
    monkeypatch.setattr(app, "getattr", lambda *_: 0.1, raising=False)  # zeros_s
    popping = Live(NOISE[:1600])
    made, sink = daemon(popping, FakeSource(NOISE, end=None))
    stands = []

    async def run():
        async with running(made):
            await until(lambda: popping.n_opened == 4)
            stands.extend(sink.of("room/status"))
            popping._deliver = lambda ring: [ring.write(NOISE[:1600]) for _ in range(40)]
            await until(lambda: sink.of("room/status")[-1] == "online")

    asyncio.run(run())
    assert stands == ["offline", "online", "stalled"]


# -- orders ------------------------------------------------------------------------------------------------------------


def test_a_paused_stream_lets_go_of_its_source_and_says_so(daemon):
    room = FakeSource(NOISE, end=None)
    made, sink = daemon(room)

    async def run():
        async with running(made):
            await until(lambda: sink.phases("room"))
            made.orders.take("room/listening/set", "OFF")
            await until(lambda: len(sink.phases("room")) == 2)
            await until(lambda: sink.of("room/status")[-1] == "paused")
            made.orders.take("room/listening/set", "ON")
            await until(lambda: len(sink.phases("room")) == 3)

    asyncio.run(run())
    assert sink.phases("room") == ["start", "end", "start", "end"]
    assert [event["end_reason"] for event in sink.of("room/event")] == [None, "pause", None, "stop"]
    assert room.n_opened == 2
    assert sink.of("room/listening/state") == ["ON", "OFF", "ON"]
    assert sink.of("hall/listening/state") == ["ON"]


def test_a_stream_whose_source_has_ended_stays_offline_whatever_is_ordered(daemon, caplog):
    caplog.set_level("INFO")
    made, sink = daemon(FakeSource(NOISE), FakeSource(NOISE, end=None))

    async def run():
        async with running(made):
            await until(lambda: "stream room: the source has come to its end" in caplog.messages)
            for order in ("OFF", "ON"):
                made.orders.take("room/listening/set", order)
                await until(lambda order=order: sink.of("room/listening/state")[-1] == order)

    asyncio.run(run())
    assert "paused" not in sink.of("room/status")
    assert sink.of("room/status")[-1] == "offline"


def test_a_snoozed_rule_ends_its_event_and_stays_silent(daemon):
    made, sink = daemon(FakeSource(NOISE, end=None))

    async def run():
        async with running(made):
            await until(lambda: sink.phases("room"))
            made.orders.take("room/noise/snooze/set", "3600")

    asyncio.run(run())
    assert [event["end_reason"] for event in sink.of("room/event")] == [None, "snooze"]
    assert sink.of("room/noise/state")[-1]["snoozed_until"] is not None


def test_a_threshold_is_set_while_running(daemon):
    made, sink = daemon(FakeSource(NOISE, end=None))

    async def run():
        async with running(made):
            await until(lambda: sink.of("room/noise/threshold/state"))
            made.orders.take("room/noise/threshold/set", "0.9999999")
            with pytest.raises(CommandError, match=r"room/noise/threshold/set: .*nothing was changed"):
                made.orders.take("room/noise/threshold/set", "1")
            await until(lambda: len(sink.of("room/noise/threshold/state")) == 2)

    asyncio.run(run())
    assert sink.of("room/noise/threshold/state") == ["0.6", "1"]


def test_events_wait_on_disk_for_a_sink_that_left_until_it_is_back(daemon, tmp_path, monkeypatch, caplog):
    on_disk = SETTINGS.replace("path: null", f"path: {tmp_path / 'outbox'}")
    monkeypatch.setattr(app, "STOP_S", 0.2)

    def live(room, settings=on_disk, run=None):
        made, sink = daemon(FakeSource(room), FakeSource(SILENCE), settings=settings)
        monkeypatch.setattr(sink, "run", run or sink.run)
        asyncio.run(made.run())
        return [(event["event_type"], event["replayed"]) for event in sink.of("room/event")]

    live(NOISE, run=lambda _: asyncio.Event().wait())  # takes nothing
    assert live(SILENCE, on_disk.replace("  all:", "  other:")) == []
    said = "2 events wait for sink 'all', which the configuration doesn't name any more; they are kept"
    assert said in caplog.messages
    assert live(SILENCE) == [("start", True), ("end", True)]
    assert live(SILENCE) == []


def test_a_successor_delivers_what_waits_in_memory(daemon, monkeypatch):
    monkeypatch.setattr(app, "STOP_S", 0.2)
    before, deaf = daemon(FakeSource(NOISE), FakeSource(SILENCE))
    monkeypatch.setattr(deaf, "run", lambda _: asyncio.Event().wait())
    asyncio.run(before.run())
    after, sink = daemon(FakeSource(SILENCE), FakeSource(SILENCE))
    after.succeed(before)
    asyncio.run(after.run())
    assert sink.phases("room") == ["start", "end"]


def test_a_reload_does_not_wait_for_a_receiver_that_is_away(daemon, monkeypatch, caplog):
    monkeypatch.setattr(app, "STOP_S", 60.0)
    before, deaf = daemon(FakeSource(NOISE, end=None), FakeSource(SILENCE))
    monkeypatch.setattr(deaf, "run", lambda _: asyncio.Event().wait())
    after, sink = daemon(FakeSource(SILENCE), FakeSource(SILENCE))

    async def reload():
        async with asyncio.timeout(30):
            running = asyncio.ensure_future(before.run())
            await until(lambda: before.outboxes["all"].pending)
            before.stop(Reason.RELOAD)
            await running

    asyncio.run(reload())
    assert "sink all: 2 events are left to the next configuration" in caplog.messages
    after.succeed(before)
    asyncio.run(after.run())
    assert [event["end_reason"] for event in sink.of("room/event")] == [None, "reload"]


def test_a_successor_obeys_what_was_ordered(daemon):
    before, told = daemon(FakeSource(NOISE, end=None), FakeSource(NOISE, end=None))
    room = FakeSource(NOISE)
    after, sink = daemon(room, FakeSource(NOISE))

    async def run():
        async with running(before):
            await until(lambda: told.phases("room") and told.phases("hall"))
            before.orders.take("room/listening/set", "OFF")
            before.orders.take("room/noise/threshold/set", "0.7")
            before.orders.take("hall/noise/snooze/set", "3600")
        after.succeed(before)
        async with running(after):
            await until(lambda: "offline" in sink.of("hall/status"))

    asyncio.run(run())
    assert (room.n_opened, sink.of("room/status")) == (0, ["paused", "offline"])
    assert sink.of("room/listening/state") == ["OFF"]
    assert sink.of("hall/listening/state") == ["ON"]
    assert sink.of("room/noise/threshold/state") == ["0.7"]
    assert sink.of("hall/noise/threshold/state") == ["0.6"]
    assert sink.phases("hall") == []
    assert sink.of("hall/noise/state")[-1]["snoozed_until"] is not None


GONE = SETTINGS.replace("[Noise]}", "[Noise]}\n  gone: {type: absence, rule: noise, for_s: 0.3}")
ONE_MORE = "noise: {type: threshold, labels: [Noise]}\n  one_more: {type: threshold, labels: [Noise]}"


@pytest.mark.parametrize(("old", "new", "orders", "told"), [
    ("", "", {}, ["start", "end"]),
    ("noise: {type: threshold, labels: [Noise]}", ONE_MORE, {}, ["start", "end"]),
    ("hall: ", "yard: ", {}, ["start", "end"]),
    ("", "", {"room/noise/threshold/set": "0.7"}, ["start", "end"]),
    ("", "", {"room/noise/snooze/set": "3600"}, []),
    ("[Noise]}", "[Noise], onset_threshold: 0.7}", {}, []),
    ("for_s: 0.3", "for_s: 0.4", {}, []),
    ("room: ", "yard: ", {}, []),
])  # fmt: skip
def test_a_successor_knows_what_is_missing(daemon, old, new, orders, told):
    before, heard = daemon(FakeSource(NOISE, end=None), FakeSource(SILENCE), settings=GONE)
    after, sink = daemon(FakeSource(np.tile(SILENCE, 10)), FakeSource(SILENCE), settings=GONE.replace(old, new))

    async def run():
        async with running(before):
            await until(lambda: heard.phases("room"))
            for topic, order in orders.items():
                before.orders.take(topic, order)
        after.succeed(before)
        await after.run()

    asyncio.run(run())
    events = [event for event in (*sink.of("room/event"), *sink.of("yard/event")) if event["rule"] == "gone"]
    assert [event["event_type"] for event in events] == told
    assert all(event["onset_s"] == 0 for event in events), "counted anew"


def test_a_successor_whose_model_knows_other_labels_knows_nothing_of_before(daemon):
    before, _ = daemon(FakeSource(NOISE), settings=GONE)
    asyncio.run(before.run())
    model = FakeBackend(spec_of("Siren", "Noise", window_frames=50), lambda _: [-9.0, -9.0])
    after, sink = daemon(FakeSource(np.tile(SILENCE, 10)), backend=model, settings=GONE)
    after.succeed(before)
    asyncio.run(after.run())
    assert sink.phases("room") == []


def undelivered(daemon, monkeypatch, settings):
    """A daemon that has ended with a sink that delivered nothing."""
    monkeypatch.setattr(app, "STOP_S", 0.2)
    before, deaf = daemon(FakeSource(NOISE), FakeSource(SILENCE), settings=settings)
    monkeypatch.setattr(deaf, "run", lambda _: asyncio.Event().wait())
    asyncio.run(before.run())
    return before


def test_a_successor_finds_on_the_disk_what_waits_there(daemon, tmp_path, monkeypatch):
    on_disk = SETTINGS.replace("path: null", f"path: {tmp_path / 'outbox'}")
    before = undelivered(daemon, monkeypatch, on_disk)
    after, sink = daemon(FakeSource(SILENCE), FakeSource(SILENCE), settings=on_disk)
    after.succeed(before)
    asyncio.run(after.run())
    assert sink.phases("room") == ["start", "end"]


def test_a_successor_delivers_what_waits_on_a_disk_that_failed(daemon, tmp_path, monkeypatch):
    on_disk = SETTINGS.replace("path: null", f"path: {tmp_path / 'outbox'}")
    before = undelivered(daemon, monkeypatch, on_disk)
    assert all(entry.row for entry in before.outboxes["all"].left)

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal_file, "open_database", fail)
    after, sink = daemon(FakeSource(SILENCE), FakeSource(SILENCE), settings=on_disk)
    after.succeed(before)
    asyncio.run(after.run())
    assert sink.phases("room") == ["start", "end"]


def test_a_sink_that_broke_gets_again_what_it_had_in_its_hands(daemon, monkeypatch):
    monkeypatch.setattr(app, "BROKEN_S", 0.01)
    made, sink = daemon(FakeSource(NOISE), FakeSource(SILENCE))
    collect, is_clumsy = sink.run, [True]

    async def run(outbox):
        while is_clumsy:
            if is_event(await outbox.get()):
                is_clumsy.clear()
                raise KeyError("clumsy")
        await collect(outbox)

    monkeypatch.setattr(sink, "run", run)
    asyncio.run(made.run())
    assert sink.phases("room") == ["start", "end"]


def test_windows_that_wait_for_long_are_told(daemon, monkeypatch, caplog):
    monkeypatch.setattr(app, "STATS_S", 0.01)
    made, sink = daemon(FakeSource(SILENCE, end=None), FakeSource(SILENCE, end=None))

    async def run():
        async with running(made):
            await until(lambda: sink.of("stats"))
            for _ in range(1000):
                made.stats.observe_ms("queue", 7000)
            made.stats.count("windows", 1000)
            await until(lambda: "windows wait 7 s for it" in caplog.text)

    asyncio.run(run())


def test_all_that_may_be_slow_at_a_stop_leaves_a_second_of_the_five_that_are_promised():
    assert round(app.RELEASE_S + engine.DRAIN_S + app.DELIVER_S + app.LAST_WORD_S, 3) <= app.STOP_S
    assert 2 * _mqtt_connect.FAREWELL_S < app.LAST_WORD_S, "both answers of a broker that is frozen"
    assert app.STOP_S + journal.CLOSE_S <= 4


def test_it_stops_while_it_waits_for_a_disk_that_hangs(daemon, tmp_path, monkeypatch):
    hung = threading.Event()

    def hang(*_, **__):
        hung.wait(20)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(app, "OPEN_S", 60.0)
    monkeypatch.setattr(journal_file, "open_database", hang)
    made, _ = daemon(FakeSource(NOISE, end=None), settings=SETTINGS.replace("path: null", f"path: {tmp_path / 'x'}"))

    async def run():
        async with asyncio.timeout(15), running(made):
            await asyncio.sleep(0.01)

    try:
        asyncio.run(run())
    finally:
        hung.set()
