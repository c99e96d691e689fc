"""How a connection to an MQTT broker comes about, carries a message and ends; one sentence for each way it can fail.

In: a `Client` that isn't connected. Out: the same one, connected, or a SinkError. Event loop only; aiomqtt starts MQTT,
and TLS, on each connection in a thread of its own.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from functools import cache
from typing import Any, Self, TypeVar

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamer.core import Message
from streamer.errors import SinkError
from streamer.outbox import is_event
from streamer.payload import to_json
from streamer.sinks._dial import dial
from streamer.sinks.base import File

TLS_S = 2.0             # for the handshake; the thread that does it can't be cancelled and delays our exit
FAREWELL_S = 0.4        # for each of the two answers when we leave: whoever stops us is waiting
BAD_LOGIN = {134, 135}  # the two answers to a CONNECT that mean user or password
TAKEN_OVER = 142        # MQTT 5, to the older of two connections with one client id; mosquitto 2.0.11 just hangs up
READING_S = 60          # until a broker drops a reading it couldn't pass on: it was of a moment
EVENT_S = 7 * 86_400    # the same for an event: a week's holiday, and short of a broker's memory

T = TypeVar("T")


class Tls(BaseModel):
    """How we know the broker, and how it may know us."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

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


class HungUp(aiomqtt.MqttError):
    """The broker closed the connection instead of answering our CONNECT."""


class Refused(aiomqtt.MqttCodeError):
    """The broker did not take what we published. Only MQTT 5 can say so."""


class Client(aiomqtt.Client):
    """aiomqtt's, mended: that takes refusal for success, waits in vain after a hang-up, and watches closed sockets."""

    async def __aenter__(self) -> Self:
        self._refusals: dict[int, ReasonCode] = {}      # by packet id, until the publish that waits takes it
        return await super().__aenter__()

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Any) -> None:
        if reason_code.is_failure and mid in self._pending_publishes:
            self._refusals[mid] = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)

    @contextlib.contextmanager
    def _pending_call(self, mid: int, value: T, pending_dict: dict[int, T]) -> Iterator[None]:
        try:
            with super()._pending_call(mid, value, pending_dict):
                yield
        finally:
            refusal = self._refusals.pop(mid, None)
        if refusal is not None:
            raise Refused(refusal)

    def _on_disconnect(self, *arguments: Any) -> None:
        """Let a connection that is closed before the CONNACK fail at once, not after aiomqtt's time-out."""
        if not self._connected.done():
            self._connected.set_exception(HungUp())
        super()._on_disconnect(*arguments)
        # Seen, or asyncio complains: aiomqtt forgets a loss that follows on the CONNACK; an attempt may be cancelled.
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """Watch the socket itself once the loop has its turn: its number may be somebody else's by then."""
        self._loop.call_soon_threadsafe(self._watch, sock)

    def _watch(self, sock: socket.socket) -> None:
        if self._client.socket() is sock:
            self._loop.add_writer(sock, self._write)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:  # noqa: BLE001  as aiomqtt does, whatever it is: the connection is lost
            if not self._disconnected.done():
                self._disconnected.set_exception(error)


async def connect(client: Client, host: str, port: int, user: str | None, tls: Tls | None) -> None:
    """Connect `client`, which was made with these; cancelled, it leaves nothing behind.

    Raises:
        SinkError: it can't; the sentence says why.
    """
    client._client.connect_timeout = TLS_S  # noqa: SLF001  aiomqtt has no option for it
    try:
        with await dial(host, port) as tcp:
            _connects_by(client, tcp)
            await _enter(client)
    except aiomqtt.exceptions.MqttConnectError as error:
        raise SinkError(_why_refused(error, user)) from error
    except HungUp as error:
        raise SinkError(f"closed the connection instead of answering; {_after_a_hang_up(tls)}") from error
    except aiomqtt.MqttError as error:
        raise SinkError(_why_not(error, client.timeout, tls)) from error


async def publish(client: Client, message: Message, answer_s: float) -> None:
    """Publish under the message's topic as it stands, and with QoS 1 wait for the acknowledgement.

    Raises:
        ValueError: MQTT can't say this topic, or JSON this payload.
        SinkError: the broker refused it.
    """
    topic = message.topic
    payload = message.payload.encode() if isinstance(message.payload, str) else to_json(message.payload)
    try:
        await client.publish(topic, payload, message.qos, message.retain, properties(message), timeout=answer_s)
    except Refused as error:
        raise SinkError(f"refused '{topic}' ({error}); check its access rules and limits for this topic") from error


def properties(message: Message) -> Properties:
    """What MQTT 5 can say of a payload; 3.1.1 can't, and the client library leaves it out."""
    content_type = "text/plain" if isinstance(message.payload, str) else "application/json"
    lifetime_s = EVENT_S if is_event(message) else READING_S
    return _properties(content_type, None if message.retain else lifetime_s)


@cache      # there are few, and the library takes as long to make one as to send it
def _properties(content_type: str, expiry_s: int | None) -> Properties:
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    made.PayloadFormatIndicator = 1   # UTF-8
    made.ContentType = content_type
    if expiry_s is not None:
        made.MessageExpiryInterval = expiry_s
    return made


async def leave(client: Client) -> None:
    """Disconnect, or have tried to."""
    client.timeout = FAREWELL_S
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)


def why_lost(error: Exception, client_id: str) -> str:
    """Why a connection ended that had been made."""
    cause = error.__cause__ or error
    rc = getattr(cause, "rc", None)
    if isinstance(rc, ReasonCode) and rc.value == TAKEN_OVER:
        return (
            f"another client came with our id '{client_id}', and a broker keeps the newest; "
            "give one of the two another node or client_id"
        )
    return (
        f"connection lost ({cause}); events wait. "
        f"If this goes on, check that no other client has the id '{client_id}'"
    )


def _why_refused(error: aiomqtt.exceptions.MqttConnectError, user: str | None) -> str:
    if isinstance(error.rc, ReasonCode) and error.rc.value in BAD_LOGIN:
        who = f"user '{user}'" if user else "a client without username"
        return f"refused {who} ({error}); check username and password"
    return f"refused the connection ({error}); check client_id and protocol"


def _after_a_hang_up(tls: Tls | None) -> str:
    """What to check. A proxy hangs up too while its broker starts; in TLS 1.3 so does who dislikes our certificate."""
    if tls is None:
        return "it may be starting, or this is its TLS port: then set tls"
    if tls.certificate is None:
        return "if it asks for a certificate, set tls.certificate"
    return f"check that it trusts who signed tls.certificate '{tls.certificate}'"


def _why_not(error: aiomqtt.MqttError, answer_s: float, tls: Tls | None) -> str:
    match error.__context__:    # aiomqtt passes on the text only
        case ssl.SSLCertVerificationError() as cause:
            ca = tls and tls.ca
            trusted = f"tls.ca '{ca}'" if ca else "the system's CAs; tls.ca names another"
            return f"its certificate isn't trusted ({cause.verify_message}); trusted is {trusted}"
        case TimeoutError(args=()):
            return f"no answer to MQTT within {answer_s:g} s; if this is its TLS port, set tls"
        case TimeoutError():
            return f"no answer to TLS within {TLS_S:g} s; check that this is its TLS port"
        case ConnectionResetError() if tls:
            return f"no TLS ({error}); check that this is its TLS port"
        case ssl.SSLError() if tls:
            return f"no TLS ({error}); check that this is its TLS port, and the files that tls names"
        case _:
            return f"no connection ({error}); check host, port and tls"


def _connects_by(client: Client, tcp: socket.socket) -> None:
    """Let `client` take over `tcp` when it connects; TLS still verifies the name of the host.

    On its own it would ask for the host's address where neither a timeout nor the end of the process is heeded.
    """
    take_over = lambda: socket.socket(fileno=tcp.detach())  # noqa: E731
    client._client._create_socket_connection = take_over  # type: ignore[method-assign]  # noqa: SLF001


async def _enter(client: Client) -> None:
    """Connect. Cancelled, it sees to what the connecting thread still does: that would make tasks on a dying loop."""
    attempt = asyncio.create_task(client.__aenter__(), name="mqtt connect")
    try:
        await asyncio.shield(attempt)
    except asyncio.CancelledError:
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            await asyncio.wait_for(attempt, FAREWELL_S)
            await leave(client)
        raise
