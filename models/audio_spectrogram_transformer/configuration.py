"""The shape of an AST, with the reference library's field names, so that its `config.json` files load as they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from models.checkpoint import CheckpointError, read_json

MODEL_TYPE = "audio-spectrogram-transformer"


@dataclass(frozen=True, slots=True)
class ASTConfig:
    """Hyperparameters of an AST; the defaults are AST-base as published.

    Args:
        hidden_size: D, width of a token.
        intermediate_size: width of the MLP's hidden layer.
        patch_size: side of a square patch, in mel bins and frames.
        frequency_stride: mel bins between patches.
        time_stride: frames between patches.
        max_length: T, frames in a window.
        num_mel_bins: M.
        id2label: C labels in the order of the logits.
        label_ids: C ontology ids (`/m/…`), or empty; ours, the reference ignores it.
        problem_type: the reference's; `single_label_classification` makes scores a softmax, else they are sigmoids.

    Raises:
        CheckpointError: a combination no AST can have.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    patch_size: int = 16
    qkv_bias: bool = True
    frequency_stride: int = 10
    time_stride: int = 10
    max_length: int = 1024
    num_mel_bins: int = 128
    id2label: Mapping[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    label_ids: tuple[str, ...] = ()
    problem_type: str | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type is int and (not isinstance(value, int) or value < 1):
                raise CheckpointError(f"{item.name} {value!r} is not a whole number of at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        for name, size in (("num_mel_bins", self.num_mel_bins), ("max_length", self.max_length)):
            if size < self.patch_size:
                raise CheckpointError(f"{name} {size} is smaller than one patch of {self.patch_size}")
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise CheckpointError(f"id2label must number its labels 0 to {len(self.id2label) - 1} without a gap")
        if self.label_ids and len(self.label_ids) != len(self.id2label):
            raise CheckpointError(f"{len(self.label_ids)} label_ids for {len(self.id2label)} labels")

    @property
    def num_labels(self) -> int:
        """C, the number of labels."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """Label → position."""
        return {label: i for i, label in self.id2label.items()}

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along frequency and time (F, T)."""
        return (
            (self.num_mel_bins - self.patch_size) // self.frequency_stride + 1,
            (self.max_length - self.patch_size) // self.time_stride + 1,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from a parsed `config.json`; keys that are not about the model's shape are ignored."""
        known = {f.name for f in fields(cls)}
        picked = {name: value for name, value in values.items() if name in known}
        if "id2label" in picked:
            try:
                picked["id2label"] = {int(i): label for i, label in picked["id2label"].items()}
            except (AttributeError, ValueError):
                raise CheckpointError("id2label is not an object of label numbers and names") from None
        elif "num_labels" in values:
            picked["id2label"] = {i: f"LABEL_{i}" for i in range(values["num_labels"])}
        picked["label_ids"] = tuple(picked.get("label_ids", ()))
        return cls(**picked)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read `config.json` of a checkpoint folder."""
        values = read_json(Path(folder) / "config.json")
        if values.get("model_type") != MODEL_TYPE:
            raise CheckpointError(
                f"{folder}: model_type is {values.get('model_type')!r}; this project runs {MODEL_TYPE!r} checkpoints"
            )
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, as the reference library reads it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["id2label"] = {str(i): label for i, label in self.id2label.items()}
        values["label_ids"] = list(self.label_ids)
        return {
            "architectures": ["ASTForAudioClassification"],
            "model_type": MODEL_TYPE,
            **values,
            "label2id": self.label2id,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
