"""A small AST to train from nothing: 1.9 M parameters, and a start from which a few hundred recordings suffice."""

from typing import Any

import numpy as np
import torch
from torch import nn

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification


def small(**changes: Any) -> ASTConfig:
    """A twelfth of AST-base's depth times width, patches that do not overlap; `changes` are fields of it."""
    shape = {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "layer_norm_eps": 1e-6,
        "frequency_stride": 16,
        "time_stride": 16,
    }
    return ASTConfig(**(shape | changes))


def from_scratch(config: ASTConfig) -> ASTForAudioClassification:
    """A model with weights drawn from torch's global generator.

    Positions already tell pitch and time apart (two-dimensional sines, after Vaswani et al. 2017, §3.5); patches and
    layers begin at a scale that passes signals on. From the reference's start the data taught nothing in 650 steps.
    """
    model = ASTForAudioClassification(config)
    embeddings = model.audio_spectrogram_transformer.embeddings
    mel, column = np.divmod(np.arange(config.grid[0] * config.grid[1]), config.grid[1])
    sines = np.hstack((_sines(4 * mel, config.hidden_size // 2), _sines(column, config.hidden_size // 2)))
    with torch.no_grad():
        embeddings.position_embeddings[0, 2:] = torch.from_numpy(0.3 * sines)
        projection = embeddings.patch_embeddings.projection.weight
        nn.init.normal_(projection, std=projection[0].numel() ** -0.5)
        nn.init.normal_(embeddings.cls_token, std=0.02)
        nn.init.normal_(embeddings.distillation_token, std=0.02)
    for module in model.audio_spectrogram_transformer.layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return model


def _sines(position: np.ndarray, width: int) -> np.ndarray:
    angles = position[:, None] / 10000 ** (np.arange(width // 2) / (width // 2))
    return np.hstack((np.sin(angles), np.cos(angles)))
