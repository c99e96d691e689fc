"""The engine: ready streams share a forward pass, and every output arrives once, in order."""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from models.spec import Activation
from streamer import engine
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.backends.base import activate
from streamer.core import Reason, Samples, Scores, SegmentEnd
from streamer.engine import Engine
from streamer.errors import BackendError
from streamer.stats import Stats
from streamer.stream import Late, Stream
from tests.fakes import FakeBackend, loudness, spec_of, wait_for

SPEC = spec_of("Siren", "Quiet", window_frames=40)
FIRST = 9 * 160 + 400  # samples of the first hop of 0.1 s
HOP = 1600
SIZE = 39 * 160 + 400  # samples of a window
NOISE = np.random.default_rng(3).normal(0, 0.1, 16000).astype(np.float32)
SILENCE = np.zeros(16000, np.float32)


def hear(window: Samples) -> Sequence[float]:
    return (4.0, -4.0) if loudness(window) > 0 else (-4.0, 4.0)


class Room:
    """Streams in front of a fake model, and what came out."""

    def __init__(self, *names: str, gate_dbfs: float | None = None, backend: FakeBackend | None = None) -> None:
        self.backend = backend or FakeBackend(SPEC, hear)
        self.stats = Stats()
        self.outputs: list[Scores | SegmentEnd] = []
        streams = [Stream(name, SPEC, 0.1, gate_dbfs) for name in names]
        self.streams = dict(zip(names, streams, strict=True))
        self.rings = {name: Ring(64000, 16000) for name in names}
        for stream in streams:
            stream.attach(self.rings[stream.stream_id], Clock(16000), "every")
        self.engine = Engine(self.backend, streams, self.outputs.append, self.stats)

    def said(self) -> list[tuple[str, int, str]]:
        """Stream, position and best label of every output since the last time."""
        told = [
            (output.stream_id, output.end, SPEC.labels[int(output.scores.argmax())])
            if isinstance(output, Scores)
            else (output.stream_id, output.at, output.reason.value)
            for output in self.outputs
        ]
        self.outputs.clear()
        return told


def test_a_step_without_sound_does_nothing() -> None:
    room = Room("a", "b")
    assert room.engine.step() is False
    assert (room.outputs, room.backend.batches) == ([], [])


def test_streams_that_are_ready_share_one_forward_pass() -> None:
    room = Room("a", "b", "c")
    room.rings["a"].write(NOISE[: FIRST + HOP])
    room.rings["c"].write(SILENCE[:FIRST])
    assert room.engine.step() is True
    assert room.backend.batches == [2]
    assert room.said() == [("a", FIRST, "Siren"), ("c", FIRST, "Quiet")]
    room.rings["b"].write(NOISE[:FIRST])
    assert room.engine.step() is True
    assert room.backend.batches == [2, 2]
    assert room.said() == [("b", FIRST, "Siren"), ("a", FIRST + HOP, "Siren")], "who had no turn yet is first"
    assert room.engine.step() is False


def test_scores_belong_to_their_window() -> None:
    room = Room("a")
    room.rings["a"].write(NOISE[:FIRST])
    room.engine.step()
    [scores] = room.outputs
    assert isinstance(scores, Scores)
    assert (scores.stream_id, scores.start, scores.end, scores.hop) == ("a", FIRST - SIZE, FIRST, FIRST)
    assert scores.level.rms_dbfs == pytest.approx(-20, abs=0.5)
    np.testing.assert_allclose(scores.scores, [1 / (1 + np.exp(-4)), 1 / (1 + np.exp(4))], rtol=1e-6)
    assert scores.scores.dtype == np.float32


def test_the_end_of_a_stream_comes_after_its_scores_and_beside_the_others() -> None:
    room = Room("a", "b")
    room.rings["a"].write(NOISE[:FIRST])
    room.rings["a"].close(Reason.SOURCE_LOST)
    room.rings["b"].write(NOISE[: FIRST + HOP])
    while room.engine.step():
        pass
    assert room.said() == [
        ("a", FIRST, "Siren"), ("b", FIRST, "Siren"),
        ("a", FIRST, "source_lost"), ("b", FIRST + HOP, "Siren"),
    ]  # fmt: skip


def test_gated_windows_score_zero_without_the_model() -> None:
    room = Room("a", "b", gate_dbfs=-50)
    room.rings["a"].write(SILENCE[:FIRST])
    room.rings["b"].write(NOISE[:FIRST])
    room.engine.step()
    room.rings["a"].write(SILENCE[:HOP])
    room.engine.step()
    assert room.backend.batches == [1], "only the loud one"
    quiet, loud, still_quiet = (output for output in room.outputs if isinstance(output, Scores))
    assert (quiet.stream_id, loud.stream_id, still_quiet.stream_id) == ("a", "b", "a")
    np.testing.assert_array_equal([quiet.scores, still_quiet.scores], np.zeros((2, 2)))
    assert loud.scores.max() > 0.9
    assert (room.stats.snapshot()["windows"], room.stats.snapshot()["gated"]) == (3, 2)


# -- under load --------------------------------------------------------------------------------------------------------


class Rush:
    """Live streams, of hops of 0.1 s and `others_s`, whose model needs `window_s` a window, in a time of their own.

    Of the first `n_patient` every window is wanted.
    """

    def __init__(
        self, n_streams: int, window_s: float, late: Late = "back_off", *others_s: float, n_patient: int = 0
    ) -> None:
        self.now = 0.0
        self.window_s = window_s
        self.stats = Stats()
        hops_s = {f"mic{i}": hop_s for i, hop_s in enumerate((0.1,) * n_streams + others_s)}
        self.waits: dict[str, list[float]] = {name: [] for name in hops_s}
        self.hops: dict[str, list[int]] = {name: [] for name in self.waits}
        self.backend = FakeBackend(SPEC, self._hear)
        self.streams = {name: Stream(name, SPEC, hop_s, stats=self.stats) for name, hop_s in hops_s.items()}
        self.rings = {name: Ring(20 * 16000, 1600) for name in self.waits}
        for i, (name, stream) in enumerate(self.streams.items()):
            clock = Clock(16000, lambda: self.now)
            clock.anchor(0, 0.0)
            stream.attach(self.rings[name], clock, "every" if i < n_patient else late)
        self.engine = Engine(self.backend, self.streams.values(), self._note, self.stats, lambda: self.now)

    def _hear(self, window: Samples) -> Sequence[float]:
        self.now += self.window_s
        return 0.0, 0.0

    def _note(self, output: Scores | SegmentEnd) -> None:
        assert isinstance(output, Scores)
        self.waits[output.stream_id].append(self.now - output.end / 16000)
        self.hops[output.stream_id].append(output.hop)

    def live(self, seconds: float) -> None:
        """Let sound come in, and step whenever there is time."""
        until = self.now + seconds
        while self.now < until:
            for ring in self.rings.values():
                while ring.written + 160 <= self.now * 16000:
                    ring.write(NOISE[:160])
            if not self.engine.step():
                self.now += 0.01

    def forget(self) -> None:
        for kept in (self.waits, self.hops):
            for values in kept.values():
                values.clear()

    @property
    def hop_factor(self) -> float | dict[str, float]:
        return self.stats.snapshot()["hop_factor"]


@pytest.mark.parametrize("late", ["back_off", "latest"])
def test_no_stream_is_starved_and_none_is_heard_late(late: Late) -> None:
    rush = Rush(10, 0.03, late)  # three times what the model bears
    rush.live(20)
    counts = [len(waits) for waits in rush.waits.values()]
    assert max(counts) - min(counts) <= 2
    assert max(max(waits) for waits in rush.waits.values()) < 0.1 + 0.03 + 0.25, "a hop, a pass, and drivers' lumps"


def test_the_stream_that_waits_longest_is_next() -> None:
    rush = Rush(5, 0.3, "every")  # a pass holds one window
    rush.live(1.2)
    heard = [name for name, waits in rush.waits.items() if waits]
    rush.live(0.6)
    assert heard == ["mic0", "mic1", "mic2", "mic3"], "the first pass was made before the model's pace was known"
    assert len(rush.waits["mic4"]) == 1


def test_a_pass_holds_as_many_windows_as_its_time_allows() -> None:
    fast, slow = Rush(20, 0.003), Rush(20, 0.06)
    for rush in (fast, slow):
        rush.live(5)
        assert rush.backend.batches[0] == 4, "nothing is known of the model yet"
    assert max(fast.backend.batches) == 10
    assert set(slow.backend.batches[10:]) == {1}


def test_no_ring_overflows_behind_a_hop_that_is_longer_than_it() -> None:
    rush = Rush(6, 0.1, "latest", 30.0)
    rush.live(70)
    assert "overruns" not in rush.stats.snapshot()
    assert len(rush.waits["mic6"]) == 2


def test_what_may_lose_nothing_loses_nothing() -> None:
    rush = Rush(3, 0.05, "every")  # once and a half what the model bears
    rush.live(30)
    assert all(hop in (FIRST, HOP) for hops in rush.hops.values() for hop in hops)
    assert "skipped" not in rush.stats.snapshot()
    assert rush.hop_factor == 1


def test_hops_grow_under_load_and_shrink_after_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rush = Rush(6, 0.025)
    rush.live(30)
    assert rush.hop_factor == 2
    rush.forget()
    rush.live(10)
    assert {hop for hops in rush.hops.values() for hop in hops} == {2 * HOP}, "regular, and true"
    rush.window_s = 0.001
    rush.live(60)
    assert rush.hop_factor == 1
    rush.forget()
    rush.live(2)
    assert {hop for hops in rush.hops.values() for hop in hops} == {HOP}
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "the model can't keep up: hops are 2 times as long from now on"),
        ("INFO", "the model has room again: hops are as configured"),
    ]


def test_a_model_that_is_too_slow_for_the_longest_hop_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    rush = Rush(6, 0.1)
    rush.live(120)
    assert rush.hop_factor == 2
    assert caplog.messages == [
        "the model can't keep up: hops are 2 times as long from now on",
        "the model can't keep up: hops are 2 times as long, and that is not enough, windows are skipped",
    ]


def test_one_that_backs_off_does_so_beside_many_that_do_not() -> None:
    rush = Rush(10, 0.03, n_patient=9)  # three times what the model bears
    rush.live(15)
    assert rush.hop_factor == 2
    rush.window_s = 0.004
    rush.live(60)
    assert rush.hop_factor == 1
    assert set(rush.hops["mic9"][-10:]) == {HOP}


@pytest.mark.parametrize(("activation", "expected"), [
    ("sigmoid", [[0.5, 0.880797, 0.119203], [1.0, 0.0, 0.5]]),
    ("softmax", [[0.114195, 0.843795, 0.042010], [1.0, 0.0, 0.0]]),
])  # fmt: skip
def test_activation(activation: Activation, expected: list[list[float]]) -> None:
    logits = np.array([[0, 2, -2], [1000, -1000, 0]], np.float32)
    if activation == "softmax":
        logits[0] = [0, 2, -1]
    scores = activate(logits, activation)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float32


# -- its thread --------------------------------------------------------------------------------------------------------


def unexpected(error: BaseException) -> None:
    raise AssertionError("the engine failed") from error


def test_the_thread_scores_what_comes_in() -> None:
    room = Room("a")
    room.engine.start(unexpected)
    room.rings["a"].write(NOISE[: FIRST + HOP])
    wait_for(lambda: len(room.outputs) == 2, "two windows")
    room.engine.stop()
    assert room.said() == [("a", FIRST, "Siren"), ("a", FIRST + HOP, "Siren")]


def test_stop_drains_what_is_queued_and_ends_the_thread() -> None:
    room = Room("a")
    room.rings["a"].write(NOISE[: FIRST + 3 * HOP])
    room.rings["a"].close(Reason.STOP)
    room.engine.start(unexpected)
    room.engine.stop()
    assert [at for _, at, _ in room.said()] == [FIRST, FIRST + HOP, FIRST + 2 * HOP, FIRST + 3 * HOP, FIRST + 3 * HOP]
    assert "engine" not in {thread.name for thread in threading.enumerate()}


def test_stop_without_a_thread() -> None:
    Room("a").engine.stop()


class Broken(FakeBackend):
    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        raise BackendError("the model melted")


def test_a_model_that_breaks_is_told_and_ends_the_thread() -> None:
    room = Room("a", backend=Broken(SPEC, hear))
    failures: list[BaseException] = []
    room.engine.start(failures.append)
    room.rings["a"].write(NOISE[:FIRST])
    wait_for(lambda: failures, "the failure")
    room.engine.stop()
    assert [str(error) for error in failures] == ["the model melted"]
    assert room.outputs == []
    assert "engine" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_sound_wakes_the_engine_when_it_completes_a_hop(monkeypatch: pytest.MonkeyPatch, sample_rate: int) -> None:
    """Where nothing is polled unasked, every window still comes, whatever the resampler holds back."""
    room, failures = Room("a"), list[BaseException]()
    ring = Ring(10 * sample_rate, sample_rate)
    room.engine.step()  # begins the opening that Room attached; another follows it
    room.rings["a"].close(Reason.PAUSE)
    room.streams["a"].attach(ring, Clock(sample_rate), "every")
    room.engine.step()
    room.engine.step()
    monkeypatch.setattr(engine, "IDLE_S", 1000.0)
    room.engine.start(failures.append)
    for start in range(0, sample_rate, 441):
        ring.write(np.zeros(min(441, sample_rate - start), np.float32))
    wait_for(lambda: sum(isinstance(output, Scores) for output in room.outputs) == 9, "the windows of a second")
    ring.close(Reason.SOURCE_END)
    wait_for(lambda: isinstance(room.outputs[-1], SegmentEnd) and len(room.outputs) > 9, "the end")
    assert room.engine.stop()
    assert failures == []
