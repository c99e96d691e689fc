"""Facts of a checkpoint: told without torch, and the cost as torch counts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import models
from models import checkpoint
from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.errors import CheckpointError
from models.info import flops, info, table
from tests.models.small import SMALL


def test_facts_of_a_small_checkpoint(folder: Path) -> None:
    model = ASTForAudioClassification.from_pretrained(folder)
    facts = info(folder)
    assert json.loads(json.dumps(facts)) == facts
    assert facts == {
        "name": "small",
        "revision": checkpoint.revision(folder),
        "parameters": sum(value.numel() for value in model.parameters()),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "dtype": "float32",
        "layers": 2,
        "width": 48,
        "heads": 4,
        "patch": [16, 16],
        "strides": [10, 10],
        "patches": 2 * 5,
        "tokens": 12,
        "window_frames": 64,
        "window_s": 0.64,
        "sample_rate": 16000,
        "mel_bins": 32,
        "mean": pytest.approx(-4.2677393),
        "std": pytest.approx(4.5689974),
        "activation": "sigmoid",
        "flops": flops(model.config),
        "labels": [{"label": label, "id": ""} for label in ("Speech", "Sjödjur: “bark”", "Smoke detector")],
    }


@pytest.mark.parametrize(
    "config",
    [
        ASTConfig(num_labels=527),
        ASTConfig(**SMALL),
        ASTConfig(**SMALL | {"frequency_stride": 16, "time_stride": 4, "id2label": {0: "Bark"}}),
        ASTConfig(**SMALL | {"hidden_size": 192, "num_hidden_layers": 3, "num_mel_bins": 128, "max_length": 512}),
        ASTConfig(**SMALL | {"patch_size": (8, 4), "intermediate_size": 20}),
    ],
    ids=["AST-base", "small", "other strides", "another size", "tall patches"],
)
def test_the_cost_is_what_torch_counts(config: ASTConfig) -> None:
    """On the meta device: shapes only."""
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ASTForAudioClassification(config)(torch.zeros(1, config.max_length, config.num_mel_bins))
    assert flops(config) == counter.get_total_flops() > 1e6


def test_facts_are_told_without_torch(folder: Path) -> None:
    code = "import sys; from models.info import info; print(info(sys.argv[1])['parameters'], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(models.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{info(folder)['parameters']} False\n", "")


def test_facts_of_other_files(folder: Path) -> None:
    expected = info(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({name: value.half() for name, value in state.items()}, folder / "pytorch_model.bin")
    facts = info(folder)
    assert (facts["parameters"], facts["dtype"]) == (expected["parameters"], "float16")
    assert facts["bytes"] == (folder / "pytorch_model.bin").stat().st_size


def test_a_file_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable safetensors file: "):
        info(folder)


def test_a_table_for_people(folder: Path) -> None:
    facts = info(folder) | {"revision": "sha256:0123456789abcdef", "flops": 263e9, "parameters": 86_600_000}
    facts["labels"][0]["id"] = "/m/09x0r"
    facts["labels"] += [{"label": f"Sound {i}", "id": ""} for i in range(22)]
    assert table(facts) == (
        "checkpoint  small, sha256:0123456789abcdef\n"
        "weights     86.6 M parameters, 0.2 MB, float32\n"
        "encoder     2 layers, 48 wide, 4 heads\n"
        "patches     16 x 16 every 10 x 10 (mel bins x frames): 10, and 2 class tokens\n"
        "window      0.64 s at 16000 Hz: 64 frames of 32 mel bins\n"
        "features    mean -4.2677, standard deviation 4.5690\n"
        "scores      sigmoid of 25 logits\n"
        "cost        263.0 GFLOP a window\n"
        "labels      Speech (/m/09x0r); Sjödjur: “bark”; Smoke detector; "
        + "; ".join(f"Sound {i}" for i in range(17))
        + "; and 5 more"
    )
