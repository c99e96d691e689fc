"""The table and the picture of an evaluation, from scores written here."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from models.errors import DataError
from models.train.confusion import draw, picture
from models.train.metrics import confusion, measure
from models.train.report import Member, Report


def report_of(scores, carried, labels):
    scores, carried = np.array(scores, np.float32), np.array(carried)
    members = (Member("models/garage", "sha256:0123"),)
    return Report(members, False, measure(scores, carried, labels), {}, confusion(scores, carried))


def test_the_table_as_a_reader_sees_it():
    scores = [[0.9, 0.1, 0, 0], [0.2, 0.7, 0, 0], [0.1, 0.8, 0, 0], [0.3, 0.6, 0.5, 0]]
    carried = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert report_of(scores, carried, ["Bark", "Rain", "吠え声", "Siren"]).table().splitlines() == [
        "accuracy 0.500  mAP 0.944  AUC 0.917  d' 1.956",
        "4 clips, models/garage (sha256:0123)",
        "",
        "most frequent confusions   clips",
        "吠え声 heard as Rain      1 of 1",
        "Bark heard as Rain        1 of 2",
        "",
        "label   clips  recall     AP    AUC     d'",
        "Bark        2   0.500  0.833  0.750  0.954",
        "Rain        1   1.000  1.000  1.000    inf",
        "吠え声      1   0.000  1.000  1.000    inf",
        "Siren       0       -      -      -      -",
        "",
        "no clip carries them, left out of the means: Siren",
        "AUC is exactly 0 or 1, so d' is infinite (null in JSON): Rain; 吠え声",
    ]


def random_report(n_labels, n=400):
    rng = np.random.default_rng(0)
    carried = np.eye(n_labels, dtype=np.int8)[rng.integers(0, n_labels, n)]
    scores = 2 * carried + rng.normal(0, 1, carried.shape)
    return report_of(scores, carried, [f"label {i}: 吠え声 $x_{i}$ “{'long ' * 9}”" for i in range(n_labels)])


@pytest.mark.parametrize(("n_labels", "least"), [(2, 400), (10, 600), (70, 2300)])
def test_the_picture_grows_with_the_labels_and_is_no_blank(tmp_path, n_labels, least):
    picture(random_report(n_labels), tmp_path / "confusion.png")
    image = imread(tmp_path / "confusion.png")
    assert least < min(image.shape[:2]) <= max(image.shape[:2]) < 4000
    assert len(np.unique(image[..., 0])) > 50


def test_the_picture_shades_rows_and_counts_clips():
    scores = np.eye(3)[[0, 0, 0, 1, 2, 2]]
    figure = Figure()
    draw(report_of(scores, np.eye(3, dtype=np.int8)[[0, 0, 0, 0, 2, 1]], ["Bark", "Rain", "$x$"]), figure)
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 1]]
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "3", (0, 1): "1", (1, 2): "1", (2, 2): "1"}
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["Bark", "Rain", "$x$"]


def test_of_many_labels_the_worst_are_drawn():
    found = random_report(70)
    figure = Figure()
    draw(found, figure)
    axes = figure.axes[0]
    shown = [int(tick.get_text().split()[1].rstrip(":")) for tick in axes.get_yticklabels()]
    recall = [each.recall for each in found.metrics.per_label]
    assert len(shown) == 60
    assert shown == sorted(shown)
    assert max(recall[i] for i in shown) <= min(recall[i] for i in set(range(70)) - set(shown))
    assert "the 60 labels of 70 with the worst recall" in axes.get_title()
    assert not axes.texts  # no counts in cells this many


def test_several_labels_a_clip_have_no_picture(tmp_path):
    found = report_of([[0.9, 0.8], [0.1, 0.2]], [[1, 1], [0, 1]], ["Bark", "Rain"])
    assert found.to_dict()["confusion"] is None
    assert "heard as" not in found.table()
    with pytest.raises(DataError, match=r"no confusion to draw: that needs recordings with one label each, .*; leave"):
        picture(found, tmp_path / "confusion.png")
    assert not (tmp_path / "confusion.png").exists()


def test_a_picture_that_can_not_be_written_or_drawn(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"none/x\.png can't be written: No such file"):
        picture(random_report(2), tmp_path / "none" / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match=r"needs matplotlib; run: pip install -e '.\[train\]'"):
        picture(random_report(2), tmp_path / "x.png")


def test_what_the_extra_brings_is_imported_late():
    heavy = {"matplotlib", "scipy", "sklearn", "torch"}
    code = f"import sys, models.train.confusion; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
