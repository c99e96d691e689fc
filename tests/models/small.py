"""Small ASTs with random weights: what the tests of models and checkpoints work on."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.audio_spectrogram_transformer.configuration import HIDDEN_ACTS

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_length": 64,
    "num_mel_bins": 32,
    "id2label": {0: "Speech", 1: "Sjödjur: “bark”", 2: "Smoke detector"},
}


def randomise(model: Any, seed: int = 0) -> None:
    """Fill every parameter, class tokens and positions too, at a scale that keeps tokens of order 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            fan_in = value[0].numel() if value.dim() in (2, 4) else 4
            mean = 1 if "layernorm" in name and name.endswith("weight") else 0
            value.normal_(mean, 1 / math.sqrt(fan_in), generator=generator)


def windows(config: Any, n: int = 2) -> Tensor:
    """Random input (n, T, M)."""
    return torch.randn(n, config.max_length, config.num_mel_bins, generator=torch.Generator().manual_seed(7)) / 2


def random_settings(seed: int) -> dict[str, Any]:
    """An AST of any shape the reference computes, of at most some 200 tokens."""
    rng = np.random.default_rng(seed)
    n_heads, patch = int(rng.integers(1, 5)), int(rng.choice([4, 8, 16]))
    strides = [int(rng.choice([patch, max(1, patch * 5 // 8), rng.integers(2, patch + 4)])) for _ in range(2)]
    return {
        "hidden_size": n_heads * int(rng.integers(3, 17)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": n_heads,
        "intermediate_size": int(rng.integers(8, 128)),
        "hidden_act": str(rng.choice(HIDDEN_ACTS)),
        "layer_norm_eps": float(rng.choice([1e-12, 1e-6, 1e-3])),
        "qkv_bias": bool(rng.integers(2)),
        "patch_size": patch,
        "frequency_stride": strides[0],
        "time_stride": strides[1],
        "num_mel_bins": patch + strides[0] * int(rng.integers(0, 8)) + int(rng.integers(0, 3)),
        "max_length": patch + strides[1] * int(rng.integers(0, 24)) + int(rng.integers(0, 3)),
        "num_labels": int(rng.integers(1, 9)),
    }
