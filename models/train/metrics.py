"""Figures of a classifier's scores, as the papers report them: accuracy, mAP, AUC, d′.

Average precision and AUC are scikit-learn's. d′ = √2 · Φ⁻¹(AUC) as in Gemmeke et al. 2017, "Audio Set"; the headline d′
is that of the mean AUC, as the AST authors' code prints it. Means are macro: each label counts the same. A label that
no clip carries, or that every clip carries, has no AP and no AUC and is left out of the means.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import DataError

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """Figures of one label; None where they don't exist.

    Args:
        label: its name.
        n: clips that carry it.
        recall: share of those on which it scored highest; None where a clip of the set carries several labels.
        ap: average precision.
        auc: area under the ROC curve.
        d_prime: √2 · Φ⁻¹(auc), infinite at an AUC of 0 or 1.
    """

    label: str
    n: int
    recall: float | None
    ap: float | None
    auc: float | None
    d_prime: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; an infinite d′ is null."""
        figures = {"recall": self.recall, "AP": self.ap, "AUC": self.auc, "d_prime": self.d_prime}
        return {"label": self.label, "n": self.n, **{name: json_number(value) for name, value in figures.items()}}


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of `n` clips; None where they don't exist.

    Args:
        n: clips.
        accuracy: share of the labelled clips whose label scored highest; None where a clip carries several.
        mean_ap: mAP, the mean of the labels' average precisions.
        auc: mean of the labels' AUC.
        d_prime: of `auc`, infinite at 0 or 1.
        per_label: in the order of the scores.
    """

    n: int
    accuracy: float | None
    mean_ap: float | None
    auc: float | None
    d_prime: float | None
    per_label: tuple[LabelMetrics, ...]

    def headline(self) -> dict[str, float | None]:
        """The four figures under the names the papers use."""
        return {"accuracy": self.accuracy, "mAP": self.mean_ap, "AUC": self.auc, "d_prime": self.d_prime}

    def notes(self) -> list[str]:
        """What a reader must know about the figures that are missing."""
        absent = [each.label for each in self.per_label if not each.n]
        everywhere = [each.label for each in self.per_label if each.n == self.n]
        perfect = [each.label for each in self.per_label if each.d_prime and math.isinf(each.d_prime)]
        unlabelled = self.n - sum(each.n for each in self.per_label) if self.accuracy is not None else 0
        found = (
            ("clips without a label, counted in mAP and AUC, not in accuracy", [str(unlabelled)] if unlabelled else []),
            ("no clip carries them, left out of the means", absent),
            ("every clip carries them, left out of mAP and AUC", everywhere),
            ("AUC is exactly 0 or 1, so d' is infinite (null in JSON)", perfect),
        )
        return [f"{what}: {'; '.join(names)}" for what, names in found if names]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: `n`, the headline, `notes`, `per_label`; an infinite d′ is null."""
        return {
            "n": self.n,
            **{name: json_number(value) for name, value in self.headline().items()},
            "notes": self.notes(),
            "per_label": [each.to_dict() for each in self.per_label],
        }


def json_number(value: float | None) -> float | None:
    """`value` to 6 digits, float32's worth; None where JSON has no number for it."""
    return round(value, 6) if value is not None and math.isfinite(value) else None


def d_prime(auc: float) -> float:
    """√2 · Φ⁻¹(auc): how far apart two unit normals lie that give this AUC; 0 at chance, infinite at 0 and 1."""
    from scipy.stats import norm

    return float(math.sqrt(2) * norm.ppf(auc))


def measure(scores: Floats, truth: npt.NDArray[Any], labels: Sequence[str]) -> Metrics:
    """Compare scores with what the clips carry.

    Args:
        scores: (n, C), higher is likelier; any monotone scale within a label does, accuracy needs one across labels.
        truth: (n, C) of 0 and 1.
        labels: C names.

    Raises:
        DataError: there are no clips, a score is not finite, or scikit-learn is not installed.
        ValueError: the shapes don't agree.
    """
    _check(scores, truth, labels)
    require_sklearn()
    top, labelled = scores.argmax(axis=1), with_one_label(truth)
    per_label = tuple(
        _one(label, scores[:, i], truth[:, i], None if labelled is None else top == i) for i, label in enumerate(labels)
    )
    auc = _mean([each.auc for each in per_label])
    return Metrics(
        n=len(scores),
        accuracy=None if labelled is None else float(truth[labelled, top[labelled]].mean()),
        mean_ap=_mean([each.ap for each in per_label]),
        auc=auc,
        d_prime=None if auc is None else d_prime(auc),
        per_label=per_label,
    )


def with_one_label(truth: npt.NDArray[Any]) -> Counts | None:
    """Which clips of `truth` (n, C) carry one label; None where one carries several, or none carries any."""
    n_labels = truth.sum(axis=1)
    return np.flatnonzero(n_labels) if n_labels.max(initial=0) == 1 else None


def confusion(scores: Floats, truth: npt.NDArray[Any]) -> Counts | None:
    """Labelled clips by their label (rows) and the one that scored highest: (C, C); None where a clip has several."""
    labelled = with_one_label(truth)
    if labelled is None:
        return None
    counts = np.zeros((truth.shape[1],) * 2, np.int64)
    np.add.at(counts, (truth[labelled].argmax(axis=1), scores[labelled].argmax(axis=1)), 1)
    return counts


def require_sklearn() -> None:
    """Say how to get scikit-learn where it is missing; called before long work as well.

    Raises:
        DataError: it is missing.
    """
    try:
        import sklearn.metrics  # noqa: F401  # only whether it is there
    except ImportError:
        raise DataError("measuring a model needs scikit-learn; run: pip install -e '.[train]'") from None


def _check(scores: Floats, truth: npt.NDArray[Any], labels: Sequence[str]) -> None:
    if scores.shape != truth.shape or scores.shape[1:] != (len(labels),):
        raise ValueError(
            f"scores {scores.shape} and truth {truth.shape} of {len(labels)} labels: both must be (n, {len(labels)})"
        )
    if not len(scores):
        raise DataError("there are no clips to measure; give at least one")
    if not np.isfinite(scores).all():
        row = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise DataError(f"scores of clip {row} are not finite; the model is broken, give another checkpoint")


def _one(label: str, scores: Floats, truth: npt.NDArray[Any], is_top: npt.NDArray[np.bool_] | None) -> LabelMetrics:
    """Figures of one label from its column (n,); `is_top` where it scored highest, None if that says nothing."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    n = int(truth.sum())
    recall = float(is_top[truth == 1].mean()) if n and is_top is not None else None
    if n in {0, len(truth)}:
        return LabelMetrics(label, n, recall, None, None, None)
    auc = float(roc_auc_score(truth, scores))
    return LabelMetrics(label, n, recall, float(average_precision_score(truth, scores)), auc, d_prime(auc))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
