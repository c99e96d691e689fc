"""The daemon: builds everything, runs it, watches it, and stops it in order.

Start: model and warm-up, sinks, engine, sources. Stop: sources, engine (one last drain), rules (open events end),
outboxes drain with a deadline, sinks say offline. Thread: the event loop, but where a line says otherwise.
"""

import asyncio
import logging
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from streamer import edges
from streamer.config import Settings
from streamer.core import Message, Scores, SegmentEnd, Site, Status, StreamRules
from streamer.engine import Engine
from streamer.errors import BackendError, CommandError
from streamer.line import build_line
from streamer.outbox import Outbox
from streamer.reporter import status_message
from streamer.stats import Stats
from streamer.supervisor import Supervisor

log = logging.getLogger(__name__)
BROKEN_S = 15.0  # a sink with a mistake of ours in it: rarely enough to keep the log readable
STATS_S = 30.0
STUCK_S = 120.0  # the largest batch of the largest model takes half a minute on a slow CPU
STOP_S = 4.5  # from a signal to the end; service managers and people are promised 5 s
LAST_WORD_S = 1.5  # of it: for sinks that were cut off to say `offline`
RELEASE_S = 1.0  # of it: for sources to let go of their devices


class Threads(ThreadPoolExecutor):
    """A thread of its own for each call, and none that the end of the process waits for.

    A hanging driver or name service then delays neither its neighbours nor our exit.
    """

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `function` in a new daemon thread."""
        future: Future[Any] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  the future hands it on
                future.set_exception(error)

        threading.Thread(target=call, name="call", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for nothing."""


async def serve(settings: Settings) -> None:
    """Run `settings` until a signal says stop, or every source has come to its end.

    Raises:
        ConfigError, CheckpointError: it can't run as configured.
        BackendError: the model broke.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads())
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, log.warning, "SIGHUP: to use a changed configuration, restart")
    loading = asyncio.ensure_future(asyncio.to_thread(App, settings, stop))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if loading.done():
        await loading.result().run()


class App:
    """A configured daemon. Making one loads the model and warms it up, which takes seconds: not for the event loop.

    Args:
        settings: what to run.
        stop: ends `run` when set.

    Raises:
        ConfigError, CheckpointError, BackendError: it can't run as configured.
    """

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        self.stats = Stats()
        self._settings = settings
        self._stop = stop
        self._backend = edges.build_backend(settings)
        self._backend.warmup()
        self._supervisors = {name: self._supervisor(name) for name in settings.streams}
        lines = {name: supervisor.line for name, supervisor in self._supervisors.items()}
        site = Site(settings.node, tuple(StreamRules(name, line.rules) for name, line in lines.items()), self._command)
        self._sinks = {name: edges.build_sink(config, site) for name, config in settings.sinks.items()}
        self._outboxes = {name: Outbox() for name in self._sinks}
        self._failure: BaseException | None = None

    def _supervisor(self, name: str) -> Supervisor:
        options = self._settings.streams[name]
        line = build_line(self._settings, name, self._backend.spec, self.stats)
        zeros_s = getattr(options.source, "zeros_s", None)
        source = edges.build_source(options.source)
        return Supervisor(line, source, zeros_s=zeros_s, late=options.late, put=self._put, stats=self.stats)

    async def run(self) -> None:
        """Listen until told to stop, or until every source has come to its end.

        Raises:
            BackendError: the model broke.
        """
        loop = asyncio.get_running_loop()
        self._announce()

        def deliver(output: Scores | SegmentEnd) -> None:  # in the engine's thread
            loop.call_soon_threadsafe(self._on_output, output)

        def fail(error: BaseException) -> None:  # in the engine's thread
            loop.call_soon_threadsafe(self._fail, error)

        streams = [supervisor.line.stream for supervisor in self._supervisors.values()]
        engine = Engine(self._backend, streams, deliver, self.stats)
        async with asyncio.TaskGroup() as tasks:
            sinks = {name: tasks.create_task(self._run_sink(name), name=f"sink-{name}") for name in self._sinks}
            engine.start(fail)
            sources = [tasks.create_task(s.run(), name=f"source-{name}") for name, s in self._supervisors.items()]
            helpers = [
                tasks.create_task(self._report_stats(engine), name="stats"),
                tasks.create_task(self._watch_engine(engine), name="engine-watch"),
                tasks.create_task(self._stop_when_done(sources), name="done"),
            ]
            await self._stop.wait()
            await self._shut_down(engine, sources, sinks)
            for task in helpers:
                task.cancel()
        if self._failure:
            raise BackendError(f"stopped by a fault: {self._failure}") from self._failure

    def _command(self, topic: str, text: str) -> None:
        """Obey an order from outside; see `Site`."""
        raise CommandError(f"no command is known for {topic}")

    # -- what comes in -------------------------------------------------------------------------------------------

    def _on_output(self, output: Scores | SegmentEnd) -> None:
        """Tell a stream's rules; a mistake of ours in there must end the process, not deafen it in silence."""
        try:
            self._take(output)
        except Exception as error:
            log.exception("stream %s", output.stream_id)
            self._fail(error)

    def _take(self, output: Scores | SegmentEnd) -> None:
        supervisor = self._supervisors[output.stream_id]
        for message in supervisor.line.reporter.report(output):
            self._put(message)
        supervisor.heard(output)
        if isinstance(output, Scores):
            late_s = time.monotonic() - supervisor.line.stream.captured(output.end)
            self.stats.observe_ms("latency", late_s * 1e3)

    def _put(self, message: Message) -> None:
        for outbox in self._outboxes.values():
            outbox.put(message)

    def _announce(self) -> None:
        """States as they are now, over whatever an earlier life left retained."""
        for name, supervisor in self._supervisors.items():
            self._put(status_message(name, supervisor.status))
            for message in supervisor.line.reporter.idle():
                self._put(message)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stop.set()

    async def _watch_engine(self, engine: Engine) -> None:
        """A model that hangs is a daemon that is deaf: end, and let the service manager start anew."""
        while (silent_s := time.monotonic() - engine.stepped) < STUCK_S:  # noqa: ASYNC110  it is the time that counts
            await asyncio.sleep(STUCK_S - silent_s)
        self._fail(BackendError(f"no answer for {STUCK_S:.0f} s"))

    async def _run_sink(self, name: str) -> None:
        """A sink retries by itself; should it break all the same, the others and the listening go on."""
        while True:
            try:
                return await self._sinks[name].run(self._outboxes[name])
            except Exception:
                log.exception("sink %s: broken; starting it again in %.0f s", name, BROKEN_S)
                await asyncio.sleep(BROKEN_S)

    async def _stop_when_done(self, sources: list[asyncio.Task[None]]) -> None:
        await asyncio.wait(sources)
        self._stop.set()

    # -- stop ----------------------------------------------------------------------------------------------------

    async def _shut_down(
        self, engine: Engine, sources: list[asyncio.Task[None]], sinks: dict[str, asyncio.Task[None]]
    ) -> None:
        """Sources, engine, rules, outboxes, sinks: each is given what the one before it had left."""
        log.info("stopping")
        deadline = time.monotonic() + STOP_S
        for task in sources:
            task.cancel()
        await asyncio.wait(sources, timeout=RELEASE_S)
        if await asyncio.to_thread(engine.stop):
            self._backend.close()
        await asyncio.sleep(0)  # what the engine delivered last is queued on this loop
        for supervisor in self._supervisors.values():
            supervisor.set_status(Status.OFFLINE)
            for message in supervisor.line.reporter.stop():
                self._put(message)
        for outbox in self._outboxes.values():
            outbox.close()
        if sinks:
            await asyncio.wait(sinks.values(), timeout=max(0.1, deadline - time.monotonic() - LAST_WORD_S))
        for name, task in sinks.items():
            if task.cancel() and self._outboxes[name].pending:
                log.warning("sink %s: %d events were not delivered", name, self._outboxes[name].pending)
        for task in sources:
            task.cancel()  # again: one that still waits for a driver to let go

    async def _report_stats(self, engine: Engine) -> None:
        busy_s = engine.busy_s
        while True:
            await asyncio.sleep(STATS_S)
            self.stats.gauge("real_time_factor", round((engine.busy_s - busy_s) / STATS_S, 4))
            busy_s = engine.busy_s
            self.stats.gauge("pending_events", sum(outbox.pending for outbox in self._outboxes.values()))
            self.stats.gauge("dropped_events", sum(outbox.dropped for outbox in self._outboxes.values()))
            self.stats.gauge("overflows", sum(supervisor.source.overflows for supervisor in self._supervisors.values()))
            self._put(Message("stats", self.stats.snapshot(), qos=0))
