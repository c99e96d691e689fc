"""The command line's part about events: of recordings, and of the past. Nothing heavy is imported at the top."""

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from streamer import cli_shared as shared
from streamer.cli_shared import Command, Record
from streamer.errors import ConfigError, SinkError

if TYPE_CHECKING:
    from streamer.replay import Step
    from streamer.settings import Settings

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
WHENS = "a moment as 2026-11-24T22:00 (without a zone: of this machine's), a time ago as 30m, 2h or 7d, or today"


def detect(args: argparse.Namespace) -> int:
    """Print the events of recordings."""
    from streamer.replay import is_scores, replay

    if args.save_scores and len(args.files) > 1:
        raise ConfigError(f"--save-scores: takes the scores of one recording, not of {len(args.files)}; give one FILE")
    needs_model = not all(is_scores(path) for path in args.files)
    settings = shared.settings_of(args, for_model=needs_model)
    stream = shared.stream_of(settings, args.stream)
    backend = cache(partial(shared.backend_of, settings))
    if needs_model:
        backend()  # a model that can't be loaded is said before --save-scores empties a file

    with ExitStack() as stack:
        save = stack.enter_context(_new_file(args)) if args.save_scores else None

        def records(path: Path) -> Iterator[Record]:
            for step in replay(path, settings, stream, backend, at=args.at, save=save):
                if args.explain:
                    yield from _reasons(step, path, every=args.verbose)
                yield from _events(step, path)

        return shared.each_file(args, records, _row)


def _new_file(args: argparse.Namespace) -> TextIO:
    path: Path = args.save_scores
    if path.exists() and any(path.samefile(file) for file in args.files if file.exists()):
        raise ConfigError(f"--save-scores: {path} is the recording itself; name another file")
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--save-scores: {path} can't be written: {error.strerror}; check its folder") from None


def _events(step: "Step", path: Path) -> Iterator[Record]:
    for message in step.messages:
        if message.topic.endswith("/event") and isinstance(message.payload, Mapping):
            yield {"file": str(path), **message.payload}


def _reasons(step: "Step", path: Path, *, every: bool) -> Iterator[Record]:
    """What the rules say of a window; those with nothing to say only if `every` one is asked for."""
    for rule, why in step.why.items():
        if why or every:
            yield {"file": str(path), "end_s": round(step.end_s, 3), "rule": rule, "why": why}


def _row(record: Record) -> str:
    if "why" in record:
        return f"{record['end_s']:9.2f} s  {record['rule']}: {record['why'] or 'nothing to say'}"
    length = "" if record["offset_s"] is None else f" {record['duration_s']:8.2f} s, {record['end_reason']}"
    at = record["onset_s"] if record["offset_s"] is None else record["offset_s"]
    said = f"{record['event_type']:<5} {record['rule']:<16} {record['label']:<28} {record['score_peak']:.2f} {length}"
    return f"{at:9.2f} s  {said}"


# -- the past ----------------------------------------------------------------------------------------------------------


def events(args: argparse.Namespace) -> int:
    """Print what a history holds."""
    from streamer.sinks.sqlite import Query, read

    if args.since and args.until and args.until <= args.since:
        order = f"--until {args.until:%F %T} is not after --since {args.since:%F %T}"
        raise ConfigError(f"{order}; swap them, or leave one out")
    path = args.db or _history(shared.settings_of(args, for_model=False), shared.config_path(args))
    query = Query(args.since, args.until, args.stream, args.rule, args.limit)
    as_json, is_silent = shared.is_for_programs(args), True
    try:
        for event in read(path, query):
            if is_silent and not as_json:
                print(f"{'began':<19}  {'stream':<10} {'rule':<16} {'label':<28} {'peak':>4} {'lasted':>10}")
            is_silent = False
            shared.show(event, _line, as_json=as_json)
    except SinkError as error:
        raise ConfigError(str(error)) from None  # of arguments or configuration: exit code 2
    if is_silent and not as_json:
        print(f"no such events in {path}")
    return shared.OK


def _history(settings: "Settings", config: Path) -> Path:
    """The file of the first sink that keeps a history."""
    from streamer.paths import expanded
    from streamer.sinks.sqlite import Config

    for sink in settings.sinks.values():
        if isinstance(sink, Config):
            return expanded(sink.path)
    how = "add one, as 'sinks: {history: {type: sqlite, path: events.sqlite}}', or name a file with --db"
    raise ConfigError(f"{config}: no sink of type sqlite keeps a history; {how}")


def _line(event: Mapping[str, Any]) -> str:
    began = datetime.fromisoformat(event["onset"]).astimezone()
    if event["duration_s"] is not None:
        lasted = f"{event['duration_s']:8.1f} s, {event['end_reason']}"
    else:
        lasted = f"{'?':>8}    {event['end_reason'] or 'goes on'}"
    label = event["label"] or ""
    return (
        f"{began:%Y-%m-%d %H:%M:%S}  {event['stream']:<10} {event['rule']:<16} {label:<28} "
        f"{event['score_peak']:4.2f} {lasted}"
    )


def when(text: str, now: datetime | None = None) -> datetime:
    """A moment as people write it, with its zone.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    now = now or datetime.now().astimezone()
    if text == "today":
        return now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None).astimezone()
    try:
        if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
            return now - timedelta(**{UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give {WHENS}") from None


def _start(text: str) -> datetime:
    """When a recording begins: a moment in full."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it as 2026-11-24T22:00") from None


def add_commands(command: Command) -> None:
    """Add this module's commands to the command line."""
    sub = command(detect, "print the events of recordings, as live listening would report them")
    text = "a recording, or the scores that --save-scores wrote of one: rules are tried on them without the model"
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE", help=text)
    sub.add_argument("--stream", metavar="NAME", help="whose hop and rules to use (the configuration's first)")
    text = "say window by window why events started or did not; with `streamer -v` also where there is nothing to say"
    sub.add_argument("--explain", action="store_true", help=text)
    sub.add_argument("--save-scores", type=Path, metavar="FILE", help="write the scores, to try rules on them later")
    text = "when the recording begins, as 2026-11-24T22:00 (now; saved scores know it)"
    sub.add_argument("--at", type=_start, metavar="TIME", help=text)
    shared.config_option(sub)
    shared.model_option(sub)
    shared.json_option(sub)

    sub = command(events, "print past events, as a sink of type sqlite has kept them")
    sub.add_argument("--since", type=when, metavar="WHEN", help=f"begun then or later: {WHENS}")
    sub.add_argument("--until", type=when, metavar="WHEN", help="begun before then")
    sub.add_argument("--stream", metavar="NAME", help="of this stream")
    sub.add_argument("--rule", metavar="NAME", help="of this rule")
    sub.add_argument("--limit", type=shared.count, metavar="N", help="the newest N (all)")
    where = sub.add_mutually_exclusive_group()
    shared.config_option(where)
    where.add_argument("--db", type=Path, metavar="PATH", help="the history's file, instead of the configured one")
    shared.json_option(sub)
