"""What lies on the broker is what is so: states of earlier lives, wills, and two daemons with one name."""

import asyncio
import logging

import aiomqtt
import pytest

from streamer.core import Message
from streamer.outbox import Outbox
from streamer.sinks import base
from tests.integration.broker import Broker
from tests.integration.mqttline import (
    ALARM,
    EVENTS,
    STATUS,
    Relay,
    alarm,
    event,
    retained,
    running,
    subscriber,
    until,
)

BOTH = pytest.mark.parametrize("protocol", ["3.1.1", "5"])
OFF = '{"state":"OFF"}'
STALE = {
    "streamer/garage/cellar/status": "online",
    "streamer/garage/cellar/alarm/state": '{"state":"ON"}',
    "streamer/garage/cellar/listening/state": "ON",
    "streamer/garage/mic/bark/state": '{"state":"ON"}',
    "streamer/garage/mic/bark/threshold/state": "0.5",
}
FOREIGN = {
    "streamer/attic/mic/bark/state": '{"state":"ON"}',
    "streamer/attic/status": "offline",
    "homes/garage/mic/bark/state": "ON",
    EVENTS: "somebody else's doing",
}
pytestmark = pytest.mark.usefixtures("hasty", "no_noise")


async def store(broker: Broker, states: dict[str, str]) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as hand:
        for topic, payload in states.items():
            await hand.publish(topic, payload, 1, retain=True)


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [message for message in caplog.messages if words in message]


@BOTH
def test_states_of_what_is_no_more_are_taken_off_the_broker(
    broker: Broker, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        await store(broker, STALE | FOREIGN | {ALARM: '{"state":"ON"}', STATUS: "offline"})
        outbox = Outbox()
        outbox.put(alarm("OFF"))
        async with (
            subscriber(broker) as far,
            Relay(broker) as relay,
            running(outbox, port=relay.port, protocol=protocol) as (sink, _),
        ):
            await far.until(lambda s: all(s.newest.get(topic) == "" for topic in STALE) and s.newest.get(ALARM) == OFF)
            kept = FOREIGN | {ALARM: OFF, STATUS: "online"}
            assert await retained(broker) == kept
            relay.cut()
            await until(lambda: sink.reconnects == 1)
            outbox.put(event(1))    # after the states, once more
            await far.until(lambda s: EVENTS in s.newest and s.newest[EVENTS].startswith("{"))
            assert await retained(broker) == kept
            assert (ALARM, "") not in far.seen

    broker.start()
    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    removed = lines(caplog, "removes")
    assert len(removed) == len(STALE)
    assert lines(caplog, "'streamer/garage/mic/bark/state', the state of a stream or rule that is no more")


@BOTH
def test_online_is_said_after_every_state(broker: Broker, protocol: str) -> None:
    """Else an alarm that is over, and whose end the broker missed, would count for a moment."""

    async def scenario() -> None:
        await store(broker, {ALARM: '{"state":"ON"}', STATUS: "offline"})
        outbox = Outbox()
        for number in range(20):
            outbox.put(Message(f"mic/rule{number}/state", {"state": "OFF"}, retain=True))
        outbox.put(alarm("OFF"))
        async with (
            subscriber(broker) as far,
            Relay(broker) as relay,
            running(outbox, port=relay.port, protocol=protocol),
        ):
            for _ in range(2):
                await far.status("online")
                said = dict(far.seen)
                assert (said[ALARM], len([topic for topic in said if topic.endswith("/state")])) == (OFF, 21)
                relay.cut()
                await far.status("offline")
                far.seen.clear()

    broker.start()
    asyncio.run(scenario())


@BOTH
def test_a_state_that_begins_while_its_stale_one_is_removed_stays(broker: Broker, protocol: str) -> None:
    """Its stream or rule is known only after the broker told of the old one: both leave in that order."""

    async def scenario() -> None:
        for number in range(10):
            await store(broker, {ALARM: "stale"})
            outbox = Outbox()
            async with (
                subscriber(broker) as far,
                running(outbox, port=broker.port, protocol=protocol),
            ):
                await far.status("online")
                await asyncio.sleep(number * 0.0005)
                outbox.put(alarm("OFF"))
                await far.until(lambda s: s.newest.get(ALARM) == OFF)
            assert await retained(broker) == {ALARM: OFF, STATUS: "offline"}

    broker.start()
    asyncio.run(scenario())


@BOTH
@pytest.mark.parametrize("payload", ["offline", ""])
def test_who_is_there_does_not_stay_offline(broker: Broker, protocol: str, payload: str) -> None:
    """Some brokers publish the will of a connection after the one that took it over was made."""

    async def scenario() -> None:
        async with subscriber(broker) as far, running(Outbox(), port=broker.port, protocol=protocol):
            await far.status("online")
            await store(broker, {STATUS: payload})
            await far.status(payload)
            await far.status("online")
            assert await retained(broker) == {STATUS: "online"}

    broker.start()
    asyncio.run(scenario())


@BOTH
def test_two_with_one_id_calm_down_lose_nothing_and_leave_the_other_online(
    broker: Broker, protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "LONGEST_WAIT_S", 30.0)

    async def scenario() -> None:
        first, second = Outbox(), Outbox()
        config = {"port": broker.port, "protocol": protocol}
        async with subscriber(broker) as far, running(second, **config) as (newer, _):
            await far.status("online")
            async with running(first, **config) as (older, _):
                for number in range(60):
                    (first if number % 2 else second).put(event(number))
                    await asyncio.sleep(0.03)
                await until(lambda: older.reconnects + newer.reconnects > 3)
                assert older.reconnects + newer.reconnects < 20     # 0.05 s, 0.1 s, 0.2 s, …; hundreds in a tight loop
                await until(lambda: not first.pending)
            await until(lambda: newer.connected and not second.pending)
            await far.until(lambda s: {e["id"] for e in s.events()} == set(range(60)))
            assert (await retained(broker))[STATUS] == "online"

    broker.start()
    asyncio.run(scenario())
    assert lines(caplog, "check that no other client has the id 'streamer-garage'")
    assert all(caplog.messages.count(sentence) <= 2 for sentence in caplog.messages)    # once for each of the two


def test_mqtt_5_names_the_reason(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """Mosquitto 2.0.11 doesn't; other brokers do."""

    async def scenario() -> None:
        async with Relay(broker) as relay, running(Outbox(), port=relay.port, protocol="5") as (sink, _):
            await until(lambda: sink.connected)
            await asyncio.sleep(0.05)
            relay.say(b"\xe0\x02\x8e\x00")      # DISCONNECT, session taken over
            await until(lambda: sink.reconnects)

    broker.start()
    asyncio.run(scenario())
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(
        ": another client came with our id 'streamer-garage', and a broker keeps the newest; "
        "give one of the two another node or client_id"
    )
