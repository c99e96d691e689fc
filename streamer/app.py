"""One configuration at work: builds everything, runs it, watches it, and stops it in order.

Start: model and warm-up, sinks, engine, sources. Stop: sources, engine (one last drain), rules (open events end),
outboxes drain with a deadline, sinks say offline. Thread: the event loop, but where a line says otherwise.
"""

import asyncio
import logging
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

from streamer import edges
from streamer.backends.base import Backend
from streamer.core import Event, Message, Reason, Scores, SegmentEnd, Site, Status, StreamRules
from streamer.engine import Engine
from streamer.errors import BackendError
from streamer.journal import Journal, place_of
from streamer.journal_file import Entry, Found
from streamer.line import build_line
from streamer.orders import Command, Orders
from streamer.outbox import Outbox
from streamer.overload import Overload
from streamer.reporter import interrupted, status_message
from streamer.rules.base import Tunable
from streamer.settings import Settings
from streamer.stats import Stats
from streamer.supervisor import Supervisor

log = logging.getLogger(__name__)
BROKEN_S = 15.0  # a sink with a mistake of ours in it: rarely enough to keep the log readable
STATS_S = 30.0
OPEN_S = 3.0  # for the outbox's file, at the start; a broken one is read through in less
SWITCH_S = 0.0005  # for which a thread may keep the interpreter: of the usual 5 ms the engine would lose most
STUCK_S = 120.0  # the largest batch of the largest model takes half a minute on a slow CPU
STRETCHES = 3  # times the longest hop that a stream may back off to: it has a window in each
LOOK_S = 1.0  # small beside STUCK_S
STOP_S = 3.1  # from a signal to the end of the sinks: 5 s are promised for it all, also where a busy machine runs late
RELEASE_S = 0.6  # of it: for sources to let go of their devices; then the engine drains
DELIVER_S = 0.1  # of it: for sinks to deliver, even where sources and engine took all they may
HANDOVER_S = 0.5  # at a reload, for sinks to deliver: what they don't the next configuration takes over
LAST_WORD_S = 0.9  # of it: for sinks that were cut off to say `offline`


class App:
    """A configured daemon. Making one loads the model and warms it up, which takes seconds: not for the event loop.

    Args:
        settings: what to run.
        backend: the model of `settings`, warm already; None: load it.

    Raises:
        ConfigError, CheckpointError, BackendError: it can't run as configured.
    """

    def __init__(self, settings: Settings, backend: Backend | None = None) -> None:
        self.settings = settings
        self.stats = Stats()
        self.backend = backend or edges.build_backend(settings)
        if backend is None:
            self.backend.warmup()
        self._stop = asyncio.Event()
        self._reason = Reason.STOP
        self._keeps_backend = False
        self._asked = 0.0  # when to stop, the last time
        self._supervisors = {name: self._supervisor(name) for name in settings.streams}
        self.journal = self._make_journal()
        self.orders = Orders(settings, self._supervisors, self._put, self.journal)
        site = Site(settings.node, tuple(map(self._rules_of, settings.streams)), self.orders.take)
        self._sinks = {name: edges.build_sink(config, site) for name, config in settings.sinks.items()}
        self.outboxes = {name: self._outbox(name) for name in self._sinks}
        self._inherited: dict[str, list[Entry]] = {}
        self._adopted: set[int | None] = set()  # rows of the outbox's file
        self._standing: list[Command] = []
        self._known: dict[str, dict[str, Event]] = {}
        self._failure: BaseException | None = None

    def _make_journal(self) -> Journal | None:
        place = place_of(self.settings)
        return Journal(place, self._adopt, self._wake) if place else None

    def _outbox(self, sink: str) -> Outbox:
        options = self.settings.outbox
        return Outbox(options.max_events, max_bytes=round(options.max_mb * 1e6), sink=sink, journal=self.journal)

    def _supervisor(self, name: str) -> Supervisor:
        options = self.settings.streams[name]
        line = build_line(self.settings, name, self.backend.spec, self.stats)
        zeros_s = getattr(options.source, "zeros_s", None)
        source = edges.build_source(options.source)
        return Supervisor(line, source, zeros_s=zeros_s, late=options.late, put=self._put, stats=self.stats)

    def _rules_of(self, name: str) -> StreamRules:
        rules = self.settings.rules_of(name).items()
        tunable = frozenset(rule for rule, config in rules if isinstance(config, Tunable))
        return StreamRules(name, self._supervisors[name].line.rules, tunable)

    def stop(self, reason: Reason = Reason.STOP, *, keep_backend: bool = False) -> None:
        """Let `run` come to its end; events that are open end for `reason`.

        The model may be left to another: that waits until it is at rest, unless this is called again without.
        """
        self._reason, self._keeps_backend, self._asked = reason, keep_backend, time.monotonic()
        self._stop.set()

    async def run(self) -> None:
        """Listen until told to stop, or until every source has come to its end.

        Raises:
            BackendError: the model broke.
        """
        sys.setswitchinterval(SWITCH_S)
        self._announce()
        async with self.journal or nullcontext():
            await self._wait_for_the_disk()
            self._inherit()
            if not self._stop.is_set():
                await self._work()
        if self._failure:
            raise BackendError(f"stopped by a fault: {self._failure}") from self._failure

    async def _wait_for_the_disk(self) -> None:
        """Give the journal a moment to find what an earlier life left, unless we are to stop."""
        if self.journal:
            waits = [asyncio.ensure_future(event.wait()) for event in (self.journal.opened, self._stop)]
            await asyncio.wait(waits, timeout=OPEN_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    def succeed(self, before: "App") -> None:
        """Take over what `before`, which has ended, was ordered, knew, and could not deliver."""
        self._standing = before.orders.standing(self.settings)
        if self.backend.spec.labels == before.backend.spec.labels:
            self._known = before.known(self.settings)
        is_same_file = before.journal and self.journal and before.journal.path == self.journal.path
        for sink in self.outboxes.keys() & before.outboxes.keys():
            left = before.outboxes[sink].left
            self._inherited[sink] = left if is_same_file else [replace(entry, row=None) for entry in left]

    def known(self, settings: Settings) -> dict[str, dict[str, Event]]:
        """What rules know of the time before, by stream and rule, where `settings` leave them as they are."""
        reporters = {name: s.line.reporter for name, s in self._supervisors.items() if name in settings.streams}
        return {name: one.known(self.settings.same_rules(settings, name)) for name, one in reporters.items()}

    def _inherit(self) -> None:
        """Put what was not found on the disk; should that be read later, it comes twice rather than never."""
        for sink, entries in self._inherited.items():
            for entry in entries:
                if entry.row not in self._adopted:
                    self.outboxes[sink].put(entry.message)
        self.orders.go_on(self._standing)
        for name, known in self._known.items():  # after orders: rules are made anew for them
            self._supervisors[name].line.reporter.remember(known)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()

        def deliver(output: Scores | SegmentEnd) -> None:  # in the engine's thread
            loop.call_soon_threadsafe(self._on_output, output)

        def fail(error: BaseException) -> None:  # in the engine's thread
            loop.call_soon_threadsafe(self._fail, error)

        streams = [supervisor.line.stream for supervisor in self._supervisors.values()]
        engine = Engine(self.backend, streams, deliver, self.stats)
        async with asyncio.TaskGroup() as tasks:
            sinks = {name: tasks.create_task(self._run_sink(name), name=f"sink-{name}") for name in self._sinks}
            engine.start(fail)
            sources = [tasks.create_task(s.run(), name=f"source-{name}") for name, s in self._supervisors.items()]
            helpers = [
                tasks.create_task(self._report_stats(engine), name="stats"),
                tasks.create_task(self._watch_engine(engine), name="engine-watch"),
                tasks.create_task(self._watch_streams(), name="stream-watch"),
                tasks.create_task(self._stop_when_done(sources), name="done"),
            ]
            await self._stop.wait()
            await self._shut_down(engine, sources, sinks)
            for task in helpers:
                task.cancel()

    # -- what comes in -------------------------------------------------------------------------------------------

    def _on_output(self, output: Scores | SegmentEnd) -> None:
        """Tell a stream's rules; a mistake of ours in there must end the process, not deafen it in silence."""
        try:
            self._take(output)
        except Exception as error:
            log.exception("stream %s", output.stream_id)
            self._fail(error)

    def _take(self, output: Scores | SegmentEnd) -> None:
        if isinstance(output, SegmentEnd) and output.reason == Reason.STOP:
            output = replace(output, reason=self._reason)
        supervisor = self._supervisors[output.stream_id]
        for message in supervisor.line.reporter.report(output):
            self._put(message)
        supervisor.heard(output)
        if isinstance(output, Scores):
            late_s = time.monotonic() - supervisor.line.stream.captured(output.end)
            self.stats.observe_ms("latency", late_s * 1e3)

    def _put(self, message: Message) -> None:
        for outbox in self.outboxes.values():
            outbox.put(message)

    def _adopt(self, found: Found) -> None:
        """Go on where an earlier life left off: deliver what it could not, end what it left open."""
        for sink, entries in found.waiting.items():
            self._adopted.update(entry.row for entry in entries)
            if sink in self.outboxes:
                self.outboxes[sink].adopt(entries)
            else:
                said = "%d events wait for sink '%s', which the configuration doesn't name any more; they are kept"
                log.warning(said, len(entries), sink)
        for start in found.open:
            self._put(interrupted(start))
        self.orders.obey_again(found.kept)

    def _wake(self) -> None:
        for outbox in self.outboxes.values():
            outbox.wake()

    def _announce(self) -> None:
        """States as they are now, over whatever an earlier life left retained."""
        for name, supervisor in self._supervisors.items():
            self._put(status_message(name, supervisor.status))
            for message in supervisor.line.reporter.idle():
                self._put(message)
        for message in self.orders.states():
            self._put(message)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stop.set()

    async def _watch_engine(self, engine: Engine) -> None:
        """A model that hangs is a daemon that is deaf: end, and let the service manager start anew."""
        while (silent_s := time.monotonic() - engine.stepped) < STUCK_S:  # noqa: ASYNC110  it is the time that counts
            await asyncio.sleep(STUCK_S - silent_s)
        self._fail(BackendError(f"no answer for {STUCK_S:.0f} s"))

    async def _watch_streams(self) -> None:
        """A stream that gets sound and gives no windows is as deaf, and opening its source anew may not help."""
        turns = len(self._supervisors)  # a pass of a slow model for each of the others may come first
        while True:
            await asyncio.sleep(LOOK_S)
            for name, supervisor in self._supervisors.items():
                stream = supervisor.line.stream
                limit_s = turns * max(STUCK_S, STRETCHES * stream.hop_s * stream.most_stride)
                if (unheard_s := supervisor.unheard_s) > limit_s:
                    return self._fail(BackendError(f"stream {name}: {unheard_s:.0f} s of sound came, none was heard"))

    async def _run_sink(self, name: str) -> None:
        """A sink retries by itself; should it break all the same, the others and the listening go on."""
        while True:
            try:
                return await self._sinks[name].run(self.outboxes[name])
            except Exception:
                log.exception("sink %s: broken; starting it again in %.0f s", name, BROKEN_S)
                await asyncio.sleep(BROKEN_S)
                self.outboxes[name].resync()  # what it held in its hands

    async def _stop_when_done(self, sources: list[asyncio.Task[None]]) -> None:
        await asyncio.wait(sources)
        self._stop.set()

    # -- stop ----------------------------------------------------------------------------------------------------

    async def _shut_down(
        self, engine: Engine, sources: list[asyncio.Task[None]], sinks: dict[str, asyncio.Task[None]]
    ) -> None:
        """Sources, engine, rules, outboxes, sinks: each is given what the one before it had left."""
        log.info("stopping")
        began = time.monotonic()
        for task in sources:
            task.cancel()
        await asyncio.wait(sources, timeout=RELEASE_S)
        has_ended = await asyncio.to_thread(engine.stop, lambda: self._keeps_backend and _is_at_work(engine))
        if self._keeps_backend and not has_ended:
            self._fail(BackendError("the model hangs"))
        elif has_ended and not self._keeps_backend:
            self.backend.close()
        await asyncio.sleep(0)  # what the engine delivered last is queued on this loop
        for supervisor in self._supervisors.values():
            supervisor.set_status(Status.OFFLINE)
            for message in supervisor.line.reporter.stop(self._reason):
                self._put(message)
        left_s = max(began, self._asked) + STOP_S - LAST_WORD_S - time.monotonic()
        await self._close_sinks(sinks, HANDOVER_S if self._has_heir else max(DELIVER_S, left_s))
        for task in sources:
            task.cancel()  # again: one that still waits for a driver to let go

    @property
    def _has_heir(self) -> bool:
        """Whether another configuration takes over what isn't delivered."""
        return self._reason == Reason.RELOAD and not self._failure

    async def _close_sinks(self, sinks: dict[str, asyncio.Task[None]], deliver_s: float) -> None:
        """Let them deliver what there is, and have a last word."""
        for outbox in self.outboxes.values():
            outbox.close()
        if not sinks:
            return
        await asyncio.wait(sinks.values(), timeout=deliver_s)
        for name, task in sinks.items():
            if task.cancel() and self.outboxes[name].pending:
                fate = "are left to the next configuration" if self._has_heir else "were not delivered"
                fate = "wait on disk" if self.journal and not self.journal.is_failing else fate
                log.warning("sink %s: %d events %s", name, self.outboxes[name].pending, fate)
        await asyncio.wait(sinks.values(), timeout=LAST_WORD_S)

    def _n_dropped(self) -> int:
        waiting = sum(outbox.dropped for outbox in self.outboxes.values())
        return waiting + sum(getattr(sink, "dropped", 0) for sink in self._sinks.values())

    async def _report_stats(self, engine: Engine) -> None:
        busy_s, overload = engine.busy_s, Overload(self.stats)
        while True:
            await asyncio.sleep(STATS_S)
            self.stats.gauge("real_time_factor", round((engine.busy_s - busy_s) / STATS_S, 4))
            busy_s = engine.busy_s
            self.stats.gauge("pending_events", sum(outbox.pending for outbox in self.outboxes.values()))
            self.stats.gauge("dropped_events", self._n_dropped())
            self.stats.gauge("events_on_disk", int(self.journal is not None and not self.journal.is_failing))
            self.stats.gauge("reconnects", sum(getattr(sink, "reconnects", 0) for sink in self._sinks.values()))
            self.stats.gauge("overflows", sum(supervisor.source.overflows for supervisor in self._supervisors.values()))
            overload.look(time.monotonic())
            self._put(Message("stats", self.stats.snapshot(), qos=0))


def _is_at_work(engine: Engine) -> bool:
    """Whether its pass in hand may still come to an end: a large batch on a slow CPU is no hang."""
    return time.monotonic() - engine.stepped < STUCK_S
