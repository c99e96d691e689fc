"""Checkpoints as the authors of AST saved them, made from a reference model by its attributes."""

from typing import Any

import torch
from torch import Tensor


def authors_state(model: Any, prefix: str = "module.") -> dict[str, Tensor]:
    """The state dict of the authors' `ASTModel` (timm 0.4.5) with the weights of a reference classifier.

    Names and fusing as in https://github.com/YuanGongND/ast, src/models/ast_models.py.
    """
    encoder = model.audio_spectrogram_transformer
    parts = encoder.embeddings
    width = parts.cls_token.shape[-1]
    state: dict[str, Tensor] = {
        "v.cls_token": parts.cls_token,
        "v.dist_token": parts.distillation_token,
        "v.pos_embed": parts.position_embeddings,
        **_of("v.patch_embed.proj", parts.patch_embeddings.projection),
        **_of("v.norm", encoder.layernorm),
        **_of("v.head", torch.nn.Linear(width, 10)),
        **_of("v.head_dist", torch.nn.Linear(width, 10)),
        **_of("mlp_head.0", model.classifier.layernorm),
        **_of("mlp_head.1", model.classifier.dense),
    }
    for i, layer in enumerate(encoder.layers):
        block, attention = f"v.blocks.{i}", layer.attention
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        state |= {
            f"{block}.attn.qkv.weight": torch.cat([part.weight for part in qkv]),
            f"{block}.attn.qkv.bias": torch.cat([part.bias for part in qkv]),
            **_of(f"{block}.attn.proj", attention.o_proj),
            **_of(f"{block}.norm1", layer.layernorm_before),
            **_of(f"{block}.norm2", layer.layernorm_after),
            **_of(f"{block}.mlp.fc1", layer.mlp.fc1),
            **_of(f"{block}.mlp.fc2", layer.mlp.fc2),
        }
    return {prefix + name: value.detach().clone() for name, value in state.items()}


def _of(name: str, module: Any) -> dict[str, Tensor]:
    return {f"{name}.{parameter}": value for parameter, value in module.named_parameters()}
