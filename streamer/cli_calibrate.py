"""The command line's part that finds thresholds in a user's own room. Nothing heavy is imported at the top."""

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer import cli_shared as shared
from streamer.cli_shared import Command, Record
from streamer.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from models.train.data import Recording
    from streamer.backends.base import Backend
    from streamer.calibration import Dial, Finding
    from streamer.room import Room, Span, Stretch
    from streamer.settings import Settings

UNIT_H = {"hour": 1.0, "day": 24.0, "week": 168.0, "month": 730.0, "year": 8766.0}
FAR, TOO_FAR = 30, 300  # times what was heard: from there on a warning, a refusal
SCORES, FRAGMENT, REPORT = "scores.jsonl", "thresholds.yaml", "report.html"
ENOUGH = ("SIGTERM", "SIGHUP")  # end live listening as Ctrl-C does: what was heard is enough
N_SHOWN = 3  # of a rule's loudest sounds, in the terminal


def calibrate(args: argparse.Namespace) -> int:
    """Find thresholds for a wished rate of false alarms."""
    from streamer import calibration
    from streamer import calibration_report as report
    from streamer.replay import is_scores
    from streamer.room import Room, heard, without

    _check(args)
    needs_model = not args.files or args.labelled or not all(is_scores(path) for path in args.files)
    settings = shared.settings_of(args, for_model=bool(needs_model))
    stream = shared.stream_of(settings, args.stream)
    backend = cache(partial(shared.backend_of, settings))
    spec, hop_s = _kind(args.files, settings, stream, backend)
    info = calibration.info_of(spec, hop_s, settings, stream)
    dials = calibration.dials(settings, stream, info)
    if not dials:
        where = shared.config_path(args)
        raise ConfigError(f"{where}: no threshold rule watches stream {stream!r}; add one to calibrate")
    labelled = _labelled(args.labelled, dials, spec, backend().spec) if args.labelled else []
    files = [_listen(args, settings, stream, backend)] if args.live_s else args.files
    _compare(spec, hop_s, settings, stream)
    options = settings.streams[stream].model_copy(update={"hop_s": hop_s})
    settings = settings.model_copy(update={"streams": {**settings.streams, stream: options}})
    line = partial(heard, settings=settings, stream=stream, backend=backend)
    room = without(Room(spec, hop_s, _stretches(files, line)), args.exclude)
    if not room.stretches:
        raise ConfigError("--exclude: nothing is left of what was heard; exclude less")
    _check_reach(room.hours, args.false_alarms)
    clips = _clips(labelled, line)
    findings = list(calibration.calibrate(room, dials, info, args.false_alarms, clips))
    fragment = report.fragment(findings, settings, stream)
    if args.out:
        _write(args, room, findings, fragment)
    if args.json:
        for finding in findings:
            print(json.dumps(report.record(finding), ensure_ascii=False))
        print(json.dumps(report.summary(room, args.false_alarms, FAR, fragment), ensure_ascii=False))
    else:
        _show(args, room, findings, fragment)
    return shared.OK


def _check(args: argparse.Namespace) -> None:
    """Say what is wrong with the arguments before anything is listened to."""
    if bool(args.files) == bool(args.live_s):
        what = "give recordings, or --hours, not both" if args.files else "nothing to listen to"
        how = "recordings or scores of 'streamer detect --save-scores' as FILE, or --hours 24 to listen now"
        raise ConfigError(f"calibrate: {what}; {how}")
    if args.live_s and not args.out:
        raise ConfigError(f"--hours: needs --out FOLDER, where {SCORES} keeps what was heard; no sound is kept")
    if args.live_s:
        _check_reach(args.live_s / 3600, args.false_alarms)
    if args.live_s and (args.out / SCORES).is_file() and (args.out / SCORES).stat().st_size:
        kept = args.out / SCORES
        raise ConfigError(f"--out: {kept} holds hours heard before; name another folder, or give that file as FILE")
    if args.out:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out: {args.out} can't be made: {error.strerror}; name another folder") from None


def _check_reach(hours: float, per_hour: float) -> None:
    """Refuse to guess from an hour what happens in a year."""
    from streamer.calibration_report import figure

    if per_hour * hours * TOO_FAR < 1:
        least, good = (1 / (per_hour * times) for times in (TOO_FAR, FAR))
        raise ConfigError(
            f"--false-alarms: {figure(hours)} h of sound are too little to tell what happens once in "
            f"{figure(1 / per_hour)} h; give at least {figure(least)} h, better {figure(good)} h and more, or wish for "
            f"more, as 1/{_unit(hours)}"
        )


def _unit(hours: float) -> str:
    """The longest unit that `hours` tell something about."""
    return [unit for unit, of in UNIT_H.items() if of <= max(1.0, FAR * hours)][-1]


# -- what is heard -----------------------------------------------------------------------------------------------------


def _listen(
    args: argparse.Namespace, settings: "Settings", stream: str, backend: Callable[[], "Backend"]
) -> Path:
    from streamer.room import listen

    path: Path = args.out / SCORES
    hours, text = args.live_s / 3600, f"listening to {stream}"
    for name in ENOUGH:
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    with path.open("w", encoding="utf-8") as save, shared.hours_bar(hours, text) as bar:
        listen(settings, stream, backend(), args.live_s, save=save, tick=lambda seconds: bar.update(seconds / 3600))
    return path


def _kind(
    files: Sequence[Path], settings: "Settings", stream: str, backend: Callable[[], "Backend"]
) -> "tuple[ModelSpec, float]":
    """The one model, window and hop that all is heard with."""
    from streamer.replay import header_of, is_scores

    kinds: dict[Any, tuple[ModelSpec, float, Path | None]] = {}
    anything: Sequence[Path | None] = files or [None]
    for path in anything:
        header = header_of(path) if path and is_scores(path) else None
        spec = header.spec if header else backend().spec
        hop_s = header.hop_s if header else settings.streams[stream].hop_s
        kinds.setdefault((spec.revision, spec.labels, spec.window_frames, hop_s), (spec, hop_s, path))
    if len(kinds) > 1:
        (*_, one), (*_, other), *_ = kinds.values()
        how = "calibrate each alone, or save their scores again"
        raise ConfigError(f"{one} and {other} are not of one model, window and hop; {how}")
    spec, hop_s, _ = next(iter(kinds.values()))
    return spec, hop_s


def _compare(spec: "ModelSpec", hop_s: float, settings: "Settings", stream: str) -> None:
    """Warn where scores were saved with another hop or window than the thresholds will be used with."""
    window_s = spec.window_s if settings.model.window_s is None else settings.model.window_s
    asked, have = (settings.streams[stream].hop_s, window_s), (hop_s, spec.window_s)
    if have != asked:
        ours, theirs = (f"hop {hop:g} s, window {window:g} s" for hop, window in (asked, have))
        text = f"the scores are of {theirs}; the configuration has {ours}, and thresholds are not for that"
        print(text, file=sys.stderr)


def _stretches(files: Sequence[Path], line: "Callable[..., Iterator[Stretch]]") -> "tuple[Stretch, ...]":
    """All that was heard. Of scores whose saving was cut short, what there is: that hour won't come again."""
    from streamer.replay import is_scores

    found: list[Stretch] = []
    for path in files:
        n = len(found)
        with shared.hours_bar(None, path.name) as bar:
            try:
                for each in line(path, tick=lambda seconds: bar.update(seconds / 3600)):
                    found.append(each)  # noqa: PERF402
            except SourceError:
                if len(found) == n or not is_scores(path):
                    raise
                print(f"{path} breaks off; what was heard before counts", file=sys.stderr)
    if not found:
        raise ConfigError(f"{', '.join(map(str, files))}: no window of sound in it; give hours of the room")
    return tuple(found)


def _labelled(data: Path, dials: Sequence["Dial"], spec: "ModelSpec", other: "ModelSpec") -> "list[Recording]":
    """The labelled clips, once it is sure that rules listen for them and the model at hand, `other`, is the same."""
    from models.train.data import recordings
    from streamer.mistakes import closest

    theirs, ours = (f"{one.name} {one.revision} with windows of {one.window_s:g} s" for one in (spec, other))
    if (spec.revision, spec.window_frames) != (other.revision, other.window_frames):
        what = f"the scores are of {theirs}, the model at hand is {ours}"
        raise ConfigError(f"--labelled: {what}; name the same with --model, and its window with model.window_s")
    known = list(dict.fromkeys(name for d in dials for name in (*d.labels, d.name, d.rule) if name is not None))
    found = recordings(data)
    for label in dict.fromkeys(label for one in found for label in one.labels):
        if label not in known:
            shown = ", ".join(map(repr, known[:6])) + (" …" if len(known) > 6 else "")
            how = f"folders are named as labels or rules are: {shown}{closest(label, known)}"
            raise ConfigError(f"--labelled: no rule listens for {label!r}; {how}")
    return found


def _clips(
    labelled: "Sequence[Recording]", line: "Callable[..., Iterator[Stretch]]"
) -> "dict[str, list[list[Stretch]]]":
    """What the line makes of each labelled clip, by label."""
    from tqdm import tqdm

    clips: dict[str, list[list[Stretch]]] = {}
    for one in tqdm(labelled, disable=None if labelled else True, leave=False, desc="labelled", unit="clip"):
        parts = list(line(one.path, tick=lambda _: None)) if one.labels else []
        for label in one.labels:
            clips.setdefault(label, []).append(parts)
    return clips


# -- what is said ------------------------------------------------------------------------------------------------------


def _yaml(fragment: Record) -> str:
    import yaml

    return str(yaml.safe_dump(fragment, sort_keys=False, allow_unicode=True))


def _show(args: argparse.Namespace, room: "Room", findings: Sequence["Finding"], fragment: Record) -> None:
    from streamer.calibration_report import headline, table

    print(f"{headline(room, args.false_alarms, FAR)}\n\n{table(findings)}\n")
    print("The loudest sounds: listen to them. What was no false alarm spoils the figures: --exclude it.\n")
    for finding in findings:
        for each in finding.candidates[:N_SHOWN]:
            when = f"  {each.time.astimezone():%Y-%m-%d %H:%M:%S}" if each.time else ""
            where = f"{each.span.source}:{each.span.from_s:.1f}-{each.span.to_s:.1f}"
            print(f"  {finding.dial.name or finding.dial.rule:<24} {each.score:7.4f}  {where}{when}")
    if any(finding.proposed for finding in findings):
        print(f"\nIn the configuration:\n\n{_yaml(fragment)}", end="")
    if args.out:
        print(f"\n{args.out} holds them too, and a report.")


def _write(args: argparse.Namespace, room: "Room", findings: Sequence["Finding"], fragment: Record) -> None:
    from streamer.calibration_report import headline, html, table

    said = headline(room, args.false_alarms, FAR)
    comment = "".join(f"# {line}\n" for line in (said + "\n" + table(findings)).splitlines())
    try:
        (args.out / FRAGMENT).write_text(comment + _yaml(fragment), encoding="utf-8")
        (args.out / REPORT).write_text(html(said, room, findings, args.false_alarms), encoding="utf-8")
    except ImportError:
        print(f"{REPORT} needs matplotlib; run: pip install -e '.[train]'", file=sys.stderr)
    except OSError as error:
        raise ConfigError(f"--out: {error.filename} can't be written: {error.strerror}; name another folder") from None


# -- arguments ---------------------------------------------------------------------------------------------------------


def _rate(text: str) -> float:
    """`1/week` as false alarms an hour."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?)/(\d*)({'|'.join(UNIT_H)})s?", text.replace(" ", ""))
    if not found or float(found[1]) <= 0 or found[2] == "0":
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; write it as 1/week: units are {', '.join(UNIT_H)}")
    return float(found[1]) / (float(found[2] or 1) * UNIT_H[found[3]])


def _span(text: str) -> "Span":
    """`room.wav:3605-3620`, in seconds or as h:mm:ss."""
    from streamer.room import Span

    clock = r"(?:\d+:)?(?:\d+:)?\d+(?:\.\d+)?"
    found = re.fullmatch(rf"(.+?):({clock})-({clock})", text)
    if found:
        from_s, to_s = (sum(float(part) * 60**i for i, part in enumerate(reversed(each.split(":"))))
                        for each in (found[2], found[3]))  # fmt: skip
        if from_s < to_s:
            return Span(found[1], from_s, to_s)
    how = "write FILE:FROM-TO, as room.wav:3605-3620 or room.wav:1:00:05-1:00:20"
    raise argparse.ArgumentTypeError(f"{text!r} is no stretch of a recording; {how}")


def _positive(text: str) -> float:
    value = shared.number(text)
    if not 0 < value < 1e5:
        raise argparse.ArgumentTypeError(f"{text} is not a number over 0")
    return value


def add_commands(command: Command) -> None:
    """Add this module's command to the command line."""
    sub = command(calibrate, "find thresholds for a wished rate of false alarms, from hours of your own room")
    text = "hours of the room in which nothing should be reported: recordings, or scores of 'detect --save-scores'"
    sub.add_argument("files", type=Path, nargs="*", metavar="FILE", help=text)
    text = "false alarms to bear with, of each rule (1/week)"
    sub.add_argument("--false-alarms", type=_rate, default=_rate("1/week"), metavar="N/UNIT", help=text)
    text = "clips of what should be found, a folder for each label or rule: how many are, at which threshold"
    sub.add_argument("--labelled", type=Path, metavar="DIR", help=text)
    text = "leave seconds of a recording out, where what was heard was no false alarm; can be given again"
    sub.add_argument("--exclude", type=_span, action="append", default=[], metavar="FILE:FROM-TO", help=text)
    live = sub.add_mutually_exclusive_group()
    text = "listen now, through the configured source, for so long (Ctrl-C: that was enough); keeps scores, no sound"
    live.add_argument("--hours", type=lambda text: 3600 * _positive(text), dest="live_s", metavar="H", help=text)
    live.add_argument("--seconds", type=_positive, dest="live_s", metavar="N", help="the same in seconds")
    sub.add_argument("--stream", metavar="NAME", help="whose source, hop and rules to use (the configuration's first)")
    text = f"write {FRAGMENT}, to paste into the configuration, and {REPORT}"
    sub.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    shared.config_option(sub)
    shared.model_option(sub)
    sub.add_argument("--json", action="store_true", help="JSON lines: one a threshold, then a summary")
