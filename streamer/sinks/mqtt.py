"""Everything, over MQTT. Only this file and `_mqtt_connect` know aiomqtt.

In: an outbox; from the broker, orders and what an earlier life of ours left there. Out:
`<base_topic>/<node>/<message.topic>` on the broker, and `<base_topic>/<node>/status`, which is `online` while we are
connected and `offline` else (said by us when we leave, by the broker when we vanish); and what Home Assistant is told.
Event loop only.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from streamer.core import Message, Site
from streamer.errors import CommandError, SinkError
from streamer.outbox import Outbox, is_event
from streamer.sinks._homeassistant import BIRTH, Discovery, Topic, device, discovery_topic, removal
from streamer.sinks._mqtt_connect import FAREWELL_S, Client, Tls, connect, leave, properties, publish, why_lost
from streamer.sinks.base import File, Retry, Sink, read_secret

log = logging.getLogger(__name__)
# What aiomqtt logs, at every try anew, it also raises.
unheard = logging.Logger("aiomqtt", logging.CRITICAL)  # noqa: LOG001  set up here only, not for the process

ANSWER_S = 5.0          # for any answer of the broker; a PUBACK by satellite takes 1.5 s
UNANSWERED = 10         # publishes a broker may owe us an answer for; MQTT 5 lets it set a limit, HiveMQ's is 10
IN_FLIGHT = UNANSWERED - 3          # of the outbox; the others: one each of `_hear` and `_introduce`, the last word
ORDERS = ("+/listening/set", "+/+/snooze/set", "+/+/threshold/set")
OLD_S = 1.0             # what the broker kept of an earlier life follows on the subscription at once
STATES = ("status", "+/status", "+/+/state", "+/+/+/state")
ONLINE = Message("status", "online", retain=True)
REFUSED = 128           # and above: answers that mean no
LONGEST_ORDER = 100     # bytes; the longest there is has ten

PROTOCOLS = {"3.1.1": aiomqtt.ProtocolVersion.V311, "5": aiomqtt.ProtocolVersion.V5}


def _is_host(host: str) -> str:
    if "/" in host or host.count(":") == 1:     # IPv6 has more of them
        raise ValueError(f"'{host}' is no host; give its name or address alone, and its port as port")
    return host


class Config(BaseModel):
    """Which broker, and how to log in."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    type: Literal["mqtt"] = "mqtt"
    host: Annotated[str, Field(min_length=1), AfterValidator(_is_host)] = "localhost"
    port: int = Field(default=1883, ge=1, le=65535, description="usually 1883, with tls 8883")
    base_topic: Topic = "streamer"
    username: str | None = None
    password: SecretStr | None = None
    password_file: File | None = Field(default=None, description="file with the password in it, instead of `password`")
    tls: Tls | None = None
    client_id: str | None = Field(default=None, min_length=1, description="null: streamer-<node>")
    keepalive_s: int = Field(default=15, ge=5, le=65535, description="a broker that hangs is noticed after twice this")
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    homeassistant: Discovery | None = Field(
        default=Discovery(), description="announce the node to Home Assistant; null: don't"
    )

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file are both set; keep one of them")
        return self


def build(config: Config, site: Site) -> Sink:
    """Make the sink that speaks for `site`; connects nowhere yet."""
    return Mqtt(config, site)


class Mqtt:
    """Publishes an outbox to a broker, through every outage.

    `connected` is now; `reconnects` counts the connections after the first.
    """

    def __init__(self, config: Config, site: Site) -> None:
        self.connected = False
        self.reconnects = 0
        self._was_connected = False
        self._config = config
        self._client_id = config.client_id or f"streamer-{site.node}"
        self._topic = f"{config.base_topic}/{site.node}"
        self._offline = replace(ONLINE, topic=f"{self._topic}/status", payload="offline")
        self._device = _device(config, site)
        self._order = site.command
        self._broker = f"MQTT broker {config.host}:{config.port}"
        self._retry = Retry(log)

    async def run(self, outbox: Outbox) -> None:
        """Publish until the outbox is closed and empty, then say `offline` and return; reconnect for ever."""
        while True:
            try:
                async with self._connection() as client:
                    await self._drain(client, outbox)
            except* SinkError as errors:
                reason = f"{errors.exceptions[0]}"
            except* aiomqtt.MqttError as errors:
                reason = why_lost(errors.exceptions[0], self._client_id)
            else:
                return
            await self._retry.failed(f"{self._broker}: {reason}")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Client]:
        """Connect; say `offline` at the end. A new client each time: what must outlive it is in the outbox, not in one.

        Raises:
            SinkError: there is none to be had; the sentence says why.
        """
        config, client = self._config, self._client()
        await connect(client, config.host, config.port, config.username, config.tls)
        try:
            _heed_cancellation()
            self.reconnects += self._was_connected
            self.connected = self._was_connected = True
            self._retry.succeeded(f"{self._broker}: connected")
            yield client
        finally:
            self.connected = False
            # Said before the DISCONNECT, which makes the broker forget the will. On a dead connection both fail at
            # once, and must not hide why we are here.
            with contextlib.suppress(aiomqtt.MqttError, SinkError):
                await publish(client, self._offline, FAREWELL_S)
            await leave(client)

    async def _drain(self, client: Client, outbox: Outbox) -> None:
        """Deliver up to IN_FLIGHT messages at a time; they start in the outbox's order, and the wire keeps it."""
        outbox.put(ONLINE)      # after the states: what an earlier life left of them must not count for a moment
        outbox.resync()
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(self._listen(client, outbox), name="mqtt listener")]
            if self._device:
                helpers.append(group.create_task(self._introduce(client, self._device), name="mqtt introduction"))
            flying: set[asyncio.Task[None]] = set()
            while (message := await outbox.get()) is not None:
                flying.add(group.create_task(self._deliver(client, outbox, message), name="mqtt delivery"))
                if len(flying) == IN_FLIGHT:
                    _, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            if flying:
                await asyncio.wait(flying)
            for helper in helpers:
                helper.cancel()

    async def _deliver(self, client: Client, outbox: Outbox, message: Message) -> None:
        """Deliver, or let go: of an event only what can't be said.

        Raises:
            SinkError: the broker refused an event.
        """
        try:
            await publish(client, replace(message, topic=f"{self._topic}/{message.topic}"), ANSWER_S)
        except ValueError as error:
            self._retry.dropped(message, error)
        except SinkError as error:
            if is_event(message):
                raise SinkError(f"{error}; events wait") from error
            self._retry.skipped(f"{self._broker}: {error}")
        outbox.ack(message)

    async def _send(self, client: Client, message: Message) -> None:
        """Publish a state of ours if the broker lets us, and go on only if nobody wants us to end."""
        try:
            await publish(client, message, ANSWER_S)
        except SinkError as error:
            self._retry.skipped(f"{self._broker}: {error}")
        _heed_cancellation()

    async def _listen(self, client: Client, outbox: Outbox) -> None:
        """Hear the broker. Fails as soon as the connection does: a publisher with nothing to say would not notice."""
        topics = [f"{self._topic}/{topic}" for topic in (*ORDERS, *STATES)]
        if self._device:
            topics += [BIRTH, self._device.topic]
        answers = await client.subscribe([(topic, 1) for topic in topics])
        codes = [answer.value if isinstance(answer, ReasonCode) else answer for answer in answers]
        for topic, code in zip(topics, codes, strict=False):
            if code >= REFUSED:
                check = "check its access rules; orders, or what an earlier life left there, are not heard"
                self._retry.skipped(f"{self._broker}: refused the subscription to '{topic}'; {check}")
        _heed_cancellation()
        async for message in client.messages:
            await self._hear(client, outbox, message)

    async def _hear(self, client: Client, outbox: Outbox, message: aiomqtt.Message) -> None:
        """Obey orders, and see to it that of our states the broker keeps only what is so.

        States come as they were stored (`retain` is set), from whatever life, and as our own echo.
        """
        topic = str(message.topic).removeprefix(f"{self._topic}/")
        if self._device and topic in (BIRTH, self._device.topic):
            await self._hear_home_assistant(client, outbox, message, self._device)
        elif topic.endswith("/set"):
            self._obey(topic, message)
        elif topic == "status":
            if message.payload != b"online":    # the will of an older connection, which ours has taken over
                outbox.put(ONLINE)
        elif message.retain and not outbox.knows(topic):
            log.info("%s: removes '%s', the state of a stream or rule that is no more", self._broker, message.topic)
            await self._send(client, Message(str(message.topic), "", retain=True))

    async def _introduce(self, client: Client, us: Message) -> None:
        """Tell Home Assistant what there is; what an earlier life told it was heard, and taken back, before."""
        await asyncio.sleep(OLD_S)
        await self._send(client, us)

    async def _hear_home_assistant(
        self, client: Client, outbox: Outbox, message: aiomqtt.Message, us: Message
    ) -> None:
        """It has started anew and wants to know all; or what we told it in an earlier life, where some of that left."""
        assert isinstance(us.payload, Mapping)
        if str(message.topic) == BIRTH:
            if message.payload == b"online" and not message.retain:
                await self._send(client, us)
                outbox.restate()
        elif message.retain and (farewell := removal(bytes(message.payload or b""), us.payload)):
            await self._send(client, replace(us, payload=farewell))
            await self._send(client, us)    # though `_introduce` will: over a slow line this comes after it

    def _obey(self, topic: str, message: aiomqtt.Message) -> None:
        try:
            self._order(topic, _text(topic, message))
        except CommandError as error:
            self._retry.refused(str(error))

    def _client(self) -> Client:
        config, offline = self._config, self._offline
        return Client(
            config.host,
            config.port,
            username=config.username,
            password=self._password(),
            identifier=self._client_id,
            protocol=PROTOCOLS[config.protocol],
            will=aiomqtt.Will(offline.topic, "offline", qos=1, retain=True, properties=properties(offline)),
            timeout=ANSWER_S,
            keepalive=config.keepalive_s,
            max_inflight_messages=UNANSWERED,
            logger=unheard,
            tls_params=config.tls.parameters() if config.tls else None,
        )

    def _password(self) -> str | None:
        config = self._config
        if config.password_file is not None:
            return read_secret(config.password_file, "password_file").decode()
        return config.password.get_secret_value() if config.password else None


def _device(config: Config, site: Site) -> Message | None:
    """What Home Assistant is told, if it is."""
    if config.homeassistant is None:
        return None
    return Message(discovery_topic(config.homeassistant, site), device(site, config.base_topic), retain=True)


def _heed_cancellation() -> None:
    """Raise the cancellation that Python 3.11's wait_for loses when the answer comes together with it."""
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError


def _text(topic: str, message: aiomqtt.Message) -> str:
    """What an order says.

    Raises:
        CommandError: it is no text, or a novel, or lay on the broker for who knows how long.
    """
    if message.retain:
        raise CommandError(f"{topic}: an order left on the broker is ignored; send it without 'retain'")
    payload = message.payload
    if not isinstance(payload, bytes | bytearray) or len(payload) > LONGEST_ORDER:
        raise CommandError(f"{topic}: an order is text of at most {LONGEST_ORDER} bytes; nothing was changed")
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise CommandError(f"{topic}: an order is UTF-8 text; nothing was changed") from None


async def subscribe(host: str, port: int, topic: str) -> AsyncIterator[tuple[str, str]]:
    """Topics and payloads as a plain client of the broker receives them; for the demo."""
    async with aiomqtt.Client(host, port) as client:
        await client.subscribe(topic, qos=1)
        async for message in client.messages:
            yield str(message.topic), bytes(message.payload or b"").decode()
