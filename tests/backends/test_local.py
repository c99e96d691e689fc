"""The local backend: which device and which number format it picks."""

import pytest
import torch

from models.errors import CheckpointError
from streamer.backends.local import pick_device, pick_dtype

FORMS = "must be auto, cpu, cuda or cuda:N with the number of a GPU, not "


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.parametrize("name", ["gpu", "tpu", "", "CPU", "cuda:x", "cuda:-1", "cuda:", "cuda:1:2", "cuda0", "cpu\n"])
@pytest.mark.usefixtures("gpus")
def test_what_is_no_device_s_name(name: str) -> None:
    with pytest.raises(LookupError) as caught:
        pick_device(name)
    assert str(caught.value) == f"{FORMS}'{name}'"


@pytest.mark.usefixtures("gpus")
def test_devices_that_are_there() -> None:
    picked = {name: pick_device(name) for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:1")}
    assert picked == {"auto": "cuda", "cpu": "cpu", "cuda": "cuda", "cuda:0": "cuda:0", "cuda:1": "cuda:1"}
    with pytest.raises(LookupError, match=r"^'cuda:2' is not there: CUDA devices that torch finds: 2; write 'cpu' or"):
        pick_device("cuda:2")


def test_an_old_driver_counts_gpus_that_can_t_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert pick_device("auto") == "cpu"
    for name in ("cuda", "cuda:0"):
        with pytest.raises(LookupError, match=f"^'{name}' is not there"):
            pick_device(name)


@pytest.mark.parametrize(("capability", "on_gpu", "to_train"), [
    ((9, 0), torch.bfloat16, torch.bfloat16),
    ((7, 5), torch.float16, torch.float32),  # tensor cores, but none for bfloat16
    ((6, 1), torch.float32, torch.float32),  # multiplies float16 at a 64th of the speed
])  # fmt: skip
def test_the_format_that_the_hardware_multiplies(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], on_gpu: torch.dtype, to_train: torch.dtype
) -> None:
    """torch's own answer counts a GPU that emulates bfloat16."""
    is_new = capability >= (8, 0)

    def is_supported(including_emulation: bool = True) -> bool:
        return is_new or including_emulation

    monkeypatch.setattr("torch.cuda.is_bf16_supported", is_supported)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: is_new)
    for device in ("cuda", "cuda:1"):
        assert pick_dtype("auto", device) is on_gpu
        assert pick_dtype("auto", device, [torch.bfloat16]) is to_train
        assert pick_dtype("float32", device) is torch.float32
    assert pick_dtype("auto", "cpu") is (torch.bfloat16 if is_new else torch.float32)
    assert pick_dtype("float16", "cpu") is torch.float16
    with pytest.raises(CheckpointError, match=r"^dtype 'int8' is unknown; known: auto, float32"):
        pick_dtype("int8", "cpu")
