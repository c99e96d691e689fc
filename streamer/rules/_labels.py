"""What a rule listens for: labels of the model, and groups of them, each with its thresholds.

A group's score is that of its highest label, its own among them where the model knows it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, model_validator

from streamer.core import Samples
from streamer.references import circle, within
from streamer.rules._options import OPTIONS

Groups = Mapping[str, Sequence[str]]
Threshold = Annotated[float, Field(gt=0, lt=1)]


class Thresholds(BaseModel):
    """A label's own thresholds, instead of the rule's."""

    model_config = OPTIONS

    onset: Threshold
    offset: Threshold

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.offset > self.onset:
            raise ValueError(f"offset {self.offset} is above onset {self.onset}; it must be at or below it")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """What was listened for in one window: the label furthest over, else nearest to, its onset threshold.

    `label` is the model's, `name` its place among the listener's names. Any of these may be over its offset threshold:
    `over_offset` says of each (N,) whether it is.
    """

    label: int
    name: int
    score: float
    onset_threshold: float
    is_over_onset: bool
    over_offset: npt.NDArray[np.bool_]
    is_instant: bool

    @property
    def is_over_offset(self) -> bool:
        """Whether any is."""
        return bool(self.over_offset.any())


class Listener:
    """Looks for `names`, and all that lies in groups of these names, in a model's scores.

    Args:
        names: labels and groups.
        groups: what lies in each; without cycles.
        thresholds: onset and offset threshold of a name.
        known: the model's labels, in the order of its scores; every name that is no group must be among them.
        instant: names preferred to others, with all that lies in them.
    """

    def __init__(
        self,
        names: Iterable[str],
        groups: Groups,
        thresholds: Callable[[str], tuple[float, float]],
        known: Sequence[str],
        instant: Collection[str] = (),
    ) -> None:
        self.names = within(names, groups)
        index = {label: i for i, label in enumerate(known)}
        place = {name: i for i, name in enumerate(self.names)}
        parts = [within([name], groups) for name in self.names]
        self._labels = [[index[part] for part in each if part in index] for each in parts]  # of each name
        self._own = [index.get(name) for name in self.names]
        self._flat = np.concatenate([np.array(labels, np.intp) for labels in self._labels])
        self._begins = np.cumsum([0, *map(len, self._labels[:-1])])
        self._onsets, self._offsets = np.array([thresholds(name) for name in self.names]).T
        self._parts = [
            (place[name], [place[part] for part in each[:-1]])
            for name, each in zip(self.names, parts, strict=True)
            if len(each) > 1
        ]
        hasty = within(instant, groups)
        self.is_instant = np.array([name in hasty for name in self.names])
        self.instant_labels = sorted({index[name] for name in hasty if name in index})

    def hear(self, scores: Samples) -> Sound:
        """What there is in the scores (C,): of those over their thresholds the most specific, then the surest."""
        heard = np.maximum.reduceat(scores[self._flat].astype(np.float64), self._begins)  # N names
        margins = heard - self._onsets
        is_over = margins >= 0
        for group, parts in self._parts:
            is_over[group] &= not is_over[parts].any()
        hasty = is_over & self.is_instant
        wanted = hasty if hasty.any() else is_over if is_over.any() else np.ones_like(is_over)
        best = int(np.where(wanted, margins, -np.inf).argmax())
        labels, own = self._labels[best], self._own[best]
        return Sound(
            label=labels[int(scores[labels].argmax())] if own is None else own,
            name=best,
            score=float(heard[best]),
            onset_threshold=float(self._onsets[best]),
            is_over_onset=bool(is_over.any()),
            over_offset=heard >= self._offsets,
            is_instant=bool(hasty.any()),
        )


def all_but(barred: Collection[str], groups: Groups, known: Sequence[str]) -> tuple[Groups, list[str]]:
    """The groups without what is barred in them, and all names, these groups' too, of what is left to listen for."""
    left = set(known).difference(barred)
    names = [
        name for name in dict.fromkeys((*groups, *known))
        if name not in barred and not left.isdisjoint(within([name], groups))
    ]  # fmt: skip
    return {name: [part for part in groups[name] if part in names] for name in names if name in groups}, names


def strangers(
    labels: Sequence[str], groups: Groups, unless: Sequence[str], named: Mapping[str, Collection[str]]
) -> Iterator[str]:
    """What is wrong with the names in a rule's options; `named`: those of other options, which must be its labels.

    Which labels a rule for any has only the model knows: see `references.misfits`.
    """
    if names := circle(groups):
        yield f"groups: {', which holds '.join(map(repr, names))}; a group can't hold itself"
        return
    barred = within(unless, groups)
    if labels == "any":
        for option, given in named.items():
            for name in (name for name in given if name in barred):
                yield f"{option}: '{name}' is not listened for, as unless names it; remove it from one of them"
        return
    ours = within(labels, groups)
    for option, given in named.items():
        for name in (name for name in given if name not in ours):
            yield f"{option}: '{name}' is none of the rule's labels; add it to labels, or remove it here"
    for name in (name for name in groups if name not in ours and name not in barred):
        yield f"groups: '{name}' is used nowhere; add it to labels, or remove it"
    for name in (name for name in barred if name in ours):
        yield f"unless: '{name}' is one of the rule's labels too; remove it from one of them"
