"""One source kept alive: opened, watched, and opened again when it fails; its state published.

Event loop only. What may block is done in threads of its own.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Literal

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Message, Reason, Scores, SegmentEnd, Status
from streamer.errors import DeviceLost, SourceError
from streamer.line import Line
from streamer.reporter import status_message
from streamer.sources.base import Source, SourceInfo
from streamer.stats import Stats
from streamer.stream import Late

log = logging.getLogger(__name__)
RING_S = 20.0  # sound kept for a model that is late; more would only make events later still
WATCH_S = 0.1  # how often a source is looked at
STALL_S = 2.0  # a USB hub re-enumerates within 1.5 s; shorter would flap
STALL_BLOCKS = 5  # a source of long blocks is allowed some of them
FIRST_WAIT_S = 0.5  # a sound server restarts within a second
LONGEST_WAIT_S = 15.0  # a microphone plugged in again is heard within a quarter of a minute
POP_S = 2.0  # of an opening: many a dead device begins with a pop, which makes it no better
MOST_PATIENCE = 10  # times `zeros_s`: how rarely a device that gives nothing but one value is reopened in the end


class Paused(Exception):
    """Somebody asked not to listen."""


class Supervisor:
    """Keeps the source of one stream open, but while it is paused.

    Args:
        line: the stream it feeds.
        source: what to open; never another one.
        zeros_s: seconds of one constant value after which the device counts as dead; None: it never does.
        late: what the stream does when the model is late; `auto` is `every` for sources that can wait, else `back_off`.
        put: takes the stream's status messages.
        stats: gets `source_failures`.
    """

    def __init__(
        self,
        line: Line,
        source: Source,
        *,
        zeros_s: float | None,
        late: Literal["auto", "latest", "every"],
        put: Callable[[Message], None],
        stats: Stats,
    ) -> None:
        self.line = line
        self.source = source
        self.status = Status.OFFLINE
        self._name = line.stream.stream_id
        self._zeros_s = zeros_s
        self._late = late
        self._put = put
        self._stats = stats
        self._scored = self._sounded = time.monotonic()  # the newest hop; the newest that held more than one value
        self.unheard_s = 0.0  # for which sound came and no window: counted in looks, so that a frozen machine adds none
        self._opened = self._scored
        self._patience = 1  # in units of `zeros_s`: how long a mute device is kept before it is opened anew
        self._wanted = asyncio.Event()  # clear while paused
        self._wanted.set()
        self._is_over = False  # the source came to its end, and is not opened any more
        self._ended = asyncio.Event()  # the engine has heard the last sample there is

    def heard(self, output: Scores | SegmentEnd) -> None:
        """Take note of what the engine made of the source's sound."""
        if isinstance(output, Scores):
            self._scored, self.unheard_s = time.monotonic(), 0.0
            heard_from = self.line.stream.captured(output.end - output.hop)
            is_pop = self._patience > 1 and heard_from < self._opened + POP_S
            if not output.level.is_constant and not is_pop:
                self._sounded, self._patience = self._scored, 1
        elif output.reason == Reason.SOURCE_END:
            self._ended.set()

    def set_status(self, status: Status) -> None:
        """Publish a new status."""
        if status != self.status:
            log.info("stream %s: %s", self._name, status.value)
            self.status = status
            self._put(status_message(self._name, status))

    def listen(self, wanted: bool) -> None:
        """Pause, which closes the source, or go on; publishes which. A file begins anew then, unless it has ended."""
        if wanted:
            self._wanted.set()
        else:
            self._wanted.clear()
            if not self._is_over:
                self.set_status(Status.PAUSED)
        self._put(self.listening())

    @property
    def is_paused(self) -> bool:
        """Whether somebody asked not to listen."""
        return not self._wanted.is_set()

    def listening(self) -> Message:
        """Whether it is meant to listen."""
        return Message(f"{self._name}/listening/state", "OFF" if self.is_paused else "ON", retain=True)

    async def run(self) -> None:
        """Keep one source open: reopen it, ever more patiently, when it fails. Returns at its natural end."""
        failures = 0
        try:
            while True:
                await self._wanted.wait()
                opened = time.monotonic()
                try:
                    info = await asyncio.to_thread(self.source.open)
                    log.info("stream %s: listening to %s at %d Hz", self._name, info.description, info.sample_rate)
                    await self._listen(info)
                    await self._ended.wait()
                except Paused:
                    reason = ""
                except SourceError as error:
                    reason = str(error)
                except Exception as error:  # a driver's surprise must not end the other streams
                    log.exception("stream %s", self._name)
                    reason = f"{type(error).__name__}: {error}"
                else:
                    log.info("stream %s: the source has come to its end", self._name)
                    self._is_over = True
                    return
                await self._close()
                if not reason or not self._wanted.is_set():
                    failures = 0
                    continue
                self.set_status(Status.STALLED)
                failures = 0 if time.monotonic() - opened > LONGEST_WAIT_S else failures + 1
                wait_s = min(FIRST_WAIT_S * 2 ** min(failures, 10), LONGEST_WAIT_S)
                wait_s *= random.uniform(0.75, 1.0)  # noqa: S311  several microphones of one hub must not knock in step
                log.warning("stream %s: %s; trying again in %.1f s", self._name, reason, wait_s)
                self._stats.count("source_failures")
                await asyncio.sleep(wait_s)
        finally:
            self.set_status(Status.OFFLINE)
            await self._close()

    async def _close(self) -> None:
        """Let go of the source, as far as it lets us: what is left of it must not end the other streams."""
        try:
            await asyncio.to_thread(self.source.close)
        except Exception:
            log.exception("stream %s: its source can't be closed", self._name)

    async def _listen(self, info: SourceInfo) -> None:
        """Feed the stream from one opening of the source until its natural end.

        Raises:
            DeviceLost: it broke, or gives nothing.
            Paused: somebody asked for it.
        """
        size = max(4 * info.max_block, round(RING_S * info.sample_rate))
        ring, clock = Ring(size, info.max_block), Clock(info.sample_rate)
        late: Late = "every" if info.can_wait else "back_off"
        self.line.stream.attach(ring, clock, late if self._late == "auto" else self._late)
        self.source.start(ring, clock)
        try:
            await self._watch(info, ring)
        except (DeviceLost, Paused) as error:
            ring.close(Reason.PAUSE if isinstance(error, Paused) else Reason.SOURCE_LOST)
            raise

    async def _watch(self, info: SourceInfo, ring: Ring) -> None:
        """Look at a ring until its source has come to its end.

        Raises:
            DeviceLost: it stopped filling, or fills with one constant value.
            Paused: somebody asked for it.
        """
        stall_s = max(STALL_S, STALL_BLOCKS * info.max_block / info.sample_rate)
        self._opened = moved = time.monotonic()
        written = 0
        while ring.closed is None:
            await asyncio.sleep(WATCH_S)
            if not self._wanted.is_set():
                raise Paused
            now = time.monotonic()
            has_room = ring.room >= info.max_block
            if ring.written > written or not has_room:
                self.unheard_s += WATCH_S
            if ring.written > written:
                written, moved = ring.written, now
            dead_s = self._scored - self._sounded  # by the engine's word: one that is slow hears nothing either
            is_mute = self._zeros_s is not None and dead_s > self._zeros_s
            if info.is_live and has_room and now - moved > stall_s:
                raise DeviceLost(f"no sound from {info.description} for {now - moved:.1f} s")
            if is_mute and now - self._opened > (self._zeros_s or 0) * self._patience:
                self._patience = min(self._patience + 1, MOST_PATIENCE)
                raise DeviceLost(f"nothing but silence of one value from {info.description} for {dead_s:.0f} s: muted?")
            if written:
                self.set_status(Status.STALLED if is_mute else Status.ONLINE)
        if ring.closed != Reason.SOURCE_END:
            raise DeviceLost(f"{info.description} was lost")
