"""Figures against tables worked by hand, against their definitions, and against scikit-learn over all labels."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from models.errors import DataError
from models.train.metrics import confusion, d_prime, measure

LABELS = ["Bark", "Rain", "Siren"]


def one_hot(*labels):
    return np.eye(3, dtype=np.int8)[list(labels)]


# One label, the clips from its highest score to its lowest: does the clip carry it?
@pytest.mark.parametrize(("carried", "ap", "auc"), [
    ("10100", (1 / 1 + 2 / 3) / 2, 5 / 6),  # precision at each positive; 5 of 6 pairs in order
    ("11000", 1.0, 1.0),
    ("00011", (1 / 4 + 2 / 5) / 2, 0.0),
    ("01010", (1 / 2 + 2 / 4) / 2, 3 / 6),
])  # fmt: skip
def test_one_label_by_hand(carried, ap, auc):
    truth = np.array([[int(letter)] for letter in carried])
    scores = np.linspace(0.9, 0.1, len(carried), dtype=np.float32)[:, None]
    [found] = measure(scores, truth, ["Bark"]).per_label
    assert (found.ap, found.auc) == (pytest.approx(ap), pytest.approx(auc))


def test_single_label_clips_by_hand():
    truth = one_hot(0, 0, 1, 1, 2)
    scores = np.array(
        [  # Bark Rain Siren
            [0.9, 0.1, 0.0],  # right
            [0.2, 0.7, 0.1],  # Bark taken for Rain
            [0.1, 0.8, 0.1],  # right
            [0.3, 0.6, 0.1],  # right
            [0.1, 0.2, 0.7],  # right
        ],
        np.float32,
    )
    found = measure(scores, truth, LABELS)
    assert (found.n, found.accuracy) == (5, pytest.approx(4 / 5))
    assert [(each.label, each.n, each.recall) for each in found.per_label] == [
        ("Bark", 2, 0.5), ("Rain", 2, 1.0), ("Siren", 1, 1.0),
    ]  # fmt: skip
    # Bark's order is + - + …: (1 + 2/3) / 2. Rain's is + - +. Siren comes first.
    assert found.mean_ap == pytest.approx((5 / 6 + 5 / 6 + 1) / 3)
    assert found.auc == pytest.approx((5 / 6 + 5 / 6 + 1) / 3)
    assert confusion(scores, truth).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]


@pytest.mark.parametrize(("auc", "expected"), [(0.5, 0.0), (0.76025, 1.0), (0.92135, 2.0), (0.959, 2.46)])
def test_d_prime_is_the_distance_of_two_unit_normals(auc, expected):
    assert d_prime(auc) == pytest.approx(expected, abs=1e-3)
    assert math.erf(expected / 2) / 2 + 0.5 == pytest.approx(auc, abs=1e-3)  # their AUC, from the distance
    assert d_prime(1 - auc) == pytest.approx(-d_prime(auc))


def random_case(seed=0, n=80, c=5, several=True):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, c)) < 0.3).astype(np.int8) if several else np.eye(c, dtype=np.int8)[rng.integers(0, c, n)]
    scores = (truth + rng.normal(0, 1, (n, c))).round(1).astype(np.float32)  # rounded: ties
    return scores, truth, [f"label {i}" for i in range(c)]


def auc_by_definition(scores, truth):
    wins = [(p > n) + (p == n) / 2 for p in scores[truth == 1] for n in scores[truth == 0]]
    return np.mean(wins)


def ap_by_definition(scores, truth):
    """Precision at each threshold, weighted by the recall gained there."""
    total = before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        recall = truth[taken].sum() / truth.sum()
        total += (recall - before) * truth[taken].mean()
        before = recall
    return total


@pytest.mark.parametrize("seed", range(3))
def test_figures_follow_their_definitions_and_sklearns_macro_means(seed):
    scores, truth, labels = random_case(seed)
    found = measure(scores, truth, labels)
    for i, each in enumerate(found.per_label):
        assert each.auc == pytest.approx(auc_by_definition(scores[:, i], truth[:, i]))
        assert each.ap == pytest.approx(ap_by_definition(scores[:, i], truth[:, i]))
        assert each.d_prime == pytest.approx(d_prime(each.auc))
        assert each.n == truth[:, i].sum()
    assert found.mean_ap == pytest.approx(average_precision_score(truth, scores, average="macro"))
    assert found.auc == pytest.approx(roc_auc_score(truth, scores, average="macro"))
    assert found.d_prime == pytest.approx(d_prime(found.auc))


def test_confusion_and_accuracy_agree_with_sklearn():
    scores, truth, labels = random_case(several=False)
    counts = confusion(scores, truth)
    assert np.array_equal(counts, confusion_matrix(truth.argmax(1), scores.argmax(1), labels=range(len(labels))))
    assert measure(scores, truth, labels).accuracy == pytest.approx(np.trace(counts) / counts.sum())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_the_order_of_clips_does_not_matter_and_reversed_scores_mirror_the_auc(seed):
    scores, truth, labels = random_case(seed, n=12, c=2)
    order = np.random.default_rng(seed).permutation(len(scores))
    found = measure(scores, truth, labels).to_dict()
    assert measure(scores[order], truth[order], labels).to_dict() == found
    mirrored = measure(-scores, truth, labels)
    for one, other in zip(found["per_label"], mirrored.per_label, strict=True):
        assert (one["AUC"] is None and other.auc is None) or one["AUC"] == pytest.approx(1 - other.auc, abs=1e-5)


def test_clips_with_several_labels_have_no_accuracy():
    scores = np.array([[0.9, 0.8, 0.1], [0.1, 0.2, 0.9]], np.float32)
    truth = np.array([[1, 1, 0], [0, 0, 1]])
    found = measure(scores, truth, LABELS)
    assert found.accuracy is None
    assert [each.recall for each in found.per_label] == [None] * 3
    assert confusion(scores, truth) is None


def test_backgrounds_count_against_ap_but_not_in_the_accuracy():
    scores = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.95, 0.0, 0.0]], np.float32)  # the last: a background
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    found = measure(scores, truth, LABELS)
    assert (found.n, found.accuracy) == (3, 1.0)
    assert [each.ap for each in found.per_label] == [0.5, 1.0, None]
    assert "clips without a label, counted in mAP and AUC, not in accuracy: 1" in found.notes()
    assert confusion(scores, truth).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    only = measure(scores[2:], truth[2:], LABELS)
    assert (only.accuracy, only.mean_ap) == (None, None)


def test_labels_without_both_kinds_of_clips_are_left_out_of_the_means():
    scores, truth, labels = random_case()
    alone = measure(scores, truth, labels)
    padded = np.column_stack((truth, np.zeros(len(truth)), np.ones(len(truth)))).astype(np.int8)
    noise = np.random.default_rng(1).random((len(truth), 2)).astype(np.float32)
    found = measure(np.hstack((scores, noise)), padded, [*labels, "Never", "Always"])
    assert (found.mean_ap, found.auc, found.d_prime) == (alone.mean_ap, alone.auc, alone.d_prime)
    never, always = found.to_dict()["per_label"][-2:]
    assert never == {"label": "Never", "n": 0, "recall": None, "AP": None, "AUC": None, "d_prime": None}
    assert (always["n"], always["AP"], always["AUC"]) == (len(truth), None, None)
    assert found.notes() == [
        "no clip carries them, left out of the means: Never",
        "every clip carries them, left out of mAP and AUC: Always",
    ]


def test_a_perfect_auc_is_infinite_here_and_null_in_json():
    found = measure(np.array([[0.9], [0.1]], np.float32), np.array([[1], [0]]), ["Bark"])
    assert (found.auc, found.d_prime, found.per_label[0].d_prime) == (1.0, math.inf, math.inf)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (values["AUC"], values["d_prime"], values["per_label"][0]["d_prime"]) == (1.0, None, None)
    assert values["notes"][-1] == "AUC is exactly 0 or 1, so d' is infinite (null in JSON): Bark"


def test_one_label_on_every_clip_has_an_accuracy_and_nothing_else():
    found = measure(np.array([[0.9], [0.1]], np.float32), np.array([[1], [1]]), ["Bark"])
    assert (found.accuracy, found.mean_ap, found.auc, found.d_prime) == (1.0, None, None, None)


def test_mistakes_are_named(monkeypatch):
    scores, truth = np.zeros((2, 3), np.float32), one_hot(0, 1)
    with pytest.raises(ValueError, match=r"scores \(2, 3\) and truth \(2, 2\) of 3 labels: both must be \(n, 3\)"):
        measure(scores, truth[:, :2], LABELS)
    with pytest.raises(DataError, match="there are no clips to measure; give at least one"):
        measure(scores[:0], truth[:0], LABELS)
    broken = scores.copy()
    broken[1, 2] = np.nan
    with pytest.raises(DataError, match="scores of clip 1 are not finite; the model is broken, give another"):
        measure(broken, truth, LABELS)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(DataError, match=r"needs scikit-learn; run: pip install -e '.\[train\]'"):
        measure(scores, truth, LABELS)
