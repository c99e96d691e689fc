"""Hours of a room as the model heard them: from recordings, from saved scores, or live. What `calibrate` learns from.

In: sound or scores. Out: stretches of windows without a break, in memory: four bytes a label and window.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import numpy.typing as npt

from models.spec import ModelSpec
from streamer import edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.backends.base import Backend
from streamer.core import Level, Reason, Samples, Scores, SegmentEnd
from streamer.engine import Engine
from streamer.errors import ConfigError, DeviceLost
from streamer.line import build_line
from streamer.replay import header_of, is_scores, replay, write_header, write_output
from streamer.settings import Settings
from streamer.stats import Stats

Positions = npt.NDArray[np.int64]
IDLE_S = 0.02  # between looks at a live source: short beside a hop
RING_S = 20.0  # seconds of live sound kept for a model that is late, as the daemon does
STALL_S = 10.0  # no block for so long: the device is gone. Nobody waits for news here, so there is time


@dataclass(frozen=True, slots=True)
class Stretch:
    """n windows of one source without a break: positions in samples at the model's rate, from the source's start."""

    source: str
    begins: float | None  # of the source, seconds since 1970; None: nobody knows
    rate: int
    start: Positions
    end: Positions
    hop: Positions
    scores: Samples  # n C
    level_dbfs: npt.NDArray[np.float64]

    def window(self, i: int) -> Scores:
        """The `i`-th window as rules take it."""
        level = Level(float(self.level_dbfs[i]), float(self.level_dbfs[i]), 0)
        return Scores(self.source, int(self.start[i]), int(self.end[i]), int(self.hop[i]), self.scores[i], level)

    def part(self, first: int, last: int) -> "Stretch":
        """Windows `first` to before `last`."""
        cut = slice(first, last)
        return replace(
            self,
            start=self.start[cut],
            end=self.end[cut],
            hop=self.hop[cut],
            scores=self.scores[cut],
            level_dbfs=self.level_dbfs[cut],
        )


@dataclass(frozen=True, slots=True)
class Room:
    """All that was heard, by one model at one hop."""

    spec: ModelSpec
    hop_s: float
    stretches: tuple[Stretch, ...]

    @property
    def hours(self) -> float:
        """Heard."""
        return sum(int(each.hop.sum()) for each in self.stretches) / self.spec.fbank.sample_rate / 3600


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of a source, as `room.wav:3605-3620`."""

    source: str
    from_s: float
    to_s: float


def heard(
    path: Path, settings: Settings, stream: str, backend: Callable[[], Backend], tick: Callable[[float], object]
) -> Iterator[Stretch]:
    """The stretches of a recording of sound, or of scores.

    Args:
        path: of it.
        settings: the hop, and what the gate keeps from the model.
        stream: whose.
        backend: loads the model; not called for scores.
        tick: is told the seconds heard since it was told before.

    Raises:
        SourceError: it can't be read.
    """
    settings = settings.model_copy(update={"rules": {}})
    header, last_s = header_of(path) if is_scores(path) else None, 0.0
    rate = (header.spec if header else backend().spec).fbank.sample_rate
    windows: list[Scores] = []
    for step in replay(path, settings, stream, backend):
        tick(step.end_s - last_s)
        last_s = step.end_s
        if isinstance(step.output, Scores):
            windows.append(step.output)
        elif windows:
            yield stretch(str(path), header.begins if header else None, rate, windows)
            windows = []


def stretch(source: str, begins: float | None, rate: int, windows: Iterable[Scores]) -> Stretch:
    """Windows in a row as arrays."""
    rows = list(windows)
    start, end, hop = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("start", "end", "hop"))
    level = np.array([row.level.rms_dbfs for row in rows])
    return Stretch(source, begins, rate, start, end, hop, np.stack([row.scores for row in rows]), level)


def without(room: Room, spans: Iterable[Span]) -> Room:
    """The room less all windows that hold anything of `spans`.

    Raises:
        ConfigError: no source has such a name, or several have.
    """
    known = list(dict.fromkeys(each.source for each in room.stretches))
    parts = list(room.stretches)
    for span in spans:
        named = [name for name in known if name == span.source] or [n for n in known if Path(n).name == span.source]
        if len(named) > 1:
            raise ConfigError(f"--exclude: {span.source!r} may be each of {', '.join(named)}; write one of these")
        if not named:
            raise ConfigError(f"--exclude: no recording {span.source!r} was given; known: {', '.join(known)}")
        parts = [part for each in parts for part in (_less(each, span) if each.source == named[0] else [each])]
    return replace(room, stretches=tuple(parts))


def _less(each: Stretch, span: Span) -> Iterator[Stretch]:
    """What is left on both sides."""
    before = int(np.searchsorted(each.end, span.from_s * each.rate, side="right"))
    after = int(np.searchsorted(each.start, span.to_s * each.rate, side="left"))
    if after <= before:
        yield each
        return
    for first, last in ((0, before), (after, len(each.end))):
        if last > first:
            yield each.part(first, last)


# -- live --------------------------------------------------------------------------------------------------------------


def listen(
    settings: Settings, stream: str, backend: Backend, seconds: float, *, save: TextIO, tick: Callable[[float], object]
) -> None:
    """Listen to a stream's own source for so many seconds of sound, or until Ctrl-C; write the scores to `save`.

    Rules, sinks and outbox stay out of it. A device that is lost is not opened again.

    Raises:
        SourceError: the source can't be opened, or was lost.
    """
    options = settings.streams[stream]
    line = build_line(settings.model_copy(update={"rules": {}}), stream, backend.spec, Stats())
    with closing(edges.build_source(options.source)) as source:
        info = source.open()
        rate = backend.spec.fbank.sample_rate
        ring = Ring(max(4 * info.max_block, round(RING_S * info.sample_rate)), info.max_block)
        clock = Clock(info.sample_rate)
        live: Literal["every", "back_off"] = "every" if info.can_wait else "back_off"
        line.stream.attach(ring, clock, live if options.late == "auto" else options.late)
        write_header(save, backend.spec, options.hop_s, info.sample_rate, time.time())
        heard_to = 0

        def take(output: Scores | SegmentEnd) -> None:
            nonlocal heard_to
            at = output.end if isinstance(output, Scores) else output.at
            tick((at - heard_to) / rate)
            heard_to = at
            write_output(save, output)
            save.flush()

        engine = Engine(backend, [line.stream], take)
        source.start(ring, clock)
        try:
            _wait(engine, ring, lambda: heard_to < seconds * rate, info.description)
            if ring.closed not in (None, Reason.SOURCE_END) and heard_to < seconds * rate:
                raise DeviceLost(f"{info.description} was lost; what was heard before is kept")
        except KeyboardInterrupt:
            pass  # enough was heard
        finally:
            source.close()
            while engine.step():
                pass


def _wait(engine: Engine, ring: Ring, wants_more: Callable[[], bool], description: str) -> None:
    written, moved = 0, time.monotonic()
    while wants_more() and ring.closed is None:
        if ring.written > written:
            written, moved = ring.written, time.monotonic()
        elif time.monotonic() - moved > STALL_S:
            raise DeviceLost(f"no sound from {description} for {STALL_S:g} s; what was heard before is kept")
        if not engine.step():
            time.sleep(IDLE_S)
