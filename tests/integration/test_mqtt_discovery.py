"""Home Assistant told, told again when it starts anew, and told first what is no more: through a real broker."""

import asyncio
import json

import aiomqtt
import pytest

from streamer.core import Site, StreamRules
from streamer.outbox import Outbox
from streamer.sinks import mqtt
from streamer.sinks._homeassistant import BIRTH, device
from tests.integration.broker import Broker
from tests.integration.mqttline import ALARM, STATUS, alarm, event, retained, running, subscriber

DEVICE = "homeassistant/device/garage/config"
BOTH = Site("garage", (StreamRules("mic", {"alarm": ("Siren",), "bark": ("Bark",)}, frozenset({"alarm", "bark"})),))
ONE = Site("garage", (StreamRules("mic", {"alarm": ("Siren",)}, frozenset({"alarm"})),))
PROTOCOLS = pytest.mark.parametrize("protocol", ["3.1.1", "5"])
pytestmark = pytest.mark.usefixtures("hasty", "no_noise")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less long for what a broker kept."""
    monkeypatch.setattr(mqtt, "OLD_S", 0.2)


async def store(broker: Broker, topic: str, payload: object, *, retain: bool = True) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as hand:
        await hand.publish(topic, payload if isinstance(payload, str) else json.dumps(payload), 1, retain=retain)


@PROTOCOLS
def test_what_left_the_configuration_is_taken_back_before_the_rest_is_told(broker: Broker, protocol: str) -> None:
    async def scenario() -> None:
        await store(broker, DEVICE, device(BOTH, "streamer"))
        async with subscriber(broker) as far, running(Outbox(), ONE, port=broker.port, protocol=protocol):
            now = device(ONE, "streamer")
            await far.until(lambda s: json.loads(s.newest.get(DEVICE, "{}")) == now)
            told = [json.loads(payload)["cmps"] for topic, payload in far.seen if topic == DEVICE]
            gone = {key: part for key, part in told[-2].items() if key not in now["cmps"]}
            assert gone == {"mic.bark.state": {"p": "binary_sensor"}, "mic.bark.threshold": {"p": "number"}}
            assert json.loads((await retained(broker))[DEVICE]) == now

    broker.start()
    asyncio.run(scenario())


def test_home_assistant_that_starts_anew_is_told_everything_again(broker: Broker) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        outbox.put(alarm("OFF"))
        async with subscriber(broker) as far, running(outbox, ONE, port=broker.port):
            await far.until(lambda s: DEVICE in s.newest and ALARM in s.newest)
            far.newest.clear()
            far.seen.clear()
            await store(broker, BIRTH, "online", retain=False)
            await far.until(lambda s: {DEVICE, STATUS, ALARM} <= set(s.newest))
            assert [topic for topic, _ in far.seen] == [BIRTH, DEVICE, ALARM, STATUS]
            await store(broker, BIRTH, "offline", retain=False)
            outbox.put(event(1))
            await far.until(lambda s: "streamer/garage/mic/event" in s.newest)
            assert [topic for topic, _ in far.seen].count(DEVICE) == 1

    broker.start()
    asyncio.run(scenario())


@pytest.mark.parametrize("old", ["", "no JSON", '{"cmps": {"x": {"p": "light"}}}', "[]"])
def test_what_is_not_ours_on_the_topic_is_replaced(broker: Broker, old: str) -> None:
    async def scenario() -> None:
        await store(broker, DEVICE, old)
        async with subscriber(broker) as far, running(Outbox(), ONE, port=broker.port):
            await far.until(lambda s: s.newest.get(DEVICE, old) != old)
            assert json.loads(far.newest[DEVICE]) == device(ONE, "streamer")

    broker.start()
    asyncio.run(scenario())


def test_it_is_told_nothing_if_so_configured(broker: Broker) -> None:
    async def scenario() -> None:
        outbox = Outbox()
        async with subscriber(broker) as far, running(outbox, ONE, port=broker.port, homeassistant=None):
            await far.status("online")
            await asyncio.sleep(0.05)
            await store(broker, BIRTH, "online", retain=False)
            outbox.put(event(1))
            await far.until(lambda s: "streamer/garage/mic/event" in s.newest)
            assert [topic for topic, _ in far.seen if topic.startswith("homeassistant/device")] == []

    broker.start()
    asyncio.run(scenario())
