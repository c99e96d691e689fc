"""The model's thread: whatever streams are ready share one forward pass.

In: windows polled from streams. Out: `Scores` and `SegmentEnd`, handed to a callback in the order of each stream.
While a pass runs other streams become ready, so batches form under load with no timer.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from models.spec import Activation
from streamer.backends.base import Backend
from streamer.core import Scores, SegmentEnd, Window
from streamer.stats import Stats
from streamer.stream import Stream

log = logging.getLogger(__name__)
IDLE_S = 0.01  # between polls when nothing is ready: well under the shortest hop worth having
DRAIN_S = 1.5  # at stop: half of it to begin scoring what is queued, half to finish the last pass


class Engine:
    """Streams in, scores out.

    Args:
        backend: runs the model.
        streams: each is polled once a step, so none starves another.
        deliver: takes every output, in the thread that steps.
        stats: gets counts and times.
    """

    def __init__(
        self,
        backend: Backend,
        streams: Iterable[Stream],
        deliver: Callable[[Scores | SegmentEnd], None],
        stats: Stats | None = None,
    ) -> None:
        self._backend = backend
        self._streams = tuple(streams)
        self._deliver = deliver
        self._stats = stats or Stats()
        self.busy_s = 0.0  # time spent scoring
        self.stepped = time.monotonic()  # when the last step began: long ago means that the model hangs
        self._stop = threading.Event()
        self._is_abandoned = False
        self._thread: threading.Thread | None = None

    def step(self) -> bool:
        """Poll every stream once and score what is ready; False when nothing was."""
        begun = self.stepped = time.monotonic()
        ready = [output for stream in self._streams if (output := stream.poll()) is not None]
        windows = [output for output in ready if isinstance(output, Window)]
        scores = iter(self._score(windows))
        if self._is_abandoned:  # too late: whoever asked has gone
            return False
        self.busy_s += time.monotonic() - begun
        for output in ready:
            self._deliver(next(scores) if isinstance(output, Window) else output)
        return bool(ready)

    def _score(self, windows: list[Window]) -> list[Scores]:
        heard = [window.fbank for window in windows if not window.is_gated]
        self._stats.count("windows", len(windows))
        self._stats.count("gated", len(windows) - len(heard))
        answers = iter(self._infer(heard) if heard else ())
        silent = np.zeros(len(self._backend.spec.labels), np.float32)
        return [
            Scores(w.stream_id, w.start, w.end, w.hop, silent if w.is_gated else next(answers), w.level)
            for w in windows
        ]

    def _infer(self, heard: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        begun = time.perf_counter()
        batch = heard[0][None] if len(heard) == 1 else np.stack(heard)
        scores = activate(self._backend.infer(batch), self._backend.spec.activation)
        self._stats.observe_ms("infer", (time.perf_counter() - begun) * 1e3)
        return scores

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
        if self._thread is None:
            return True
        self._thread.join(DRAIN_S)
        while self._thread.is_alive() and is_patient():
            self._thread.join(IDLE_S)
        self._is_abandoned = self._thread.is_alive()
        return not self._is_abandoned

    def _loop(self) -> None:
        while not self._stop.is_set():
            if not self.step():
                self._stop.wait(IDLE_S)
        deadline = time.monotonic() + DRAIN_S / 2
        while time.monotonic() < deadline and self.step():
            pass


def activate(logits: npt.NDArray[np.float32], activation: Activation) -> npt.NDArray[np.float32]:
    """Logits (B, C) to scores in [0, 1]: independent labels, or shares of one."""
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
