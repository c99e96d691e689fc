"""One source's line from sound to model input: ring → resample → fbank → window.

Thread: the engine's polls; the event loop attaches openings of the source and asks for times. An opening whose sound
has ended is drained to its last sample before the next one begins.
"""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Literal

import numpy as np

from models.fbank import OnlineFbank
from models.spec import ModelSpec
from streamer.audio.clock import Clock
from streamer.audio.level import level
from streamer.audio.resample import Resampler
from streamer.audio.ring import Ring
from streamer.core import Reason, Samples, SegmentEnd, Window
from streamer.errors import RingOverrun
from streamer.stats import Stats

log = logging.getLogger(__name__)
SLACK_FRAMES = 25  # 0.25 s: drivers deliver in lumps; a backlog of one lump is not lateness
READ_S = 0.1  # sound taken from the ring at once: small beside a hop, large beside the cost of a call
Late = Literal["latest", "every"]
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
        self._hop_frames = round(hop_s * spec.fbank.sample_rate / spec.fbank.frame_hop)
        self._gate_dbfs = -np.inf if gate_dbfs is None else gate_dbfs
        self.wake: Callable[[], None] | None = None  # called, by any thread, when it is worth while to poll
        self._stats = stats or Stats()
        self._waiting: deque[tuple[Ring, Clock, Late]] = deque()
        self._pieces: deque[Piece] = deque(maxlen=MAX_PIECES)
        self._fbank = OnlineFbank(spec.fbank, spec.window_frames)
        self._ring: Ring | None = None
        self._is_late = False
        self._position = 0  # model samples that went into the features
        self._read_to = 0  # ring samples read

    def attach(self, ring: Ring, clock: Clock, late: Late) -> None:
        """Listen to another opening of the source, once the one before has ended. Thread: the event loop's.

        Args:
            ring: where its sound arrives.
            clock: when that was captured.
            late: when the model is behind, `every` window comes all the same, or only the `latest`.
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

    def poll(self) -> Window | SegmentEnd | None:
        """The next window that is ready, or the end of an opening, or None while there is too little sound."""
        ready = self._next() if self._ring is not None or self._begin() else None
        if isinstance(ready, Window):
            self._last_end = ready.end
        return ready

    # -- one opening ---------------------------------------------------------------------------------------------

    def _next(self) -> Window | SegmentEnd | None:
        while True:
            if len(self._samples) >= self._needed:
                window = self._advance(self._needed)
                slack = 0 if self._is_late else SLACK_FRAMES
                self._is_late = self._behind() >= max(self._hop_frames, slack)
                if self._late == "every" or not self._is_late:
                    return window
                self._stats.count("skipped")
            elif not self._read():
                if self._is_drained:
                    return self._finish()
                self._wait()
                return None

    def _wait(self) -> None:
        """Be woken when the ring holds what the next hop needs; too early, and so once more, if filters hold back."""
        assert self._ring is not None
        missing = (self._needed - len(self._samples)) * self._clock.sample_rate / self.spec.fbank.sample_rate
        self._ring.wanted = self._read_to + ceil(missing)

    def _begin(self) -> bool:
        if not self._waiting:
            return False
        self._ring, self._clock, self._late = self._waiting.popleft()
        self._ring.wake = self.wake
        self._read_to = 0
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
        self._last_end = self._position  # of the newest window handed out

    @property
    def _needed(self) -> int:
        """Samples still missing for the next hop's frames."""
        n_hops = self._fbank.n_frames // self._hop_frames + 1
        return self.spec.fbank.samples(n_hops * self._hop_frames) - self._fed

    @property
    def _is_drained(self) -> bool:
        assert self._ring is not None
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
        n = min(self._ring.written - self._read_to, max(1, int(READ_S * self._clock.sample_rate)))
        try:
            samples = self._ring.read(self._read_to, n) if n > 0 else None
        except RingOverrun as overrun:
            self._skip(overrun.oldest)
            return True
        if samples is None or self._resampler is None:
            return False
        self._read_to += n
        self._samples = np.concatenate((self._samples, self._resampler.accept(samples)))
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
        heard = level(fresh)
        self._quiet = self._quiet + len(fresh) if heard.rms_dbfs < self._gate_dbfs else 0
        return Window(
            stream_id=self.stream_id,
            start=end - self.spec.fbank.samples(size),
            end=end,
            hop=end - self._last_end,
            fbank=self._fbank.window(),
            coverage=min(n_frames, size) / size,
            level=heard,
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
