"""One source's line from sound to model input: ring → resample → fbank → window.

Thread: the engine's polls; the event loop attaches openings of the source and asks for times. An opening whose sound
has ended is drained to its last sample before the next one begins.
"""

import logging
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from models.fbank import OnlineFbank
from models.spec import ModelSpec
from streamer.audio.clock import Clock
from streamer.audio.level import SILENT, level, louder
from streamer.audio.resample import Resampler
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples, SegmentEnd, Window
from streamer.errors import RingOverrun
from streamer.stats import Stats

log = logging.getLogger(__name__)
SLACK_FRAMES = 25  # 0.25 s: drivers deliver in lumps; a backlog of one lump is not lateness
READ_S = 1.0  # sound taken from the ring at once: small beside what a ring holds, large beside the cost of a call
LOOKS = 2  # windows that see a short sound, however rarely we look: with one, a rule of two would never start
Late = Literal["back_off", "latest", "every"]
MAX_PIECES = 256  # stretches whose capture times are remembered; events end long before that many losses


@dataclass(frozen=True, slots=True)
class Piece:
    """Sound without a hole: model position `at` is ring position `ring_at` on `clock`."""

    at: int
    ring_at: int
    clock: Clock


class Stream:
    """A source's windows, in order.

    Args:
        stream_id: the stream's name.
        spec: the model to feed.
        hop_s: seconds between windows, a multiple of 0.01.
        gate_dbfs: windows without a single hop this loud are marked `is_gated`; None never.
        stats: gets `skipped` and `overruns`.

    `most_stride` is how many hops may lie between two windows of an opening that backs off: a power of two that leaves
    `LOOKS` of them to every sound.
    """

    def __init__(
        self,
        stream_id: str,
        spec: ModelSpec,
        hop_s: float,
        gate_dbfs: float | None = None,
        stats: Stats | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.spec = spec
        self.hop_s = hop_s
        self._hop_frames = round(hop_s * spec.fbank.sample_rate / spec.fbank.frame_hop)
        self._hop = self._hop_frames * spec.fbank.frame_hop
        self.most_stride = 1 << max(0, (spec.window_frames // (LOOKS * self._hop_frames)).bit_length() - 1)
        self._stride = 1
        self._gate_dbfs = -np.inf if gate_dbfs is None else gate_dbfs
        self.wake: Callable[[], None] | None = None  # called, by any thread, when it is worth while to poll
        self._stats = stats or Stats()
        self._waiting: deque[tuple[Ring, Clock, Late]] = deque()
        self._pieces: deque[Piece] = deque(maxlen=MAX_PIECES)
        self._fbank = OnlineFbank(spec.fbank, spec.window_frames)
        self._ring: Ring | None = None
        self._late: Late = "every"
        self._is_late = False
        self._position = 0  # model samples that went into the features
        self._read_to = 0  # ring samples read

    def attach(self, ring: Ring, clock: Clock, late: Late) -> None:
        """Listen to another opening of the source, once the one before has ended. Thread: the event loop's.

        Args:
            ring: where its sound arrives.
            clock: when that was captured.
            late: when the model is behind, `every` window comes all the same, or only the `latest`; with `back_off`
                only the latest too, and hops grow as `slow_down` says.
        """
        self._waiting.append((ring, clock, late))

    def utc(self, position: int) -> datetime:
        """Capture time of the sound at `position`. Thread: any."""
        piece, ring_position = self._locate(position)
        return piece.clock.utc(ring_position)

    def captured(self, position: int) -> float:
        """Monotonic seconds at which the sound at `position` was captured. Thread: any."""
        piece, ring_position = self._locate(position)
        return piece.clock.monotonic(ring_position)

    @property
    def gives_way(self) -> bool:
        """Whether what it listens to now backs off when the model is behind."""
        return self._ring is not None and self._late == "back_off"

    def slow_down(self, factor: int) -> None:
        """From now on hand out one window in `factor` hops, or in `most_stride`, while it listens to what backs off."""
        self._stride = min(factor, self.most_stride)

    def is_overdue(self, window: Window) -> bool:
        """Whether a window comes so late that one before it, which should have come, was skipped."""
        return self.gives_way and window.hop >= (self._stride + 1) * self._hop

    def due(self) -> float | None:
        """Monotonic time since when there is something to poll for; None: not yet. Costs next to nothing.

        Of a window it is when its last sample was captured. Where it is none that waits, -inf.
        """
        if self._ring is None:
            return -math.inf if self._waiting else None
        closed = self._ring.closed  # looked at before `written`: the writer closes after its last write
        waiting = self._ring.written - self._read_to
        if waiting >= self._missing:
            return self._clock.monotonic(self._read_to + self._missing)
        return -math.inf if closed is not None or waiting >= self._lump else None

    def poll(self) -> Window | SegmentEnd | None:
        """The next window that is ready, or the end of an opening, or None while there is too little sound."""
        ready = self._next() if self._ring is not None or self._begin() else None
        if isinstance(ready, Window):
            self._last_end = ready.end
            self._loudest = SILENT
        if self._ring is not None:
            missing = self._needed - len(self._samples)
            self._missing = math.ceil(missing * self._clock.sample_rate / self.spec.fbank.sample_rate)
            self._ring.wanted = self._read_to + min(self._missing, self._lump)  # from then on `due` has news
        return ready

    # -- one opening ---------------------------------------------------------------------------------------------

    def _next(self) -> Window | SegmentEnd | None:
        while True:
            if len(self._samples) >= self._needed:
                window = self._advance(self._needed)
                if self._is_wanted(window):
                    return window
                self._stats.count("skipped")
            elif not self._read():
                return self._finish() if self._is_drained else None

    def _is_wanted(self, window: Window) -> bool:
        """Whether nothing newer waits, and enough hops passed since the one before."""
        if self._late == "every":
            return True
        slack = 0 if self._is_late else SLACK_FRAMES
        self._is_late = self._behind() >= max(self._hop_frames, slack)
        is_far = self._late == "latest" or window.hop >= self._stride * self._hop
        return is_far and not self._is_late

    def _begin(self) -> bool:
        if not self._waiting:
            return False
        self._ring, self._clock, self._late = self._waiting.popleft()
        self._ring.wake = self.wake
        self._read_to = 0
        self._lump = max(1, min(int(READ_S * self._clock.sample_rate), self._ring.capacity - 2 * self._ring.max_block))
        self._start_piece()
        return True

    def _start_piece(self) -> None:
        """What follows has nothing to do with what came before: fresh filters, silence to the left."""
        self._pieces.append(Piece(self._position, self._read_to, self._clock))
        self._resampler: Resampler | None = Resampler(self._clock.sample_rate, self.spec.fbank.sample_rate)
        self._fbank.reset()
        self._samples = np.empty(0, np.float32)  # at the model rate, not yet in the features
        self._fed = 0  # samples of this piece that are in the features
        self._is_late = False  # and skips what it can until it is not
        self._quiet = 0  # samples since the last hop over the gate
        self._value = np.float32(np.nan)  # of the newest sample read
        self._flat_from = self._read_to  # ring position since which it is the same
        self._loudest = SILENT  # of the hops that were in no window handed out
        self._last_end = self._position  # of the newest window handed out

    @property
    def _needed(self) -> int:
        """Samples still missing for the next hop's frames."""
        n_hops = self._fbank.n_frames // self._hop_frames + 1
        return self.spec.fbank.samples(n_hops * self._hop_frames) - self._fed

    @property
    def _is_drained(self) -> bool:
        assert self._ring is not None
        if self._resampler is None:  # flushed: what a writer that is not dead yet adds belongs to nothing any more
            return True
        closed = self._ring.closed  # looked at before `written`: the writer closes after its last write
        return closed is not None and self._read_to == self._ring.written

    def _behind(self) -> int:
        """Frames' worth of sound that waits."""
        assert self._ring is not None
        seconds = (self._ring.written - self._read_to) / self._clock.sample_rate
        waiting = len(self._samples) + seconds * self.spec.fbank.sample_rate
        return int(waiting / self.spec.fbank.frame_hop)

    def _read(self) -> bool:
        """Take the next bit of sound from the ring; False when there is none."""
        assert self._ring is not None
        if self._resampler is None:
            return False
        n = min(self._ring.written - self._read_to, self._lump)
        try:
            samples = self._ring.read(self._read_to, n) if n > 0 else None
        except RingOverrun as overrun:
            self._skip(overrun.oldest)
            return True
        if samples is None:
            return False
        if len(changes := np.flatnonzero(np.diff(samples, prepend=self._value))):
            self._flat_from = self._read_to + int(changes[-1])
        self._value = samples[-1]
        self._read_to += n
        fresh = self._resampler.accept(samples)
        self._samples = np.concatenate((self._samples, fresh)) if len(self._samples) else fresh
        return True

    def _skip(self, oldest: int) -> None:
        """Go on at ring position `oldest`: what lay before it was overwritten. Positions count the lost sound too."""
        assert self._ring is not None
        resume = min(oldest + self._ring.max_block, self._ring.written)  # a margin, or the writer is there again
        piece = self._pieces[-1]
        lost_s = (resume - self._read_to) / self._clock.sample_rate
        log.warning("stream %s: %.2f s of sound lost, the model is too slow for it", self.stream_id, lost_s)
        self._stats.count("overruns")
        ratio = self.spec.fbank.sample_rate / self._clock.sample_rate
        self._position = max(self._position, piece.at + round((resume - piece.ring_at) * ratio))
        self._read_to = resume
        self._start_piece()

    def _advance(self, n: int) -> Window:
        """Put the next `n` samples into the features and look at the result."""
        fresh, self._samples = self._samples[:n], self._samples[n:]
        self._fbank.accept(fresh)
        self._fed += n
        self._position += n
        return self._window(fresh)

    def _window(self, fresh: Samples) -> Window:
        n_frames, size = self._fbank.n_frames, self.spec.window_frames
        end = self._pieces[-1].at + self.spec.fbank.samples(n_frames)
        _, ring_from = self._locate(self._position - len(fresh))
        heard = level(fresh, is_constant=self._flat_from <= ring_from)
        self._quiet = self._quiet + len(fresh) if heard.rms_dbfs < self._gate_dbfs else 0
        self._loudest = louder(self._loudest, heard)
        return Window(
            stream_id=self.stream_id,
            start=end - self.spec.fbank.samples(size),
            end=end,
            hop=end - self._last_end,
            fbank=self._fbank.window(),
            coverage=min(n_frames, size) / size,
            level=self._loudest,
            is_gated=self._quiet >= min(self._fed, self.spec.fbank.samples(size)),
        )

    def _finish(self) -> Window | SegmentEnd:
        """The opening has ended: a last window over what is left, then its end."""
        assert self._ring is not None
        if self._resampler is not None:
            self._samples = np.concatenate((self._samples, self._resampler.finish()))
            self._resampler = None
        if len(self._samples) >= self._needed:  # the resampler held back the end of a hop
            return self._advance(self._needed)
        n_before = self._fbank.n_frames
        rest = len(self._samples)
        window = self._advance(rest) if self.spec.fbank.frames(self._fed + rest) > n_before else None
        if window is not None:
            return window
        self._position += len(self._samples)
        reason = self._ring.closed or Reason.STOP
        self._ring = None
        return SegmentEnd(self.stream_id, self._position, reason)

    def _locate(self, position: int) -> tuple[Piece, int]:
        pieces = tuple(self._pieces)
        piece = pieces[max(0, bisect_right(pieces, position, key=lambda piece: piece.at) - 1)]
        ratio = piece.clock.sample_rate / self.spec.fbank.sample_rate
        return piece, piece.ring_at + round((position - piece.at) * ratio)
