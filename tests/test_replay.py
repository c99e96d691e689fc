"""Replay: a recording gives the same events however it is cut, and the same as through the live engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer import config, edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Message, Samples, Scores, SegmentEnd
from streamer.engine import Engine
from streamer.errors import SourceError
from streamer.line import build_line
from streamer.replay import replay
from streamer.sources import file
from streamer.stats import Stats
from tests.fakes import FakeBackend, loudness, spec_of, wait_for
from tests.sources import sounds

RATE = 16000
SETTINGS = config.parse(
    """
    node: garage
    streams:
      room: {source: {type: file, path: unused.wav}, hop_s: 0.1, rules: {sneeze: false}}
    rules:
      siren: {type: threshold, labels: [Siren], min_windows: 2, of_windows: 3, release_s: 0.2}
      rumble: {type: threshold, labels: [Rumble], release_s: 0.3, max_duration_s: 1.3}
      sneeze: {type: threshold, labels: [Sneeze]}
    """,
    "test.yaml",
    edges.edge_config,
)


def hear(window: Samples) -> Sequence[float]:
    """Two labels that a tone of 3 kHz, and one of 200 Hz, are."""
    return 8 * loudness(window[:, 80:88]) + 2, 8 * loudness(window[:, 8:14]) + 2


BACKEND = FakeBackend(spec_of("Siren", "Rumble", window_frames=50), hear)


def scene(rate: int = RATE) -> Samples:
    """4 s of quiet noise: a siren from 0.75 to 0.95 s and from 3.65 s to the end, a rumble from 1.45 to 3.15 s."""
    at = np.arange(4 * rate) / rate
    sound = np.random.default_rng(4).normal(0, 1e-4, len(at))
    sound += 0.2 * np.sin(2 * np.pi * 3000 * at) * (((at >= 0.75) & (at < 0.95)) | (at >= 3.65))
    sound += 0.2 * np.sin(2 * np.pi * 200 * at) * ((at >= 1.45) & (at < 3.15))
    return sound.astype(np.float32)


def events(messages: list[Message]) -> list[dict[str, Any]]:
    """Without what is another one each time: ids, and the time of day at which one listens."""
    payloads = [dict(m.payload) for m in messages if m.topic == "room/event" and not isinstance(m.payload, str)]
    return [{k: v for k, v in event.items() if k not in {"id", "onset", "offset", "latency_ms"}} for event in payloads]


def told(path: Path) -> list[dict[str, Any]]:
    return events(list(replay(path, SETTINGS, "room", BACKEND)))


def brief(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(e["rule"], e["event_type"], e["onset_s"], e["offset_s"], e["end_reason"]) for e in found]


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sounds.write(tmp_path_factory.mktemp("replay") / "scene.wav", scene(), RATE)


@pytest.fixture
def heard(wav: Path) -> list[dict[str, Any]]:
    """What replay makes of the scene."""
    return told(wav)


def test_events_of_a_scene(heard: list[dict[str, Any]]) -> None:
    assert brief(heard) == [
        ("siren", "start", 0.715, None, None),  # a hop ends 15 ms after its tenth: its last frame reaches that far
        ("rumble", "start", 1.415, None, None),
        ("siren", "end", 0.715, 0.9, "quiet"),
        ("rumble", "end", 1.415, 2.715, "max_duration"),
        ("rumble", "start", 2.715, None, None),
        ("siren", "start", 3.615, None, None),
        ("rumble", "end", 2.715, 3.1, "quiet"),
        ("siren", "end", 3.615, 4.0, "source_end"),
    ]


def test_a_replay_has_no_latency(wav: Path) -> None:
    payloads = [message.payload for message in replay(wav, SETTINGS, "room", BACKEND) if message.topic == "room/event"]
    assert {payload["latency_ms"] for payload in payloads if not isinstance(payload, str)} == {None}


@pytest.mark.parametrize("block_s", [0.002, 0.0371, 0.5, 1.3])
def test_blocks_make_no_difference(
    wav: Path, heard: list[dict[str, Any]], block_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "BLOCK_S", block_s)
    assert told(wav) == heard


def test_live_listening_makes_no_difference(wav: Path, heard: list[dict[str, Any]]) -> None:
    line = build_line(SETTINGS, "room", BACKEND.spec, Stats())
    outputs: list[Scores | SegmentEnd] = []
    failures: list[BaseException] = []
    engine = Engine(BACKEND, [line.stream], outputs.append)
    source = file.FileSource(file.Config(path=wav, realtime=False))
    info = source.open()
    ring, clock = Ring(RATE, info.max_block), Clock(info.sample_rate)
    line.stream.attach(ring, clock, "every")
    engine.start(failures.append)
    source.start(ring, clock)
    wait_for(lambda: failures or (outputs and isinstance(outputs[-1], SegmentEnd)), "the end of the file")
    engine.stop()
    source.close()
    assert failures == []
    assert events([message for output in outputs for message in line.reporter.report(output)]) == heard


def test_a_stereo_file_at_44100_hz(tmp_path: Path, heard: list[dict[str, Any]]) -> None:
    one = scene(44100)
    found = told(sounds.write(tmp_path / "stereo.wav", np.stack((one, 0.5 * one), axis=1), 44100))
    assert brief(found) == brief(heard)


def test_a_file_of_one_second(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "second.wav", scene()[:RATE], RATE)
    assert brief(told(path)) == [
        ("siren", "start", 0.715, None, None),
        ("siren", "end", 0.715, 1.0, "source_end"),
    ]


def test_a_truncated_file_gives_its_events_first(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "cut.wav", scene(), RATE, "PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 2 * round(1.8 * RATE)])
    messages: list[Message] = []
    with pytest.raises(SourceError) as caught:
        messages.extend(replay(path, SETTINGS, "room", BACKEND))
    assert brief(events(messages)) == [
        ("siren", "start", 0.715, None, None),
        ("rumble", "start", 1.415, None, None),
        ("siren", "end", 0.715, 0.9, "quiet"),
        ("rumble", "end", 1.415, 1.8, "source_end"),
    ]
    assert str(caught.value) == (
        f"{path}: truncated: the header promises 4.00 s of sound, the file ends after 1.80 s; copy it again"
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.wav: no such file; check the path"):
        told(tmp_path / "nowhere.wav")
