"""A picture of which labels are taken for which."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.errors import DataError
from models.train.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 60  # labels: more can't be read on a screen
COUNTED = 25  # labels up to which the cells carry their counts
CELL_IN = 0.3  # inches: a count of three digits at 7 points fits
LEAST_IN = 2.5  # inches: two labels still leave room for the title
LETTER_IN = 0.085  # inches a letter of 9 points takes
LETTERS = 32  # of a label; longer ones are cut


def picture(report: Report, path: Path) -> None:
    """Write the confusion as a PNG: a row a label, its shades the shares of the clips that carry it.

    Labels that no clip carries and none was taken for are left out; of more than 60, the 60 with the worst recall show.

    Raises:
        DataError: clips carry several labels, the file can't be written, or matplotlib is not installed.
    """
    if report.confusion is None:
        raise DataError(
            "there is no confusion to draw: that needs recordings with one label each, and some of these carry "
            "several, or none carries any; leave the picture out"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("a picture of the confusion needs matplotlib; run: pip install -e '.[train]'") from None
    figure = Figure(dpi=130, layout="constrained")
    draw(report, figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a script the font lacks shows as boxes
        try:
            figure.savefig(path, format="png")  # on Agg: without pyplot a figure knows no screen
        except OSError as error:
            raise DataError(f"{path} can't be written: {error.strerror}") from None


def draw(report: Report, figure: "Figure") -> None:
    """Draw on an empty figure, made as large as the labels need."""
    assert report.confusion is not None
    shown = _shown(report)
    names = [_cut(report.metrics.per_label[i].label) for i in shown]
    counts = report.confusion[np.ix_(shown, shown)]
    shares = counts / np.maximum(1, report.confusion[shown].sum(axis=1, keepdims=True))
    side = max(LEAST_IN, CELL_IN * len(names)) + LETTER_IN * max(map(len, names))
    figure.set_size_inches(side + 1.8, side + 1.2)  # beside it the colour bar, above it the title
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9, parse_math=False)  # a label may hold a $
    axes.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.set_xlabel("label heard")
    axes.set_ylabel("label carried")
    axes.set_title(_title(report, len(shown)), fontsize=10)
    if len(names) <= COUNTED:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, shrink=0.6, fraction=0.03, pad=0.02, label="share of the clips that carry the label")


def _shown(report: Report) -> npt.NDArray[np.int64]:
    """Labels to draw, in the model's order."""
    seen = np.array(report.seen())
    recall = np.array([report.metrics.per_label[i].recall for i in seen], float)  # NaN sorts last: never carried
    return np.sort(seen[np.argsort(recall, kind="stable")[:MOST]])


def _cut(label: str) -> str:
    return label if len(label) <= LETTERS else label[: LETTERS - 1] + "…"


def _title(report: Report, n_shown: int) -> str:
    assert report.confusion is not None
    n_seen = len(report.seen())
    part = f"\nthe {n_shown} labels of {n_seen} with the worst recall" if n_shown < n_seen else ""
    return f"accuracy {report.metrics.accuracy:.3f} on {report.confusion.sum()} clips{part}"
