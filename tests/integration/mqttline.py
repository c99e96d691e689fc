"""The MQTT sink at work, what a client of its broker sees, and the line between the two, to be cut."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import aiomqtt
import pytest

from streamer.core import Message, Site
from streamer.outbox import Outbox
from streamer.sinks import mqtt
from streamer.sinks._mqtt_connect import Client
from tests.integration.broker import Broker

GARAGE = Site("garage")
PATIENCE_S = 10.0       # far above anything these wait for: no test's verdict depends on time
STATUS = "streamer/garage/status"
EVENTS = "streamer/garage/mic/event"
ALARM = "streamer/garage/mic/alarm/state"


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


class Relay:
    """The cable between a sink, which connects to `port`, and its broker. `async with` it; at the end it is cut."""

    def __init__(self, broker: Broker) -> None:
        self.port = 0
        self._broker = broker
        self._pipes: list[asyncio.StreamWriter] = []
        self._answers = asyncio.Event()     # set: the broker's words pass
        self._answers.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Pull the cable out on both sides, without a goodbye; it may be put in again."""
        self.pass_answers()
        for pipe in self._pipes:
            pipe.transport.abort()
        self._pipes.clear()

    def hold_answers(self) -> None:
        """From now on what the broker says comes later."""
        self._answers.clear()

    def pass_answers(self) -> None:
        self._answers.set()

    def say(self, words: bytes) -> None:
        """Tell the sink something in the broker's name."""
        self._pipes[0].write(words)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
        self._pipes[:] = writer, far_writer
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer, self._answers))

    @staticmethod
    async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter, gate: asyncio.Event | None = None) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(4096):
                if gate is not None:
                    await gate.wait()
                to.write(data)
        to.close()


@contextlib.asynccontextmanager
async def subscriber(broker: Broker) -> AsyncIterator[Subscriber]:
    """A client that watches everything; it leaves with the broker, if need be."""
    client = Client("127.0.0.1", broker.port)       # what it answers may meet a socket that died
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


async def retained(broker: Broker) -> dict[str, str]:
    """What the broker has stored, by topic."""
    async with subscriber(broker) as late, aiomqtt.Client("127.0.0.1", broker.port) as hand:
        await hand.publish("end", qos=1)    # comes after all that was stored
        await late.until(lambda s: "end" in s.newest)
        return {topic: payload for topic, payload in late.newest.items() if topic != "end"}


async def until(is_done: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_done():  # noqa: ASYNC110  a sink says nothing when it changes
            await asyncio.sleep(0.005)


def event(number: int) -> Message:
    return Message("mic/event", {"id": number, "label": "Schrei ä", "replayed": False})


def alarm(value: str) -> Message:
    return Message("mic/alarm/state", {"state": value}, retain=True)


def complaint(caplog: pytest.LogCaptureFixture, port: int, *, attempts: int = 1, **config: Any) -> str:
    """The only thing the sink has to say about a connection it attempts in vain, less the broker's name."""

    async def scenario() -> None:
        outbox = Outbox()
        outbox.put(event(1))
        async with running(outbox, port=port, **config) as (sink, _):
            await until(lambda: sink._retry._failures >= attempts)
            assert (sink.connected, outbox.pending) == (False, 1)

    caplog.clear()
    asyncio.run(scenario())
    name = f"MQTT broker {config.get('host', '127.0.0.1')}:{port}: "
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(name)
    return caplog.messages[0].removeprefix(name)
