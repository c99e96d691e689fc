"""What the live line hears in an hour of soundscapes, and what it makes up in an hour without: docs/detection.md.

    python bench/detection.py [--quick] [--data FOLDER] [--fold N] [--seed S] [--config FILE] [--model M] [--scores DIR]

FOLDER holds a sub-folder per ESC-10 class; alarms, rooms and other sounds are made in code. With --scores the model's
scores are kept in DIR: other rules are then measured in seconds, and a run that was stopped goes on.
"""

import argparse
import json
import math
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from figures import figure, finish

from models import checkpoint, load_spec
from models.train.detections import Counts, Found, Told, event_based, intersection_based, told
from models.train.rooms import OTHERS
from models.train.soundscapes import Bank, Truth, bank, compose, made
from models.train.starter import LABELS
from streamer import cli_shared
from streamer.replay import replay

SECONDS = 300  # of a soundscape
PER_HOUR = 3600 // SECONDS
COLLARS_S = (0.5, 1.0)
SMOKE = "Smoke detector, smoke alarm"
PSDS = {  # the two scenarios of DCASE 2021 to 2023, task 4: when is it, and what is it
    "psds_1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "cttc_threshold": None, "alpha_ct": 0, "alpha_st": 1},
    "psds_2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1},
}


# -- what is heard -----------------------------------------------------------------------------------------------------


def scenes(banks, seed, n):
    """Name → a maker of the soundscape: `n` with sounds that rules listen for, and as many without.

    Of the latter every other one is a room in which nothing happens.
    """
    mixed, other = banks
    for i in range(n):
        yield f"mixed-{i:03}", lambda i=i: compose(mixed, SECONDS, (seed, 0, i))
    for i in range(n):
        yield f"other-{i:03}", lambda i=i: compose(Bank({}) if i % 2 else other, SECONDS, (seed, 1, i))


def banks_of(args, ruled):
    """Sounds of labels that have a rule; and those of labels that have none, with what is made in code."""
    folds = (str(args.fold),) if args.fold else ()
    every = bank(args.data, folds=folds, names={folder: name for folder, (name, _) in LABELS.items()})
    mixed = {label: sounds for label, sounds in every.foregrounds.items() if label in ruled}
    other = {label: sounds for label, sounds in every.foregrounds.items() if label not in ruled}
    other |= {name: [made(maker, (2.0, 20.0))] for name, maker in OTHERS.items()}
    return Bank(mixed, every.backgrounds), Bank(other, every.backgrounds)


def events(steps):
    """The events of a replay, as they were told."""
    starts, found = {}, []
    for step in steps:
        for message in step.messages:
            if not message.topic.endswith("/event"):
                continue
            event = message.payload
            if event["event_type"] == "start":
                starts[event["id"]] = step.end_s
            elif event["event_type"] == "end":
                told_s = starts[event["id"]]
                found.append(Found(event["onset_s"], event["offset_s"], event["label"], told_s, event["score_peak"]))
    return found


def listen(args, settings, n):
    """Name → (truths, events) of each soundscape. What was scored before is neither made nor scored again."""
    stream = next(iter(settings.streams))
    ruled = labels_of(settings, stream)
    banks, backend = banks_of(args, ruled), cache(lambda: cli_shared.backend_of(settings))
    heard = {}
    for name, make in scenes(banks, args.seed, n):
        scores, truth = args.scores / f"{name}.scores", args.scores / f"{name}.json"
        if not truth.exists():
            soundscape, wav = make(), args.scores / "now.wav"
            soundfile.write(wav, soundscape.samples, soundscape.rate, subtype="PCM_16")
            with scores.open("w", encoding="utf-8") as save:
                for _ in replay(wav, settings, stream, backend, save=save):
                    pass
            wav.unlink()
            truth.write_text(json.dumps([asdict(each) for each in soundscape.truths]), encoding="utf-8")
        truths = [Truth(**each) for each in json.loads(truth.read_text(encoding="utf-8"))]
        heard[name] = truths, events(replay(scores, settings, stream, backend))
    return ruled, heard


def labels_of(settings, stream):
    """Labels that threshold rules listen for."""
    rules = settings.rules_of(stream).values()
    return {label for rule in rules if rule.type == "threshold" for label in rule.labels}


def check_same(folder, made_by):
    """Scores of another model, or of other sounds, are not to be mixed with these."""
    path = folder / "made_by.json"
    if not path.exists():
        path.write_text(json.dumps(made_by), encoding="utf-8")
    elif (there := json.loads(path.read_text(encoding="utf-8"))) != made_by:
        raise SystemExit(f"--scores: {folder} holds scores made by {there}, not by {made_by}; name another folder")


# -- how well ----------------------------------------------------------------------------------------------------------


def measure(label, heard):
    """All that is told of one label: events right within each collar, and by intersection; what a user notices."""
    collars, intersecting, noticed = [Counts()] * len(COLLARS_S), Counts(), Told()
    for truths, found in heard:
        its = [t for t in truths if t.label == label], [f for f in found if f.label == label]
        collars = [sum_ + event_based(*its, collar_s) for sum_, collar_s in zip(collars, COLLARS_S, strict=True)]
        intersecting += intersection_based(*its)
        noticed += told(*its)
    return [*collars, intersecting], noticed


def row(label, counts, noticed, alarms_per_hour):
    """One label for people."""
    f1 = " ".join("    -" if each.f1 is None else f"{each.f1:5.2f}" for each in counts)
    n = noticed.counts.right + noticed.counts.missed
    late = f"{percentile(noticed.latency_s, 50):6.2f} {percentile(noticed.latency_s, 95):6.2f}"
    errors = f"{median_error(noticed.onset_s):6.2f} {median_error(noticed.offset_s):6.2f}"
    shares = f"{n:4d} {noticed.counts.missed:4d} {noticed.counts.false:4d} {alarms_per_hour:6.2f}"
    return f"{label:<28} {shares}  {f1}  {late}  {errors}"


def percentile(values, share):
    """NaN of nothing."""
    return float(np.percentile(values, share)) if values else math.nan


def median_error(values):
    """Median of how far off, either way."""
    return percentile([abs(value) for value in values], 50)


def psds(heard, labels):
    """Both scenarios' PSDS of the rules' events, ranked by their highest score; or why not."""
    try:
        from sed_scores_eval.base_modules.scores import create_score_dataframe
        from sed_scores_eval.intersection_based import psds as compute
    except ImportError as error:
        return dict.fromkeys(PSDS), f"sed_scores_eval is missing ({error}): pip install 'streamer[bench]'"
    scores, truth = {}, {}
    for name, (truths, found) in heard.items():
        edges = sorted({0.0, float(SECONDS), *(t for f in found for t in (f.onset_s, f.offset_s))})
        values = np.zeros((len(edges) - 1, len(labels)))
        for each in found:
            values[edges.index(each.onset_s) : edges.index(each.offset_s), labels.index(each.label)] = each.peak
        scores[name] = create_score_dataframe(values, np.array(edges), labels)
        truth[name] = [(t.onset_s, t.offset_s, t.label) for t in truths]
    seconds = dict.fromkeys(heard, float(SECONDS))
    return {n: float(compute(scores, truth, seconds, max_efpr=100, **o)[0]) for n, o in PSDS.items()}, None


def report(ruled, heard, hop_s):
    """Print the table and the figures."""
    mixed = [pair for name, pair in heard.items() if name.startswith("mixed")]
    other = [found for name, (_, found) in heard.items() if name.startswith("other")]
    hours = len(other) * SECONDS / 3600
    labels = sorted(
        ruled & {truth.label for truths, _ in mixed for truth in truths} | {f.label for fs in other for f in fs}
    )
    print(f"{'label':<28} {'n':>4} miss  false  /h     F1 .5   1 s inter  latency p50 p95  onset offset")
    each, rate = {}, {}
    for label in labels:
        each[label] = measure(label, mixed)
        rate[label] = sum(f.label == label for found in other for f in found) / hours
        print(row(label, *each[label], rate[label]))
    total = [sum((counts[i] for counts, _ in each.values()), Counts()) for i in range(3)]
    noticed = sum((noticed for _, noticed in each.values()), Told())
    print(row("all (micro)", total, noticed, sum(rate.values())))
    macro = [np.mean([counts[i].f1 or 0.0 for counts, _ in each.values()]) if each else math.nan for i in range(3)]
    print(f"{'all (macro)':<49}  {' '.join(f'{value:5.2f}' for value in macro)}")
    for low, high in ((-5, 0), (0, 10), (10, 20)):
        n_heard, n_missed = (sum(low <= db < high for db in dbs) for dbs in (noticed.heard_db, noticed.missed_db))
        print(f"missed at {low:3d} to {high:2d} dB: {n_missed} of {n_heard + n_missed}")
    ranks, why = psds(heard, labels)
    loud = [db for db in each[SMOKE][1].missed_db if db >= 0] if SMOKE in each else []
    n_loud = len(loud) + sum(db >= 0 for db in each[SMOKE][1].heard_db) if SMOKE in each else 0
    smoke = 1 - len(loud) / n_loud if n_loud else None
    missed = 1 - noticed.counts.recall if noticed.counts.recall is not None else None
    finish(
        "detection",
        [
            figure("event_f1_half_s", rounded(macro[0]), "F1", None, "higher", why="no sounds"),
            figure("event_f1_1s", rounded(macro[1]), "F1", 0.6, "higher", why="no sounds"),
            figure("intersection_f1", rounded(macro[2]), "F1", None, "higher", why="no sounds"),
            *(figure(name, rounded(value), "PSDS", None, "higher", why=why) for name, value in ranks.items()),
            figure("missed", rounded(missed), "share", None, why="no sounds"),
            figure("false_alarms", rounded(sum(rate.values())), "events/h", 1.0),
            figure("smoke_alarm_recall_over_0_db", rounded(smoke), "share", 0.99, "higher", why="no such sounds"),
            figure("latency_p50", rounded(percentile(noticed.latency_s, 50)), "s", hop_s + 0.3, why="no events"),
            figure("latency_p95", rounded(percentile(noticed.latency_s, 95)), "s", None, why="no events"),
            figure("onset_error_median", rounded(median_error(noticed.onset_s)), "s", 0.25, why="no events"),
            figure("offset_error_median", rounded(median_error(noticed.offset_s)), "s", 0.5, why="no events"),
        ],
    )


def rounded(value):
    return None if value is None or math.isnan(value) else round(float(value), 4)


def held_out(settings, fold):
    """Whether the model had never heard these recordings, as far as its folder says."""
    path = Path(checkpoint.find(settings.model.checkpoint)) / "measured.json"
    without = json.loads(path.read_text(encoding="utf-8")).get("hold_out") if path.exists() else None
    if without is not None and without == fold:
        return f"held out: {settings.model.checkpoint} was trained without fold {fold}"
    return f"NOT held out: {settings.model.checkpoint} may know these recordings by heart, so all this is rosy"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="five minutes of each instead of an hour")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/esc10"))
    parser.add_argument("--fold", type=int, help="only recordings of this fold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--scores", type=Path, help="folder to keep scores in")
    args = parser.parse_args()
    args.data = args.data if args.data.exists() else None
    settings = cli_shared.settings_of(args)
    hop_s, spec = next(iter(settings.streams.values())).hop_s, load_spec(settings.model.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        args.scores = args.scores or Path(folder)
        args.scores.mkdir(parents=True, exist_ok=True)
        made_by = {"seed": args.seed, "fold": args.fold, "model": spec.revision, "hop_s": hop_s}
        check_same(args.scores, made_by | {"recordings": bool(args.data)})
        ruled, heard = listen(args, settings, 1 if args.quick else PER_HOUR)
    print(
        "recordings" if args.data else "NO recordings, alarms only",
        f"of fold {args.fold or 'any'};",
        held_out(settings, args.fold),
    )
    report(ruled, heard, hop_s)


if __name__ == "__main__":
    main()
