"""Replay: a recording gives the same events however it is cut, and the same as through the live engine."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from streamer import config, edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Message, Samples, Scores, SegmentEnd
from streamer.engine import Engine
from streamer.errors import ConfigError, SourceError
from streamer.line import build_line
from streamer.replay import is_scores, replay
from streamer.settings import Settings
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


def messages_of(path: Path, settings: Settings = SETTINGS, **options: Any) -> list[Message]:
    return [message for step in replay(path, settings, "room", lambda: BACKEND, **options) for message in step.messages]


def told(path: Path) -> list[dict[str, Any]]:
    return events(messages_of(path))


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
        ("siren", "end", 0.715, 0.95, "quiet"),
        ("rumble", "end", 1.415, 2.715, "max_duration"),
        ("rumble", "start", 2.715, None, None),
        ("siren", "start", 3.615, None, None),
        ("rumble", "end", 2.715, 3.15, "quiet"),
        ("siren", "end", 3.615, 4.0, "source_end"),
    ]


def test_a_replay_has_no_latency(wav: Path) -> None:
    payloads = [message.payload for message in messages_of(wav) if message.topic == "room/event"]
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
    with pytest.raises(SourceError) as caught:  # noqa: PT012  what came before the error counts too
        for step in replay(path, SETTINGS, "room", lambda: BACKEND):
            messages.extend(step.messages)
    assert brief(events(messages)) == [
        ("siren", "start", 0.715, None, None),
        ("rumble", "start", 1.415, None, None),
        ("siren", "end", 0.715, 0.95, "quiet"),
        ("rumble", "end", 1.415, 1.8, "source_end"),
    ]
    assert str(caught.value) == (
        f"{path}: truncated: the header promises 4.00 s of sound, the file ends after 1.80 s; copy it again"
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.wav: no such file; check the path"):
        told(tmp_path / "nowhere.wav")


# -- when a recording begins -------------------------------------------------------------------------------------------


def test_a_recording_begins_when_it_is_said_to(wav: Path) -> None:
    at = datetime(2026, 11, 24, 22, 0, tzinfo=timezone(timedelta(hours=1)))
    onsets = [m.payload["onset"] for m in messages_of(wav, at=at) if m.topic == "room/event"]  # type: ignore[index]
    assert onsets[0] == "2026-11-24T21:00:00.715Z"


def test_else_it_begins_now(wav: Path) -> None:
    before = datetime.now(UTC)
    [start, *_] = [m.payload for m in messages_of(wav) if m.topic == "room/event"]
    begun = datetime.fromisoformat(start["onset"]) - timedelta(seconds=start["onset_s"])  # type: ignore[index, arg-type]
    assert abs(begun - before) < timedelta(seconds=30)


def test_what_rules_say_of_each_window(wav: Path) -> None:
    steps = list(replay(wav, SETTINGS, "room", lambda: BACKEND))
    assert [step.end_s for step in steps[:2]] == pytest.approx([0.115, 0.215])
    assert {tuple(step.why) for step in steps[:-1]} == {("siren", "rumble")}
    assert steps[-1].why == {}, "the end of the sound is no window"


# -- saved scores ------------------------------------------------------------------------------------------------------


def no_model() -> NoReturn:
    raise AssertionError("scores need no model")


@pytest.fixture(scope="module")
def saved(wav: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Message]]:
    """The scene's scores, and what was heard while they were saved."""
    text = StringIO()
    at = datetime(2026, 11, 24, 22, 0, 0, 123_456, UTC)
    messages = messages_of(wav, at=at, save=text)
    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    path.write_text(text.getvalue(), encoding="utf-8")
    return path, messages


def bare(messages: Sequence[Message]) -> list[Message]:
    """Without ids, which are another each time."""
    fresh = {"id": 0, "event_id": 0}
    return [
        m if isinstance(m.payload, str) else Message(m.topic, {**m.payload, **{k: 0 for k in fresh if k in m.payload}})
        for m in messages
    ]


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_scores_replayed_are_the_run_that_saved_them(tmp_path: Path, rate: int) -> None:
    text = StringIO()
    sound = sounds.write(tmp_path / "scene.wav", scene(rate), rate)
    first = messages_of(sound, at=datetime(2026, 11, 24, 22, 0, 0, 123_456, UTC), save=text)
    path = tmp_path / "scores.jsonl"
    path.write_text(text.getvalue(), encoding="utf-8")
    again = [m for step in replay(path, SETTINGS, "room", no_model) for m in step.messages]
    assert bare(again) == bare(first)
    assert len(events(first)) == 8


def test_scores_are_saved_to_the_last_bit(saved: tuple[Path, list[Message]], wav: Path) -> None:
    lines = [json.loads(line) for line in saved[0].read_text().splitlines()]
    line = build_line(SETTINGS, "room", BACKEND.spec, Stats())
    outputs: list[Scores | SegmentEnd] = []
    source = file.FileSource(file.Config(path=wav, realtime=False))
    info = source.open()
    ring, clock = Ring(5 * RATE, info.max_block), Clock(info.sample_rate)
    line.stream.attach(ring, clock, "every")
    for block in source.blocks():
        ring.write(block)
    source.close()
    engine = Engine(BACKEND, [line.stream], outputs.append)
    while engine.step():
        pass
    windows = [output for output in outputs if isinstance(output, Scores)]
    assert len(windows) > 30
    for window, record in zip(windows, lines[1:], strict=False):
        assert (np.array(record["scores"], np.float32) == window.scores).all()


def test_other_rules_on_the_same_scores(saved: tuple[Path, list[Message]]) -> None:
    rules = {"siren": SETTINGS.rules["siren"].model_copy(update={"min_windows": 5, "of_windows": 5})}
    settings = SETTINGS.model_copy(update={"rules": rules})
    messages = [m for step in replay(saved[0], settings, "room", no_model) for m in step.messages]
    assert brief(events(messages)) == [("siren", "start", 0.715, None, None), ("siren", "end", 0.715, 0.95, "quiet")]


def test_scores_know_their_time_unless_told_another(saved: tuple[Path, list[Message]]) -> None:
    def onset(**options: Any) -> Any:
        steps = replay(saved[0], SETTINGS, "room", no_model, **options)
        return next(m.payload["onset"] for s in steps for m in s.messages if m.topic == "room/event")  # type: ignore[index]

    assert onset() == "2026-11-24T22:00:00.838Z"
    assert onset(at=datetime(2027, 1, 1, tzinfo=UTC)) == "2027-01-01T00:00:00.715Z"


def test_the_hop_is_that_of_the_scores(saved: tuple[Path, list[Message]]) -> None:
    slow = SETTINGS.streams["room"].model_copy(update={"hop_s": 1.0})
    settings = SETTINGS.model_copy(update={"streams": {"room": slow}})
    [start, *_] = events([m for step in replay(saved[0], settings, "room", no_model) for m in step.messages])
    assert start["hop_s"] == 0.1


def test_rules_on_labels_that_were_not_scored(saved: tuple[Path, list[Message]]) -> None:
    room = SETTINGS.streams["room"].model_copy(update={"rules": {}})
    settings = SETTINGS.model_copy(update={"streams": {"room": room}})
    with pytest.raises(ConfigError) as caught:
        list(replay(saved[0], settings, "room", no_model))
    assert str(caught.value).startswith(f"{saved[0]}: the rules don't fit its scores of 'Siren', 'Rumble': ")
    assert "'Sneeze'" in str(caught.value)


def test_scores_of_scores_are_refused(saved: tuple[Path, list[Message]]) -> None:
    with pytest.raises(ConfigError) as caught:
        list(replay(saved[0], SETTINGS, "room", no_model, save=StringIO()))
    assert str(caught.value) == f"{saved[0]}: holds scores already; --save-scores is for recordings of sound"


@pytest.mark.parametrize(("cut", "sentence"), [
    (lambda lines: lines[:20], ": breaks off after 1.92 s of sound; "),
    (lambda lines: [*lines[:20], lines[20][:50]], ":21: not JSON, or broken off; "),
    (lambda lines: [*lines[:20], "[1]"], ":21: not a line of scores; "),
    (lambda lines: [*lines[:20], '{"scores":[0.1]}'], ":21: no scores of 2 labels; "),
    (lambda lines: [*lines[:20], lines[20].replace('"scores":[', '"scores":[7,')], ":21: no scores of 2 labels; "),
    (lambda lines: [*lines[:20], lines[20].replace('"end"', '"ende"')], ":21: no scores of 2 labels; "),
])  # fmt: skip
def test_broken_scores_give_their_events_first(
    saved: tuple[Path, list[Message]], tmp_path: Path, cut: Callable[[list[str]], list[str]], sentence: str
) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(cut(saved[0].read_text().splitlines())))
    messages: list[Message] = []
    with pytest.raises(SourceError) as caught:  # noqa: PT012  what came before the error counts too
        for step in replay(path, SETTINGS, "room", no_model):
            messages.extend(step.messages)
    assert str(caught.value) == f"{path}{sentence}save it again with 'streamer detect FILE --save-scores'"
    assert brief(events(messages))[-1][0:2] == ("rumble", "end")
    assert brief(events(messages))[-1][4] == "source_end"


@pytest.mark.parametrize("change", [{"v": 2}, {"source_rate": 0}, {"model": {}}, {"hop_s": None}])
def test_a_header_of_another_streamer(
    saved: tuple[Path, list[Message]], tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "scores.jsonl"
    header = json.loads(saved[0].read_text().splitlines()[0]) | change
    path.write_text(json.dumps(header, separators=(",", ":")))
    with pytest.raises(SourceError) as caught:
        list(replay(path, SETTINGS, "room", no_model))
    assert str(caught.value).startswith(f"{path}:1: no header of scores that this streamer knows (")


def test_how_scores_are_recognised(saved: tuple[Path, list[Message]], wav: Path, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"id":1}\n')
    assert is_scores(saved[0])
    assert not any(is_scores(path) for path in (wav, tmp_path / "other.jsonl", tmp_path, tmp_path / "none"))
