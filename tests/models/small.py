"""A small AST with random weights: what the tests of models and checkpoints work on."""

import math
from typing import Any

import torch

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
