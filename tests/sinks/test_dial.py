"""Connecting by name: what may hold it up, and that it holds up nobody."""

import asyncio
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from streamer.errors import SinkError
from streamer.sinks import _dial
from streamer.sinks._dial import dial


def refusal(host: str, port: int = 1883) -> str:
    with pytest.raises(SinkError) as refused:
        asyncio.run(dial(host, port))
    return str(refused.value)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the name service says of every host."""
    found: list[Any] = []
    monkeypatch.setattr("streamer.sinks._dial.socket.getaddrinfo", lambda *_, **__: found)
    return found


def address(ip: str, port: int) -> Any:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))


def test_an_address_that_refuses_is_not_the_last(addresses: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses += [address("127.0.0.2", port), address("127.0.0.1", port)]
        with asyncio.run(dial("broker", 1883)) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)


def test_all_refuse(addresses: list[Any]) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        addresses.append(address(*unheard.getsockname()))
        sentence = "connection refused; check that the broker runs and that this is its host and port"
        assert refusal("broker") == sentence


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dial, "CONNECT_S", 0.02)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first:
        first.connect(full.getsockname())
        assert refusal(*full.getsockname()) == "unreachable within 0.02 s; check host, port, and firewalls on the way"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 300])
def test_no_such_host(host: str) -> None:
    sentence = refusal(host)
    assert sentence.startswith("no such host (")
    assert sentence.endswith("); check host, and this machine's name service")


def test_a_name_service_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr("streamer.sinks._dial.socket.getaddrinfo", lambda *_, **__: [answered.wait(5)])
    monkeypatch.setattr(_dial, "NAME_S", 0.02)
    try:
        check = "check host, and this machine's name service"
        assert refusal("broker") == f"the name service doesn't answer within 0.02 s; {check}"
    finally:
        answered.set()
        for thread in threading.enumerate():
            if thread.name == "name service":
                thread.join()


def test_a_name_service_that_never_answers_does_not_keep_the_process() -> None:
    script = """
import asyncio, socket, time
from streamer.core import Site
from streamer.sinks.mqtt import Config, build
from streamer.outbox import Outbox
socket.getaddrinfo = lambda *_, **__: time.sleep(1000)
async def main():
    task = asyncio.create_task(build(Config(host="broker"), Site("node")).run(Outbox()))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert result.stderr == b""
