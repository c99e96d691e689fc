"""The shape of an AST, with the reference library's field names, so that its `config.json` files load as they are."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from models import checkpoint
from models.errors import CheckpointError

HIDDEN_ACTS = (  # of the reference's, those without parameters of their own; `activations` computes them
    "gelu", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh",
    "hardswish", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish",
    "tanh",
)  # fmt: skip
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

SHARES = {"hidden_dropout_prob", "attention_probs_dropout_prob"}
COUNTS = {
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "frequency_stride", "time_stride", "max_length", "num_mel_bins",
}  # fmt: skip
POSITIVE = {"initializer_range", "layer_norm_eps"}
FLAGS = {"qkv_bias", "output_attentions", "output_hidden_states", "return_dict"}
LABELS = {"num_labels", "id2label", "label2id", "label_ids"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ASTConfig:
    """Hyperparameters of an AST; the defaults are AST-base as published.

    Fields, defaults and files are the reference's (`ASTConfig` of transformers 5), where not said otherwise.

    Args:
        hidden_size: D, width of a token.
        intermediate_size: width of the MLP's hidden layer.
        hidden_act: its activation, one of `HIDDEN_ACTS`.
        initializer_range: standard deviation of fresh weights.
        patch_size: of a patch, mel bins and frames: one number, or a pair. The reference computes squares only.
        frequency_stride: mel bins between patches.
        time_stride: frames between patches.
        max_length: T, frames in a window.
        num_mel_bins: M.
        num_labels: C; 2 where no labels are named.
        id2label: C labels in the order of the logits; `LABEL_0` … by default.
        label2id: the same the other way round. The three are told from whichever is given, and must agree.
        label_ids: C ontology ids (`/m/…`), or empty; ours, the reference ignores it.
        problem_type: one of `PROBLEM_TYPES`, says the loss, and what makes scores of logits: a softmax at
            `single_label_classification`, else sigmoids.
        output_attentions, output_hidden_states, return_dict: what `forward` does unless told.
        architectures: the class that was saved with it; no part of comparisons.

    Raises:
        CheckpointError: a value or a combination no AST can have.
        TypeError: it has no such field.
    """

    model_type: ClassVar[str] = "audio-spectrogram-transformer"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    patch_size: int | tuple[int, int] | list[int] = 16
    qkv_bias: bool = True
    frequency_stride: int = 10
    time_stride: int = 10
    max_length: int = 1024
    num_mel_bins: int = 128
    num_labels: int = None  # type: ignore[assignment]  # these three are settled after
    id2label: Mapping[int, str] = None  # type: ignore[assignment]  # construction and
    label2id: Mapping[str, int] = None  # type: ignore[assignment]  # never None from then on
    label_ids: tuple[str, ...] = ()
    problem_type: str | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    architectures: tuple[str, ...] = field(default=(), compare=False)

    def __new__(cls, **values: Any) -> Self:
        """Refuse a name that is no field's, in a sentence that names those that are."""
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise TypeError(f"ASTConfig has no field {name!r}; its fields: {', '.join(known)}")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name))
        labels = _labels(self.num_labels, self.id2label, self.label2id)
        settled = {
            **{name: float(getattr(self, name)) for name in SHARES | POSITIVE},
            "patch_size": _patch_size(self.patch_size),
            "num_labels": len(labels),
            "id2label": labels,
            "label2id": {label: i for i, label in labels.items()},
            "label_ids": tuple(self.label_ids),
            "architectures": tuple(self.architectures),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        for name, size, side in zip(
            ("num_mel_bins", "max_length"), (self.num_mel_bins, self.max_length), self.patch, strict=True
        ):
            if size < side:
                raise CheckpointError(f"{name} {size} is smaller than one patch of {side}")
        if self.label_ids and len(self.label_ids) != self.num_labels:
            raise CheckpointError(f"{len(self.label_ids)} label_ids for {self.num_labels} labels")
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise CheckpointError(
                "problem_type 'single_label_classification' needs at least 2 labels; leave it out for one"
            )

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch: mel bins, frames."""
        return (self.patch_size, self.patch_size) if isinstance(self.patch_size, int) else tuple(self.patch_size)  # type: ignore[return-value]  # two, as checked

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along frequency and time (F, S)."""
        return (
            (self.num_mel_bins - self.patch[0]) // self.frequency_stride + 1,
            (self.max_length - self.patch[1]) // self.time_stride + 1,
        )

    def replace(self, **changes: Any) -> Self:
        """The same with other values.

        What is said of labels replaces all that was known of them; the number they have anyway changes nothing.
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if {"id2label", "label2id"} & set(changes) or changes.get("num_labels", self.num_labels) != self.num_labels:
            values = {name: value for name, value in values.items() if name not in LABELS}
        return type(self)(**values | changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from a parsed `config.json`; foreign keys are ignored, null means the default."""
        known = {item.name for item in fields(cls)}
        picked = {name: value for name, value in values.items() if name in known and value is not None}
        if "id2label" in picked:
            picked.pop("label2id", None)  # fine-tuned files may still carry that of the labels before
        return cls(**picked)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Self:
        """Read a checkpoint's `config.json`.

        Args:
            name_or_path: as in `models.checkpoint.find`.
            options: of the hub, as `models.checkpoint.HubOptions` says; and fields to change, as in `replace`.

        Raises:
            CheckpointError: it is missing, is not about an AST, or no AST can be like that.
            TypeError: an option is unknown.
        """
        hub, changes = checkpoint.split(options, cls.from_pretrained, cls)
        folder = checkpoint.find(name_or_path, **hub)
        values = checkpoint.read_json(folder / "config.json")
        if (kind := values.get("model_type")) != cls.model_type:
            raise CheckpointError(f"{folder}: model_type is {kind!r}; this project runs {cls.model_type!r} checkpoints")
        return cls.from_dict(values).replace(**changes)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, as the reference library reads it."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "num_labels"}
        values["id2label"] = {str(i): label for i, label in self.id2label.items()}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {"model_type": self.model_type, **values, **lists}

    def to_json_string(self) -> str:
        """The text of `config.json`; every field, where the reference writes those that are not its defaults."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "config.json").write_text(self.to_json_string(), encoding="utf-8")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(name: str, value: Any) -> None:
    """Refuse a value of the wrong type or range, whatever the other fields say."""
    if name in COUNTS and not _is_count(value):
        raise CheckpointError(f"{name} {value!r} is not a whole number of at least 1")
    if name in SHARES and not (_is_number(value) and 0 <= value <= 1):
        raise CheckpointError(f"{name} {value!r} is not a number from 0 to 1")
    if name in POSITIVE and not (_is_number(value) and value > 0):
        raise CheckpointError(f"{name} {value!r} is not a number above 0")
    if name in FLAGS and not isinstance(value, bool):
        raise CheckpointError(f"{name} {value!r} is neither true nor false")
    if name == "hidden_act" and value not in HIDDEN_ACTS:
        raise CheckpointError(f"hidden_act {value!r} is unknown; known: {', '.join(HIDDEN_ACTS)}")
    if name == "problem_type" and value not in (None, *PROBLEM_TYPES):
        raise CheckpointError(f"problem_type {value!r} is unknown; known: {', '.join(PROBLEM_TYPES)}, or none")
    if name in {"label_ids", "architectures"} and not (
        isinstance(value, tuple | list) and all(isinstance(entry, str) for entry in value)
    ):
        raise CheckpointError(f"{name} {value!r} is not a list of texts")


def _patch_size(value: Any) -> int | tuple[int, int]:
    """One number for a square, which is all that the reference computes; else (frequency, time)."""
    pair = (value, value) if _is_count(value) else value
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_count, pair))):
        raise CheckpointError(
            f"patch_size {value!r} is neither a whole number of at least 1 nor a pair of them: mel bins, frames"
        )
    height, width = pair
    return height if height == width else (height, width)


def _labels(num_labels: Any, id2label: Any, label2id: Any) -> dict[int, str]:
    """Labels by number, from whichever of the three is given."""
    if num_labels is not None and not _is_count(num_labels):
        raise CheckpointError(f"num_labels {num_labels!r} is not a whole number of at least 1")
    forwards = None if id2label is None else _numbered("id2label", id2label)
    backwards = None if label2id is None else _numbered("label2id", label2id)
    labels = backwards if forwards is None else forwards
    if labels is None:
        return {i: f"LABEL_{i}" for i in range(2 if num_labels is None else num_labels)}
    name = "label2id" if forwards is None else "id2label"
    if not labels:
        raise CheckpointError(f"{name} names no labels; leave it out for LABEL_0 and LABEL_1")
    if list(labels) != list(range(len(labels))):
        raise CheckpointError(f"{name} must number its labels 0 to {len(labels) - 1} without a gap")
    label, times = Counter(labels.values()).most_common(1)[0]
    if times > 1:
        raise CheckpointError(f"{name} names {times} labels {label!r}; give each a name of its own")
    if num_labels not in {None, len(labels)}:
        raise CheckpointError(f"num_labels is {num_labels}, but {len(labels)} labels are named; leave num_labels out")
    if backwards not in (None, labels):
        raise CheckpointError("label2id contradicts id2label; leave label2id out")
    return labels


def _numbered(name: str, given: Any) -> dict[int, str]:
    """Labels by number, in order, of an `id2label` or a `label2id`; numbers may be texts, as they are in JSON."""
    try:
        pairs = list(given.items()) if name == "id2label" else [(i, label) for label, i in given.items()]
        labels = dict(sorted((int(i), label) for i, label in pairs))
    except (AttributeError, TypeError, ValueError):
        ends = "label numbers and names" if name == "id2label" else "label names and numbers"
        raise CheckpointError(f"{name} is not an object of {ends}") from None
    if not all(isinstance(label, str) for label in labels.values()):
        raise CheckpointError(f"{name} has a label that is not a text")
    if len(labels) != len(pairs):
        raise CheckpointError(f"{name} gives two labels one number")
    return labels
