"""A stream: the same windows however sound arrives, and positions that tell when it was captured."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.fbank import FLOOR, fbank, normalise
from streamer.audio.clock import Clock
from streamer.audio.resample import Resampler
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples, SegmentEnd, Window
from streamer.stats import Stats
from streamer.stream import Late, Stream
from tests.fakes import spec_of

RATE = 16000  # Hz, the model's
SPEC = spec_of("Siren", window_frames=40)
HOP_S = 0.1
HOP = 1600  # samples
FIRST = 9 * 160 + 400  # samples that the first hop's 10 frames span
SIZE = 39 * 160 + 400  # samples that a window of 40 frames spans
EPOCH = datetime(2026, 11, 22, 12, tzinfo=UTC)
SILENT = normalise(np.log(np.full((1, 128), FLOOR, np.float32)), SPEC.fbank)[0]
NOISE = np.random.default_rng(2).normal(0, 0.1, 3 * 48000).astype(np.float32)


class Opening:
    """One opening of a source: its ring, and a clock that says position 0 was captured at `captured` s after EPOCH."""

    def __init__(self, stream: Stream, rate: int = RATE, late: Late = "every", size_s: float = 30, captured: float = 0):
        self.ring = Ring(int(size_s * rate), rate // 4)
        self.clock = Clock(rate, monotonic=lambda: 0.0, utc=EPOCH.timestamp)
        self.clock.anchor(0, captured)
        stream.attach(self.ring, self.clock, late)

    def write(self, samples: Samples) -> None:
        for start in range(0, len(samples), self.ring.max_block):
            self.ring.write(samples[start : start + self.ring.max_block])


def kept(output: Window | SegmentEnd) -> Window | SegmentEnd:
    """With frames of its own: the stream's are overwritten by the next poll."""
    if isinstance(output, SegmentEnd):
        return output
    names = output.__slots__
    return Window(**{name: getattr(output, name) for name in names} | {"fbank": output.fbank.copy()})


def ready(stream: Stream) -> list[Window | SegmentEnd]:
    """Everything a stream has to give now."""
    outputs = []
    while (output := stream.poll()) is not None:
        outputs.append(kept(output))
    return outputs


def windows(outputs: Iterable[Window | SegmentEnd]) -> list[Window]:
    return [output for output in outputs if isinstance(output, Window)]


def listen(samples: Samples, rate: int = RATE, cuts: Sequence[int] = ()) -> list[Window | SegmentEnd]:
    """What a stream gives of `samples`, written in pieces between `cuts` and polled after each of them."""
    stream = Stream("mic", SPEC, HOP_S)
    opening = Opening(stream, rate)
    outputs = []
    for piece in np.split(samples, sorted(cuts)):
        opening.write(piece)
        outputs += ready(stream)
    opening.ring.close(Reason.SOURCE_END)
    return outputs + ready(stream)


def offline(samples: Samples, n_frames: int) -> Samples:
    """The last 40 of the first `n_frames` frames of a whole clip, with silence before the first."""
    frames = normalise(fbank(samples, SPEC.fbank), SPEC.fbank)[:n_frames]
    return np.concatenate((np.tile(SILENT, (40, 1)), frames))[-40:]


# -- chunks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 22050, 8000])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_windows_do_not_depend_on_blocks(rate: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, round(0.9 * rate)))
    cuts = data.draw(st.lists(st.integers(0, n), max_size=12))
    at_once, in_pieces = listen(NOISE[:n], rate), listen(NOISE[:n], rate, cuts)
    for one, other in zip(at_once, in_pieces, strict=True):
        if isinstance(one, SegmentEnd) or isinstance(other, SegmentEnd):
            assert one == other
            continue
        assert (one.start, one.end, one.hop, one.coverage) == (other.start, other.end, other.hop, other.coverage)
        np.testing.assert_allclose(other.fbank, one.fbank, atol=1e-5)
        assert other.level.rms_dbfs == pytest.approx(one.level.rms_dbfs, abs=1e-3)


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 8000])
def test_windows_hold_the_frames_of_the_whole_clip(rate: int) -> None:
    samples = NOISE[: round((FIRST + 18 * HOP + 200) * rate / RATE)]  # 19 hops, the last held back, and one frame more
    resampler = Resampler(rate, RATE)
    clip = np.concatenate((resampler.accept(samples), resampler.finish()))
    heard = windows(listen(samples, rate))
    assert len(heard) == 20
    for i, window in enumerate(heard):
        n_frames = min(10 * (i + 1), SPEC.fbank.frames(len(clip)))
        np.testing.assert_allclose(window.fbank, offline(clip, n_frames), atol=1e-5)


# -- positions ---------------------------------------------------------------------------------------------------------


def test_where_windows_lie() -> None:
    *heard, end = listen(NOISE[: FIRST + 5 * HOP])
    first, second, *_, last = windows(heard)
    assert (first.start, first.end, first.hop, first.coverage) == (FIRST - SIZE, FIRST, FIRST, 0.25)
    assert (second.start, second.end, second.hop, second.coverage) == (FIRST + HOP - SIZE, FIRST + HOP, HOP, 0.5)
    assert (last.start, last.end, last.hop, last.coverage) == (FIRST + 5 * HOP - SIZE, FIRST + 5 * HOP, HOP, 1.0)
    assert [window.coverage for window in windows(heard)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert end == SegmentEnd("mic", FIRST + 5 * HOP, Reason.SOURCE_END)


def test_a_hop_is_ready_with_its_last_sample() -> None:
    stream = Stream("mic", SPEC, HOP_S)
    opening = Opening(stream)
    opening.write(NOISE[: FIRST - 1])
    assert ready(stream) == []
    opening.write(NOISE[FIRST - 1 : FIRST])
    assert len(ready(stream)) == 1
    opening.write(NOISE[FIRST : FIRST + HOP - 1])
    assert ready(stream) == []


def test_the_true_sizes_of_the_model() -> None:
    stream = Stream("mic", spec_of("Siren"), 1.0)
    opening = Opening(stream)
    opening.write(np.zeros(12 * RATE, np.float32))
    heard = windows(ready(stream))
    assert [window.end for window in heard] == [16240 + 16000 * i for i in range(11)]
    assert {window.end - window.start for window in heard} == {164_080}
    assert [window.coverage for window in heard][-3:] == [900 / 1024, 1000 / 1024, 1.0]
    assert {window.fbank.shape for window in heard} == {(1024, 128)}


@pytest.mark.parametrize(("n", "frames"), [
    (400, [1]),
    (16000, [98]),         # a second: too little for a hop of 100 frames, heard all the same
    (16240, [100]),
    (16399, [100]),
    (16400, [100, 101]),   # one frame more is a window more
])  # fmt: skip
def test_a_short_sound_is_heard_to_its_last_frame(n: int, frames: list[int]) -> None:
    stream = Stream("mic", spec_of("Siren"), 1.0)
    opening = Opening(stream)
    opening.write(NOISE[:n])
    opening.ring.close(Reason.SOURCE_END)
    outputs = ready(stream)
    assert [window.end for window in windows(outputs)] == [SPEC.fbank.samples(n_frames) for n_frames in frames]
    assert [window.coverage for window in windows(outputs)] == [n_frames / 1024 for n_frames in frames]
    assert outputs[-1] == SegmentEnd("mic", n, Reason.SOURCE_END)


@pytest.mark.parametrize("n", [0, 1, 399])
def test_less_than_a_frame_has_no_window(n: int) -> None:
    assert listen(NOISE[:n]) == [SegmentEnd("mic", n, Reason.SOURCE_END)]


@pytest.mark.parametrize("reason", [Reason.SOURCE_END, Reason.SOURCE_LOST, Reason.STOP])
def test_an_opening_ends_once_with_its_reason(reason: Reason) -> None:
    stream = Stream("mic", SPEC, HOP_S)
    opening = Opening(stream, 48000)
    opening.write(NOISE[:30_001])
    opening.ring.close(reason)
    assert [output for output in ready(stream) if isinstance(output, SegmentEnd)] == [SegmentEnd("mic", 10_000, reason)]
    assert stream.poll() is None


# -- openings ----------------------------------------------------------------------------------------------------------


def test_another_opening_goes_on_counting_and_begins_with_silence() -> None:
    stream = Stream("mic", SPEC, HOP_S)
    first, second = Opening(stream, 48000, captured=100), Opening(stream, captured=200)
    second.write(NOISE[:16000])
    first.write(NOISE[:48000])
    heard = windows(ready(stream))
    assert heard[-1].end <= 16000, "the first one may go on"
    first.ring.close(Reason.SOURCE_LOST)
    outputs = ready(stream)
    end = next(i for i, output in enumerate(outputs) if isinstance(output, SegmentEnd))
    assert outputs[end] == SegmentEnd("mic", 16000, Reason.SOURCE_LOST)
    window = outputs[end + 1]
    assert isinstance(window, Window)
    assert (window.start, window.end, window.hop) == (16000 + FIRST - SIZE, 16000 + FIRST, FIRST)
    assert window.coverage == 0.25
    np.testing.assert_allclose(window.fbank, offline(NOISE[:16000], 10), atol=1e-5)
    assert stream.captured(15_999) == pytest.approx(100 + 15_999 / RATE)
    assert stream.captured(16_000) == pytest.approx(200)


def test_a_block_that_comes_after_the_end_does_not_keep_the_next_opening_from_beginning() -> None:
    stream = Stream("mic", SPEC, HOP_S)
    first, second = Opening(stream, 48000), Opening(stream)
    first.write(NOISE[:29_760])
    ready(stream)
    first.ring.close(Reason.PAUSE)
    assert isinstance(stream.poll(), Window), "the last, over what is left"
    first.write(NOISE[:1440])  # its writer is being ended
    second.write(NOISE[:16000])
    end, *heard = ready(stream)
    assert end == SegmentEnd("mic", 9_920, Reason.PAUSE)
    assert len(windows(heard)) == 9


def test_capture_times_follow_the_clock() -> None:
    stream = Stream("mic", SPEC, HOP_S)
    opening = Opening(stream, 48000, captured=5.0)
    opening.clock.anchor(24_000, 7.5)  # two seconds were lost on the way
    opening.write(NOISE[:48000])
    ready(stream)
    assert stream.captured(0) == pytest.approx(5.0)
    assert stream.captured(7_999) == pytest.approx(5.0 + 7_999 / RATE)
    assert stream.captured(8_000) == pytest.approx(7.5)
    assert stream.utc(8_000) == EPOCH + timedelta(seconds=7.5)
    assert stream.utc(12_000) == EPOCH + timedelta(seconds=7.75)


# -- a model that is late ----------------------------------------------------------------------------------------------


def backlog(late: Late) -> tuple[list[Window], Stats]:
    """What a stream gives of one hop, then of five and a half that wait."""
    stats = Stats()
    stream = Stream("mic", SPEC, HOP_S, stats=stats)
    opening = Opening(stream, late=late)
    opening.write(NOISE[:FIRST])
    heard = ready(stream)
    opening.write(NOISE[FIRST : FIRST + 5 * HOP + HOP // 2])
    return windows(heard + ready(stream)), stats


def test_every_window_of_a_backlog() -> None:
    heard, stats = backlog("every")
    assert [(window.end, window.hop) for window in heard[1:]] == [(FIRST + i * HOP, HOP) for i in range(1, 6)]
    assert "skipped" not in stats.snapshot()


def test_the_latest_window_of_a_backlog() -> None:
    heard, stats = backlog("latest")
    assert [(window.end, window.hop) for window in heard] == [(FIRST, FIRST), (FIRST + 5 * HOP, 5 * HOP)]
    np.testing.assert_allclose(heard[1].fbank, offline(NOISE[: FIRST + 5 * HOP], 60), atol=1e-5)
    assert stats.snapshot()["skipped"] == 4


def paced(factor: int, n_hops: int, late: Late = "back_off") -> tuple[list[Window], Stats]:
    """What a stream that was slowed down gives of hops that come one by one."""
    stats = Stats()
    stream = Stream("mic", SPEC, HOP_S, stats=stats)
    opening = Opening(stream, late=late)
    stream.slow_down(factor)
    heard = []
    for end in range(FIRST, FIRST + n_hops * HOP, HOP):
        opening.write(NOISE[max(0, end - HOP) if end > FIRST else 0 : end])
        heard += windows(ready(stream))
    return heard, stats


def test_a_stream_that_backs_off_gives_the_newest_of_several_hops() -> None:
    heard, stats = paced(2, 7)
    assert [(window.end, window.hop) for window in heard] == [
        (FIRST + HOP, FIRST + HOP), (FIRST + 3 * HOP, 2 * HOP), (FIRST + 5 * HOP, 2 * HOP)
    ]  # fmt: skip
    np.testing.assert_allclose(heard[-1].fbank, offline(NOISE, 60), atol=1e-5)
    assert stats.snapshot()["skipped"] == 4, "what nobody looks at is counted"


@pytest.mark.parametrize("late", ["latest", "every"])
def test_others_do_not_back_off(late: Late) -> None:
    heard, stats = paced(2, 7, late)
    assert [window.end for window in heard] == [FIRST + i * HOP for i in range(7)]
    assert "skipped" not in stats.snapshot()


@pytest.mark.parametrize(("hop_s", "window_frames", "most"), [
    (0.1, 1024, 32), (0.25, 1024, 16), (1.0, 1024, 4), (2.0, 1024, 2), (4.0, 1024, 1), (30.0, 1024, 1), (0.1, 40, 2),
])  # fmt: skip
def test_a_sound_is_in_two_windows_at_least_however_rarely_we_look(hop_s: float, window_frames: int, most: int) -> None:
    stream = Stream("mic", spec_of("Siren", window_frames=window_frames), hop_s)
    assert stream.most_stride == most
    stream.slow_down(1024)
    opening = Opening(stream, late="back_off", size_s=100)
    ends = []
    for _ in range(900):
        opening.write(np.zeros(HOP, np.float32))
        ends += [window.end for window in windows(ready(stream))]
    assert set(np.diff(ends)) == {round(most * hop_s * RATE)}


def test_the_level_is_that_of_the_loudest_hop_that_is_new() -> None:
    stream = Stream("mic", SPEC, HOP_S)
    opening = Opening(stream, late="back_off")
    stream.slow_down(2)
    for piece in (silence(FIRST), NOISE[:HOP], silence(HOP), silence(HOP)):
        opening.write(piece)
        for window in windows(ready(stream)):
            assert window.level.rms_dbfs == pytest.approx(-20 if window.end == FIRST + HOP else -60, abs=0.5)
            assert window.level.is_constant == (window.end > FIRST + HOP)


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 8000])
@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
def test_a_dead_microphone_is_constant_whatever_its_rate(rate: int, value: float) -> None:
    stream = Stream("mic", SPEC, HOP_S)
    opening = Opening(stream, rate)
    dead = np.full(rate, value, np.float32)
    for piece, constant in ((dead, {True}), (NOISE[:rate], {False}), (dead, {False, True}), (dead, {True})):
        opening.write(piece)
        heard = windows(ready(stream))
        assert {window.level.is_constant for window in heard} == constant
    opening.write(np.where(np.arange(rate) == rate // 2, 0.1, dead))
    assert [window.level.is_constant for window in windows(ready(stream))[-4:]] == [True] * 4
    opening.ring.close(Reason.STOP)
    assert all(window.level.is_constant for window in windows(ready(stream)))


# -- when it is worth a poll -------------------------------------------------------------------------------------------


def test_due_since_its_last_sample_was_captured() -> None:
    stream = Stream("mic", SPEC, HOP_S)
    assert stream.due() is None
    opening = Opening(stream, captured=50.0)
    assert stream.due() == -np.inf, "an opening begins"
    assert stream.poll() is None
    opening.write(NOISE[: FIRST - 1])
    assert stream.due() is None
    opening.write(NOISE[FIRST - 1 : FIRST + HOP])
    assert stream.due() == pytest.approx(50 + FIRST / RATE)
    stream.poll()
    assert stream.due() == pytest.approx(50 + (FIRST + HOP) / RATE)
    stream.poll()
    assert stream.due() is None
    opening.ring.close(Reason.SOURCE_END)
    assert stream.due() == -np.inf, "an opening ends"
    stream.poll()
    assert stream.due() is None


@pytest.mark.parametrize(("size", "block"), [(3200, 1600), (6400, 1600), (320_000, 1600), (2, 1), (16_000, 5000)])
@pytest.mark.parametrize("hop_s", [0.1, 2.5])
def test_a_source_that_waits_for_room_meets_a_stream_that_waits_for_sound(size: int, block: int, hop_s: float) -> None:
    stream = Stream("mic", SPEC, hop_s)
    ring = Ring(size, block)
    stream.attach(ring, Clock(RATE), "every")
    written = n_windows = 0
    while written < 20_000 * min(1, size // 20):
        is_moving = ring.room >= block
        if is_moving:
            ring.write(NOISE[written : written + block])
            written += block
        while stream.due() is not None:
            is_moving = True
            n_windows += stream.poll() is not None
        assert is_moving
    assert (n_windows > 0) == (written > hop_s * RATE)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_sound_that_was_overwritten(rate: int, caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats()
    stream = Stream("mic", SPEC, HOP_S, stats=stats)
    opening = Opening(stream, rate, size_s=1, captured=50.0)
    samples = NOISE[: 3 * rate]
    opening.write(samples[: rate // 2])
    before = windows(ready(stream))
    opening.write(samples[rate // 2 :])
    opening.ring.close(Reason.SOURCE_END)
    *after, end = ready(stream)
    resumed = 3 * RATE - RATE // 2  # the ring keeps a second; one longest block is the writer's, one is the margin
    assert stats.snapshot()["overruns"] == 1
    assert caplog.messages == ["stream mic: 2.00 s of sound lost, the model is too slow for it"]
    window = windows(after)[0]
    assert (window.start, window.end, window.hop) == (resumed + FIRST - SIZE, resumed + FIRST, FIRST)
    assert window.coverage == 0.25
    resampler = Resampler(rate, RATE)
    clip = np.concatenate((resampler.accept(samples[-rate // 2 :]), resampler.finish()))
    np.testing.assert_allclose(window.fbank, offline(clip, 10), atol=1e-5)
    assert end == SegmentEnd("mic", 3 * RATE, Reason.SOURCE_END), "positions count what was lost"
    for position in (0, before[-1].end, resumed, window.end, 3 * RATE):
        assert stream.captured(position) == pytest.approx(50 + position / RATE, abs=1e-4)


# -- the gate ----------------------------------------------------------------------------------------------------------


def gated(*pieces: Samples) -> list[Window]:
    stream = Stream("mic", SPEC, HOP_S, gate_dbfs=-50)
    opening = Opening(stream)
    opening.write(np.concatenate(pieces))
    return windows(ready(stream))


def silence(n: int) -> Samples:
    return np.full(n, 1e-3, np.float32)  # -60 dBFS


def test_a_window_is_gated_when_all_of_it_is_quiet() -> None:
    heard = gated(silence(FIRST + HOP), NOISE[:HOP], silence(6 * HOP), NOISE[:HOP])
    assert "".join("-" if window.is_gated else "#" for window in heard) == "--#####--#"
    quiet = np.max([window.fbank.max() for window in heard if window.is_gated])
    assert quiet < 0 < np.min([window.fbank.max() for window in heard if not window.is_gated])


def test_without_a_gate_nothing_is_gated() -> None:
    assert not any(window.is_gated for window in windows(listen(np.zeros(16000, np.float32))))
