"""What the models answer with: the reference's outputs, field by field, without its machinery."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


class ModelOutput(Mapping[str, Any]):
    """Fields that are not None, by name (`out["logits"]`, or `out.logits`) and by position (`out[0]`, `out[:2]`)."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return (item.name for item in fields(self) if getattr(self, item.name) is not None)  # type: ignore[arg-type]  # subclasses are dataclasses

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in list(self):
            raise KeyError(key)
        return getattr(self, key)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None."""
        return tuple(getattr(self, name) for name in self)


@dataclass(frozen=True, slots=True, eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """What the encoder says.

    Args:
        last_hidden_state: (B, N, D), after the last layer norm.
        pooler_output: (B, D), mean of the two class tokens.
        hidden_states: of `output_hidden_states`: (B, N, D) before the first layer and after each, not normed.
        attentions: of `output_attentions`: (B, H, N, N) of each layer, rows sum to 1 but for dropout.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SequenceClassifierOutput(ModelOutput):
    """What the classifier says.

    Args:
        loss: (), float32, where labels were given.
        logits: (B, C).
        hidden_states, attentions: as in `BaseModelOutputWithPooling`.
    """

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
