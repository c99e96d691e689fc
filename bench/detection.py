"""What the live line hears in an hour of soundscapes, and what it makes up in another hour: docs/detection.md.

    python bench/detection.py [--quick] [--data FOLDER] [--fold N] [--seed S] [--config FILE] [--model M] [--scores DIR]
                              [--perfect] [--mixed HOURS] [--rooms HOURS] [--alarms HOURS]

FOLDER holds a sub-folder per ESC-10 class; alarms, rooms and other sounds are made in code. With --scores the model's
scores are kept in DIR: other options of the rules are then measured in seconds, and a run that was stopped goes on.
"""

import argparse
import hashlib
import json
import math
import tempfile
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
from figures import figure, finish, sentences

from models import checkpoint, load_spec
from models.train.arguments import number, whole
from models.train.data import recordings
from models.train.rooms import OTHERS, STRANGERS
from models.train.soundscapes import Bank, Options, Truth, bank, compose, made
from models.train.starter import LABELS
from streamer import cli_shared
from streamer.detections import (
    Figures,
    events,
    labels_of,
    mean,
    measure,
    median_error,
    percentile,
    rounded,
    with_threshold_rules,
)
from streamer.errors import ConfigError
from streamer.replay import replay

SECONDS = 300  # of a soundscape
ALARMS, AT_0_DB = "alarms", Options(gap_s=(30.0, 30.0), snr_db=(0.0, 0.0))  # smoke alarms alone, if asked for
KINDS = {"mixed": 12, "rooms": 6, "other": 6, "strange": 6, ALARMS: 0}  # how many: with what rules listen for, with
# nothing, with sounds that the starter was taught to ignore other draws of, and with such as it never heard
FALSE = ("rooms", "other", "strange")  # all events in these are false
COLLAR = 1  # of `COLLARS_S`: one second
SMOKE = "Smoke detector, smoke alarm"
PSDS = {  # the two scenarios of DCASE 2021 to 2023, task 4: when is it, and what is it
    "psds_1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "cttc_threshold": None, "alpha_ct": 0, "alpha_st": 1},
    "psds_2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1},
}


# -- what is heard -----------------------------------------------------------------------------------------------------


def scenes(banks, args):
    """Name → a maker of the soundscape."""
    asked = {"mixed": args.mixed, "rooms": args.rooms, ALARMS: args.alarms}
    numbers = {kind: math.ceil(each * 3600 / SECONDS) for kind, each in asked.items() if each} or KINDS
    for place, kind in enumerate(KINDS):
        made_of, options = banks[kind], AT_0_DB if kind == ALARMS else None
        n = numbers.get(kind, 0)
        for i in range(min(n, 1) if args.quick else n):
            yield f"{kind}-{i:03}", partial(compose, made_of, SECONDS, (args.seed, place, i), options)


def banks_of(args, ruled):
    """What each kind is made of. Other sounds: recordings of labels without a rule, and what is made in code."""
    folds = (str(args.fold),) if args.fold else ()
    every = bank(args.data, folds=folds, names={folder: name for folder, (name, _) in LABELS.items()})
    mixed = {label: sounds for label, sounds in every.foregrounds.items() if label in ruled}
    other = {label: sounds for label, sounds in every.foregrounds.items() if label not in ruled}
    other |= {name: [made(maker, (2.0, 20.0))] for name, maker in OTHERS.items()}
    strange = {name: [made(maker, (2.0, 20.0))] for name, maker in STRANGERS.items()}
    kinds = {"mixed": mixed, "rooms": {}, "other": other, "strange": strange, ALARMS: {SMOKE: every.foregrounds[SMOKE]}}
    return {kind: Bank(sounds, every.backgrounds) for kind, sounds in kinds.items()}


def listen(args, settings, ruled):
    """Name → (truths, events) of each soundscape. What was scored before is neither made nor scored again."""
    stream, backend = next(iter(settings.streams)), cache(lambda: cli_shared.backend_of(settings))
    heard = {}
    for name, make in scenes(banks_of(args, ruled), args):
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
        if args.perfect:
            scores = perfect(scores, truths)
        heard[name] = truths, events(replay(scores, settings, stream, backend))
    return heard


def perfect(scores, truths):
    """Another file: the same windows, with 1 for each label that is in view, else 0."""
    path = scores.with_suffix(".perfect")
    with scores.open(encoding="utf-8") as there, path.open("w", encoding="utf-8") as better:
        header = next(there)
        better.write(header)
        model = json.loads(header)["model"]
        for window in map(json.loads, there):
            if "scores" in window:
                start_s, end_s = (window[edge] / model["fbank"]["sample_rate"] for edge in ("start", "end"))
                seen = {truth.label for truth in truths if is_seen(truth, start_s, end_s)}
                window["scores"] = [float(label in seen) for label in model["labels"]]
            better.write(json.dumps(window) + "\n")
    return path


def is_seen(truth, start_s, end_s):
    """Whether a quarter of a second of a sound, or half of a shorter one, lies in a window."""
    inside_s = min(truth.offset_s, end_s) - max(truth.onset_s, start_s)
    return inside_s >= min(0.25, (truth.offset_s - truth.onset_s) / 2)


def check_same(folder, made_by):
    """Scores of another model, or of other sounds, are not to be mixed with these."""
    path = folder / "made_by.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--scores: {folder} can't be made: {error.strerror}; name another folder") from None
    if not path.exists():
        path.write_text(json.dumps(made_by), encoding="utf-8")
    there = json.loads(path.read_text(encoding="utf-8"))
    for name in made_by.keys() | there.keys():
        if there.get(name) != made_by.get(name):
            what = f"scores of {name} {there.get(name)}, asked for is {made_by.get(name)}"
            raise ConfigError(f"--scores: {folder} holds {what}; name another folder")


def sounds_of(data):
    """So that recordings can be told from others: their number, and a hash of their names and sizes."""
    files = sorted(recording.path for recording in recordings(data))
    said = "".join(f"{path.parent.name}/{path.name} {path.stat().st_size}\n" for path in files)
    return f"{len(files)} {hashlib.sha256(said.encode()).hexdigest()[:8]}"


# -- how well ----------------------------------------------------------------------------------------------------------


def row(label, one, false, f1):
    """One label for people; `false` are the events an hour in rooms and among other sounds."""
    noticed, counts = one.told, one.told.counts
    times = (
        *(percentile(noticed.latency_s, share) for share in (50, 95)),
        *map(median_error, (noticed.onset_s, noticed.offset_s)),
    )
    rates = " ".join(cell(false[kind], 5, 1) for kind in FALSE)
    shares = f"{one.sounds:4d} {counts.missed:6d} {counts.false:5d}  {rates}"
    return f"{label:<28} {shares}  {' '.join(cell(each, 5) for each in f1)}  {' '.join(cell(t, 6) for t in times)}"


def cell(value, width, digits=2):
    """A number of the table, or a dash where there is nothing to say."""
    return f"{'-':>{width}}" if value is None or math.isnan(value) else f"{value:{width}.{digits}f}"


def psds(heard, labels):
    """Both scenarios' PSDS of the rules' events, ranked by their highest score, of labels that sound; why, if none."""
    try:
        from sed_scores_eval.base_modules.scores import create_score_dataframe
        from sed_scores_eval.intersection_based import psds as compute
    except ImportError as error:
        return dict.fromkeys(PSDS), f"sed_scores_eval is missing ({error}): pip install -e '.[bench]'"
    scores, truth, heard = {}, {}, {name: pair for name, pair in heard.items() if not name.startswith(ALARMS)}
    labels = [label for label in labels if any(t.label == label for truths, _ in heard.values() for t in truths)]
    if not labels:
        return dict.fromkeys(PSDS), "no sounds"
    for name, (truths, every) in heard.items():
        found = [event for event in every if event.label in labels]
        edges = sorted({0.0, float(SECONDS), *(t for f in found for t in (f.onset_s, f.offset_s))})
        values = np.zeros((len(edges) - 1, len(labels)))
        for each in found:
            values[edges.index(each.onset_s) : edges.index(each.offset_s), labels.index(each.label)] = each.peak
        scores[name] = create_score_dataframe(values, np.array(edges), labels)
        truth[name] = [(t.onset_s, t.offset_s, t.label) for t in truths if t.label in labels]
    seconds = dict.fromkeys(heard, float(SECONDS))
    return {n: float(compute(scores, truth, seconds, max_efpr=100, **o)[0]) for n, o in PSDS.items()}, "no sounds"


def report(labels, heard, hop_s):
    """Print the tables and the figures."""
    kinds = {kind: [pair for name, pair in heard.items() if name.startswith(kind)] for kind in KINDS}
    each = {label: measure(label, kinds["mixed"]) for label in labels}
    false = {label: {kind: per_hour(label, kinds[kind]) for kind in FALSE} for label in labels}
    all_false = {kind: sum(rates[kind] for rates in false.values()) for kind in FALSE}
    total = sum(each.values(), Figures())
    macro = [mean(f1) for f1 in zip(*(one.f1 for one in each.values()), strict=True)]
    if kinds["mixed"] or kinds["rooms"]:
        table(each, false, row("all, F1 their mean", total, all_false, macro))
    if kinds["mixed"]:
        by_snr(total.told)
    alarms = at_0_db(kinds[ALARMS]) if kinds[ALARMS] and SMOKE in each else {}
    alarms["smoke_alarms_heard_over_0_db"] = over_0_db(each[SMOKE].told) if SMOKE in each else None
    ranked, why = psds(heard, labels)
    ranks = [figure(name, rounded(value), "PSDS", None, "higher", why=why) for name, value in ranked.items()]
    found = [*of_sounds(macro, total.told, hop_s), *ranks, *of_alarms(alarms), *of_nothing(all_false)]
    finish("detection", found)


def table(each, false, last):
    """Print what each label did, and the last row."""
    print(f"{'label':<28}    n missed false  rooms other str./h  F1 .5 s  1 s inter   late p50  p95   onset offset")
    for label, one in each.items():
        print(row(label, one, false[label], one.f1))
    print(last)


def at_0_db(heard):
    """Print what became of the smoke alarms; the share that was heard, and F1, which false and endless events lower."""
    alarms = measure(SMOKE, heard)
    counts, others = alarms.told.counts, sum(event.label != SMOKE for _, found in heard for event in found)
    late = " and ".join(cell(percentile(alarms.told.latency_s, share), 0) for share in (50, 95))
    f1 = alarms.f1[COLLAR]
    print(
        f"smoke alarms at 0 dB in rooms: {counts.missed} of {alarms.sounds} missed, {counts.false} false, "
        f"F1 (1 s) {cell(f1, 0)}, late {late} s (p50, p95); {others} events of other labels"
    )
    return {"smoke_alarms_heard_at_0_db": counts.recall, "smoke_alarms_f1_at_0_db": f1}


def by_snr(noticed):
    """Print what was missed by how loud it was."""
    for low, high in ((-5, 0), (0, 10), (10, 20)):
        n_heard, n_missed = (sum(low <= db < high for db in dbs) for dbs in (noticed.heard_db, noticed.missed_db))
        print(f"missed at {low:3d} to {high:2d} dB: {n_missed} of {n_heard + n_missed}")


# -- what is kept ------------------------------------------------------------------------------------------------------


def of_sounds(macro, noticed, hop_s):
    """How well and how soon sounds are heard; F1 are means over labels."""
    missed = None if noticed.counts.recall is None else 1 - noticed.counts.recall
    no_sounds, nothing = {"why": "no sounds"}, {"why": "nothing was heard"}
    return [
        figure("event_f1_half_second", rounded(macro[0]), "F1", None, "higher", **no_sounds),
        figure("event_f1_one_second", rounded(macro[COLLAR]), "F1", 0.6, "higher", **no_sounds),
        figure("intersection_f1", rounded(macro[2]), "F1", None, "higher", **no_sounds),
        figure("missed", rounded(missed), "share", None, **no_sounds),
        figure("latency_p50", rounded(percentile(noticed.latency_s, 50)), "s", round(hop_s + 0.3, 3), **nothing),
        figure("latency_p95", rounded(percentile(noticed.latency_s, 95)), "s", None, **nothing),
        figure("onset_error_median", rounded(median_error(noticed.onset_s)), "s", 0.25, **nothing),
        figure("offset_error_median", rounded(median_error(noticed.offset_s)), "s", 0.5, **nothing),
    ]


def of_alarms(values):
    """How well smoke alarms are heard: name → value, if any."""
    none_alone = "no --alarms, or no rule for them"
    for name, unit, goal, why in (
        ("smoke_alarms_heard_over_0_db", "share", None, "no smoke alarms"),
        ("smoke_alarms_heard_at_0_db", "share", 0.99, none_alone),
        ("smoke_alarms_f1_at_0_db", "F1", None, none_alone),
    ):
        yield figure(name, rounded(values.get(name)), unit, goal, "higher", why=why)


def of_nothing(false):
    """Events an hour in soundscapes where there is nothing to tell."""
    for kind, where in zip(FALSE, ("in_rooms", "among_other_sounds", "among_strange_sounds"), strict=True):
        goal = 1.0 if kind == "rooms" else None
        yield figure(f"false_alarms_{where}", rounded(false[kind]), "events/h", goal, why=f"no {kind} in this run")


def per_hour(label, pairs):
    """Events of a label in an hour of these soundscapes."""
    n_events = sum(event.label == label for _, found in pairs for event in found)
    return n_events / (len(pairs) * SECONDS / 3600) if pairs else math.nan


def over_0_db(noticed):
    """Share of the sounds at least as loud as the background that were heard."""
    n_heard, n_missed = (sum(db >= 0 for db in dbs) for dbs in (noticed.heard_db, noticed.missed_db))
    return n_heard / (n_heard + n_missed) if n_heard + n_missed else None


def held_out(settings, fold):
    """Whether the model had never heard these recordings, as far as its folder says."""
    path = Path(checkpoint.find(settings.model.checkpoint)) / "measured.json"
    without = json.loads(path.read_text(encoding="utf-8")).get("hold_out") if path.exists() else None
    if without is not None and without == fold:
        return f"held out: {settings.model.checkpoint} was trained without fold {fold}"
    return f"NOT held out: {settings.model.checkpoint} may know these recordings by heart, so all this is rosy"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="five minutes of each kind instead of an hour")
    parser.add_argument("--data", type=Path, help="recordings, a sub-folder per ESC-10 class (none)")
    parser.add_argument("--fold", type=whole, help="only recordings of this fold")
    parser.add_argument("--seed", type=whole, default=0, help="another draws other soundscapes (0)")
    parser.add_argument("-c", "--config", type=Path, help="rules and model; by default those of config.yaml")
    parser.add_argument("--model", help="another than the configuration's: a bundled name or a folder")
    hours = {"type": number(0, 1e4), "metavar": "HOURS"}
    for kind, what in (("mixed", "mixed sounds"), ("rooms", "empty rooms"), (ALARMS, "smoke alarms at 0 dB in rooms")):
        parser.add_argument(f"--{kind}", **hours, help=f"of {what}, instead of some of each kind")
    parser.add_argument("--scores", type=Path, help="folder to keep scores in")
    parser.add_argument("--perfect", action="store_true", help="what the rules would do with a perfect model's scores")
    args = parser.parse_args()
    settings = cli_shared.settings_of(args)
    stream = next(iter(settings.streams))
    spec = load_spec(settings.model.checkpoint, max_length=settings.model.window_frames)
    settings, hop_s = with_threshold_rules(settings, stream), settings.streams[stream].hop_s
    with tempfile.TemporaryDirectory() as folder:
        args.scores = args.scores or Path(folder)
        labels = labels_of(settings, stream, spec.labels)
        made_by = {"seed": args.seed, "fold": args.fold, "recordings": args.data and sounds_of(args.data)}
        made_by |= {"model": spec.revision, "window_frames": spec.window_frames, "hop_s": hop_s}
        made_by |= {"backend": settings.model.backend, "dtype": settings.model.dtype, "labels": sorted(labels)}
        check_same(args.scores, made_by)
        heard = listen(args, settings, set(labels))
    if args.perfect:
        print("a perfect model's scores")
    if args.mixed or not (args.rooms or args.alarms):  # those have no recordings to know by heart
        print(f"recordings of fold {args.fold or 'any'}" if args.data else "NO recordings, synthetic alarms alone")
        if args.data:
            print(held_out(settings, args.fold))
    report(labels, heard, hop_s)


if __name__ == "__main__":
    with sentences():
        main()
