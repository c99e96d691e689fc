"""What the models have in common: fresh weights, checkpoints, and what their users ask them."""

import logging
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from models import checkpoint
from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.audio_spectrogram_transformer.transfer import fit
from models.audio_spectrogram_transformer.weights import HEAD, has_head, to_hub, to_ours
from models.errors import CheckpointError

ATTENTION = ("sdpa", "eager")
log = logging.getLogger(__name__)


class ASTPreTrainedModel(nn.Module):
    """Base of the encoder and the classifier."""

    main_input_name: ClassVar[str] = "input_values"

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.config = config
        self.is_gradient_checkpointing = False
        self.attn_implementation = "sdpa"

    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights as the reference draws them; class tokens and positions stay 0."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def num_labels(self) -> int:
        """C, of the configuration."""
        return self.config.num_labels

    @property
    def base_model(self) -> nn.Module:
        """The encoder; of an encoder, itself."""
        return next((part for part in self.children() if isinstance(part, ASTPreTrainedModel)), self)

    def get_input_embeddings(self) -> nn.Module:
        """What makes tokens of windows: the projection of patches, before classes and positions."""
        return self.base_model.get_submodule("embeddings.patch_embeddings")

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers the weights are."""
        return sum(value.numel() for value in self.parameters() if value.requires_grad or not only_trainable)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """In training, compute layers again for their gradients rather than keep all: a third slower, much smaller.

        Raises:
            ValueError: it is asked for another way than without re-entering autograd.
        """
        if gradient_checkpointing_kwargs not in (None, {}, {"use_reentrant": False}):
            raise ValueError(
                f"gradient_checkpointing_kwargs {gradient_checkpointing_kwargs} is not possible; leave it out, which "
                "is {'use_reentrant': False}"
            )
        self._set("is_gradient_checkpointing", True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep what layers computed for their gradients."""
        self._set("is_gradient_checkpointing", False)

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Compute attention in torch's fused kernel (`sdpa`) or step by step (`eager`), as weights always are.

        Raises:
            ValueError: there is no such way.
        """
        if attn_implementation not in ATTENTION:
            raise ValueError(f"attn_implementation {attn_implementation!r} is unknown; known: {', '.join(ATTENTION)}")
        self._set("attn_implementation", attn_implementation)

    def _set(self, name: str, value: Any) -> None:
        """Of this model and of the encoder in it."""
        for module in self.modules():
            if isinstance(module, ASTPreTrainedModel):
                setattr(module, name, value)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        config: ASTConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        attn_implementation: str = "sdpa",
        ignore_mismatched_sizes: bool = False,
        **options: Any,
    ) -> Self:
        """Load a checkpoint, on the CPU, in evaluation mode.

        Another `max_length`, `num_mel_bins` or stride than the checkpoint's fits its position embeddings to it, as
        `transfer` says. The encoder also loads from classifiers.

        Args:
            name_or_path: as in `models.checkpoint.find`.
            config: instead of the checkpoint's.
            dtype: of the weights; a name will do, and `auto` is what the file has. The reference's default is `auto`,
                ours is float32.
            torch_dtype: its older name.
            attn_implementation: as in `set_attn_implementation`.
            ignore_mismatched_sizes: where the checkpoint has no head, or one for another number of labels than is asked
                for, give the model a fresh one; a checkpoint without a head is warned about.
            options: of the hub, as `models.checkpoint.HubOptions` says; and fields of the configuration to change.

        Raises:
            CheckpointError: a file is missing or broken, or names and shapes do not fit what is asked for.
            TypeError: an option is unknown, or `config` is something else.
            ValueError: there is no such attention.
        """
        if not isinstance(config, ASTConfig | None):
            raise TypeError(f"config {config!r} is no ASTConfig; give ASTConfig.from_pretrained of it")
        hub, changes = checkpoint.split(options, cls.from_pretrained, ASTConfig)
        folder = checkpoint.find(name_or_path, **hub)
        old = ASTConfig.from_pretrained(folder)
        new = (config or old).replace(**changes)
        with torch.device("meta"):
            needed = {name: tuple(value.shape) for name, value in cls(old).state_dict().items()}
            model = cls(new)
        model.set_attn_implementation(attn_implementation)
        file = checkpoint.read_weights(folder)
        if not has_head(file):
            needed = {name: shape for name, shape in needed.items() if not name.startswith(HEAD)}
        state = fit(to_ours(file, needed), old, new)
        state |= model._fresh_head(state, folder, is_allowed=ignore_mismatched_sizes)
        kind = checkpoint.to_dtype(dtype or torch_dtype or "float32", auto=next(iter(state.values())).dtype)
        model.load_state_dict({name: state[name].to(kind) for name in model.state_dict()}, assign=True)
        return model.eval()

    def _fresh_head(self, state: dict[str, Tensor], folder: Path, *, is_allowed: bool) -> dict[str, Tensor]:
        """Tensors of a model on the meta device that a checkpoint's `state` lacks, or has in another shape."""
        lacking = {
            name for name, value in self.state_dict().items() if name not in state or state[name].shape != value.shape
        }
        if not lacking:
            return {}
        rows = state.get(HEAD + "dense.weight")
        had = "no head" if rows is None else f"a head for {len(rows)} labels"
        if not is_allowed:
            raise CheckpointError(
                f"{folder} has {had}, one for {self.config.num_labels} is asked for; give ignore_mismatched_sizes=True "
                "for a fresh one, to be trained"
            )
        level = logging.WARNING if rows is None else logging.INFO  # other labels were asked for, with their fresh head
        log.log(level, "%s has %s: a fresh one for %d labels is to be trained", folder, had, self.config.num_labels)
        head = self.get_submodule("classifier").to_empty(device="cpu").apply(self._init_weights)
        return {HEAD + name: value for name, value in head.state_dict().items() if HEAD + name in lacking}

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, safe_serialization: bool = True
    ) -> None:
        """Write `config.json` and `model.safetensors` under the names hub checkpoints use.

        Args:
            folder: made where it is not there.
            dtype: of the tensors in the file, the weights' own by default.
            safe_serialization: True; there for those who say so.

        Raises:
            CheckpointError: the weights can't be written.
            ValueError: a pickle is asked for.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False asks for a pickle; only safetensors are written: leave it out")
        self.config.replace(architectures=(type(self).__name__,)).save_pretrained(folder)
        state = {name: value.detach().to("cpu", dtype or value.dtype) for name, value in self.state_dict().items()}
        checkpoint.write_weights(Path(folder), to_hub(state))
