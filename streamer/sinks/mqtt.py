"""Everything, over MQTT. The only file that knows aiomqtt.

In: an outbox. Out: `<base_topic>/<node>/<message.topic>` on the broker, and `<base_topic>/<node>/status`, which is
`online` while we are connected and `offline` otherwise (said by us when we leave, by the broker when we vanish).
Event loop only; aiomqtt opens connections in a thread of its own.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal, Self

import aiomqtt
from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, field_validator, model_validator

from streamer.core import Message
from streamer.outbox import Outbox
from streamer.sinks.base import Retry, Sink, to_json

log = logging.getLogger(__name__)

CONNECT_S = 3.0         # two tries to reach the host (TCP repeats after 1 s); not cancellable, so it delays our exit
ANSWER_S = 5.0          # for any answer of the broker; a PUBACK by satellite takes 1.5 s
FAREWELL_S = 1.0        # for the last `offline`; whoever stops us is waiting
BAD_LOGIN = {4, 5, 134, 135}    # CONNACK codes of MQTT 3.1.1, and what they and MQTT 5 are called in paho

Config_ = ConfigDict(strict=True, frozen=True, extra="forbid")
File = Annotated[FilePath, Field(strict=False)]     # a path is a string in YAML


class Tls(BaseModel):
    """How to trust the broker, and how it may trust us."""

    model_config = Config_

    ca: File | None = Field(None, description="PEM file that signed the broker's certificate; null: the system's")
    certificate: File | None = Field(None, description="our own certificate, PEM, for brokers that ask for one")
    key: File | None = Field(None, description="its private key, PEM; null: in the certificate's file")


class Config(BaseModel):
    """Which broker, and how to log in."""

    model_config = Config_

    type: Literal["mqtt"] = "mqtt"
    host: Annotated[str, Field(min_length=1)] = "localhost"
    port: Annotated[int, Field(ge=1, le=65535, description="usually 1883, or 8883 with tls")] = 1883
    base_topic: str = "streamer"
    username: str | None = None
    password: SecretStr | None = None
    password_file: File | None = Field(None, description="file that holds the password, instead of `password`")
    tls: Tls | None = None
    client_id: Annotated[str, Field(min_length=1)] | None = Field(None, description="null: streamer-<node>")
    keepalive_s: Annotated[int, Field(ge=5, le=65535, description="a dead broker is noticed after twice this")] = 15
    protocol: Literal["3.1.1", "5"] = "3.1.1"

    @field_validator("base_topic")
    @classmethod
    def _is_topic(cls, topic: str) -> str:
        if not all(topic.split("/")) or set(topic) & set("+#\0"):
            raise ValueError(f"'{topic}' is no base topic; allowed: levels joined by '/', none empty, without '+' and '#'")
        return topic

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file are both set; keep one of them")
        return self


def build(config: Config, node: str) -> Sink:
    """Make the sink of this `node`; connects nowhere yet."""
    return Mqtt(config, node)


class Mqtt:
    """Publishes an outbox to a broker, through every outage."""

    def __init__(self, config: Config, node: str) -> None:
        self.connected = False
        self.reconnects = 0
        self._config = config
        self._topic = f"{config.base_topic}/{node}"
        self._client_id = config.client_id or f"streamer-{node}"
        self._where = f"{config.host}:{config.port}"
        self._connections = 0
        self._retry = Retry(log)

    async def run(self, outbox: Outbox) -> None:
        """Publish until the outbox is closed and empty, then say `offline` and return; reconnect for ever."""
        while True:
            try:
                async with self._connection() as client:
                    await self._publish_all(client, outbox)
                return
            except* (aiomqtt.MqttError, OSError) as errors:
                sentence = self._explain(_first(errors))
            self.connected = False
            await self._retry.failed(sentence)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiomqtt.Client]:
        """A connection announced on the status topic. Nothing of it survives in a client: what counts is the outbox."""
        client = self._client()
        await client.__aenter__()
        try:
            await client.publish(f"{self._topic}/status", "online", qos=1, retain=True)
            yield client
        finally:
            self.connected = False
            # Sent on the same connection before DISCONNECT, after which the broker forgets the will. A dead one fails
            # both at once, and must not hide why we are here.
            with contextlib.suppress(aiomqtt.MqttError):
                await client.publish(f"{self._topic}/status", "offline", qos=1, retain=True, timeout=FAREWELL_S)
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)

