"""What needs no broker: options, and answers that mosquitto doesn't give. The rest is in tests/integration."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamer.core import Site
from streamer.outbox import Outbox
from streamer.sinks import mqtt


def test_the_default_is_a_broker_on_this_machine() -> None:
    config = mqtt.Config()
    assert (config.host, config.port, config.base_topic, config.protocol) == ("localhost", 1883, "streamer", "3.1.1")


def test_an_address_is_a_host() -> None:
    assert mqtt.Config(host="::1").host == "::1"


@pytest.mark.parametrize("topic", ["home", "home/sound", "Haus Ä/1"])
def test_a_base_topic_has_levels(topic: str) -> None:
    assert mqtt.Config(base_topic=topic).base_topic == topic


@pytest.mark.parametrize("topic", ["", "/home", "home/", "a//b", "a/+/b", "#", "a\0"])
def test_a_base_topic_that_is_none_is_refused(topic: str) -> None:
    with pytest.raises(ValidationError, match="is no topic; allowed: levels joined by '/', none empty, no"):
        mqtt.Config(base_topic=topic)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"port": 0}, "greater than or equal to 1"),
        ({"port": "1883"}, "valid integer"),
        ({"host": ""}, "at least 1 character"),
        ({"host": "localhost:1883"}, "'localhost:1883' is no host; give its name or address alone"),
        ({"host": "mqtt://localhost"}, "'mqtt://localhost' is no host"),
        ({"keepalive_s": 1}, "greater than or equal to 5"),
        ({"protocol": "3.1"}, "'3.1.1' or '5'"),
        ({"hots": "x"}, "Extra inputs are not permitted"),
        ({"password_file": "/no/such/file"}, "does not point to a file"),
        ({"tls": {"ca": "/no/such/file"}}, "does not point to a file"),
        ({"tls": {"insecure": True}}, "Extra inputs are not permitted"),
    ],
)
def test_a_bad_option_is_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        mqtt.Config.model_validate(config)


def test_two_passwords_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("b")
    with pytest.raises(ValidationError, match="password and password_file are both set; keep one of them"):
        mqtt.Config.model_validate({"password": "a", "password_file": str(tmp_path / "password")})


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x")
    with pytest.raises(ValidationError, match="key is set without certificate; set both, or neither"):
        mqtt.Tls.model_validate({"key": str(tmp_path / "key")})


def test_a_password_is_not_printed() -> None:
    config = mqtt.Config.model_validate({"username": "me", "password": "hunter2"})
    assert "hunter2" not in repr(config)
    assert "hunter2" not in config.model_dump_json()


def test_a_subscription_that_is_refused_is_said_and_the_others_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    class Client:
        async def subscribe(self, topics: list[tuple[str, int]]) -> tuple[int, ...]:
            return tuple(128 if topic.endswith("/snooze/set") else qos for topic, qos in topics)

        @property
        async def messages(self) -> AsyncIterator[None]:
            await asyncio.sleep(0)
            return
            yield

    client: Any = Client()
    sink = mqtt.Mqtt(mqtt.Config(), Site("garage"))
    asyncio.run(sink._listen(client, Outbox()))
    said = "MQTT broker localhost:1883: refused the subscription to 'streamer/garage/+/+/snooze/set'; check its access "
    assert [message.partition("rules")[0] for message in caplog.messages] == [said]
