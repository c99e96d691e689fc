"""AST: logits equal transformers', and checkpoints go both ways."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import models
from models import checkpoint
from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.audio_spectrogram_transformer.modeling import ACTIVATIONS
from models.audio_spectrogram_transformer.weights import LAYER, hub_name
from tests import reference
from tests.models.small import SMALL, randomise

ATOL = 1e-4  # of a logit of order 1: the two libraries sum float32 in different orders

SHAPES: dict[str, dict[str, Any]] = {
    "overlapping patches": {},
    "separate patches": {"frequency_stride": 16, "time_stride": 16},
    "another stride each way": {"frequency_stride": 16, "time_stride": 10, "max_length": 101},
    "no bias on q, k, v": {"qkv_bias": False},
    "one head, one layer, two labels": {
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "id2label": {0: "Bark", 1: "Meow"},
    },
    "a whole window": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_mel_bins": 128,
        "max_length": 1024,
        "frequency_stride": 16,
        "time_stride": 16,
    },
    "small patches, relu": {"patch_size": 8, "frequency_stride": 8, "time_stride": 4, "hidden_act": "relu"},
    "tanh gelu, coarse eps": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    "silu": {"hidden_act": "silu"},
}


def windows(config: Any, n: int = 2) -> Tensor:
    return torch.randn(n, config.max_length, config.num_mel_bins, generator=torch.Generator().manual_seed(7)) / 2


def logits(model: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = model(x).logits
    return answer


def assert_same_logits(ours: Any, theirs: Any, x: Tensor) -> None:
    expected = logits(theirs, x)
    assert expected.std() > 0.1  # else agreeing would prove nothing
    assert (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(logits(ours, x), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_reference_s(tmp_path: Path, shape: str) -> None:
    config = reference.ASTConfig(**SMALL | SHAPES[shape])
    theirs = reference.ASTForAudioClassification(config).eval()
    randomise(theirs, seed=len(shape))
    theirs.save_pretrained(tmp_path)
    assert_same_logits(ASTForAudioClassification.from_pretrained(tmp_path), theirs, windows(config))


@pytest.mark.parametrize("shape", ["another stride each way", "no bias on q, k, v", "small patches, relu"])
def test_the_reference_reads_what_we_write(tmp_path: Path, shape: str) -> None:
    ours = ASTForAudioClassification(ASTConfig(**SMALL | SHAPES[shape])).eval()
    randomise(ours, seed=len(shape))
    ours.save_pretrained(tmp_path)
    theirs, report = reference.ASTForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.id2label == dict(ours.config.id2label)
    assert_same_logits(ours, theirs.eval(), windows(ours.config))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_the_reference_s(name: str) -> None:
    """By themselves: tanh's gelu is too near to the other one, 5e-4, to show in logits."""
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(ACTIVATIONS[name](x), reference.ACTIVATIONS[name](x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", ["overlapping patches", "no bias on q, k, v"])
def test_names_map_one_to_one(tmp_path: Path, shape: str) -> None:
    settings = SMALL | SHAPES[shape]
    ours = ASTForAudioClassification(ASTConfig(**settings)).state_dict()
    reference.ASTForAudioClassification(reference.ASTConfig(**settings)).save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert len(set(LAYER.values())) == len(LAYER)
    assert sorted(map(hub_name, ours)) == sorted(written)
    assert all(written[hub_name(name)].shape == value.shape for name, value in ours.items())


def test_files_under_the_reference_s_names_in_memory_load_too(folder: Path, model: ASTForAudioClassification) -> None:
    checkpoint.write_weights(folder, model.state_dict())
    assert "audio_spectrogram_transformer.layers.0.attention.q_proj.weight" in load_file(folder / "model.safetensors")
    again = ASTForAudioClassification.from_pretrained(folder)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_half_precision_files_load_as_float32(folder: Path, model: ASTForAudioClassification) -> None:
    model.save_pretrained(folder, dtype=torch.float16)
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float16}
    loaded, _ = models.load(folder)
    halved = {name: value.half().float() for name, value in model.state_dict().items()}
    torch.testing.assert_close(loaded.state_dict(), halved, rtol=0, atol=0)


def test_kept_patches_may_come_in_any_order(model: ASTForAudioClassification) -> None:
    x = windows(model.config)
    n_patches = math.prod(model.config.grid)
    with torch.inference_mode():
        shuffled = model(x, torch.arange(n_patches).flip(0)).logits
        fewer = model(x, torch.arange(n_patches // 2)).logits
    torch.testing.assert_close(shuffled, logits(model, x), rtol=0, atol=1e-5)
    assert (fewer - shuffled).abs().max() > 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_scores_on_a_gpu_in_bfloat16_are_those_of_the_cpu(folder: Path) -> None:
    on_cpu, _ = models.load(folder)
    on_gpu, _ = models.load(folder, device="cuda", dtype=torch.bfloat16)
    x = windows(on_cpu.config, 8)
    expected = logits(on_cpu, x).sigmoid()
    scores = logits(on_gpu, x.to("cuda", torch.bfloat16)).float().sigmoid().cpu()
    assert expected.std() > 0.05
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.01)  # bfloat16 carries 8 bits: 0.005 was measured
