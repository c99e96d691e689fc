"""Passes on a CUDA device: how batches are cut, and that no order in which a device may work changes an answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from models.audio_spectrogram_transformer.inference import InferenceAST
from streamer.backends._cuda import Graphs, cut, sizes_for
from streamer.backends.local import Local
from streamer.errors import BackendError
from tests.backends import simulated_cuda
from tests.backends.simulated_cuda import Device
from tests.models.small import SMALL, randomise

SIZES = (1, 2, 4, 8)
SHAPE = (64, 32)  # of a small window
ATOL = 1e-5  # products of other sizes round differently
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize(("n", "sizes"), [
    (1, (1,)), (2, (1, 2)), (3, (1, 2, 4)), (9, (1, 2, 4, 8, 16)),
    (64, (1, 2, 4, 8, 16, 32, 64)), (65, (1, 2, 4, 8, 16, 32, 64)), (0, (1,)),
])  # fmt: skip
def test_sizes_that_are_recorded(n: int, sizes: tuple[int, ...]) -> None:
    assert sizes_for(n) == sizes


@pytest.mark.parametrize(("n", "passes"), [
    (0, ""), (1, "1/1"), (2, "2/2"), (3, "3/4"), (4, "4/4"),
    (5, "4/4 1/1"),  # 8 would be three parts padding to five parts work
    (6, "6/8"), (7, "7/8"), (8, "8/8"), (9, "8/8 1/1"), (19, "8/8 8/8 3/4"), (23, "8/8 8/8 7/8"),
])  # fmt: skip
def test_a_batch_in_chunks(n: int, passes: str) -> None:
    assert " ".join(f"{chunk.n}/{chunk.size}" for chunk in cut(n, SIZES)) == passes


@given(st.integers(0, 5000), st.integers(1, 64))
def test_chunks_hold_each_window_once_and_little_else(n: int, most: int) -> None:
    sizes = sizes_for(most)
    chunks = cut(n, sizes)
    assert [i for chunk in chunks for i in range(chunk.start, chunk.start + chunk.n)] == list(range(n))
    assert all(1 <= chunk.n <= chunk.size and chunk.size in sizes for chunk in chunks)
    assert 3 * sum(chunk.size for chunk in chunks) <= 4 * n
    assert all(chunk.size == sizes[-1] for chunk in chunks[: n // sizes[-1]]), "the largest first"


# -- on a simulated device -------------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """A small AST that notes its batches, and has memory for `most` windows."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        whole = ASTForAudioClassification(ASTConfig(**SMALL)).eval()
        randomise(whole)
        self.ast, self.most, self.batches = InferenceAST(whole), most, list[int]()
        self.refused: list[int] = []
        self.memory: ReferenceType[torch.Tensor] = ref(torch.empty(1))  # of the last pass

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        assert self.memory() is None, "what a pass allocates is free before the next"
        memory = torch.empty(1)
        self.memory = ref(memory)
        if len(windows) > self.most:
            self.refused.append(len(windows))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        self.batches.append(len(windows))
        logits: torch.Tensor = self.ast(windows)
        return logits


def windows(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.5, (n, *SHAPE)).astype(np.float32)


def plainly(model: Model, batch: Any) -> Any:
    if not len(batch):
        return np.empty((0, 3), np.float32)
    with torch.inference_mode():
        return model.ast(torch.from_numpy(batch)).numpy()


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return Model()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    with simulated_cuda.install(monkeypatch) as device:
        yield device


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    n_windows=st.integers(1, 8),
    seed=st.integers(0, 2**32),
    can_record=st.booleans(),
)
def test_any_batches_in_any_order_of_work_give_the_plain_logits(
    model: Model, counts: list[int], n_windows: int, seed: int, *, can_record: bool
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, simulated_cuda.install(monkeypatch, seed) as device:
        graphs = Graphs(model, "cpu", SHAPE, 3, n_windows)
        graphs._can_record = can_record
        batches = [windows(n, i) for i, n in enumerate(counts)]
        answers = [graphs.infer(batch) for batch in batches]
        n_chunks = sum(len(cut(n, graphs.sizes)) for n in counts)
        assert len(device.replays) == (n_chunks if can_record else 0)
    for batch, answer in zip(batches, answers, strict=True):
        assert answer.shape == (len(batch), 3)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, plainly(model, batch), rtol=0, atol=ATOL)


def test_a_size_is_recorded_once_and_the_largest_first(device: Device) -> None:
    model = Model()
    graphs = Graphs(model, "cpu", SHAPE, 3, 8)
    graphs.record()
    assert model.batches == [8, 8, 4, 4, 2, 2, 1, 1]  # once to warm up, once to record
    graphs.record()
    graphs.infer(windows(23))
    assert model.batches == [8, 8, 4, 4, 2, 2, 1, 1]
    assert len(device.replays) == 3
    assert len({graph.pool() for graph in graphs._graphs.values() if graph}) == 1, "they share their memory"


@pytest.mark.usefixtures("device")
def test_a_size_is_recorded_when_it_is_met_first() -> None:
    model = Model()
    graphs = Graphs(model, "cpu", SHAPE, 3, 8)
    graphs.infer(windows(9))
    graphs.infer(windows(9))
    assert model.batches == [8, 8, 1, 1]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("is_warm", [True, False])
def test_short_memory_means_smaller_batches_and_one_warning(
    caplog: pytest.LogCaptureFixture, *, is_warm: bool
) -> None:
    model = Model(most=3)
    graphs = Graphs(model, "cpu", SHAPE, 3, 16)
    if is_warm:
        graphs.record()
    np.testing.assert_allclose(graphs.infer(windows(21)), plainly(model, windows(21)), rtol=0, atol=ATOL)
    assert graphs.sizes == (1, 2)
    assert model.refused == [16, 8, 4], "each was tried once"
    assert caplog.messages == ["the model: no memory on cpu for 16 windows at once; they are computed 2 at a time"]


@pytest.mark.usefixtures("device")
def test_memory_for_not_even_one_window() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        Graphs(Model(most=0), "cpu", SHAPE, 3, 4).infer(windows(1))


def test_memory_that_ends_while_recording(device: Device) -> None:
    graphs = Graphs(Model(), "cpu", SHAPE, 3, 4)
    device.error = RuntimeError("operation failed due to a previous error during capture")
    device.error.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    graphs.record()
    assert graphs.sizes == (1, 2)
    assert graphs._can_record


def test_where_passes_can_t_be_recorded_they_are_launched(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    graphs = Graphs(model, "cpu", SHAPE, 3, 4)
    device.error = RuntimeError("CUDA error: operation not permitted when stream is capturing\nsearch for …")
    graphs.record()
    (said,) = caplog.messages
    assert said == (
        "the model: no CUDA graphs on cpu (CUDA error: operation not permitted when stream is capturing); "
        "passes are launched piece by piece, slower for few windows"
    )
    np.testing.assert_allclose(graphs.infer(windows(9)), plainly(model, windows(9)), rtol=0, atol=ATOL)
    assert device.replays == []


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("shape", [(2, 64, 1), (2, 1, 32), (64, 32), (2, 63, 32)])
def test_windows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """A copy would spread the ones of size 1."""
    with pytest.raises(ValueError, match=r"^windows are \([0-9, ]+\); \(B, 64, 32\) is needed$"):
        Graphs(Model(), "cpu", SHAPE, 3, 2).infer(np.zeros(shape, np.float32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    whole = ASTForAudioClassification(ASTConfig(**SMALL)).eval()
    randomise(whole)
    whole.save_pretrained(tmp_path)
    ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(tmp_path)
    return tmp_path


def local_on(device: Device, folder: Path) -> Local:
    """A `Local` that takes the simulated device for a GPU."""
    local = Local(str(folder), "cpu", "float32", n_windows=4)
    local._graphs = local._make_graphs(4)
    return local


def test_a_lost_device_is_a_sentence(device: Device, folder: Path) -> None:
    local = local_on(device, folder)
    local.warmup()
    assert local.infer(windows(5)).shape == (5, 3)
    device.is_lost = True
    for call in (lambda: local.infer(windows(2)), local.warmup):
        with pytest.raises(BackendError) as caught:
            call()
        assert str(caught.value) == (
            "the model failed on 'cpu': CUDA error: unspecified launch failure; "
            "only a new process gets the GPU back; nvidia-smi and dmesg tell more"
        )


def test_what_is_no_number_is_told_from_chunks_too(device: Device, folder: Path) -> None:
    local = local_on(device, folder)
    batch = windows(9)
    batch[8, 3, 3] = np.inf
    with pytest.raises(BackendError, match=r"NaN or infinity in torch\.float32; try model.dtype: float32"):
        local.infer(batch)
    assert np.isfinite(local.infer(windows(9))).all(), "what was left in the padding does no harm"


# -- on a real one ---------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_graphs_on_a_gpu_answer_what_the_plain_path_does(folder: Path, dtype: str) -> None:
    local = Local(str(folder), "cuda", dtype, n_windows=4)
    local.warmup()
    assert local._graphs is not None
    assert all(local._graphs._graphs.values()), "each was recorded"
    atol = ATOL if dtype == "float32" else 0.05  # of logits: bfloat16 has 8 bits, and other sizes add up anew
    for n in range(1, 10):
        expected = local._infer_plainly(windows(n, n))
        np.testing.assert_allclose(local.infer(windows(n, n)), expected, rtol=0, atol=atol)


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scores_on_a_gpu_are_those_of_float32(folder: Path, dtype: str) -> None:
    expected = Local(str(folder), "cpu", "float32").infer(windows(9))
    scores = Local(str(folder), "cuda", dtype, n_windows=4).infer(windows(9))
    sigmoid = [1 / (1 + np.exp(-logits)) for logits in (scores, expected)]
    assert sigmoid[1].std() > 0.05
    np.testing.assert_allclose(*sigmoid, rtol=0, atol=0.01)


@pytest.mark.gpu
@NEEDS_GPU
def test_passes_leave_nothing_behind_on_a_gpu(folder: Path) -> None:
    local = Local(str(folder), "cuda", "auto", n_windows=8)
    local.warmup()
    local.infer(windows(40))
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for i in range(200):
        local.infer(windows(1 + i % 40))
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


@pytest.mark.gpu
@NEEDS_GPU
def test_another_is_recorded_while_one_works_on_a_gpu(folder: Path) -> None:
    """As a reload does."""
    from concurrent.futures import ThreadPoolExecutor

    first = Local(str(folder), "cuda", "float32", n_windows=4)
    first.warmup()
    expected = first.infer(windows(9))
    with ThreadPoolExecutor(1) as engine:
        answers = engine.submit(lambda: [first.infer(windows(9)) for _ in range(200)])
        second = Local(str(folder), "cuda", "float32", n_windows=8)
        second.warmup()
        for answer in answers.result():
            np.testing.assert_allclose(answer, expected, rtol=0, atol=ATOL)
    np.testing.assert_allclose(second.infer(windows(9)), expected, rtol=0, atol=ATOL)
