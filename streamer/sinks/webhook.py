"""Events, posted as JSON to a web address, one at a time and in order. The only file that knows httpcore2.

In: an outbox. Out: `POST url` for each event. What a receiver refuses for good is dropped; everything else is tried
again, for ever. Event loop only; the loop's executor asks the name service.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import httpcore2
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from streamer.core import Message, Site
from streamer.errors import SinkError
from streamer.outbox import Outbox, is_event, replayed
from streamer.payload import to_json
from streamer.sinks.base import File, Retry, Sink, read_secret

log = logging.getLogger(__name__)

LONGEST_RETRY_AFTER_S = 300.0   # a receiver may ask for five minutes' peace, not for a day's
ANSWER_BYTES = 65_536           # of an answer nobody reads; a longer one costs its connection
IDLE_S = 5.0                    # many servers close what is idle for longer
PATIENT = {401, 403, 404, 407, 408, 425, 429}   # of the 4xx: a person may mend them, or they pass by themselves
OURS = {"content-type", "content-length", "host", "idempotency-key", "transfer-encoding"}
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Config(BaseModel):
    """Where events go, and how their receiver knows that they are ours.

    Addresses and headers are masked wherever a configuration is shown: they often hold a token.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["webhook"] = "webhook"
    url: SecretStr
    secret: SecretStr | None = Field(default=None, min_length=1, description="signs each request; null: none is signed")
    secret_file: File | None = Field(default=None, description="file with the secret in it, instead of `secret`")
    headers: dict[str, SecretStr] = {}
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    types: Annotated[list[Literal["start", "end"]], Field(min_length=1)] = ["start", "end"]
    ca: File | None = Field(default=None, description="PEM of who signed the server's certificate; null: the system's")

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        try:
            parts = urlsplit(text)
            port_is_bad = parts.port == 0
        except ValueError:
            raise ValueError("is no web address; check its host and port") from None
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"must begin with http:// or https://, not '{parts.scheme}:'")
        if not parts.hostname or port_is_bad or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("is no web address; it needs a host, and other characters than ASCII percent-encoded")
        if parts.username is not None:
            raise ValueError("holds a user name; give it as a header: headers: {Authorization: Basic …}")
        return url

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            text = value.get_secret_value()
            if not HEADER.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a header; allowed: letters, digits and -")
            if name.lower() in OURS or name.lower().startswith("x-streamer-"):
                raise ValueError(f"'{name}' is set by streamer itself; remove it")
            if not text.isascii() or not text.isprintable() or text != text.strip():
                raise ValueError(f"the value of '{name}' must be one line of ASCII without spaces around it")
        return headers

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("secret and secret_file are both set; keep one of them")
        if self.ca is not None and urlsplit(self.url.get_secret_value()).scheme != "https":
            raise ValueError("ca is set, but url is not https; change url, or remove ca")
        return self


def build(config: Config, site: Site) -> Sink:
    """Make the sink; connects nowhere yet. Its events carry their node themselves, so `site` isn't used."""
    del site
    return Webhook(config)


class Webhook:
    """Posts each event and acknowledges it when the receiver did. `dropped` counts those refused for good."""

    def __init__(self, config: Config) -> None:
        self.dropped = 0
        self._config = config
        self._url = config.url.get_secret_value()
        self._name = f"webhook {origin(self._url)}"    # the rest of an address may be a secret
        self._network = _Network()
        self._retry = Retry(log)
        self._said: set[int] = set()        # refusals since the last success

    async def run(self, outbox: Outbox) -> None:
        """Post until the outbox is closed and empty; what can't be delivered now is tried again, for ever."""
        while True:
            try:
                tls = await asyncio.to_thread(ssl.create_default_context, cafile=self._config.ca)
            except (OSError, ssl.SSLError) as error:
                await self._retry.failed(f"{self._name}: ca '{self._config.ca}' can't be used: {error}")
            else:
                break
        async with httpcore2.AsyncConnectionPool(
            tls, max_connections=1, keepalive_expiry=IDLE_S, network_backend=self._network
        ) as pool:
            while (message := await outbox.get()) is not None:
                if self._is_wanted(message):
                    await self._deliver(pool, message)
                outbox.ack(message)

    def _is_wanted(self, message: Message) -> bool:
        payload = message.payload
        return is_event(message) and isinstance(payload, Mapping) and payload.get("event_type") in self._config.types

    async def _deliver(self, pool: httpcore2.AsyncConnectionPool, message: Message) -> None:
        """Return when the receiver has taken the event, or never will."""
        assert isinstance(message.payload, Mapping)
        key = f"{message.payload['id']}-{message.payload['event_type']}"
        while True:
            try:
                status, answer = await self._post(pool, to_json(message.payload), key)
            except ValueError as error:
                self.dropped += 1
                self._retry.dropped(message, error)
                return
            except SinkError as error:
                await self._retry.failed(f"{self._name}: {error}; events wait")
                message = replayed(message)
                continue
            if 200 <= status < 300:
                self._retry.succeeded(f"{self._name}: events are posted")
                self._said.clear()
                return
            if 400 <= status < 500 and status not in PATIENT:
                self._refused(status, message)
                return
            sentence = f"{self._name}: answers {_status(status)}{_advice(status, answer)}; events wait"
            await asyncio.gather(self._retry.failed(sentence), asyncio.sleep(_asked_s(answer)))
            message = replayed(message)

    def _refused(self, status: int, message: Message) -> None:
        self.dropped += 1
        if status not in self._said:    # ten thousand of a long outage make one line
            self._said.add(status)
            log.error(
                "%s: answers %s: it will never take the event on '%s', which is dropped, as will be others it so "
                "refuses; check that url is meant for streamer's events",
                self._name, _status(status), message.topic,
            )  # fmt: skip

    async def _post(self, pool: httpcore2.AsyncConnectionPool, body: bytes, key: str) -> tuple[int, Mapping[str, str]]:
        """The answer's status and headers, names in lower case.

        Raises:
            SinkError: there is none; the sentence says why.
        """
        headers = {name: value.get_secret_value() for name, value in self._config.headers.items()}
        headers |= {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "streamer"}
        headers |= self._signature(body)
        seconds = self._config.timeout_s
        try:
            async with (
                asyncio.timeout(seconds),
                pool.stream("POST", self._url, headers=list(headers.items()), content=body) as response,
            ):
                await _read(response)
                found = {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in response.headers}
                return response.status, found
        except TimeoutError as error:
            await self._network.drop()
            raise SinkError(f"no answer within {seconds:g} s; check url, or raise timeout_s") from error
        except asyncio.CancelledError:
            await self._network.drop()
            raise
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            raise SinkError(_why(error, self._config.ca)) from error

    def _signature(self, body: bytes) -> dict[str, str]:
        """Sign the time and the body: an old request can't be sent again by somebody else later."""
        secret = self._secret()
        if secret is None:
            return {}
        seconds = str(int(time.time()))
        digest = hmac.new(secret, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"X-Streamer-Timestamp": seconds, "X-Streamer-Signature": f"sha256={digest}"}

    def _secret(self) -> bytes | None:
        file = self._config.secret_file
        if file is None:
            return self._config.secret.get_secret_value().encode() if self._config.secret else None
        if not (secret := read_secret(file, "secret_file")):
            raise SinkError(f"secret_file '{file}' is empty; write the secret into it")
        return secret


class _Network(httpcore2.AnyIOBackend):
    """Remembers its newest connection: the library leaves it open when a TLS handshake is given up from outside."""

    _newest: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        self._newest = await super().connect_tcp(*args, **kwargs)
        return self._newest

    async def drop(self) -> None:
        """Close it, whatever has become of it."""
        if self._newest is not None:
            await self._newest.aclose()


def origin(url: str) -> str:
    """Scheme, host and port of an address: what may be shown of it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


async def _read(response: httpcore2.Response) -> None:
    """Take the answer's text off the connection, so that it serves again."""
    size = 0
    async for chunk in response.aiter_stream():
        size += len(chunk)
        if size > ANSWER_BYTES:
            return


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _advice(status: int, answer: Mapping[str, str]) -> str:
    if 300 <= status < 400:
        to = re.match(r"https?://[^/?#@]+(?=[/?#]|$)", answer.get("location", ""))
        place = f" to {to[0]}" if to else ""
        return f", a redirect{place}, and redirects aren't followed: give the final address as url"
    match status:
        case 401 | 403 | 407:
            return ": check headers, and the secret if the receiver checks signatures"
        case 404:
            return ": check url"
    return ""


def _asked_s(answer: Mapping[str, str]) -> float:
    """Seconds for which the receiver asked to be left alone, within reason."""
    text = answer.get("retry-after", "").strip()
    try:
        seconds = int(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return float(min(max(seconds, 0), LONGEST_RETRY_AFTER_S))


def _why(error: Exception, ca: Path | None) -> str:
    """In words, from the innermost cause that is telling."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    for cause in reversed(chain):
        match cause:
            case ssl.SSLCertVerificationError():
                trusted = f"ca '{ca}'" if ca else "the system's authorities; ca names another"
                return f"its certificate isn't trusted ({cause.verify_message}); trusted is {trusted}"
            case ssl.SSLError():
                return f"no TLS ({cause.reason or cause}); check that url's port speaks https"
            case ConnectionRefusedError():
                return "connection refused; check that it runs and that url has its host and port"
            case socket.gaierror():
                return f"no such host ({cause.strerror}); check url, and this machine's name service"
    return f"no connection ({chain[-1] or type(chain[-1]).__name__}); check url and this machine's network"
