"""The MQTT sink against a real mosquitto, which hangs, is killed, and comes back."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest

from streamer.core import Message, Site
from streamer.errors import CommandError
from streamer.outbox import Outbox
from streamer.sinks import mqtt
from tests.integration.broker import Broker, free_port
from tests.integration.mqttline import (
    ALARM,
    EVENTS,
    PATIENCE_S,
    STATUS,
    Relay,
    alarm,
    event,
    running,
    subscriber,
    until,
)

pytestmark = pytest.mark.usefixtures("hasty", "no_noise")


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


def test_mqtt_5_says_what_a_payload_is_and_how_long_it_matters(broker: Broker) -> None:
    said: dict[str, Any] = {}
    far = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    far.on_connect = lambda client, *_: client.subscribe("#", 1)
    far.on_message = lambda client, data, message: said.update({f"{message.topic} {message.payload.decode()}": message})

    async def scenario() -> None:
        outbox = Outbox()
        async with running(outbox, port=broker.port, protocol="5") as (sink, _):
            await until(lambda: sink.connected)
            outbox.put(alarm("ON"))
            outbox.put(Message("mic/event", {"id": 1}))
            outbox.put(Message("mic/level", {"rms_dbfs": -40}, qos=0))
            outbox.close()
            await until(lambda: {f"{STATUS} online", f"{STATUS} offline"} <= said.keys() and len(said) == 5)

    broker.start()
    far.connect("127.0.0.1", broker.port)
    far.loop_start()
    asyncio.run(scenario())
    far.disconnect()
    far.loop_stop()
    assert {key.removeprefix("streamer/garage/"): message.properties.json() for key, message in said.items()} == {
        "status online": {"PayloadFormatIndicator": 1, "ContentType": "text/plain"},
        "status offline": {"PayloadFormatIndicator": 1, "ContentType": "text/plain"},
        'mic/alarm/state {"state":"ON"}': {"PayloadFormatIndicator": 1, "ContentType": "application/json"},
        'mic/event {"id":1}': {
            "PayloadFormatIndicator": 1, "ContentType": "application/json", "MessageExpiryInterval": 7 * 86_400,
        },
        'mic/level {"rms_dbfs":-40}': {
            "PayloadFormatIndicator": 1, "ContentType": "application/json", "MessageExpiryInterval": 60,
        },
    }


def test_being_cancelled_says_offline_too(broker: Broker) -> None:
    async def scenario() -> None:
        async with subscriber(broker) as far:
            async with running(Outbox(), port=broker.port):
                await far.status("online")
            await far.status("offline")

    broker.start()
    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_client_that_vanishes_is_offline_by_its_will(broker: Broker, protocol: str) -> None:
    async def scenario() -> None:
        async with (
            subscriber(broker) as far,
            Relay(broker) as relay,
            running(Outbox(), port=relay.port, protocol=protocol) as (sink, _),
        ):
            await far.status("online")
            relay.cut()
            await far.status("offline")
            await far.status("online")
            await until(lambda: sink.reconnects == 1)

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
                await hand.publish(f"{base}/mic/bark/snooze/set", "60", 1, retain=True)  # live, so like any other
                await hand.publish(f"{base}/mic/bark/threshold/set", "0.5", 1)
                await until(lambda: len(given) == 2)
            await hand.publish(f"{base}/hall/listening/set", "", 1, retain=True)

    asyncio.run(scenario())
    assert given == [("mic/bark/snooze/set", "60"), ("mic/bark/threshold/set", "0.5")]
    for sentence in ("'maybe' is neither", "is UTF-8 text; nothing", "at most 100 bytes; nothing"):
        assert sentence in caplog.text
