"""The MQTT sink at brokers that ask for passwords and certificates, and at what is no broker."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from streamer.outbox import Outbox
from streamer.sinks import mqtt
from tests.integration.broker import Broker, free_port
from tests.integration.daemon import Daemon
from tests.integration.mqttline import complaint, running, until

pytestmark = pytest.mark.usefixtures("hasty", "no_noise")
# A socket whose handshake failed is closed by its end of life only: ssl's way, in paho.
leaves_sockets = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
DAEMON = """
node: garage
streams:
  room: {{source: {{type: file, path: "{sound}", realtime: true}}}}
rules:
  smoke_alarm: {{type: threshold, labels: ["Smoke detector, smoke alarm"]}}
sinks:
  mqtt: {{type: mqtt, host: 127.0.0.1, port: {port}, username: me, {password}}}
"""


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"username": "me", "password": "wrong"}, "refused user 'me' ([code:135] Not authorized)"),
        ({"username": "me", "password": "wrong", "protocol": "5"}, "refused user 'me' ([code:135] Not authorized)"),
        ({}, "refused a client without username ([code:135] Not authorized)"),
    ],
)
def test_a_wrong_password_is_said_to_be_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: dict[str, Any], sentence: str
) -> None:
    with Broker(tmp_path, ("me", "secret")) as broker:
        said = complaint(caplog, broker.port, attempts=3, **config)
        assert said == f"{sentence}; check username and password"


@pytest.mark.parametrize("as_file", [False, True])
def test_the_right_password_opens(tmp_path: Path, *, as_file: bool) -> None:
    async def scenario(port: int) -> None:
        file = tmp_path / "password"
        file.write_text("secret\n")
        password = {"password_file": str(file)} if as_file else {"password": "secret"}
        async with running(Outbox(), port=port, username="me", **password) as (sink, _):
            await until(lambda: sink.connected)

    with Broker(tmp_path, ("me", "secret")) as broker:
        asyncio.run(scenario(broker.port))


@leaves_sockets
def test_tls_with_the_right_ca_connects_and_with_any_other_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(port: int, ca: Path) -> None:
        async with running(Outbox(), port=port, tls={"ca": str(ca)}) as (sink, _):
            await until(lambda: sink.connected)

    (tmp_path / "other").mkdir()
    other = Broker(tmp_path / "other", tls=True).ca
    with Broker(tmp_path, tls=True) as broker:
        asyncio.run(scenario(broker.port, broker.ca))
        said = complaint(caplog, broker.port, attempts=3, tls={"ca": str(other)})
        assert said.endswith(f"; trusted is tls.ca '{other}'")
        assert "its certificate isn't trusted (" in caplog.messages[0]
        assert complaint(caplog, broker.port, tls={}).endswith("; trusted is the system's CAs; tls.ca names another")
        assert "certificate isn't trusted (Hostname mismatch" in complaint(
            caplog, broker.port, host="localhost", tls={"ca": str(broker.ca)}
        )


def test_a_broker_that_asks_for_a_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(port: int, tls: dict[str, str]) -> None:
        async with running(Outbox(), port=port, tls=tls) as (sink, _):
            await until(lambda: sink.connected)

    (tmp_path / "other").mkdir()
    thief = Broker(tmp_path / "other", asks=True).client
    with Broker(tmp_path, asks=True) as broker:
        ca = str(broker.ca)
        asyncio.run(scenario(broker.port, {"ca": ca, "certificate": str(broker.client)}))
        asyncio.run(scenario(broker.port, {"ca": ca, "certificate": str(broker.client), "key": str(broker.client)}))
        assert complaint(caplog, broker.port, attempts=3, tls={"ca": ca}) == (
            "closed the connection instead of answering; if it asks for a certificate, set tls.certificate"
        )
        assert complaint(caplog, broker.port, attempts=3, tls={"ca": ca, "certificate": str(thief)}) == (
            f"closed the connection instead of answering; check that it trusts who signed tls.certificate '{thief}'"
        )
        mixed = {"ca": ca, "certificate": str(broker.client), "key": str(thief)}
        said = complaint(caplog, broker.port, attempts=3, tls=mixed)
        assert said.startswith("no TLS ([X509: KEY_VALUES_MISMATCH]")
        assert said.endswith("; check that this is its TLS port, and the files that tls names")


@leaves_sockets
def test_tls_to_a_plain_port_and_plain_to_a_tls_port(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker.start()
    assert "check that this is its TLS port" in complaint(caplog, broker.port, tls={})
    (tmp_path / "tls").mkdir()
    with Broker(tmp_path / "tls", tls=True) as other:
        assert complaint(caplog, other.port) == (
            "closed the connection instead of answering; it may be starting, or this is its TLS port: then set tls"
        )


def test_a_broker_that_says_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", free_port())) as mute:
        sentence = "no answer to MQTT within 0.5 s; if this is its TLS port, set tls"
        assert complaint(caplog, mute.getsockname()[1]) == sentence


def test_a_host_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    sentence = complaint(caplog, 1883, host="no-such-host.invalid")
    assert sentence.startswith("no such host (")
    assert sentence.endswith("check host, and this machine's name service")




@pytest.mark.parametrize(
    ("password", "secret", "words"),
    [
        ('password: "${MQTT_PASSWORD}"', "secret", ": connected"),
        ('password: "${MQTT_PASSWORD}"', "wrong", ": refused user 'me' ([code:135] Not authorized)"),
        ("password_file: FILE", "secret", ": connected"),
    ],
)
def test_the_daemon_logs_in_with_a_password_from_its_environment_or_a_file(
    tmp_path: Path, password: str, secret: str, words: str
) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(60 * 16000), 16000)
    (tmp_path / "password").write_text(f"{secret}\n")
    with Broker(tmp_path, ("me", "secret")) as broker:
        password = password.replace("FILE", str(tmp_path / "password"))
        config = DAEMON.format(sound=tmp_path / "quiet.wav", port=broker.port, password=password)
        with Daemon(config, tmp_path, {"MQTT_PASSWORD": secret}) as daemon:
            daemon.wait_for(f"MQTT broker 127.0.0.1:{broker.port}{words}")
            assert daemon.stop()[0] == 0
