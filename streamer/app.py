"""The daemon: builds everything, runs it, watches it, and stops it in order.

Start: model and warm-up, sinks, engine, sources. Stop: sources, engine (one last drain), rules (open events end),
outboxes drain with a deadline, sinks say offline. Thread: the event loop, but where a line says otherwise.
"""

import asyncio
import logging
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Literal

from streamer import edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.config import Settings
from streamer.core import Level, Message, Reason, Scores, SegmentEnd, Status
from streamer.engine import Engine
from streamer.errors import BackendError, DeviceLost, SourceError
from streamer.line import Line, build_line
from streamer.outbox import Outbox
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
MOST_PATIENCE = 10  # times `zeros_s`: how rarely a device that gives nothing but zeros is reopened in the end
STATS_S = 30.0
FAREWELL_S = 2.0  # for the last events and `offline`; with the engine's drain it keeps the promise of 5 s


@dataclass(slots=True)
class Watched:
    """One stream, its source, and what is known of their health."""

    name: str
    line: Line
    source: Source
    zeros_s: float | None
    late: Literal["auto", "latest", "every"]
    status: Status = Status.OFFLINE
    sounded: float = field(default_factory=time.monotonic)  # when it last gave anything but one constant value
    patience: int = 1  # in units of `zeros_s`: how long a mute device is kept before it is opened anew
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # the engine has heard the source's last sample


class App:
    """A configured daemon.

    Args:
        settings: what to run.

    Raises:
        ConfigError, CheckpointError, BackendError: it can't run as configured. Loads the model: takes seconds.
    """

    def __init__(self, settings: Settings) -> None:
        self.stats = Stats()
        self._settings = settings
        self._backend = edges.build_backend(settings.model)
        self._watched = {name: self._watch_for(name) for name in settings.streams}
        self._sinks = {name: edges.build_sink(config, settings.node) for name, config in settings.sinks.items()}
        self._outboxes = {name: Outbox() for name in self._sinks}
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()

    def _watch_for(self, name: str) -> Watched:
        options = self._settings.streams[name]
        line = build_line(self._settings, name, self._backend.spec, self.stats)
        zeros_s = getattr(options.source, "zeros_s", None)
        return Watched(name, line, edges.build_source(options.source), zeros_s, options.late)

    async def run(self) -> None:
        """Listen until told to stop, or until every source has come to its end.

        Raises:
            BackendError: the model broke.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        await asyncio.to_thread(self._backend.warmup)
        self._announce()

        def deliver(output: Scores | SegmentEnd) -> None:  # in the engine's thread
            loop.call_soon_threadsafe(self._on_output, output)

        def fail(error: BaseException) -> None:  # in the engine's thread
            loop.call_soon_threadsafe(self._fail, error)

        streams = [watched.line.stream for watched in self._watched.values()]
        engine = Engine(self._backend, streams, deliver, self.stats)
        async with asyncio.TaskGroup() as tasks:
            sinks = [tasks.create_task(s.run(self._outboxes[n]), name=f"sink-{n}") for n, s in self._sinks.items()]
            engine.start(fail)
            sources = [tasks.create_task(self._supervise(w), name=f"source-{w.name}") for w in self._watched.values()]
            reports = tasks.create_task(self._report_stats(), name="stats")
            tasks.create_task(self._stop_when_done(sources), name="done")
            await self._stop.wait()
            await self._shut_down(engine, sources, sinks)
            reports.cancel()
        self._backend.close()
        if self._failure:
            raise BackendError(f"the model failed: {self._failure}") from self._failure

    # -- what comes in -------------------------------------------------------------------------------------------

    def _on_output(self, output: Scores | SegmentEnd) -> None:
        watched = self._watched[output.stream_id]
        if isinstance(output, SegmentEnd):
            watched.ended.set()
        elif not is_dead(output.level):
            watched.sounded, watched.patience = time.monotonic(), 1
        for message in watched.line.reporter.report(output):
            self._put(message)
        if isinstance(output, Scores):
            late_s = time.monotonic() - watched.line.stream.captured(output.end)
            self.stats.observe_ms("latency", late_s * 1e3)

    def _put(self, message: Message) -> None:
        for outbox in self._outboxes.values():
            outbox.put(message)

    def _announce(self) -> None:
        """States as they are now, over whatever an earlier life left retained."""
        for watched in self._watched.values():
            self._put(status_message(watched.name, watched.status))
            for message in watched.line.reporter.idle():
                self._put(message)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._stop.set()

    # -- sources -------------------------------------------------------------------------------------------------

    async def _supervise(self, watched: Watched) -> None:
        """Keep one source open: reopen it, ever more patiently, when it fails. Returns at its natural end."""
        failures = 0
        try:
            while True:
                opened = time.monotonic()
                try:
                    info = await asyncio.to_thread(watched.source.open)
                    log.info("stream %s: listening to %s at %d Hz", watched.name, info.description, info.sample_rate)
                    await self._listen(watched, info)
                    await watched.ended.wait()
                except SourceError as error:
                    reason = str(error)
                else:
                    log.info("stream %s: the source has come to its end", watched.name)
                    return
                await asyncio.to_thread(watched.source.close)
                self._set_status(watched, Status.STALLED)
                failures = 0 if time.monotonic() - opened > LONGEST_WAIT_S else failures + 1
                wait_s = min(FIRST_WAIT_S * 2 ** min(failures, 10), LONGEST_WAIT_S)
                wait_s *= random.uniform(0.75, 1.0)  # noqa: S311  several microphones of one hub must not knock in step
                log.warning("stream %s: %s; trying again in %.1f s", watched.name, reason, wait_s)
                self.stats.count("source_failures")
                await asyncio.sleep(wait_s)
        finally:
            await asyncio.to_thread(watched.source.close)
            self._set_status(watched, Status.OFFLINE)

    async def _listen(self, watched: Watched, info: SourceInfo) -> None:
        """Feed the stream from one opening of the source until its natural end.

        Raises:
            DeviceLost: it broke, or gives nothing.
        """
        size = max(4 * info.max_block, round(RING_S * info.sample_rate))
        ring, clock = Ring(size, info.max_block), Clock(info.sample_rate)
        late: Late = "latest" if info.is_live else "every"
        watched.ended.clear()
        watched.line.stream.attach(ring, clock, late if watched.late == "auto" else watched.late)
        watched.source.start(ring, clock)
        try:
            await self._watch(watched, info, ring)
        except DeviceLost:
            ring.close(Reason.SOURCE_LOST)
            raise

    async def _watch(self, watched: Watched, info: SourceInfo, ring: Ring) -> None:
        """Look at a ring until its source has come to its end.

        Raises:
            DeviceLost: it stopped filling, or fills with one constant value.
        """
        stall_s = max(STALL_S, STALL_BLOCKS * info.max_block / info.sample_rate)
        opened = moved = time.monotonic()
        written = 0
        while ring.closed is None:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            if ring.written > written:
                written, moved = ring.written, now
            dead_s = now - watched.sounded
            is_mute = watched.zeros_s is not None and dead_s > watched.zeros_s
            if info.is_live and now - moved > stall_s:
                raise DeviceLost(f"no sound from {info.description} for {now - moved:.1f} s")
            if is_mute and now - opened > (watched.zeros_s or 0) * watched.patience:
                watched.patience = min(watched.patience + 1, MOST_PATIENCE)
                raise DeviceLost(f"nothing but silence of one value from {info.description} for {dead_s:.0f} s: muted?")
            if written:
                self._set_status(watched, Status.STALLED if is_mute else Status.ONLINE)
        if ring.closed != Reason.SOURCE_END:
            raise DeviceLost(f"{info.description} was lost")

    def _set_status(self, watched: Watched, status: Status) -> None:
        if status != watched.status:
            log.info("stream %s: %s", watched.name, status.value)
            watched.status = status
            self._put(status_message(watched.name, status))

    async def _stop_when_done(self, sources: list[asyncio.Task[None]]) -> None:
        await asyncio.wait(sources)
        self._stop.set()

    # -- stop ----------------------------------------------------------------------------------------------------

    async def _shut_down(
        self, engine: Engine, sources: list[asyncio.Task[None]], sinks: list[asyncio.Task[None]]
    ) -> None:
        """Sources, engine, rules, outboxes, sinks: each is given what the one before it had left."""
        log.info("stopping")
        for task in sources:
            task.cancel()
        await asyncio.gather(*sources, return_exceptions=True)
        await asyncio.to_thread(engine.stop)
        await asyncio.sleep(0)  # what the engine delivered last is queued on this loop
        for watched in self._watched.values():
            for message in watched.line.reporter.stop():
                self._put(message)
        for outbox in self._outboxes.values():
            outbox.close()
        if sinks:
            await asyncio.wait(sinks, timeout=FAREWELL_S)
        for name, task in zip(self._sinks, sinks, strict=True):
            if not task.done():
                log.warning("sink %s: %d events were not delivered", name, self._outboxes[name].pending)
                task.cancel()

    async def _report_stats(self) -> None:
        while True:
            await asyncio.sleep(STATS_S)
            self.stats.gauge("pending_events", sum(outbox.pending for outbox in self._outboxes.values()))
            self.stats.gauge("dropped_events", sum(outbox.dropped for outbox in self._outboxes.values()))
            self.stats.gauge("overflows", sum(watched.source.overflows for watched in self._watched.values()))
            self._put(Message("stats", self.stats.snapshot(), qos=0))


def is_dead(level: Level) -> bool:
    """Whether a hop held one constant value throughout: no microphone in a room does that."""
    return level.peak_dbfs - level.rms_dbfs < 1e-3 and level.clipped == 0
