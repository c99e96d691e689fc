"""AST in plain torch: log-mel window in, label logits out.

Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, §2.1. Agrees with the reference library's
classes of the same names to 1e-4 in float32; parameters carry that library's 5.x names.
Axes: B batch, T frames, M mels, F and S patches along frequency and time, N tokens, H heads, D width, C labels.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.audio_spectrogram_transformer.activations import ACTIVATIONS
from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.audio_spectrogram_transformer.outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from models.audio_spectrogram_transformer.pretrained import ASTPreTrainedModel


class PatchEmbeddings(nn.Module):
    """A window's patches, which may overlap, each projected to one token."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.window = (config.max_length, config.num_mel_bins)
        stride = (config.frequency_stride, config.time_stride)
        self.projection = nn.Conv2d(1, config.hidden_size, config.patch, stride)

    def forward(self, input_values: Tensor) -> Tensor:
        """(B, T, M) to (B, N, D)."""
        if input_values.shape[1:] != self.window:
            frames, mels = self.window
            raise ValueError(
                f"input_values is {tuple(input_values.shape)}; (B, max_length {frames}, num_mel_bins {mels}) "
                "is needed; make it with the checkpoint's ASTFeatureExtractor, or load the model with that max_length"
            )
        image = input_values.to(self.projection.weight.dtype).unsqueeze(1).transpose(2, 3)  # B 1 M T
        x: Tensor = self.projection(image)  # B D F S
        return x.flatten(2).transpose(1, 2)  # B N D, time fastest


class Embeddings(nn.Module):
    """Patches, two class tokens in front of them, learned positions."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 2 + math.prod(config.grid), config.hidden_size))
        self.patch_embeddings = PatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_values: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T, M) to (B, 2 + N, D); `keep` as in `ASTModel.forward`."""
        patches = self.patch_embeddings(input_values) + self.position_embeddings[:, 2:]
        if keep is not None:
            patches = patches[:, keep]
        classes = torch.cat((self.cls_token, self.distillation_token), 1) + self.position_embeddings[:, :2]
        x: Tensor = self.dropout(torch.cat((classes.expand(patches.shape[0], -1, -1), patches), 1))
        return x


class Attention(nn.Module):
    """Multi-head self-attention, through torch's fused kernel or, where its weights are needed, step by step."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, is_eager: bool) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) to the same, with the weights (B, H, N, N) where it is eager."""
        q, k, v = (
            proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # B H N D/H
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout_prob if self.training else 0.0
        if is_eager:
            weights = functional.dropout(_attention_weights(q, k, mask), dropout)
            mixed = weights @ v
        else:
            weights = None
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))  # B N D
        return out, weights


def _attention_weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, N, N), computed in float32 whatever the dtype."""
    scores = q @ k.transpose(2, 3) * math.sqrt(1 / q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype)


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
        self.attention: Attention = Attention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | None, is_eager: bool) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) to the same, with the attention's weights where it is eager."""
        mixed, weights = self.attention(self.layernorm_before(x), mask, is_eager)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.mlp(self.layernorm_after(x))), weights


class ASTModel(ASTPreTrainedModel):
    """The encoder: (B, T, M) windows to tokens."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.apply(self._init_weights)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        keep: Tensor | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode.

        Args:
            input_values: (B, max_length, num_mel_bins), normalised log-mel, of any dtype; computed in the weights'.
            attention_mask: (B, 2 + N), 0 at tokens (two classes, then patches, time fastest) nobody may look at.
            output_attentions: also the attention's weights; slower, as torch's fused kernel has none.
            output_hidden_states: also what enters and leaves each layer.
            return_dict: False for a plain tuple of what is not None. These three are the configuration's by default.
            keep: indices of the patches to look at, all by default; training drops some (Koutini et al. 2022, §2.2).

        Raises:
            ValueError: input or mask is of the wrong shape.
        """
        has_weights = self.config.output_attentions if output_attentions is None else output_attentions
        has_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        x = self.embeddings(input_values, keep)
        mask = None if attention_mask is None else self._mask(attention_mask, len(x), keep)
        is_eager = has_weights or self.attn_implementation == "eager"
        states, weights = [x], []
        for layer in self.layers:
            if self.is_gradient_checkpointing and self.training:
                x, of_layer = checkpoint(layer, x, mask, is_eager, use_reentrant=False)
            else:
                x, of_layer = layer(x, mask, is_eager)
            if has_states:
                states.append(x)
            if has_weights:
                weights.append(of_layer)
        x = self.layernorm(x)
        output = BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=(x[:, 0] + x[:, 1]) / 2,
            hidden_states=tuple(states) if has_states else None,
            attentions=tuple(weights) if has_weights else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _mask(self, attention_mask: Tensor, n_windows: int, keep: Tensor | None) -> Tensor:
        """Which tokens may be looked at, (B, 1, 1, N)."""
        needed = (n_windows, 2 + math.prod(self.config.grid))
        if attention_mask.shape != needed:
            raise ValueError(
                f"attention_mask is {tuple(attention_mask.shape)}; {needed} is needed: a number for each window and "
                "token, the two class tokens first"
            )
        mask = attention_mask.bool()
        if keep is not None:
            mask = torch.cat((mask[:, :2], mask[:, 2:][:, keep]), 1)
        return mask[:, None, None, :]


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


class ASTForAudioClassification(ASTPreTrainedModel):
    """AST with a classification head."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__(config)
        self.audio_spectrogram_transformer = ASTModel(config)
        self.classifier = Classifier(config)
        self.classifier.apply(self._init_weights)

    def forward(
        self,
        input_values: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        keep: Tensor | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Classify.

        Args:
            input_values: as in `ASTModel.forward`, like all that is not named here.
            labels: what should have been answered, as `loss` takes it.

        Raises:
            ValueError: input, mask or labels are of the wrong shape.
        """
        encoded = self.audio_spectrogram_transformer(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            keep=keep,
        )
        logits = self.classifier(encoded.pooler_output)
        output = SequenceClassifierOutput(
            loss=None if labels is None else self.loss(logits, labels),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits (B, C), in float32.

        `config.problem_type` says which. Without one, a single label means regression, whole numbers mean one label a
        window, other numbers mean labels one by one; as in the reference, but the configuration stays as it is.

        Args:
            logits: of `forward`.
            labels: (B,) numbers of labels (-100: none, ignored) for cross entropy; (B, C) in [0, 1] for binary cross
                entropy; (B, C), or (B,) where C is 1, for the squared error of a regression.

        Raises:
            ValueError: there are more or fewer labels than that.
        """
        is_whole = not (labels.is_floating_point() or labels.dtype is torch.bool)
        problem = self.config.problem_type or (
            "regression" if self.config.num_labels == 1
            else "single_label_classification" if is_whole
            else "multi_label_classification"
        )  # fmt: skip
        needed = (len(logits),) if problem == "single_label_classification" else tuple(logits.shape)
        if labels.numel() != math.prod(needed):
            raise ValueError(f"labels is {tuple(labels.shape)}; {needed} is needed for {problem}")
        logits, labels = logits.float(), labels.to(logits.device).reshape(needed)
        if problem == "single_label_classification":
            return functional.cross_entropy(logits, labels.long())
        error = functional.mse_loss if problem == "regression" else functional.binary_cross_entropy_with_logits
        return error(logits, labels.float())
