"""The process: its signals, its threads, and one `App` after another as the configuration changes.

SIGTERM and SIGINT stop it. SIGHUP reads the configuration again: a good one takes over, a bad one is refused in its
sentences and the old one stays. Thread: the event loop.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from models.errors import ModelError
from streamer.app import App
from streamer.backends.base import Backend
from streamer.core import Reason
from streamer.errors import StreamerError
from streamer.settings import Settings

log = logging.getLogger(__name__)


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


async def serve(
    settings: Settings, load: Callable[[], Settings] | None = None, reload: asyncio.Event | None = None
) -> None:
    """Run `settings` until a signal says stop, or every source has come to its end.

    Args:
        settings: what to run first.
        load: reads the configuration anew, for SIGHUP; raises `ConfigError`.
        reload: is set where a SIGHUP came before this.

    Raises:
        ConfigError, CheckpointError: it can't run as configured.
        BackendError: the model broke.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads())
    stop, reload = asyncio.Event(), reload or asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    loading = asyncio.ensure_future(asyncio.to_thread(App, settings))
    app: App | None = loading.result() if await _first(loading, stop.wait()) else None
    while app is not None:
        app = await _run(app, stop, reload, load)


async def _run(app: App, stop: asyncio.Event, reload: asyncio.Event, load: Callable[[], Settings] | None) -> App | None:
    """Run `app` to its end; return the one that shall follow it, if any."""
    running = asyncio.create_task(app.run(), name="app")
    succession = asyncio.create_task(_successor(app, reload, load), name="reload")
    stopping = asyncio.create_task(stop.wait(), name="signals")
    await asyncio.wait((running, succession, stopping), return_when=asyncio.FIRST_COMPLETED)
    successor = succession.result() if succession.done() and not running.done() and not stopping.done() else None
    if successor:
        app.stop(Reason.RELOAD, keep_backend=successor.backend is app.backend)
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        app.stop()
    succession.cancel()
    stopping.cancel()
    await running
    if successor is None or stop.is_set():
        return None
    successor.succeed(app)
    return successor


async def _successor(app: App, reload: asyncio.Event, load: Callable[[], Settings] | None) -> App:
    """Wait for a reload that can be done; return the app that it makes, ready to run."""
    while True:
        await reload.wait()
        reload.clear()
        if load is None:
            log.warning("SIGHUP: there is no configuration file to read again")
            continue
        try:
            settings = await asyncio.to_thread(load)
            kept: Backend | None = app.backend if settings.model == app.settings.model else None
            return await asyncio.to_thread(App, settings, kept)
        except (StreamerError, ModelError, OSError) as error:
            log.error("SIGHUP: the old configuration stays, the new one can't be used:\n%s", error)  # noqa: TRY400
        except Exception:
            log.exception("SIGHUP: the old configuration stays, the new one can't be used")


async def _first(wanted: asyncio.Future[Any], other: Any) -> bool:
    """Whether `wanted` is done before `other` is."""
    rival = asyncio.ensure_future(other)
    await asyncio.wait((wanted, rival), return_when=asyncio.FIRST_COMPLETED)
    rival.cancel()
    return wanted.done()
