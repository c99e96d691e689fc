"""What an evaluation found: as JSON and as a table to read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any
from unicodedata import combining, east_asian_width

from models.train.metrics import Counts, LabelMetrics, Metrics, json_number

CONFUSIONS = 10  # in the table: what to look at first
NAMES = {"accuracy": "accuracy", "mAP": "mAP", "AUC": "AUC", "d_prime": "d'"}


@dataclass(frozen=True, slots=True)
class Member:
    """A checkpoint that took part: `name` as it was asked for, `revision` of its weights, `fold` it was used on."""

    name: str
    revision: str
    fold: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of one model, an ensemble or an average, over all clips and by fold.

    Args:
        members: the checkpoints; of k-fold models, those of every fold.
        average: whether their weights were averaged; else their scores.
        metrics: over all clips, pooled.
        folds: fold → its figures, where each fold has a model of its own; else empty.
        confusion: (C, C) labelled clips by label (rows) and label that scored highest; None where a clip has several.
    """

    members: tuple[Member, ...]
    average: bool
    metrics: Metrics
    folds: Mapping[int, Metrics]
    confusion: Counts | None

    def over_folds(self) -> dict[str, tuple[float, float] | None]:
        """Mean and sample standard deviation of each headline figure; None where a fold lacks it or is alone."""
        found: dict[str, tuple[float, float] | None] = {}
        for name in NAMES:
            values = [metrics.headline()[name] for metrics in self.folds.values()]
            known = [value for value in values if value is not None and math.isfinite(value)]
            found[name] = (fmean(known), stdev(known)) if len(known) == len(values) > 1 else None
        return found

    def seen(self) -> list[int]:
        """Labels that a clip carries or that were taken for one: the rows of the confusion worth showing."""
        if self.confusion is None:
            return []
        return [i for i, n in enumerate(self.confusion.sum(axis=0) + self.confusion.sum(axis=1)) if n]

    def mistaken(self) -> list[tuple[str, str, int, int]]:
        """Confusions, the most frequent first: (label carried, label heard, clips, clips that carry it)."""
        if self.confusion is None:
            return []
        names = [each.label for each in self.metrics.per_label]
        found = [
            (names[i], names[j], int(self.confusion[i, j]), int(self.confusion[i].sum()))
            for i in self.seen()
            for j in self.seen()
            if i != j and self.confusion[i, j]
        ]
        return sorted(found, key=lambda each: (-each[2], each[3], each[:2]))

    def to_dict(self) -> dict[str, Any]:
        """For JSON, the same for the same scores; what does not exist is null."""
        seen = self.seen()
        return {
            "models": [
                {"name": each.name, "revision": each.revision} | ({"fold": each.fold} if each.fold is not None else {})
                for each in self.members
            ],
            "average": self.average,
            **self.metrics.to_dict(),
            "folds": [
                {"fold": fold, "n": metrics.n} | {name: json_number(x) for name, x in metrics.headline().items()}
                for fold, metrics in self.folds.items()
            ],
            "over_folds": {
                name: both and {"mean": json_number(both[0]), "std": json_number(both[1])}
                for name, both in self.over_folds().items()
            }
            if self.folds
            else None,
            "confusion": None
            if self.confusion is None
            else {
                "labels": [self.metrics.per_label[i].label for i in seen],
                "counts": [[int(self.confusion[i, j]) for j in seen] for i in seen],
            },
        }

    def table(self) -> str:
        """Text of fixed width: headline, folds, frequent confusions, labels from the worst to the best, notes."""
        parts = (self._headline(), self._folds(), self._confusions(), self._labels(), "\n".join(self.metrics.notes()))
        return "\n\n".join(part for part in parts if part)

    def _headline(self) -> str:
        figures = (f"{NAMES[name]} {_show(value)}" for name, value in self.metrics.headline().items())
        how = "average of the weights of " if self.average else "mean of the scores of " if self._is_ensemble() else ""
        names = ", ".join(f"{each.name} ({each.revision})" for each in self.members)
        return f"{'  '.join(figures)}\n{self.metrics.n} clips, {how}{names}"

    def _is_ensemble(self) -> bool:
        return len(self.members) > max(1, len(self.folds))

    def _folds(self) -> str:
        if not self.folds:
            return ""
        rows = [[str(fold), str(m.n), *map(_show, m.headline().values())] for fold, m in self.folds.items()]
        over = self.over_folds()
        for i, name in enumerate(("mean", "std")):
            rows.append([name, "", *(_show(both[i] if both else None) for both in over.values())])
        return columns([["fold", "clips", *NAMES.values()], *rows])

    def _confusions(self) -> str:
        rows = [[f"{label} heard as {heard}", f"{n} of {of}"] for label, heard, n, of in self.mistaken()[:CONFUSIONS]]
        return columns([["most frequent confusions", "clips"], *rows]) if rows else ""

    def _labels(self) -> str:
        rows = [
            [each.label, str(each.n), *map(_show, (each.recall, each.ap, each.auc, each.d_prime))]
            for each in sorted(self.metrics.per_label, key=_badness)
        ]
        return columns([["label", "clips", "recall", "AP", "AUC", "d'"], *rows])


def _badness(each: LabelMetrics) -> tuple[float, str]:
    """Low average precision first; labels without one last."""
    return (math.inf if each.ap is None else each.ap, each.label)


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text: the first column to the left, figures to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        (row[0] + " " * (widths[0] - _width(row[0])))
        + "".join("  " + " " * (width - _width(cell)) + cell for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def _width(text: str) -> int:
    """Columns a terminal gives to `text`: two to a wide letter, none to an accent of its own."""
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)
