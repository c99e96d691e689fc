"""A CUDA device played on the CPU: streams, events and graphs, with all the freedom that the real ones have.

What is put on a stream waits there. Whenever the host does anything, and while it waits, pieces of work run from
streams picked at random, each stream in its own order, held up only by the events it was told to wait for. Some devices
are late, some at once, some favour one stream. So code that forgets an event reads stale or torn values here sooner or
later, as it would there, and `seed` brings it back.

A graph is what torch was asked to compute while it was recorded, and a replay does it again on the same memory. While
it is recorded nothing is computed, so results hold NaN until the first replay.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

COPY = torch.ops.aten.copy_.default


class Mark:
    """A moment on a stream."""

    is_reached = False

    def reach(self) -> None:
        self.is_reached = True


class Device(TorchDispatchMode):
    """Takes over what torch computes while it is entered."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self._pace = self.random.choice(((0,), (0, 0, 0, 0, 1), (0, 0, 1, 3, 9)))  # from as late as can be to at once
        self._favour = self.random.choice((None, 0, 1))  # the stream that goes first
        self.streams: list[Stream] = []
        self.current: list[Stream] = []
        self.recording: Graph | None = None
        self.replays: list[int] = []  # operations in each
        self.error: Exception | None = None  # of the next recording
        self.is_lost = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.recording is not None:
            return self.recording.add(func, args, kwargs)
        if func is COPY and (args[2:] or (False,))[0]:  # non-blocking
            self.current[-1].put(lambda: func(*args, **kwargs))
            return args[0]
        if self.current and func is not COPY and not func.is_view:  # computed at once, so what stands before it is due
            self.current[-1].finish()
        self.dawdle()
        return func(*args, **kwargs)

    def dawdle(self) -> None:
        for _ in range(self.random.choice(self._pace)):
            self.advance()

    def advance(self) -> bool:
        """Do one piece of work, if any may be done."""
        able = [stream for stream in self.streams if stream.is_able]
        if able:
            first = [stream for stream in able if self.streams.index(stream) == self._favour]
            self.random.choice(first or able).advance()
        return bool(able)

    def run_to(self, mark: Mark) -> None:
        while not mark.is_reached:
            assert self.advance(), "waits for ever"

    def check(self) -> None:
        if self.is_lost:
            raise RuntimeError("CUDA error: unspecified launch failure\nCompile with `TORCH_USE_CUDA_DSA` to …")


class Stream:
    """`torch.cuda.Stream`."""

    device: Device

    def __init__(self, device: object = None) -> None:
        self._work: deque[Mark | Callable[[], object]] = deque()
        self.device.streams.append(self)

    def put(self, work: Mark | Callable[[], object]) -> None:
        self.device.check()
        self._work.append(work)
        self.device.dawdle()

    def finish(self) -> None:
        mark = Mark()
        self._work.append(mark.reach)
        self.device.run_to(mark)

    def wait_event(self, event: "Event") -> None:
        if event.mark is not None:
            self.put(event.mark)

    @property
    def is_able(self) -> bool:
        return bool(self._work) and not (isinstance(self._work[0], Mark) and not self._work[0].is_reached)

    def advance(self) -> None:
        work = self._work.popleft()
        if not isinstance(work, Mark):
            with torch.inference_mode(), _disable_current_modes():
                work()


class Event:
    """`torch.cuda.Event`."""

    device: Device

    def __init__(self, *, blocking: bool = False) -> None:
        self.mark: Mark | None = None

    def record(self, stream: Stream) -> None:
        self.mark = Mark()
        stream.put(self.mark.reach)

    def synchronize(self) -> None:
        self.device.check()
        if self.mark is not None:
            self.device.run_to(self.mark)


class Graph:
    """`torch.cuda.CUDAGraph`."""

    device: Device

    def __init__(self) -> None:
        self.pool_of: int | None = None
        self._steps: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def pool(self) -> int:
        """Where its memory comes from: graphs that never run at the same time may share."""
        return self.pool_of or id(self)

    def add(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Note an operation; what it answers has its shape, but no values yet."""
        inputs = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if func is COPY:
            self._steps.append((func, args, kwargs, []))
            return args[0]
        result = func(*args, **kwargs)
        fresh = [x for x in tree_leaves(result) if x.untyped_storage().data_ptr() not in inputs]
        for value in fresh:
            value.fill_(float("nan"))
        self._steps.append((func, args, kwargs, fresh))
        return result

    def replay(self) -> None:
        self.device.replays.append(len(self._steps))
        self.device.current[-1].put(self._replay)

    def _replay(self) -> None:
        for func, args, kwargs, fresh in self._steps:
            result = func(*args, **kwargs)
            for old, new in zip(fresh, tree_leaves(result) if fresh else (), strict=True):
                old.copy_(new)


@contextmanager
def on_stream(device: Device, stream: Stream) -> Iterator[None]:
    n_outside = len(device.current)
    device.current.append(stream)
    try:
        yield
    finally:
        del device.current[n_outside:]


class recorded:  # noqa: N801
    """`torch.cuda.graph`; as there, nothing is put right when ending the recording fails."""

    device: Device

    def __init__(self, graph: Graph, pool: int | None, stream: Stream, *, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        self._graph, self._stream = graph, stream
        graph.pool_of = pool

    def __enter__(self) -> Self:
        while self.device.advance():
            pass
        self.device.current.append(self._stream)
        self.device.recording = self._graph
        return self

    def __exit__(self, *_: object) -> None:
        self.device.recording = None
        error, self.device.error = self.device.error, None
        if error is not None:
            raise error
        self.device.current.pop()


def install(monkeypatch: Any, seed: int = 0) -> Device:
    """Have `torch.cuda` be a simulated device, which is used while it is entered."""
    device = Device(seed)
    parts = {"Stream": Stream, "Event": Event, "CUDAGraph": Graph, "graph": recorded}
    for name, part in parts.items():
        monkeypatch.setattr(torch.cuda, name, type(part.__name__, (part,), {"device": device}))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: on_stream(device, stream))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    return device
