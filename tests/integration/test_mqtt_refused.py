"""What a broker doesn't let us publish: MQTT 5 says so, with 3.1.1 nobody knows."""

import asyncio
import logging
from pathlib import Path

import pytest

from streamer.core import Message
from streamer.outbox import Outbox
from tests.integration.broker import Broker
from tests.integration.mqttline import (
    ALARM,
    EVENTS,
    GARAGE,
    PATIENCE_S,
    STATUS,
    alarm,
    event,
    running,
    subscriber,
    until,
)

pytestmark = pytest.mark.usefixtures("hasty", "no_noise")
DEVICE = "homeassistant/device/garage/config"


def refusal(port: int, topic: str) -> str:
    return (
        f"MQTT broker 127.0.0.1:{port}: refused '{topic}' ([code:135] Not authorized); "
        "check its access rules and limits for this topic"
    )


def test_a_refused_event_waits_until_it_is_let_through(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(broker: Broker) -> None:
        outbox = Outbox()
        for number in (1, 2):
            outbox.put(event(number))
        async with (
            subscriber(broker) as far,
            running(outbox, port=broker.port, protocol="5", homeassistant=None) as (sink, _),
        ):
            await until(lambda: sink.reconnects == 3)
            assert outbox.pending == 2
            assert far.events() == []
            broker.allow("#")
            await far.until(lambda s: len(s.events()) >= 2)
            await until(lambda: not outbox.pending)
            assert {e["id"]: e["replayed"] for e in far.events()} == {1: True, 2: True}

    with Broker(tmp_path, may_write=(STATUS,)) as broker:
        asyncio.run(scenario(broker))
        assert caplog.messages == [f"{refusal(broker.port, EVENTS)}; events wait"]


def test_what_is_refused_and_no_event_holds_no_event_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(broker: Broker) -> None:
        outbox = Outbox()
        async with (
            subscriber(broker) as far,
            running(outbox, GARAGE, port=broker.port, protocol="5") as (sink, task),
        ):
            for value in ("ON", "OFF"):
                outbox.put(alarm(value))
                outbox.put(Message("mic/level", "1", qos=0))
                await asyncio.sleep(0.05)
            await until(lambda: refusal(broker.port, DEVICE) in caplog.messages)
            outbox.put(event(1))
            await far.until(lambda s: bool(s.events()))
            await until(lambda: not outbox.pending)
            assert (sink.connected, sink.reconnects) == (True, 0)
            assert [topic for topic, _ in far.seen] == [EVENTS]
            outbox.close()
            await asyncio.wait_for(task, PATIENCE_S)

    with Broker(tmp_path, may_write=(EVENTS,)) as broker:
        asyncio.run(scenario(broker))
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
            refusal(broker.port, topic) for topic in (ALARM, STATUS, DEVICE)
        ]
