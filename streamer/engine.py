"""The model's thread: whatever streams are ready share one forward pass.

In: windows polled from streams. Out: `Scores` and `SegmentEnd`, handed to a callback in the order of each stream.
While a pass runs other streams become ready, so batches form under load with no timer. Under more load than the model
bears the stream that waits longest comes first, each gives its newest sound, and those that may give some less often.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from streamer.backends.base import Backend, activate
from streamer.core import Scores, SegmentEnd, Window
from streamer.pace import Pace
from streamer.stats import Stats
from streamer.stream import Stream

log = logging.getLogger(__name__)
IDLE_S = 0.1  # until streams are polled unasked: they wake the engine, but for the first sound of an opening
DRAIN_S = 1.5  # at stop: half of it to begin scoring what is queued, half to finish the last pass
PASS_S = 0.03  # for so much work windows share a pass, in which each waits for all: a GPU is faster for it, a CPU isn't
MOST = 64  # windows in a pass: what a GPU gains with more is little
FIRST = 4  # windows in the first pass, before anything is known of the model


class Engine:
    """Streams in, scores out.

    Args:
        backend: runs the model.
        streams: those that wait longest are polled first, so none starves another.
        deliver: takes every output, in the thread that steps.
        stats: gets counts; the times that windows waited for their turn (`queue`) and the model took (`infer`); and
            `hop_factor`, how many hops there are from one look to the next at streams that back off.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        backend: Backend,
        streams: Iterable[Stream],
        deliver: Callable[[Scores | SegmentEnd], None],
        stats: Stats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._streams = tuple(streams)
        self._deliver = deliver
        self._stats = stats or Stats()
        self._clock = clock
        self._silent = np.zeros(len(backend.spec.labels), np.float32)
        self._silent.flags.writeable = False
        self._served = dict.fromkeys(self._streams, -math.inf)  # when each had its last turn, in this order
        self._window_s = PASS_S / FIRST  # what the model takes for one, of late
        self._pace = Pace(max((stream.most_stride for stream in self._streams), default=1))
        self._stats.gauge("hop_factor", 1)
        self.busy_s = 0.0  # time spent scoring
        self.stepped = clock()  # when the last step began: long ago means that the model hangs
        self._stop = threading.Event()
        self._woken = threading.Event()
        for stream in self._streams:
            stream.wake = self._woken.set
        self._is_abandoned = False
        self._thread: threading.Thread | None = None

    def step(self) -> bool:
        """Score what is ready, as much of it as one pass should take; False when nothing was."""
        begun = self.stepped = self._clock()
        ready = self._collect(begun)
        if not ready:
            return False
        windows = [output for _, output in ready if isinstance(output, Window)]
        scores = iter(self._score(windows))
        if self._is_abandoned:  # too late: whoever asked has gone
            return False
        took_s = self._clock() - begun
        self.busy_s += took_s
        for _, output in ready:
            self._deliver(next(scores) if isinstance(output, Window) else output)
        self._slow_down(ready, took_s)
        return True

    def _collect(self, now: float) -> list[tuple[Stream, Window | SegmentEnd]]:
        """What streams have to give, first those that wait longest, and as many windows as fit into a pass."""
        dues = [(stream, due) for stream in self._served if (due := stream.due()) is not None]
        waiting = sorted(dues, key=lambda pair: self._since(pair[0], pair[1], now))
        most = min(MOST, max(1, round(PASS_S / self._window_s)))
        ready, n_heard = [], 0
        for stream, _ in waiting:
            if n_heard == most:
                break
            if (output := stream.poll()) is None:
                continue
            ready.append((stream, output))
            del self._served[stream]
            self._served[stream] = now  # it goes to the end of the queue
            if isinstance(output, Window):
                n_heard += not output.is_gated
                self._stats.observe_ms("queue", max(0.0, now - stream.captured(output.end)) * 1e3)
        return ready

    def _since(self, stream: Stream, due: float, now: float) -> float:
        """Since when it waits. Nobody has a claim to two windows a hop, however many wait; to be read, any time."""
        return due if due == -math.inf else max(min(due, now), self._served[stream] + stream.hop_s)

    def _score(self, windows: list[Window]) -> list[Scores]:
        heard = [window.fbank for window in windows if not window.is_gated]
        self._stats.count("windows", len(windows))
        self._stats.count("gated", len(windows) - len(heard))
        answers = iter(self._infer(heard) if heard else ())
        return [
            Scores(w.stream_id, w.start, w.end, w.hop, self._silent if w.is_gated else next(answers), w.level)
            for w in windows
        ]

    def _infer(self, heard: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        begun = self._clock()
        batch = heard[0][None] if len(heard) == 1 else np.stack(heard)
        scores = activate(self._backend.infer(batch), self._backend.spec.activation)
        took_s = self._clock() - begun
        self._window_s += (took_s / len(heard) - self._window_s) / 4  # a hiccup is forgotten after a few passes
        self._stats.observe_ms("infer", took_s * 1e3)
        return scores

    def _slow_down(self, ready: list[tuple[Stream, Window | SegmentEnd]], took_s: float) -> None:
        """Have streams look less often while the model can't keep up, and say so."""
        looks = [(stream, window) for stream, window in ready if isinstance(window, Window) and stream.gives_way]
        n_late = sum(stream.is_overdue(window) for stream, window in looks)
        before = self._pace.factor
        own_s = took_s * len(looks) / len(ready)
        if not self._pace.note(self._clock(), took_s, own_s, len(looks), n_late):
            return
        factor = self._pace.factor
        self._stats.gauge("hop_factor", factor)
        for stream in self._streams:
            stream.slow_down(factor)
        hops = f"hops are {factor} times as long" if factor > 1 else "hops are as configured"
        if self._pace.is_short:
            log.warning("the model can't keep up: %s, and that is not enough, windows are skipped", hops)
        elif factor > before:
            log.warning("the model can't keep up: %s from now on", hops)
        else:
            log.info("the model has room again: %s", hops)

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Step in a thread of its own; `on_failure` is called from there if the model breaks."""

        def run() -> None:
            try:
                self._loop()
            except BaseException as error:  # noqa: BLE001  the process ends with this error; the thread must not hide it
                if not self._is_abandoned:
                    on_failure(error)

        self._thread = threading.Thread(target=run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, is_patient: Callable[[], bool] = lambda: False) -> bool:
        """Score what is queued, for about `DRAIN_S`, and end the thread. Blocks: not for the event loop.

        Args:
            is_patient: whether to wait on for a pass that takes longer; asked again and again, in this thread.

        Returns:
            Whether it ended; if not, the model is still at work, and nothing of it will be delivered any more.
        """
        self._stop.set()
        self._woken.set()
        if self._thread is None:
            return True
        self._thread.join(DRAIN_S)
        while self._thread.is_alive() and is_patient():
            self._thread.join(IDLE_S)
        self._is_abandoned = self._thread.is_alive()
        return not self._is_abandoned

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._woken.clear()  # before the step: what comes while it looks wakes it again
            if not self.step():
                self._woken.wait(IDLE_S)
        deadline = time.monotonic() + DRAIN_S / 2
        while time.monotonic() < deadline and self.step():
            pass
