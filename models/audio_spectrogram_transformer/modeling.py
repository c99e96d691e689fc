"""AST in plain torch: log-mel window in, label logits out.

Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, §2.1. Agrees with the reference library's
classes of the same names to 1e-4 in float32; parameters carry that library's 5.x names.
Axes: B batch, T frames, M mels, F and S patches along frequency and time, N tokens, H heads, D width, C labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.audio_spectrogram_transformer.weights import from_hub, to_hub
from models.checkpoint import CheckpointError, read_weights, write_weights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """`last_hidden_state` (B, N, D) and `pooler_output` (B, D)."""

    last_hidden_state: Tensor
    pooler_output: Tensor


@dataclass(frozen=True, slots=True)
class ClassifierOutput:
    """`logits` (B, C)."""

    logits: Tensor


class PatchEmbeddings(nn.Module):
    """A window's overlapping square patches, each projected to one token."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        stride = (config.frequency_stride, config.time_stride)
        self.projection = nn.Conv2d(1, config.hidden_size, config.patch_size, stride)

    def forward(self, input_values: Tensor) -> Tensor:
        """(B, T, M) to (B, N, D)."""
        x: Tensor = self.projection(input_values.unsqueeze(1).transpose(2, 3))  # B D F S
        return x.flatten(2).transpose(1, 2)  # B N D, time fastest


class Embeddings(nn.Module):
    """Patches, two class tokens in front of them, learned positions."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        n_patches = config.grid[0] * config.grid[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, n_patches + 2, config.hidden_size))
        self.patch_embeddings = PatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_values: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T, M) to (B, 2 + N, D); `keep` as in `ASTModel.forward`."""
        patches = self.patch_embeddings(input_values) + self.position_embeddings[:, 2:]
        if keep is not None:
            patches = patches[:, keep]
        classes = torch.cat((self.cls_token, self.distillation_token), 1) + self.position_embeddings[:, :2]
        x: Tensor = self.dropout(torch.cat((classes.expand(len(patches), -1, -1), patches), 1))
        return x


class Attention(nn.Module):
    """Multi-head self-attention through torch's fused kernel."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same."""
        q, k, v = (
            proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # B H N D/H
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout_prob if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))  # B N D
        return out


class MLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same."""
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class Layer(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same."""
        x = x + self.dropout(self.attention(self.layernorm_before(x)))
        out: Tensor = x + self.dropout(self.mlp(self.layernorm_after(x)))
        return out


class ASTModel(nn.Module):
    """The encoder: (B, T, M) windows to tokens."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        if config.hidden_act not in ACTIVATIONS:
            raise CheckpointError(f"hidden_act {config.hidden_act!r} is unknown; known: {', '.join(ACTIVATIONS)}")
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_values: Tensor, keep: Tensor | None = None) -> ModelOutput:
        """Encode.

        Args:
            input_values: (B, max_length, num_mel_bins), normalised log-mel.
            keep: indices of the patches to look at, all by default; training drops some (Koutini et al. 2022, §2.2).
        """
        x = self.embeddings(input_values, keep)
        for layer in self.layers:
            x = layer(x)
        x = self.layernorm(x)
        return ModelOutput(last_hidden_state=x, pooler_output=(x[:, 0] + x[:, 1]) / 2)


class Classifier(nn.Module):
    """Layer norm and one linear layer on the pooled token."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, C)."""
        out: Tensor = self.dense(self.layernorm(x))
        return out


class ASTForAudioClassification(nn.Module):
    """AST with a classification head."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_spectrogram_transformer = ASTModel(config)
        self.classifier = Classifier(config)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, input_values: Tensor, keep: Tensor | None = None) -> ClassifierOutput:
        """Logits of (B, max_length, num_mel_bins) normalised log-mel; `keep` as in `ASTModel.forward`."""
        pooled = self.audio_spectrogram_transformer(input_values, keep).pooler_output
        return ClassifierOutput(logits=self.classifier(pooled))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Self:
        """Load a reference-library folder (`config.json`, `model.safetensors`), in evaluation mode.

        Raises:
            CheckpointError: a file is missing or broken, or names and shapes do not fit the configuration.
        """
        config = ASTConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = cls(config)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        state = from_hub(read_weights(Path(folder)), shapes)
        model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, strict=True, assign=True)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors` under the names hub checkpoints use."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        state = {name: value.detach().to("cpu", dtype or value.dtype) for name, value in self.state_dict().items()}
        write_weights(Path(folder), to_hub(state))
