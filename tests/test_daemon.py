"""The process around the daemon: its threads, its signals, its changes of configuration."""

import asyncio
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from streamer import daemon
from streamer.core import Reason


def test_calls_get_threads_that_nobody_waits_for():
    threads, may_end = daemon.Threads(), threading.Event()
    waiting = [threads.submit(may_end.wait, 10) for _ in range(40)]  # none waits for another's thread
    assert threads.submit(lambda: "done").result(5) == "done"
    began = time.monotonic()
    threads.shutdown(wait=True)
    assert not any(future.done() for future in waiting)
    may_end.set()
    assert time.monotonic() - began < 5
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(5)


class SlowApp:
    """Takes until a stop without `keep_backend`, or until its model is at rest, to end."""

    settings = SimpleNamespace(model=None)
    backend = object()

    def __init__(self):
        self.told, self.succeeded = [], []
        self.has_ended = asyncio.Event()

    def stop(self, reason=Reason.STOP, *, keep_backend=False):
        self.told.append((reason, keep_backend))
        if not keep_backend:
            self.has_ended.set()

    async def run(self):
        await self.has_ended.wait()

    def succeed(self, before):
        self.succeeded.append(before)


EARLY = """
import os, signal, sys
from streamer import cli, cli_shared, daemon

def settings_of(args):
    os.kill(os.getpid(), signal.SIGHUP)

async def serve(settings, load, reload):
    print(reload.is_set())

cli_shared.settings_of, daemon.serve = settings_of, serve
sys.exit(cli.main(["run"]))
"""


def test_a_sighup_before_the_daemon_is_there_does_not_end_the_process():
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_reload_that_was_asked_for_before_is_made_up_for(monkeypatch):
    async def run():
        before, after, reload = SlowApp(), SlowApp(), asyncio.Event()
        apps = iter((before, after))
        monkeypatch.setattr(daemon, "App", lambda *_: next(apps))
        reload.set()
        serving = asyncio.ensure_future(daemon.serve(before.settings, lambda: before.settings, reload))
        async with asyncio.timeout(10):
            while not before.told:  # noqa: ASYNC110  a plain list
                await asyncio.sleep(0.005)
            before.has_ended.set()
            after.has_ended.set()
            await serving
        assert after.succeeded == [before]

    asyncio.run(run())


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_reload_lets_the_old_one_come_to_its_end_unless_a_signal_says_stop(monkeypatch, is_stopped):
    async def run():
        before, after, stop, reload = SlowApp(), SlowApp(), asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(daemon, "App", lambda settings, backend: after)
        following = asyncio.ensure_future(daemon._run(before, stop, reload, lambda: before.settings))
        reload.set()
        async with asyncio.timeout(10):
            while not before.told:  # noqa: ASYNC110  a plain list
                await asyncio.sleep(0.005)
            (stop if is_stopped else before.has_ended).set()
            successor = await following
        assert before.told == [(Reason.RELOAD, True), (Reason.STOP, False)][: 1 + is_stopped]
        assert successor is (None if is_stopped else after)
        assert after.succeeded == ([] if is_stopped else [before])

    asyncio.run(run())
