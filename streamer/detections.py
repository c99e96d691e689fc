"""How well the live line detects sounds that are known: what it told beside the truth, and the figures of that.

`streamer evaluate --soundscapes` and `bench/detection.py` share it; what counts as right is in
`models.train.detections`. Threshold rules alone are measured: what other rules report is no sound.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models.train.detections import Counts, Found, Told, event_based, intersection_based, told
from models.train.report import columns
from models.train.soundscapes import Truth
from streamer.references import within
from streamer.replay import Step
from streamer.rules import threshold
from streamer.settings import Settings

Heard = tuple[Sequence[Truth], Sequence[Found]]  # the sounds of one soundscape, and the events told in it
COLLARS_S = (0.5, 1.0)
F1 = ("event_f1_half_second", "event_f1_one_second", "intersection_f1")
HEADINGS = {
    "label": "label",
    "sounds": "sounds",
    "missed": "missed",
    "false": "false",
    "false_per_h": "false/h",
    **dict(zip(F1, ("F1 0.5 s", "F1 1 s", "F1 inter."), strict=True)),
    "late_p50_s": "late p50",
    "late_p95_s": "p95",
    "onset_error_s": "onset",
    "offset_error_s": "offset",
}
NOTE = "Late, onset and offset (how far off) in seconds; docs/detection.md says what each figure is."


# -- what is heard -----------------------------------------------------------------------------------------------------


def with_threshold_rules(settings: Settings, stream: str) -> Settings:
    """The same with only the threshold rules of `stream`, at all hours: soundscapes have no time of day."""
    rules = {
        name: rule.model_copy(update={"schedule": []})
        for name, rule in settings.rules_of(stream).items()
        if isinstance(rule, threshold.Config)
    }
    options = settings.streams[stream].model_copy(update={"rules": {}})
    return settings.model_copy(update={"rules": rules, "streams": {stream: options}})


def labels_of(settings: Settings, stream: str, known: Sequence[str]) -> list[str]:
    """Those of the `known` labels that threshold rules listen for, in groups too; sorted."""
    rules = [rule for rule in settings.rules_of(stream).values() if isinstance(rule, threshold.Config)]
    return sorted(set().union(*(wanted_by(rule, known) for rule in rules)))


def wanted_by(rule: threshold.Config, known: Collection[str]) -> set[str]:
    """Those of the `known` labels that it listens for."""
    wanted = known if rule.labels == "any" else within(rule.labels, rule.groups)
    return set(wanted).intersection(known) - set(within(rule.unless, rule.groups))


def events(steps: Iterable[Step]) -> list[Found]:
    """The events of a replay, as they were told; those of one label that overlap, as of two rules, are one."""
    starts: dict[str, float] = {}
    found = []
    for step in steps:
        for message in step.messages:
            if not message.topic.endswith("/event"):
                continue
            assert isinstance(message.payload, Mapping)
            event = message.payload
            if event["event_type"] == "start":
                starts[event["id"]] = step.end_s
            elif event["event_type"] == "end":
                told_s = starts[event["id"]]
                found.append(Found(event["onset_s"], event["offset_s"], event["label"], told_s, event["score_peak"]))
    return _united(found)


def _united(found: Iterable[Found]) -> list[Found]:
    newest: dict[str, int] = {}
    united: list[Found] = []
    for event in sorted(found, key=lambda each: each.onset_s):
        at = newest.get(event.label)
        if at is not None and event.onset_s < (last := united[at]).offset_s:
            offset_s, told_s = max(last.offset_s, event.offset_s), min(last.told_s, event.told_s)
            united[at] = replace(last, offset_s=offset_s, told_s=told_s, peak=max(last.peak, event.peak))
        else:
            newest[event.label] = len(united)
            united.append(event)
    return united


# -- how well ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one label, or of several: they add up.

    Args:
        collars: events right within each of `COLLARS_S`.
        intersection: events that cover the sounds.
        told: what a user notices.
    """

    collars: tuple[Counts, ...] = (Counts(),) * len(COLLARS_S)
    intersection: Counts = field(default_factory=Counts)
    told: Told = field(default_factory=Told)

    def __add__(self, other: "Figures") -> "Figures":
        collars = tuple(one + more for one, more in zip(self.collars, other.collars, strict=True))
        return Figures(collars, self.intersection + other.intersection, self.told + other.told)

    @property
    def sounds(self) -> int:
        """Heard or missed."""
        return self.told.counts.right + self.told.counts.missed

    @property
    def f1(self) -> tuple[float | None, ...]:
        """As `F1` names them; None where there is nothing, and nothing was told."""
        return tuple(counts.f1 for counts in (*self.collars, self.intersection))

    def to_dict(self, hours: float) -> dict[str, Any]:
        """For JSON, of so many hours of sound; what does not exist is null."""
        counts = self.told.counts
        return {
            "sounds": self.sounds,
            "missed": counts.missed,
            "false": counts.false,
            "false_per_h": rounded(counts.false / hours),
            **{name: rounded(value) for name, value in zip(F1, self.f1, strict=True)},
            "late_p50_s": rounded(percentile(self.told.latency_s, 50)),
            "late_p95_s": rounded(percentile(self.told.latency_s, 95)),
            "onset_error_s": rounded(median_error(self.told.onset_s)),
            "offset_error_s": rounded(median_error(self.told.offset_s)),
        }


def measure(label: str, heard: Iterable[Heard]) -> Figures:
    """The figures of one label over all soundscapes."""
    total = Figures()
    for truths, found in heard:
        its = [t for t in truths if t.label == label], [f for f in found if f.label == label]
        collars = tuple(event_based(*its, collar_s) for collar_s in COLLARS_S)
        total += Figures(collars, intersection_based(*its), told(*its))
    return total


def report(labels: Iterable[str], heard: Sequence[Heard], hours: float) -> dict[str, Any]:
    """Figures for JSON: of each label that sounds or was told of, of all, and F1 as mean over the labels that sound."""
    each = {label: measure(label, heard) for label in labels}
    each = {label: figures for label, figures in each.items() if figures.sounds or figures.told.counts.false}
    sounding = [figures.f1 for figures in each.values() if figures.sounds]
    return {
        "labels": [{"label": label, **figures.to_dict(hours)} for label, figures in each.items()],
        "all": sum(each.values(), Figures()).to_dict(hours),
        "mean_over_labels": {name: rounded(mean(f1[i] for f1 in sounding)) for i, name in enumerate(F1)},
    }


def table(found: Mapping[str, Any]) -> str:
    """A report for people."""
    rows = [*found["labels"], {"label": "all", **found["all"]}]
    means = ", ".join(map(_shown, found["mean_over_labels"].values()))
    n_unnamed = sum(row["false"] for row in found["labels"] if not row["sounds"])
    parts = [
        columns([list(HEADINGS.values()), *([_shown(row[name]) for name in HEADINGS] for row in rows)]),
        f"The three F1 as mean over the labels that sound: {means}.\n{NOTE}",
    ]
    if n_unnamed:
        parts.append(f"{n_unnamed} of the false events are of labels that the annotations don't name.")
    return "\n\n".join(parts)


def percentile(values: Sequence[float], share: float) -> float:
    """NaN of nothing."""
    return float(np.percentile(values, share)) if values else math.nan


def median_error(values: Sequence[float]) -> float:
    """Median of how far off, either way."""
    return percentile([abs(value) for value in values], 50)


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def rounded(value: float | None) -> float | None:
    """A figure to be kept: four places, and None where there is nothing to say."""
    return None if value is None or math.isnan(value) else round(float(value), 4)


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
