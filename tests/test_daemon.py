"""The process around the daemon: its threads, its signals, its changes of configuration."""

import threading
import time

import pytest

from streamer import daemon


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
