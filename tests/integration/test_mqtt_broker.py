"""The MQTT sink against a real mosquitto, which is killed, comes back, and asks for passwords and certificates."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from streamer.core import Message, Site
from streamer.errors import CommandError
from streamer.outbox import Outbox
from streamer.sinks import base, mqtt
from tests.integration.broker import Broker, free_port

GARAGE = Site("garage")
PATIENCE_S = 10.0       # far above anything these wait for: no test's verdict depends on time
STATUS = "streamer/garage/status"
EVENTS = "streamer/garage/mic/event"
ALARM = "streamer/garage/mic/alarm/state"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(base, "LONGEST_WAIT_S", 0.1)


@pytest.fixture(autouse=True)
def no_noise(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither asyncio nor the client library complains, not even about what is left behind."""
    yield
    gc.collect()
    assert capfd.readouterr().err == ""
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


class Subscriber:
    """What a client of the broker sees: every message in order, and the newest payload of each topic."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.seen: list[tuple[str, str]] = []
        self.newest: dict[str, str] = {}
        self._client = client

    async def until(self, is_done: Callable[["Subscriber"], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_done(self):
                message = await anext(aiter(self._client.messages))
                payload = bytes(message.payload).decode()
                self.seen.append((str(message.topic), payload))
                self.newest[str(message.topic)] = payload

    async def status(self, value: str) -> None:
        await self.until(lambda s: s.newest.get(STATUS) == value)

    def events(self) -> list[Any]:
        return [json.loads(payload) for topic, payload in self.seen if topic == EVENTS]


@contextlib.asynccontextmanager
async def subscriber(broker: Broker) -> AsyncIterator[Subscriber]:
    """A client that watches everything; it leaves with the broker, if need be."""
    client = aiomqtt.Client("127.0.0.1", broker.port)
    await client.__aenter__()
    await client.subscribe("#", qos=1)
    try:
        yield Subscriber(client)
    finally:
        with contextlib.suppress(aiomqtt.MqttError):
            await client.publish("bye")     # takes a lost connection's error out, or asyncio complains
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def running(
    outbox: Outbox, site: Site = GARAGE, **config: Any
) -> AsyncIterator[tuple[mqtt.Mqtt, asyncio.Task[None]]]:
    """The sink at work; at the end it is cancelled if it still works."""
    sink = mqtt.build(mqtt.Config.model_validate({"host": "127.0.0.1", **config}), site)
    assert isinstance(sink, mqtt.Mqtt)
    task = asyncio.create_task(sink.run(outbox))
    try:
        yield sink, task
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None


async def until(is_done: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_done():  # noqa: ASYNC110  a sink says nothing when it changes
            await asyncio.sleep(0.005)


def event(number: int) -> Message:
    return Message("mic/event", {"id": number, "label": "Schrei ä", "replayed": False})


def alarm(value: str) -> Message:
    return Message("mic/alarm/state", {"state": value}, retain=True)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_messages_arrive_and_closing_says_offline(broker: Broker, protocol: str) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        async with subscriber(broker) as far, running(outbox, port=broker.port, protocol=protocol) as (sink, task):
            await far.status("online")
            assert sink.connected
            outbox.put(event(1))
            outbox.put(Message("mic/level", {"rms_dbfs": -40.5}, qos=0))
            outbox.put(alarm("ON"))
            await until(lambda: not outbox.pending)
            outbox.put(event(2))
            outbox.close()
            await asyncio.wait_for(task, PATIENCE_S)
            await far.status("offline")
            assert far.events() == [event(1).payload, event(2).payload]
            assert (EVENTS, '{"id":1,"label":"Schrei ä","replayed":false}') in far.seen
            assert ("streamer/garage/mic/level", '{"rms_dbfs":-40.5}') in far.seen
            assert not sink.connected
        async with subscriber(broker) as late:
            await late.until(lambda s: {STATUS, ALARM} <= s.newest.keys())
            assert late.newest == {STATUS: "offline", ALARM: '{"state":"ON"}'}

    broker.start()
    asyncio.run(scenario())


def test_being_cancelled_says_offline_too(broker: Broker) -> None:
    async def scenario() -> None:
        async with subscriber(broker) as far:
            async with running(Outbox(), port=broker.port):
                await far.status("online")
            await far.status("offline")

    broker.start()
    asyncio.run(scenario())


def test_a_client_that_vanishes_is_offline_by_its_will(broker: Broker) -> None:
    """A relay between the two is cut, as a pulled cable does it: no DISCONNECT reaches the broker."""

    async def scenario() -> None:
        pipes: list[asyncio.StreamWriter] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", broker.port)
            pipes.extend((writer, far_writer))

            async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
                with contextlib.suppress(OSError):
                    while data := await source.read(4096):
                        to.write(data)

            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with subscriber(broker) as far, running(Outbox(), port=port) as (sink, _):
            await far.status("online")
            server.close()
            for pipe in pipes:
                pipe.transport.abort()
            await far.status("offline")
            await until(lambda: not sink.connected)

    broker.start()
    asyncio.run(scenario())


def test_a_broker_down_at_first_gets_all_when_it_comes(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        for number in range(20):
            outbox.put(event(number))
        async with running(outbox, port=broker.port) as (sink, _):
            await until(lambda: caplog.messages)
            assert (sink.connected, outbox.pending) == (False, 20)
            broker.start()
            async with subscriber(broker) as far:
                await until(lambda: not outbox.pending)
                outbox.put(event(20))
                await far.until(lambda s: bool(s.events()) and s.events()[-1]["id"] == 20)
                assert not far.events()[-1]["replayed"]
                assert all(e["replayed"] for e in far.events()[:-1])
                assert sink.reconnects == 0

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    where = f"MQTT broker 127.0.0.1:{broker.port}: "
    assert caplog.messages == [
        where + "connection refused; check that the broker runs and that this is its host and port",
        where + "connected",
    ]


def test_a_broker_killed_and_restarted_gets_every_event_in_order_and_the_states(broker: Broker) -> None:
    async def scenario() -> None:
        outbox, sent = Outbox(), 0
        before: list[int] = []
        replayed: dict[int, bool] = {}

        def put(n: int) -> None:
            nonlocal sent
            for _ in range(n):
                outbox.put(event(sent))
                sent += 1

        async with running(outbox, port=broker.port) as (sink, _):
            async with subscriber(broker) as far:
                await until(lambda: sink.connected)
                outbox.put(alarm("ON"))
                put(50)
                await far.until(lambda s: len(s.events()) >= 10)
                put(200)            # some on the way, some waiting
                broker.kill()
                with contextlib.suppress(aiomqtt.MqttError):
                    await far.until(lambda _: False)
                before = [e["id"] for e in far.events()]
            await until(lambda: not sink.connected)     # noticed without a publish of ours failing
            put(50)
            outbox.put(alarm("OFF"))
            unacknowledged = sent - outbox.pending
            broker.start()
            async with subscriber(broker) as far:
                await until(lambda: sink.connected)
                put(1)
                await far.until(lambda s: bool(s.events()) and s.events()[-1]["id"] == sent - 1 and ALARM in s.newest)
                after = [e["id"] for e in far.events()]
                replayed = {e["id"]: e["replayed"] for e in far.events()}
            async with subscriber(broker) as late:
                await late.until(lambda s: {STATUS, ALARM} <= s.newest.keys())
                assert late.newest == {STATUS: "online", ALARM: '{"state":"OFF"}'}
            assert sink.reconnects == 1
        assert before == list(range(len(before)))
        assert after == list(range(unacknowledged, sent))
        # Between the two: what the broker had acknowledged and not passed on yet when it lost all it knew.
        assert set(range(sent)) - set(before) - set(after) <= set(range(len(before), unacknowledged))
        assert all(replayed[n] for n in after[:-1])
        assert not replayed[sent - 1]

    broker.start()
    asyncio.run(scenario())


def test_an_idle_sink_notices_that_its_broker_died(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(Outbox(), port=broker.port) as (sink, _):
            await until(lambda: sink.connected)
            broker.kill()
            await until(lambda: not sink.connected)
            broker.start()
            await until(lambda: sink.connected)

    broker.start()
    asyncio.run(scenario())
    assert "connection lost" in caplog.messages[0]
    assert "check that no other client has the id 'streamer-garage'" in caplog.messages[0]


def complaint(caplog: pytest.LogCaptureFixture, port: int, **config: Any) -> str:
    """The first thing the sink has to say about a connection it can't make, less the broker's name."""

    async def scenario() -> None:
        outbox = Outbox()
        outbox.put(event(1))
        async with running(outbox, port=port, **config) as (sink, _):
            await until(lambda: caplog.messages)
            assert (sink.connected, outbox.pending) == (False, 1)

    asyncio.run(scenario())
    name = f"MQTT broker {config.get('host', '127.0.0.1')}:{port}: "
    assert caplog.messages[0].startswith(name)
    return caplog.messages[0].removeprefix(name)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"username": "me", "password": "wrong"}, "refused user 'me' ([code:135] Not authorized)"),
        ({"username": "me", "password": "wrong", "protocol": "5"}, "refused user 'me' ([code:135] Not authorized)"),
        ({}, "refused a client without username ([code:135] Not authorized)"),
    ],
)
def test_a_wrong_password_is_said_to_be_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: dict[str, Any], sentence: str
) -> None:
    with Broker(tmp_path, ("me", "secret")) as broker:
        assert complaint(caplog, broker.port, **config) == f"{sentence}; check username and password"


@pytest.mark.parametrize("as_file", [False, True])
def test_the_right_password_opens(tmp_path: Path, *, as_file: bool) -> None:
    async def scenario(port: int) -> None:
        file = tmp_path / "password"
        file.write_text("secret\n")
        password = {"password_file": str(file)} if as_file else {"password": "secret"}
        async with running(Outbox(), port=port, username="me", **password) as (sink, _):
            await until(lambda: sink.connected)

    with Broker(tmp_path, ("me", "secret")) as broker:
        asyncio.run(scenario(broker.port))


# A socket whose handshake failed is closed by its end of life only: ssl's way, in paho.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_tls_with_the_right_ca_connects_and_with_any_other_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(port: int, ca: Path) -> None:
        async with running(Outbox(), port=port, tls={"ca": str(ca)}) as (sink, _):
            await until(lambda: sink.connected)

    (tmp_path / "other").mkdir()
    other = Broker(tmp_path / "other", tls=True).ca
    with Broker(tmp_path, tls=True) as broker:
        asyncio.run(scenario(broker.port, broker.ca))
        caplog.clear()
        assert complaint(caplog, broker.port, tls={"ca": str(other)}).endswith(f"; trusted is tls.ca '{other}'")
        assert "its certificate isn't trusted (" in caplog.messages[0]
        caplog.clear()
        assert complaint(caplog, broker.port, tls={}).endswith("; trusted is the system's CAs; tls.ca names another")
        caplog.clear()
        assert "certificate isn't trusted (Hostname mismatch" in complaint(
            caplog, broker.port, host="localhost", tls={"ca": str(broker.ca)}
        )


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_tls_to_a_plain_port_and_plain_to_a_tls_port(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker.start()
    assert "check that this is its TLS port" in complaint(caplog, broker.port, tls={})
    caplog.clear()
    (tmp_path / "tls").mkdir()
    with Broker(tmp_path / "tls", tls=True) as other:
        sentence = "closed the connection instead of answering; if this is its TLS port, set tls"
        assert complaint(caplog, other.port) == sentence


def test_a_broker_that_says_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", free_port())) as mute:
        sentence = "no answer to MQTT within 0.5 s; if this is its TLS port, set tls"
        assert complaint(caplog, mute.getsockname()[1]) == sentence


def test_a_host_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    sentence = complaint(caplog, 1883, host="no-such-host.invalid")
    assert sentence.startswith("no such host (")
    assert sentence.endswith("check host, and this machine's name service")


def test_cancelled_at_any_moment_of_connecting_it_leaves_quietly(broker: Broker) -> None:
    """Python 3.11's wait_for, inside aiomqtt, can lose a cancellation; its connecting thread outlives one."""

    async def scenario(steps: int) -> None:
        async with running(Outbox(), port=broker.port):
            for _ in range(steps):
                await asyncio.sleep(0.0002)

    broker.start()
    for steps in range(25):
        asyncio.run(asyncio.wait_for(scenario(steps), PATIENCE_S))


def test_a_broker_that_never_answers_holds_nobody_up() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", free_port())) as mute:
            async with asyncio.timeout(PATIENCE_S), running(Outbox(), port=mute.getsockname()[1]):
                await asyncio.sleep(0.05)

    asyncio.run(scenario())


@pytest.mark.parametrize("tls", [False, True])
def test_a_broker_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool) -> None:
    monkeypatch.setattr(mqtt, "ANSWER_S", 6 * PATIENCE_S)      # it must not be waited for
    async def scenario(broker: Broker) -> None:
        outbox = Outbox()
        config = {"tls": {"ca": str(broker.ca)}} if tls else {}
        async with running(outbox, port=broker.port, **config) as (sink, task):
            await until(lambda: sink.connected)
            assert broker._process is not None
            os.kill(broker._process.pid, signal.SIGSTOP)
            outbox.put(event(1))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE_S)
            broker.kill()       # stopped, it would not heed a gentler end
            assert (task.cancelled(), outbox.pending) == (True, 1)

    with Broker(tmp_path, tls=tls) as broker:
        asyncio.run(scenario(broker))


def test_what_can_not_be_said_is_dropped_and_the_rest_goes_on(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        async with subscriber(broker) as far, running(outbox, port=broker.port) as (sink, _):
            await until(lambda: sink.connected)
            for unsaid in ({"score": float("nan")}, {"score": object()}, "\ud800"):
                outbox.put(Message("mic/event", unsaid))
            outbox.put(Message("mic/+", "x"))
            outbox.put(event(1))
            await far.until(lambda s: bool(s.events()))
            assert far.events() == [event(1).payload]
            await until(lambda: not outbox.pending)
            assert sink.reconnects == 0

    broker.start()
    asyncio.run(scenario())
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * 4
    assert all(m.startswith("a message for 'mic/") and m.endswith("is dropped; report this") for m in caplog.messages)
    caplog.clear()


def test_orders_are_passed_on_and_bad_ones_are_told_of(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    given: list[tuple[str, str]] = []
    broker.start()

    def take(topic: str, text: str) -> None:
        if text == "maybe":
            raise CommandError(f"{topic}: 'maybe' is neither ON nor OFF")
        given.append((topic, text))

    async def scenario() -> None:
        site = Site("garage", command=take)
        async with aiomqtt.Client("127.0.0.1", broker.port) as hand:
            base = "streamer/garage"
            await hand.publish(f"{base}/hall/listening/set", "OFF", 1, retain=True)
            async with subscriber(broker) as far, running(Outbox(), site, port=broker.port):
                await far.status("online")
                await until(lambda: "hall/listening/set: an order left on the broker is ignored" in caplog.text)
                for payload in ("maybe", b"\xff", "x" * 101):
                    await hand.publish(f"{base}/mic/listening/set", payload, 1)
                await hand.publish(f"{base}/mic/bark/snooze/set", "60", 1)
                await hand.publish(f"{base}/mic/bark/threshold/set", "0.5", 1)
                await until(lambda: len(given) == 2)
            await hand.publish(f"{base}/hall/listening/set", "", 1, retain=True)

    asyncio.run(scenario())
    assert given == [("mic/bark/snooze/set", "60"), ("mic/bark/threshold/set", "0.5")]
    for sentence in ("'maybe' is neither", "is UTF-8 text; nothing", "at most 100 bytes; nothing"):
        assert sentence in caplog.text
