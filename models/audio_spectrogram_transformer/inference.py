"""AST cut down to what classifying needs: the same weights and the same logits, in fewer operations.

In: an `ASTForAudioClassification`. Out: a module from windows (B, T, M) to logits (B, C). What is left out changes no
value but for rounding: query, key and value are one product, and the last layer computes the two class tokens only,
since nothing else of it is read. At AST-base that is 7 % less arithmetic. No training, no masks, no hidden states.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.audio_spectrogram_transformer.modeling import ASTForAudioClassification, Attention, Layer

N_CLASSES = 2  # tokens that are read: class and distillation


class FusedAttention(nn.Module):
    """`Attention` with one product for query, key and value."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.n_heads = attention.n_heads
        self.qkv = _stacked(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = attention.o_proj

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same."""
        q, k, v = (_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, -1))
        return _merge(self.out, functional.scaled_dot_product_attention(q, k, v))


class ClassAttention(nn.Module):
    """`Attention` that asks for the class tokens only."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.n_heads = attention.n_heads
        self.q = attention.q_proj
        self.kv = _stacked(attention.k_proj, attention.v_proj)
        self.out = attention.o_proj

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, 2, D)."""
        q = _heads(self.q(x[:, :N_CLASSES]), self.n_heads)
        k, v = (_heads(part, self.n_heads) for part in self.kv(x).chunk(2, -1))
        return _merge(self.out, functional.scaled_dot_product_attention(q, k, v))


class InferenceLayer(nn.Module):
    """`Layer` without dropout; `reads` is how many of the tokens come out."""

    def __init__(self, layer: Layer, attention: nn.Module, reads: int | None = None) -> None:
        super().__init__()
        self.reads = reads
        self.norm1, self.norm2 = layer.layernorm_before, layer.layernorm_after
        self.attention, self.mlp = attention, layer.mlp

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, reads, D)."""
        x = x[:, : self.reads] + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class InferenceAST(nn.Module):
    """Windows to logits, and nothing else.

    Args:
        model: in evaluation mode; the weights that are the same are shared with it.
    """

    def __init__(self, model: ASTForAudioClassification) -> None:
        super().__init__()
        encoder = model.audio_spectrogram_transformer
        embeddings = encoder.embeddings
        self.patches = embeddings.patch_embeddings
        tokens = torch.cat((embeddings.cls_token, embeddings.distillation_token), 1)
        positions = embeddings.position_embeddings
        self.classes = nn.Parameter(tokens + positions[:, :N_CLASSES], requires_grad=False)  # 1 2 D
        self.positions = nn.Parameter(positions[:, N_CLASSES:], requires_grad=False)  # 1 N D
        *before, last = cast("list[Layer]", list(encoder.layers))
        self.layers = nn.Sequential(
            *(InferenceLayer(layer, FusedAttention(layer.attention)) for layer in before),
            InferenceLayer(last, ClassAttention(last.attention), N_CLASSES),
        )
        self.norm, self.classifier = encoder.layernorm, model.classifier

    def forward(self, windows: Tensor) -> Tensor:
        """Normalised windows (B, T, M) to logits (B, C)."""
        patches = self.patches(windows) + self.positions
        x = torch.cat((self.classes.expand(len(patches), -1, -1), patches), 1)
        x = self.norm(self.layers(x))
        logits: Tensor = self.classifier((x[:, 0] + x[:, 1]) / 2)
        return logits


def _stacked(*projections: nn.Linear) -> nn.Linear:
    """One linear layer that answers what `projections` do, side by side."""
    first = projections[0]
    size = sum(each.out_features for each in projections)
    whole = nn.Linear(first.in_features, size, bias=first.bias is not None, dtype=first.weight.dtype, device="meta")
    whole.weight = nn.Parameter(torch.cat([each.weight for each in projections]), requires_grad=False)
    if first.bias is not None:
        whole.bias = nn.Parameter(torch.cat([each.bias for each in projections]), requires_grad=False)
    return whole


def _heads(x: Tensor, n_heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], n_heads, -1).transpose(1, 2)  # B H N D/H


def _merge(out: nn.Linear, mixed: Tensor) -> Tensor:
    merged: Tensor = out(mixed.transpose(1, 2).flatten(2))  # B N D
    return merged
