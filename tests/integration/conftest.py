"""What the tests of the MQTT sink begin with."""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.sinks import base
from tests.integration.broker import Broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker not started yet."""
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks that try again at once."""
    monkeypatch.setattr(base, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(base, "LONGEST_WAIT_S", 0.1)


@pytest.fixture
def no_noise(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither asyncio nor the client library complains, not even about what is left behind."""
    yield
    gc.collect()
    assert capfd.readouterr().err == ""
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
