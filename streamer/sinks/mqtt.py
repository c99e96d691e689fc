"""Everything, over MQTT. The only file that knows aiomqtt.

In: an outbox, and orders from the broker. Out: `<base_topic>/<node>/<message.topic>` on the broker, and
`<base_topic>/<node>/status`, which is `online` while we are connected and `offline` else (said by us when we leave, by
the broker when we vanish).
Event loop only; aiomqtt starts MQTT, and TLS, on each connection in a thread of its own.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Literal, Self

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from streamer.core import Message, Site
from streamer.errors import CommandError, SinkError
from streamer.outbox import Outbox
from streamer.sinks._dial import dial
from streamer.sinks.base import File, Retry, Sink, read_secret, to_json

log = logging.getLogger(__name__)
# What aiomqtt logs, at every try anew, it also raises.
unheard = logging.Logger("aiomqtt", logging.CRITICAL)  # noqa: LOG001  set up here only, not for the process

TLS_S = 2.0             # for the handshake; the thread that does it can't be cancelled and delays our exit
ANSWER_S = 5.0          # for any answer of the broker; a PUBACK by satellite takes 1.5 s
FAREWELL_S = 0.7        # for each of the two answers when we leave: whoever stops us is waiting
ORDERS = ("+/listening/set", "+/+/snooze/set", "+/+/threshold/set")
LONGEST_ORDER = 100     # bytes; the longest there is has ten
BAD_LOGIN = {134, 135}  # the two answers to a CONNECT that mean user or password

PROTOCOLS = {"3.1.1": aiomqtt.ProtocolVersion.V311, "5": aiomqtt.ProtocolVersion.V5}

STRICT = ConfigDict(strict=True, frozen=True, extra="forbid")


class Tls(BaseModel):
    """How we know the broker, and how it may know us."""

    model_config = STRICT

    ca: File | None = Field(default=None, description="PEM of who signed the broker's certificate; null: the system's")
    certificate: File | None = Field(default=None, description="our own certificate, PEM, if the broker asks for one")
    key: File | None = Field(default=None, description="its private key, PEM; null: it is in the certificate's file")

    def parameters(self) -> aiomqtt.TLSParameters:
        """Say it to aiomqtt, which reads the files when it connects."""
        ca, certificate, key = (str(file) if file else None for file in (self.ca, self.certificate, self.key))
        return aiomqtt.TLSParameters(ca_certs=ca, certfile=certificate, keyfile=key)

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("key is set without certificate; set both, or neither")
        return self


class Config(BaseModel):
    """Which broker, and how to log in."""

    model_config = STRICT

    type: Literal["mqtt"] = "mqtt"
    host: Annotated[str, Field(min_length=1)] = "localhost"
    port: int = Field(default=1883, ge=1, le=65535, description="usually 1883, with tls 8883")
    base_topic: str = "streamer"
    username: str | None = None
    password: SecretStr | None = None
    password_file: File | None = Field(default=None, description="file with the password in it, instead of `password`")
    tls: Tls | None = None
    client_id: str | None = Field(default=None, min_length=1, description="null: streamer-<node>")
    keepalive_s: int = Field(default=15, ge=5, le=65535, description="a broker that hangs is noticed after twice this")
    protocol: Literal["3.1.1", "5"] = "3.1.1"

    @field_validator("base_topic")
    @classmethod
    def _is_topic(cls, topic: str) -> str:
        if not all(topic.split("/")) or not set(topic).isdisjoint("+#\0"):
            raise ValueError(f"'{topic}' is no base topic; allowed: levels joined by '/', none empty, no '+' or '#'")
        return topic

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
        self._status = f"{self._topic}/status"
        self._order = site.command
        self._broker = f"MQTT broker {config.host}:{config.port}"
        self._retry = Retry(log)

    async def run(self, outbox: Outbox) -> None:
        """Publish until the outbox is closed and empty, then say `offline` and return; reconnect for ever."""
        while True:
            try:
                async with self._connection() as client:
                    await self._publish(client, outbox)
            except* SinkError as errors:
                reason = f"{errors.exceptions[0]}"
            except* aiomqtt.MqttError as errors:
                reason = self._why_lost(errors.exceptions[0])
            else:
                return
            await self._retry.failed(f"{self._broker}: {reason}")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiomqtt.Client]:
        """Connect and say so. A new client each time: what must outlive it is in the outbox, not in a client.

        Raises:
            SinkError: there is none to be had; the sentence says why.
        """
        client = self._client()
        try:
            with await dial(self._config.host, self._config.port) as tcp:
                _connects_by(client, tcp)
                await _enter(client)
        except aiomqtt.MqttError as error:
            raise SinkError(self._why_refused(error)) from error
        try:
            await _send(client, Message(self._status, "online", retain=True))
            self.reconnects += self._was_connected
            self.connected = self._was_connected = True
            self._retry.succeeded(f"{self._broker}: connected")
            yield client
        finally:
            self.connected = False
            # Said before the DISCONNECT, which makes the broker forget the will. On a dead connection both fail at
            # once, and must not hide why we are here.
            with contextlib.suppress(aiomqtt.MqttError):
                await client.publish(self._status, "offline", qos=1, retain=True, timeout=FAREWELL_S)
            await _leave(client)

    async def _publish(self, client: aiomqtt.Client, outbox: Outbox) -> None:
        outbox.resync()
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(self._listen(client), name="mqtt listener")
            while (message := await outbox.get()) is not None:
                try:
                    await _send(client, replace(message, topic=f"{self._topic}/{message.topic}"))
                except ValueError as error:
                    self._retry.dropped(message, error)
                outbox.ack(message)
            listener.cancel()

    async def _listen(self, client: aiomqtt.Client) -> None:
        """Pass on orders. Fails as soon as the connection does: a publisher with nothing to say would not notice."""
        await client.subscribe([(f"{self._topic}/{topic}", 1) for topic in ORDERS])
        async for message in client.messages:
            topic = str(message.topic).removeprefix(f"{self._topic}/")
            try:
                self._order(topic, _text(topic, message))
            except CommandError as error:
                self._retry.refused(str(error))

    def _client(self) -> aiomqtt.Client:
        config, tls = self._config, self._config.tls
        client = aiomqtt.Client(
            config.host,
            config.port,
            username=config.username,
            password=self._password(),
            identifier=self._client_id,
            protocol=PROTOCOLS[config.protocol],
            will=aiomqtt.Will(self._status, "offline", qos=1, retain=True),
            timeout=ANSWER_S,
            keepalive=config.keepalive_s,
            logger=unheard,
            tls_params=tls.parameters() if tls else None,
        )
        client._client.connect_timeout = TLS_S  # noqa: SLF001  aiomqtt has no option for it
        return client

    def _password(self) -> str | None:
        config = self._config
        if config.password_file is not None:
            return read_secret(config.password_file, "password_file").decode()
        return config.password.get_secret_value() if config.password else None

    def _why_refused(self, error: aiomqtt.MqttError) -> str:
        if isinstance(error, aiomqtt.exceptions.MqttConnectError):
            if isinstance(error.rc, ReasonCode) and error.rc.value in BAD_LOGIN:
                user = f"user '{self._config.username}'" if self._config.username else "a client without username"
                return f"refused {user} ({error}); check username and password"
            return f"refused the connection ({error}); check client_id and protocol"
        match error.__context__:    # aiomqtt passes on the text only
            case ssl.SSLCertVerificationError() as cause:
                ca = self._config.tls and self._config.tls.ca
                trusted = f"tls.ca '{ca}'" if ca else "the system's CAs; tls.ca names another"
                reason = f"its certificate isn't trusted ({cause.verify_message}); trusted is {trusted}"
            case TimeoutError(args=()):
                reason = f"no answer to MQTT within {ANSWER_S:g} s; if this is its TLS port, set tls"
            case TimeoutError():
                reason = f"no answer to TLS within {TLS_S:g} s; check that this is its TLS port"
            case ssl.SSLError() | ConnectionResetError() if self._config.tls:
                reason = f"no TLS ({error}); check that this is its TLS port, and tls.certificate if it asks for one"
            case _:
                reason = f"no connection ({error}); check host, port and tls"
        return reason

    def _why_lost(self, error: Exception) -> str:
        return (
            f"connection lost ({error.__cause__ or error}); events wait in memory. "
            f"If this goes on, check that no other client has the id '{self._client_id}'"
        )


def _connects_by(client: aiomqtt.Client, tcp: socket.socket) -> None:
    """Let `client` take over `tcp` when it connects; TLS still verifies the name of the host.

    On its own it would ask for the host's address where neither a timeout nor the end of the process is heeded.
    """
    take_over = lambda: socket.socket(fileno=tcp.detach())  # noqa: E731
    client._client._create_socket_connection = take_over  # type: ignore[method-assign]  # noqa: SLF001


async def _enter(client: aiomqtt.Client) -> None:
    """Connect. Cancelled, it sees to what the connecting thread still does: that would make tasks on a dying loop."""
    attempt = asyncio.create_task(client.__aenter__(), name="mqtt connect")
    try:
        await asyncio.shield(attempt)
    except asyncio.CancelledError:
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            await asyncio.wait_for(attempt, FAREWELL_S)
            await _leave(client)
        raise


async def _leave(client: aiomqtt.Client) -> None:
    """Disconnect, or have tried to."""
    client.timeout = FAREWELL_S
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)


async def _send(client: aiomqtt.Client, message: Message) -> None:
    """Publish under the message's topic as it stands, and with QoS 1 wait for the acknowledgement.

    Raises:
        ValueError: MQTT can't say this topic, or JSON this payload.
    """
    payload = message.payload.encode() if isinstance(message.payload, str) else to_json(message.payload)
    await client.publish(message.topic, payload, message.qos, message.retain)
    # Python 3.11's wait_for, in aiomqtt, loses a cancellation that comes together with the answer.
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
