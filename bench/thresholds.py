"""Which thresholds would have been best: other ones on scores that `bench/detection.py --scores` saved.

    python bench/thresholds.py --scores DIR [DIR ...] [--offset-share 0.1 …] [--min-windows N] [--quick]
                               [--config FILE]

Several folders, as of several folds with a model each that had not heard them, are counted as one. For each label that
rules listen for: the rule as it is, then onset thresholds of 0.15 to 0.9 (the offset's is a share of them) with one
window, or two of three, that make a start; whatever else its rule says stays. The pick has the fewest false events in
rooms and among other sounds of all whose F1 (1 s) is within 0.02 of the best: less is chance. Half a minute for each
two and a half hours and share.
"""

import argparse
import json
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from detection import COLLAR, FALSE, cell, per_hour
from figures import figure, finish, sentences

from models.train.arguments import number
from models.train.detections import Found
from models.train.soundscapes import Truth
from streamer import cli_shared, edges
from streamer.calibration import info_of
from streamer.core import Phase, Reason, Scores, StreamInfo
from streamer.detections import Figures, labels_of, mean, measure, percentile, rounded, wanted_by, with_threshold_rules
from streamer.replay import header_of, replay

ONSETS = [round(0.15 + 0.05 * i, 2) for i in range(16)]
OFFSET_SHARE = 0.1  # of the onset threshold, by default
NEEDED = {1: 1, 2: 3}  # min_windows and the of_windows that go with it
CHANCE = 0.02  # F1; what a dozen sounds of a label tell no better
HEADINGS = f"onset offset min  F1 1 s inter missed false  {' '.join(f'{kind:>7}' for kind in FALSE)} /h   late"


@dataclass(frozen=True)
class Heard:
    """One soundscape: the windows, each label's scores by window, what sounds, and where the sound stops."""

    name: str
    info: StreamInfo
    windows: list[Scores]
    scores: np.ndarray
    truths: list[Truth]
    stops: int


@dataclass(frozen=True)
class Outcome:
    """What thresholds of a label would have made of all soundscapes; `f1` is that of each folder."""

    figures: Figures
    false: dict[str, float]
    f1: list[float | None]

    @property
    def merit(self):
        """F1 (1 s)."""
        return self.figures.f1[COLLAR] or 0.0

    @property
    def cries(self):
        """False events an hour, of all kinds of soundscapes that there are."""
        return sum(rate for rate in self.false.values() if not math.isnan(rate))


# -- what was heard ----------------------------------------------------------------------------------------------------


def read(folder, settings, stream):
    """All soundscapes of a folder of saved scores."""
    silent = settings.model_copy(update={"rules": {}})
    heard = []
    for path in sorted(folder.glob("*.scores")):
        truth = path.with_suffix(".json")
        if not truth.exists():  # whoever saved them was stopped
            continue
        header = header_of(path)
        *windows, end = [step.output for step in replay(path, silent, stream, None)]
        truths = [Truth(**each) for each in json.loads(truth.read_text(encoding="utf-8"))]
        info = info_of(header.spec, header.hop_s, settings, stream)
        scores = np.array([window.scores for window in windows])
        heard.append(Heard(path.stem, info, windows, scores, truths, end.at))
    return heard


def made_by(folders):
    """What each folder is of; they must agree in how the model looks."""
    if empty := [str(f) for f in folders if not ((f / "made_by.json").exists() and any(f.glob("*.scores")))]:
        raise SystemExit(f"--scores: no scores in {', '.join(empty)}; bench/detection.py --scores DIR makes some")
    each = {folder: json.loads((folder / "made_by.json").read_text(encoding="utf-8")) for folder in folders}
    if len({(one["hop_s"], one["window_frames"]) for one in each.values()}) > 1:
        raise SystemExit(f"--scores: other hops or windows have other thresholds: {each}; try them one by one")
    return each


# -- what a rule makes of it -------------------------------------------------------------------------------------------


def events(heard, label, config):
    """Its events of one label, by the rule itself.

    It is shown what is over the offset threshold, and around that what it may look back to or wait for: of the rest,
    most of all windows, it would say nothing.
    """
    rule = edges.build_rule(config, "rule", heard.info, lambda position: None)
    over = heard.scores[:, heard.info.labels.index(label)] >= config.offset_threshold
    after = int(config.release_s / heard.info.hop_s) + config.of_windows + config.smooth_windows + 1
    shown = np.convolve(over, np.ones(after + config.smooth_windows))[config.smooth_windows - 1 :][: len(over)] > 0.5
    found, told_s, rate = [], 0.0, heard.info.sample_rate
    news = [event for i in np.flatnonzero(shown) for event in rule.update(heard.windows[i])]
    for event in news + rule.flush(heard.stops, Reason.SOURCE_END):
        if event.phase == Phase.START:
            told_s = event.at / rate
        else:
            found.append(Found(event.onset / rate, event.offset / rate, label, told_s, event.peak_score))
    return found


def outcome(folders, label, config):
    """What a rule for one label makes of all folders."""
    pairs = [
        [(heard.name, (heard.truths, events(heard, label, config))) for heard in folder] for folder in folders.values()
    ]
    each = [measure(label, [pair for name, pair in of_one if name.startswith("mixed")]) for of_one in pairs]
    false = {
        kind: per_hour(label, [pair for of_one in pairs for name, pair in of_one if name.startswith(kind)])
        for kind in FALSE
    }
    return Outcome(sum(each, Figures()), false, [figures.f1[COLLAR] for figures in each])


def alone(config, label):
    """A rule's options, for one of its labels."""
    onset, offset = config.thresholds_of(label)
    only = {"labels": [label], "thresholds": {}, "instant": [name for name in config.instant if name == label]}
    return config.model_copy(update=only | {"onset_threshold": onset, "offset_threshold": offset})


def others(config, args):
    """The same with other thresholds; offsets are a share of onsets."""
    counts = [args.min_windows] if args.min_windows else NEEDED
    for min_windows, share, onset in product(counts, args.offset_share, ONSETS[::3] if args.quick else ONSETS):
        needed = {"min_windows": min_windows, "of_windows": NEEDED[min_windows]}
        edges_at = {"onset_threshold": onset, "offset_threshold": round(share * onset, 3)}
        yield config.model_copy(update=needed | edges_at)


# -- what is said ------------------------------------------------------------------------------------------------------


def row(config, one, mark=""):
    """One setting for people."""
    counts, f1 = one.figures.told.counts, one.figures.f1
    setting = f"{config.onset_threshold:5.2f} {config.offset_threshold:6.3f} {config.min_windows:3d}"
    false = " ".join(cell(one.false[kind], 7, 1) for kind in FALSE)
    late = cell(percentile(one.figures.told.latency_s, 50), 6)
    folds = "  F1 by folder" + "".join(cell(each, 5) for each in one.f1) if len(one.f1) > 1 else ""
    said = f"{cell(f1[COLLAR], 5)}  {cell(f1[-1], 5)} {counts.missed:6d} {counts.false:5d}"
    return f"{setting}   {said}  {false}   {late}{folds}{mark}"


def sweep(folders, label, now, args):
    """Print what each setting of a label does; return the options picked, what they do, and what those of now do."""
    present = outcome(folders, label, now)
    print(f"\n{label}: {present.figures.sounds} sounds")
    print(HEADINGS, row(now, present, "  now"), sep="\n")
    tried = [(config, outcome(folders, label, config)) for config in others(now, args)]
    enough = max(one.merit for _, one in tried) - CHANCE
    best = min((one for _, one in tried if one.merit >= enough), key=lambda one: (one.cries, -one.merit))
    for config, one in tried:
        print(row(config, one, "  <- pick" if one is best else ""), flush=True)
    return next(config for config, one in tried if one is best), best, present


def report(picks):
    """Print the picks of all labels, and what they would bring."""
    print("\npicks")
    for label, (config, best, _) in picks.items():
        print(f"{label:<28} {row(config, best)}")
    for name, place in (("now", 2), ("picks", 1)):
        each = [pick[place] for pick in picks.values()]
        total = sum((one.figures for one in each), Figures())
        f1 = " ".join(cell(mean(one.figures.f1[i] for one in each), 5) for i in range(3))
        false = ", ".join(f"{cell(sum(one.false[kind] for one in each), 0, 1)} {kind}" for kind in FALSE)
        late, counts = cell(percentile(total.told.latency_s, 50), 0), total.told.counts
        print(f"{name}: F1 0.5 s, 1 s, inter. {f1}; {counts.missed} missed, {counts.false} false, late {late} s;")
        print(f"  events/h: {false}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--scores", type=Path, nargs="+", default=[], metavar="DIR", help="folders of saved scores")
    parser.add_argument("--offset-share", type=number(0, 1), nargs="+", default=[OFFSET_SHARE], help="of onsets")
    parser.add_argument("--min-windows", type=int, choices=NEEDED, help="that make a start: 1, or 2 of 3; else both")
    parser.add_argument("--quick", action="store_true", help="every third threshold")
    parser.add_argument("-c", "--config", type=Path)
    args = parser.parse_args()
    f1 = {"name": "event_f1_one_second_picked", "unit": "F1", "goal": 0.6, "better": "higher"}
    if not args.scores:
        return finish("thresholds", [figure(value=None, why="no scores: --scores DIR, of bench/detection.py", **f1)])
    for folder, made in made_by(args.scores).items():
        print(f"{folder}: {made}")
    settings = cli_shared.settings_of(args)
    stream = next(iter(settings.streams))
    settings = with_threshold_rules(settings, stream)
    folders = {folder: read(folder, settings, stream) for folder in args.scores}
    known = next(iter(folders.values()))[0].info.labels
    rules = list(settings.rules_of(stream).values())
    picks = {}
    for label in labels_of(settings, stream, known):
        now = next(rule for rule in rules if label in wanted_by(rule, known))
        picks[label] = sweep(folders, label, alone(now, label), args)
    report(picks)
    picked = mean(best.figures.f1[COLLAR] for _, best, _ in picks.values())
    return finish("thresholds", [figure(value=rounded(picked), why="no sounds", **f1)])


if __name__ == "__main__":
    with sentences():
        main()
