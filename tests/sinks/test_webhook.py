"""Posting events: what a receiver gets, and what happens when it refuses, hangs, or isn't there."""

import asyncio
import hashlib
import hmac
import json
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from streamer.core import Message, Site
from streamer.outbox import Outbox
from streamer.sinks import base, webhook

OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""
    monkeypatch.setattr(base, "FIRST_WAIT_S", 0.0)


def event(number: int, event_type: str = "start") -> Message:
    return Message("mic/event", {"id": f"01J{number}", "event_type": event_type, "label": "Gebell: äöü"})


def answer(status: int, **headers: str) -> str:
    fields = {"Content-Length": "0", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return "\r\n".join((f"HTTP/1.1 {status} Whatever", *(f"{k}: {v}" for k, v in fields.items()), "\r\n"))


class Receiver:
    """A web server that gives `answers` in turn, the last one for ever; None: no answer. `got` are the requests."""

    def __init__(self, answers: Sequence[str | None] = (OK,)) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.n_connections = 0
        self._answers = list(answers)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in head[1:-2])}
                body = await reader.readexactly(int(headers["content-length"]))
                self.got.append((head[0], headers, body))
                now = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if now is not None:
                    writer.write(now.encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def ids(self) -> list[str]:
        return [json.loads(body)["id"] for _, _, body in self.got]

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Its address."""
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0, ssl=tls)
        try:
            yield f"{'https' if tls else 'http'}://localhost:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


def sink_on(url: str, **options: Any) -> webhook.Webhook:
    secrets = {k: SecretStr(v) if k == "secret" else v for k, v in options.items()}
    config = webhook.Config.model_validate({"url": SecretStr(url), **secrets})
    return webhook.build(config, Site("garage"))  # type: ignore[return-value]


def outbox_of(*messages: Message) -> Outbox:
    outbox = Outbox()
    for message in messages:
        outbox.put(message)
    return outbox


def deliver(receiver: Receiver, *messages: Message, **options: Any) -> webhook.Webhook:
    """Run a sink until the receiver has had all the messages."""
    outbox = outbox_of(*messages)
    outbox.close()

    async def scenario() -> webhook.Webhook:
        async with receiver.listening() as url:
            sink = sink_on(f"{url}/hook?token=hidden", **options)
            await asyncio.wait_for(sink.run(outbox), 10)
        return sink

    sink = asyncio.run(scenario())
    assert outbox.pending == 0
    return sink


def complaint(caplog: pytest.LogCaptureFixture, url: str, **options: Any) -> str:
    """What a sink says that gets nowhere; its event is still there, and it lets itself be stopped."""
    outbox = outbox_of(event(1))

    async def scenario() -> None:
        task = asyncio.create_task(sink_on(url, **options).run(outbox))
        async with asyncio.timeout(10):
            while not caplog.messages:  # noqa: ASYNC110  a log tells nobody that it grew
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled()

    asyncio.run(scenario())
    assert outbox.pending == 1
    return caplog.messages[0]


def test_a_request() -> None:
    receiver = Receiver()
    deliver(receiver, event(1), headers={"Authorization": SecretStr("Bearer abc")})
    [(line, headers, body)] = receiver.got
    assert line == "POST /hook?token=hidden HTTP/1.1"
    assert body == '{"id":"01J1","event_type":"start","label":"Gebell: äöü"}'.encode()
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == "01J1-start"
    assert headers["authorization"] == "Bearer abc"
    assert "x-streamer-signature" not in headers


def test_events_come_in_order_over_one_connection_and_nothing_else_comes() -> None:
    receiver = Receiver()
    others = [Message("mic/status", "online", retain=True), Message("mic/level", {"rms_dbfs": -40.0}, qos=0)]
    deliver(receiver, event(1), *others, event(1, "update"), event(2), event(1, "end"), event(2, "end"))
    assert [headers["idempotency-key"] for _, headers, _ in receiver.got] == [
        "01J1-start", "01J2-start", "01J1-end", "01J2-end",
    ]  # fmt: skip
    assert receiver.n_connections == 1


def test_only_what_was_asked_for() -> None:
    receiver = Receiver()
    deliver(receiver, event(1), event(1, "end"), event(2), types=["end"])
    assert [headers["idempotency-key"] for _, headers, _ in receiver.got] == ["01J1-end"]


def signed(headers: dict[str, str], body: bytes, secret: bytes) -> str:
    """As docs/sinks.md has it."""
    message = headers["x-streamer-timestamp"].encode() + b"." + body
    return "sha256=" + hmac.new(secret, message, hashlib.sha256).hexdigest()


def test_the_signature_covers_time_and_body(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hush\n")
    for options in ({"secret": "hush"}, {"secret_file": str(file)}):
        receiver = Receiver()
        deliver(receiver, event(1), **options)
        [(_, headers, body)] = receiver.got
        assert headers["x-streamer-signature"] == signed(headers, body, b"hush")
        assert abs(int(headers["x-streamer-timestamp"]) - time.time()) < 60


def test_a_secret_that_changes_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old")

    class Mending(Receiver):
        async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            file.write_text("new")
            await super().talk(reader, writer)

    receiver = Mending([answer(401), OK])
    deliver(receiver, event(1), secret_file=str(file))
    assert [headers["x-streamer-signature"] == signed(headers, body, secret) for (_, headers, body), secret in
            zip(receiver.got, (b"old", b"new"), strict=True)] == [True, True]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), [
    (None, "can't be read: No such file or directory; events wait"),
    ("\n", "is empty; write the secret into it; events wait"),
])  # fmt: skip
def test_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None, sentence: str) -> None:
    file = tmp_path / "secret"
    file.touch()
    sink = sink_on("http://127.0.0.1:1/", secret_file=str(file))
    file.unlink() if text is None else file.write_text(text)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sink.run(outbox_of(event(1))), 0.05)

    asyncio.run(scenario())
    assert caplog.messages[0] == f"webhook http://127.0.0.1:1: secret_file '{file}' {sentence}"


@pytest.mark.parametrize(("status", "sentence"), [
    (500, "answers 500 Internal Server Error"),
    (503, "answers 503 Service Unavailable"),
    (429, "answers 429 Too Many Requests"),
    (408, "answers 408 Request Timeout"),
    (401, "answers 401 Unauthorized: check headers, and the secret if the receiver checks signatures"),
    (403, "answers 403 Forbidden: check headers, and the secret if the receiver checks signatures"),
    (404, "answers 404 Not Found: check url"),
    (599, "answers 599"),
])  # fmt: skip
def test_what_may_pass_is_tried_again(caplog: pytest.LogCaptureFixture, status: int, sentence: str) -> None:
    receiver = Receiver([answer(status), answer(status), OK])
    with caplog.at_level(logging.INFO, "streamer"):
        sink = deliver(receiver, event(1), event(2))
    assert receiver.ids == ["01J1", "01J1", "01J1", "01J2"]
    assert sink.dropped == 0
    complaints = [message.split(": ", 2) for message in caplog.messages]
    assert [message.split(" ", 2)[2] for message in caplog.messages[:1]] == [f"{sentence}; events wait"]
    assert complaints[-1][-1] == "events are posted"
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("status", [400, 405, 409, 410, 413, 422])
def test_what_will_never_be_taken_does_not_block_the_rest(caplog: pytest.LogCaptureFixture, status: int) -> None:
    receiver = Receiver([answer(status), answer(status), OK])
    sink = deliver(receiver, event(1), event(2), event(3))
    assert receiver.ids == ["01J1", "01J2", "01J3"]
    assert sink.dropped == 2
    [sentence] = caplog.messages
    assert f": answers {status} " in sentence
    assert sentence.endswith(
        ": it will never take the event on 'mic/event', which is dropped, as will be others it so refuses; "
        "check that url is meant for streamer's events"
    )


def test_what_json_can_not_say_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    bad = Message("mic/event", {"id": "01J0", "event_type": "start", "score": float("nan")})
    assert deliver(receiver, bad, event(1)).dropped == 1
    assert receiver.ids == ["01J1"]
    assert "can't be said" in caplog.text


@pytest.mark.parametrize(("location", "place"), [
    ("https://elsewhere.example/new?token=hidden", " to https://elsewhere.example"),
    ("/new", ""),
    ("https://user:hidden@elsewhere.example/", ""),
])  # fmt: skip
def test_redirects_are_not_followed(caplog: pytest.LogCaptureFixture, location: str, place: str) -> None:
    receiver = Receiver([answer(301, Location=location), OK])
    deliver(receiver, event(1))
    assert caplog.messages[0].endswith(
        f": answers 301 Moved Permanently, a redirect{place}, and redirects aren't followed: "
        "give the final address as url; events wait"
    )
    assert "hidden" not in caplog.text


@pytest.mark.parametrize(("text", "wait_s"), [
    ("7", 7), ("100000", 300), ("-3", 0), ("soon", 0), ("", 0), ("9" * 400, 300),
    (formatdate(time.time() + 9e5, usegmt=True), 300), (formatdate(0, usegmt=True), 0),
])  # fmt: skip
def test_how_long_a_receiver_may_ask_for(text: str, wait_s: float) -> None:
    assert webhook._asked_s({"retry-after": text}) == wait_s


def test_a_receiver_that_asks_for_time_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    deliver(Receiver([answer(429, Retry_After="20"), OK]), event(1))
    assert 20 in waits


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        why = "connection refused; check that it runs and that url has its host and port; events wait"
        assert complaint(caplog, f"http://127.0.0.1:{port}/") == f"webhook http://127.0.0.1:{port}: {why}"
        caplog.clear()
        assert complaint(caplog, f"http://localhost:{port}/") == f"webhook http://localhost:{port}: {why}"


def test_no_such_host(caplog: pytest.LogCaptureFixture) -> None:
    sentence = complaint(caplog, "http://no-such-host.invalid/")
    assert sentence.startswith("webhook http://no-such-host.invalid: no such host (")
    assert sentence.endswith("); check url, and this machine's name service; events wait")


def test_a_receiver_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver([None])

    async def scenario() -> None:
        async with receiver.listening() as url:
            task = asyncio.create_task(sink_on(url, timeout_s=0.02).run(outbox_of(event(1))))
            async with asyncio.timeout(10):
                while len(receiver.got) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task], timeout=2)
            assert task.cancelled()

    asyncio.run(scenario())
    assert caplog.messages[0].endswith("no answer within 0.02 s; check url, or raise timeout_s; events wait")


def test_handshakes_that_hang_leave_no_connection_open(caplog: pytest.LogCaptureFixture) -> None:
    still_open: set[asyncio.StreamWriter] = set()
    n_connections = 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        still_open.add(writer)
        await reader.read()     # to the end that only the other side can make
        still_open.remove(writer)
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        task = asyncio.create_task(sink_on(url, timeout_s=0.02).run(outbox_of(event(1))))
        async with asyncio.timeout(10):
            while n_connections < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert len(still_open) <= 1
            task.cancel()
            await asyncio.wait([task])
            while still_open:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["\x00\x01nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_a_server_of_something_else(caplog: pytest.LogCaptureFixture, text: str) -> None:
    deliver(Receiver([text, OK]), event(1))
    assert "; check url and this machine's network; events wait" in caplog.messages[0]


def test_an_endless_answer_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "ANSWER_BYTES", 100)
    long = f"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{'x' * 10_000}"
    receiver = Receiver([long])
    deliver(receiver, event(1), event(2))
    assert (receiver.ids, receiver.n_connections) == (["01J1", "01J2"], 2)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key of `localhost`, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    assert openssl, "the tests need openssl"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
         "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_tls_is_verified(certificate: Path, caplog: pytest.LogCaptureFixture) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    receiver = Receiver()

    async def scenario() -> None:
        async with receiver.listening(tls) as url:
            outbox = outbox_of(event(1))
            distrustful = asyncio.create_task(sink_on(url).run(outbox))
            async with asyncio.timeout(10):
                while not caplog.messages:  # noqa: ASYNC110  a log tells nobody that it grew
                    await asyncio.sleep(0.001)
            distrustful.cancel()
            await asyncio.wait([distrustful])
            assert receiver.got == []
            outbox.resync()
            outbox.close()
            await asyncio.wait_for(sink_on(url, ca=str(certificate / "cert.pem")).run(outbox), 10)

    asyncio.run(scenario())
    assert receiver.ids == ["01J1"]
    assert caplog.messages[0].endswith(
        ": its certificate isn't trusted (self-signed certificate); "
        "trusted is the system's authorities; ca names another; events wait"
    )


def test_https_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(Receiver):
        async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

    receiver = Plain()

    async def scenario() -> None:
        async with receiver.listening() as url:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sink_on(url.replace("http:", "https:")).run(outbox_of(event(1))), 0.5)

    asyncio.run(scenario())
    assert ": no TLS (" in caplog.messages[0]
    assert caplog.messages[0].endswith("); check that url's port speaks https; events wait")


def test_a_ca_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    sentence = complaint(caplog, "https://localhost/", ca=str(tmp_path / "ca.pem"))
    assert sentence.startswith(f"webhook https://localhost: ca '{tmp_path / 'ca.pem'}' can't be used: ")


def test_a_name_service_that_never_answers_does_not_keep_the_daemon() -> None:
    script = """
import asyncio, socket, time
from pydantic import SecretStr
from streamer.core import Message, Site
from streamer.daemon import Threads
from streamer.sinks.webhook import Config, build
from streamer.outbox import Outbox
socket.getaddrinfo = lambda *_, **__: time.sleep(1000)
async def main():
    asyncio.get_running_loop().set_default_executor(Threads())
    outbox = Outbox()
    outbox.put(Message("mic/event", {"id": "1", "event_type": "start"}))
    task = asyncio.create_task(build(Config(url=SecretStr("http://broker/")), Site("node")).run(outbox))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.wait([task])
asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert result.stderr == b""


HOOK = "https://x.example/hook"


@pytest.mark.parametrize(("options", "sentence"), [
    ({"url": "ftp://x.example/"}, "must begin with http:// or https://, not 'ftp:'"),
    ({"url": "x.example/hook"}, "must begin with http:// or https://, not ':'"),
    ({"url": "https:///hook"}, "is no web address; it needs a host, and other characters than ASCII percent-encoded"),
    ({"url": "https://x.example:99999/"}, "is no web address; check its host and port"),
    ({"url": "https://x.example/käse"},
     "is no web address; it needs a host, and other characters than ASCII percent-encoded"),
    ({"url": "https://me:pass@x.example/"},
     "holds a user name; give it as a header: headers: {Authorization: Basic …}"),
    ({"url": HOOK, "headers": {"Content-Type": "x"}}, "'Content-Type' is set by streamer itself; remove it"),
    ({"url": HOOK, "headers": {"X-Streamer-Me": "x"}}, "'X-Streamer-Me' is set by streamer itself; remove it"),
    ({"url": HOOK, "headers": {"a b": "x"}}, "'a b' is no name of a header; allowed: letters, digits and -"),
    ({"url": HOOK, "headers": {"a": "x\r\nb: y"}},
     "the value of 'a' must be one line of ASCII without spaces around it"),
    ({"url": HOOK, "secret": "a", "secret_file": __file__}, "secret and secret_file are both set; keep one of them"),
    ({"url": "http://x.example", "ca": __file__}, "ca is set, but url is not https; change url, or remove ca"),
])  # fmt: skip
def test_a_mistake_is_said(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        webhook.Config.model_validate(options)
    [error] = refused.value.errors()
    assert str(error["ctx"]["error"]) == sentence


@pytest.mark.parametrize("options", [{}, {"types": []}, {"types": ["update"]}, {"timeout_s": 0}, {"secret": ""}])
def test_a_bad_config_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        webhook.Config.model_validate(options if not options else {"url": HOOK, **options})


def test_tokens_are_masked() -> None:
    config = webhook.Config.model_validate({"url": f"{HOOK}?t=hidden", "headers": {"A": "hidden"}, "secret": "hidden"})
    assert "hidden" not in str(config.model_dump(mode="json"))


def test_what_may_be_shown_of_an_address() -> None:
    assert webhook.origin("https://x.example/hook?t=1") == "https://x.example"
    assert webhook.origin("http://[::1]:8080/hook") == "http://[::1]:8080"
