"""A real microphone path: PulseAudio's null sink through ALSA and PortAudio into the ring."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples
from streamer.errors import SourceError
from streamer.sources import microphone
from streamer.sources.microphone import Config, Microphone
from tests.fakes import wait_for
from tests.integration.soundserver import VirtualMic
from tests.sources import sounds

RATE = 16000
LOSS_S = 5.0  # within which a lost device must be noticed
CLOSE_S = 2.0  # far below what a hung sound server would take: for ever


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMic]:
    with VirtualMic(RATE) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def mic() -> Iterator[Microphone]:
    source = Microphone(Config())
    yield source
    source.close()


def start(source: Microphone) -> tuple[Ring, Clock]:
    info = source.open()
    ring, clock = Ring(20 * info.sample_rate, info.max_block), Clock(info.sample_rate)
    source.start(ring, clock)
    wait_for(lambda: ring.written > 0, "the first block")
    return ring, clock


def chirp(seconds: float) -> Samples:
    t = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 * t + 600 * t**2))).astype(np.float32)


def assert_captures(source: Microphone, server: VirtualMic, folder: Path) -> None:
    """What is played is what is captured, and dated when it sounded."""
    ring, clock = start(source)
    sound = chirp(2.0)
    path = sounds.write(folder / "chirp.wav", sound, RATE)
    before = time.monotonic()
    server.play(path)
    after = time.monotonic()
    rate = clock.sample_rate
    end = ring.written + rate // 2
    wait_for(lambda: ring.written >= end, "the rest of the sound")
    captured = ring.read(0, ring.written)
    assert captured is not None
    heard = soxr.resample(captured, rate, RATE)
    at = int(np.argmax(np.abs(np.correlate(heard, sound, "valid"))))
    assert np.corrcoef(heard[at : at + len(sound)], sound)[0, 1] > 0.99
    assert before - 0.1 <= clock.monotonic(at * rate // RATE) <= after
    assert source.overflows == 0


def test_captured_is_what_was_played(server: VirtualMic, mic: Microphone, tmp_path: Path) -> None:
    assert_captures(mic, server, tmp_path)


def test_a_wished_rate_is_delivered(server: VirtualMic, tmp_path: Path) -> None:
    source = Microphone(Config(device="pulse", sample_rate=RATE, channel=1))
    assert_captures(source, server, tmp_path)
    assert source.open().sample_rate == RATE
    source.close()


def test_a_killed_server_is_noticed_and_a_new_one_is_heard(server: VirtualMic, mic: Microphone, tmp_path: Path) -> None:
    ring, _ = start(mic)
    killed = time.monotonic()
    server.kill()
    wait_for(lambda: ring.closed, "the loss of the sound server")
    assert ring.closed is Reason.SOURCE_LOST
    assert time.monotonic() - killed < LOSS_S
    with pytest.raises(SourceError, match=r"no default microphone|can't be opened"):
        mic.open()
    server.start()
    assert_captures(mic, server, tmp_path)


def test_close_does_not_wait_for_a_hung_server(server: VirtualMic, mic: Microphone) -> None:
    ring, _ = start(mic)
    server.hang()
    hung = time.monotonic()
    mic.close()
    assert time.monotonic() - hung < CLOSE_S
    assert ring.closed is Reason.STOP
    with pytest.raises(SourceError, match="no answer from the sound system within 1 s"):
        microphone.devices(timeout_s=1.0)
    server.resume()
    start(mic)


@pytest.mark.usefixtures("server")
def test_the_virtual_microphone_is_listed() -> None:
    found = {device.id: device for device in microphone.devices()}
    assert found["alsa/default"].is_default
    assert not found["alsa/pulse"].is_default
