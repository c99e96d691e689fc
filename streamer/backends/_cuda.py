"""A model on a CUDA device: passes are recorded once, as CUDA graphs, and replayed on windows from pinned memory.

In: windows (B, T, M) float32 in the host's memory. Out: logits (B, C) float32 there. Thread: one at a time.

    pinned ──copy stream──▶ landing ──▶ input ══ graph ══▶ logits ──▶ pinned
    memory                  (device)    (device)           (device)   memory

A pass of AST-base is well over a hundred kernels, and at batch 1 a fast GPU computes them sooner than Python launches
them; a graph is one launch. It is made for one batch size, so batches are cut into chunks of recorded sizes. While one
chunk is computed the next lands. Once recorded, nothing is allocated on the device, so nothing can run out later.

What it costs: about 20 MB per window of the largest size at AST-base in bfloat16, which all graphs share (one runs at a
time), and a fraction of a second per size at the start. `record` at warm-up spends that before sound comes; without
it, a size is recorded when it is first met, and that pass is as slow.

Not done, because it would gain nothing: padding the 1214 tokens to a multiple of 8. Tensor cores want the rows of
operands aligned, and those are 768 and 3072 long; tokens are the rows' number (B · 1214), of which only the last tile
of 128 is part empty. Attention's kernel masks its own last tile: 1216 would fill as many tiles as 1214.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
MOST = 64  # windows in a chunk: 77,696 tokens fill any GPU's multiprocessors dozens of times; more is memory only


@dataclass(frozen=True, slots=True)
class Chunk:
    """Windows `start` … `start + n` of a batch, computed as a batch of `size`, whose rest is not looked at."""

    start: int
    n: int
    size: int


def sizes_for(n: int) -> tuple[int, ...]:
    """Batch sizes to record for batches of up to `n` windows: 1, 2, 4, … to the first that holds them, or to `MOST`."""
    largest = min(MOST, 1 << max(0, n - 1).bit_length())
    return tuple(1 << power for power in range(largest.bit_length()))


def cut(n: int, sizes: tuple[int, ...]) -> list[Chunk]:
    """A batch of `n` windows as chunks of `sizes` (ascending, from 1), in order."""
    chunks: list[Chunk] = []
    start = 0
    while start < n:
        size = _fitting(n - start, sizes)
        chunks.append(Chunk(start, min(size, n - start), size))
        start += size
    return chunks


def _fitting(n: int, sizes: tuple[int, ...]) -> int:
    """The size that takes all `n`, unless over a quarter of it would be padding; then the largest that gets full."""
    whole = next((size for size in sizes if size >= n), None)
    return whole if whole and 4 * n >= 3 * whole else max(size for size in sizes if size <= n)


class Graphs:
    """A model's passes on one device.

    Args:
        model: windows (B, T, M) to logits (B, C), on `device`; each window's logits depend on that window only.
        device: torch's name of it.
        shape: (T, M) of a window.
        n_labels: C.
        n_windows: of the largest batch to be prepared for; larger ones are cut.
    """

    def __init__(self, model: nn.Module, device: str, shape: tuple[int, int], n_labels: int, n_windows: int) -> None:
        self.sizes = sizes_for(n_windows)
        self._model, self._device, self._n_labels = model, torch.device(device), n_labels
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self._can_record = True
        self._compute, self._copies = (torch.cuda.Stream(self._device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._sent, self._taken, self._done = (  # who waits for one sleeps; spinning would cost a core
            torch.cuda.Event(blocking=True) for _ in range(3)  # type: ignore[no-untyped-call]
        )
        rows = self.sizes[-1]
        self._pinned = self._host(rows, *shape)
        self._landing = torch.zeros((rows, *shape), device=self._device)
        self._input = torch.zeros((rows, *shape), device=self._device)
        self._logits = torch.zeros((rows, n_labels), device=self._device)
        torch.cuda.synchronize(self._device)  # the zeros are written on another stream than those that use them

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (B, C) of windows (B, T, M).

        Raises:
            RuntimeError: the device failed, or has too little memory even for one window.
            ValueError: the windows are of another shape.
        """
        if batch.shape[1:] != self._input.shape[1:]:
            raise ValueError(f"windows are {batch.shape}; (B, {', '.join(map(str, self._input.shape[1:]))}) is needed")
        windows, answers = torch.from_numpy(batch), self._host(len(batch), self._n_labels)
        with torch.inference_mode(), torch.cuda.stream(self._compute):
            for chunk in self._chunks(len(batch)):
                rows = slice(chunk.start, chunk.start + chunk.n)
                self._send(windows[rows])
                self._run(chunk)
                answers[rows].copy_(self._logits[: chunk.n], non_blocking=True)
            self._done.record(self._compute)
        self._done.synchronize()
        logits: npt.NDArray[np.float32] = answers.numpy()
        return logits

    def record(self, sizes: Collection[int] | None = None) -> None:
        """Prepare for batches of `sizes`, by default all; where memory is short, for smaller ones only.

        Raises:
            RuntimeError: the device failed, or has too little memory even for one window.
        """
        most = self.sizes[-1]
        with torch.inference_mode(), torch.cuda.stream(self._compute):
            for size in sorted(sizes or self.sizes, reverse=True):  # so that the small find memory the large one left
                if size <= self.sizes[-1]:  # not too large, as one before turned out to be
                    self._record(size)
        if self.sizes[-1] < most:
            said = "the model: no memory on %s for %d windows at once; they are computed %d at a time"
            log.warning(said, self._device, most, self.sizes[-1])

    def _host(self, *shape: int) -> Tensor:
        """Memory that the device reads and writes by itself (and plain memory where tests play the device)."""
        return torch.empty(shape, pin_memory=self._device.type == "cuda")

    def _chunks(self, n: int) -> list[Chunk]:
        """How to go about `n` windows, in sizes that are recorded."""
        chunks = cut(n, self.sizes)
        while missing := {chunk.size for chunk in chunks} - self._graphs.keys():
            self.record(missing)
            chunks = cut(n, self.sizes)
        return chunks

    def _send(self, windows: Tensor) -> None:
        """Have `windows` (n, T, M) copied to the landing, once it is empty."""
        self._sent.synchronize()  # the device has read what the pinned memory held
        pinned = self._pinned[: len(windows)].copy_(windows)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._taken)
            self._landing[: len(windows)].copy_(pinned, non_blocking=True)
            self._sent.record(self._copies)

    def _run(self, chunk: Chunk) -> None:
        """Have what lands computed; rows beyond are an earlier chunk's."""
        self._compute.wait_event(self._sent)
        self._input[: chunk.n].copy_(self._landing[: chunk.n], non_blocking=True)
        self._taken.record(self._compute)
        graph = self._graphs[chunk.size]
        if graph is None:
            self._forward(chunk.size)
        else:
            graph.replay()

    def _forward(self, size: int) -> None:
        self._logits[:size].copy_(self._model(self._input[:size]))

    def _record(self, size: int) -> None:
        """Record the pass of `size` windows, or, where memory is short, of the largest number it suffices for."""
        while size not in self._graphs and not self._try(size):
            size = self.sizes[-1]

    def _try(self, size: int) -> bool:
        """False where memory is short, and all that was tried is free again: no error holds on to it."""
        try:
            self._graphs[size] = self._graph(size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            self.sizes = tuple(smaller for smaller in self.sizes if smaller < size)
            return False
        return True

    def _graph(self, size: int) -> torch.cuda.CUDAGraph | None:
        """None where passes can't be recorded: an old driver, an operation that graphs don't allow."""
        self._forward(size)  # libraries load and allocate at first use, which a recording forbids
        if not self._can_record:
            return None
        graph = torch.cuda.CUDAGraph()
        pool = next((other.pool() for other in self._graphs.values() if other), None)
        try:
            # A reload records while the model before this one is still at work in another thread: not for us to forbid.
            with torch.cuda.graph(graph, pool, self._compute, capture_error_mode="thread_local"):
                self._forward(size)
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise torch.OutOfMemoryError(*error.args) from error
            self._can_record = False
            said = "the model: no CUDA graphs on %s (%s); passes are launched piece by piece, slower for few windows"
            log.warning(said, self._device, str(error).partition("\n")[0])
            return None
        return graph


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Also where ending the recording failed because of that: then it is what the error came of."""
    return error is not None and (isinstance(error, torch.OutOfMemoryError) or _is_out_of_memory(error.__context__))
