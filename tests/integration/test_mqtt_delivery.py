"""Several messages on their way at once, over a line that breaks in the middle of them."""

import asyncio
import socket

import pytest

from streamer.core import Message
from streamer.outbox import Outbox
from streamer.sinks import mqtt
from streamer.sinks._mqtt_connect import Client
from tests.integration.broker import Broker
from tests.integration.mqttline import (
    ALARM,
    EVENTS,
    Relay,
    Subscriber,
    alarm,
    event,
    retained,
    running,
    subscriber,
    until,
)

pytestmark = pytest.mark.usefixtures("hasty", "no_noise")
BOTH = pytest.mark.parametrize("protocol", ["3.1.1", "5"])
LEVELS = "streamer/garage/mic/level"


def ids(far: Subscriber) -> list[int]:
    return [event["id"] for event in far.events()]


@BOTH
def test_so_many_are_on_their_way_and_no_more_until_one_is_acknowledged(broker: Broker, protocol: str) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        async with (
            subscriber(broker) as far,
            Relay(broker) as relay,
            running(outbox, port=relay.port, protocol=protocol) as (sink, _),
        ):
            outbox.put(event(0))
            await until(lambda: sink.connected and not outbox.pending)     # `online` before it
            relay.hold_answers()
            for number in range(1, 41):
                outbox.put(event(number))
            await far.until(lambda s: len(s.events()) == 1 + mqtt.IN_FLIGHT)
            await asyncio.sleep(0.05)
            outbox.put(alarm("ON"))     # a state is ahead of what waits, not of what left
            assert outbox.pending == 40
            relay.pass_answers()
            await far.until(lambda s: ids(s)[-1] == 40)
            assert ids(far) == list(range(41))
            topics = [topic for topic, _ in far.seen if topic in {EVENTS, ALARM}][1:]
            assert mqtt.IN_FLIGHT <= topics.index(ALARM) < 2 * mqtt.IN_FLIGHT
            await until(lambda: not outbox.pending)

    broker.start()
    asyncio.run(scenario())


@BOTH
def test_a_line_cut_again_and_again_loses_nothing_and_keeps_the_order(broker: Broker, protocol: str) -> None:
    async def scenario() -> None:
        outbox, n_cuts = Outbox(), 0
        for number in range(300):
            outbox.put(event(number))
        async with (
            subscriber(broker) as far,
            Relay(broker) as relay,
            running(outbox, port=relay.port, protocol=protocol) as (sink, _),
        ):
            for n_seen in range(25, 300, 50):
                await far.until(lambda s, n=n_seen: len(s.events()) >= n)
                relay.hold_answers()
                await asyncio.sleep(0.01)   # some are on the broker and not acknowledged
                relay.cut()
                n_cuts += 1
                await until(lambda n=n_cuts: sink.reconnects == n)
            await far.until(lambda s: ids(s)[-1:] == [299])
            await until(lambda: not outbox.pending)
            assert list(dict.fromkeys(ids(far))) == list(range(300))    # each for the first time in its turn
            assert len(ids(far)) - 300 <= n_cuts * mqtt.IN_FLIGHT       # some a second time

    broker.start()
    asyncio.run(scenario())


@BOTH
def test_of_a_state_that_changes_while_it_is_on_its_way_the_newest_stays(broker: Broker, protocol: str) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        async with (
            subscriber(broker) as far,
            Relay(broker) as relay,
            running(outbox, port=relay.port, protocol=protocol) as (sink, _),
        ):
            await until(lambda: sink.connected)
            relay.hold_answers()
            for number in range(5):
                outbox.put(alarm(str(number)))
                await far.until(lambda s, n=number: s.newest.get(ALARM) == f'{{"state":"{n}"}}')
            outbox.put(alarm("5"))
            relay.cut()
            await until(lambda: sink.reconnects == 1)
            await far.until(lambda s: s.newest[ALARM] == '{"state":"5"}')
            values = [payload for topic, payload in far.seen if topic == ALARM]
            assert values == sorted(values)
        assert (await retained(broker))[ALARM] == '{"state":"5"}'

    broker.start()
    asyncio.run(scenario())


def test_closing_waits_for_what_is_on_its_way(broker: Broker) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        async with (
            subscriber(broker) as far,
            Relay(broker) as relay,
            running(outbox, port=relay.port) as (sink, task),
        ):
            await until(lambda: sink.connected)
            relay.hold_answers()
            for number in range(3):
                outbox.put(event(number))
            outbox.close()
            await far.until(lambda s: len(s.events()) == 3)
            await asyncio.sleep(0.05)
            assert not task.done()
            relay.pass_answers()
            await far.status("offline")
            await task
            assert outbox.pending == 0

    broker.start()
    asyncio.run(scenario())


@pytest.mark.parametrize("is_reused", [False, True])
def test_a_socket_that_died_before_the_loop_had_its_turn_is_not_watched(broker: Broker, *, is_reused: bool) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[object] = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        async with Client("127.0.0.1", broker.port) as client:
            paho = client._client
            sock = paho.socket()
            assert sock is not None
            number = sock.fileno()
            paho.publish("x", "y", 1)       # wants to write
            paho._sock_close()              # in the same turn the connection is found to be dead
            if is_reused:
                with socket.socket() as somebody_else:
                    assert somebody_else.fileno() == number
                    await asyncio.sleep(0.02)
                    assert not loop.remove_writer(somebody_else)
            await asyncio.sleep(0.02)
            client._disconnected.set_result(None)
        assert complaints == []

    broker.start()
    asyncio.run(scenario())


def test_readings_of_an_outage_are_forgotten_not_heaped_up(broker: Broker) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        async with running(outbox, port=broker.port) as (sink, _):
            await until(lambda: sink._retry._failures)
            for number in range(1000):
                for topic in ("mic/level", "mic/scores", "stats"):
                    outbox.put(Message(topic, str(number), qos=0))
            assert [message.payload for message in outbox._readings.values()] == ["999"] * 3
            broker.start()
            async with subscriber(broker) as far:
                await until(lambda: sink.connected)
                outbox.put(Message("mic/level", "1000", qos=0))
                await far.until(lambda s: LEVELS in s.newest)
                assert [payload for topic, payload in far.seen if payload.isdigit()] == ["1000"]

    asyncio.run(scenario())
