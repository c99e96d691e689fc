"""The command line's part that measures a configuration on soundscapes: `streamer evaluate --soundscapes`."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer import cli_shared as shared
from streamer.cli_shared import Record
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from models.train.annotations import Annotated
    from streamer.replay import Step

CLIPS = {"fold": None, "average": False, "confusion": None, "device": "auto"}  # what --data alone takes, not given
SCENES = {"config": None, "stream": None}  # and --soundscapes alone


def check(args: argparse.Namespace) -> None:
    """Refuse options of `evaluate` that don't go together.

    Raises:
        ConfigError: neither or both of --data and --soundscapes, or what the one given does not take.
    """
    if bool(args.data) == bool(args.soundscapes):
        what = "not both" if args.data else "one of them is needed"
        raise ConfigError(f"evaluate: give --data, clips with labels, or --soundscapes, sounds at known times; {what}")
    ours, other, foreign = ("soundscapes", "data", CLIPS) if args.soundscapes else ("data", "soundscapes", SCENES)
    for name, absent in foreign.items():
        if getattr(args, name) != absent:
            raise ConfigError(f"--{name}: goes with --{other}, not with --{ours}; leave it out")
    if args.data and not args.model:
        raise ConfigError("--model: needed with --data; name the checkpoints to measure")
    if args.soundscapes and args.model and len(args.model) > 1:
        raise ConfigError(f"--model: --soundscapes takes one checkpoint, not {len(args.model)}; give one")


def evaluate(args: argparse.Namespace) -> int:
    """Measure what the configured line makes of sounds at known times."""
    from models.train.annotations import annotated
    from streamer.detections import events, labels_of, report, table, with_threshold_rules
    from streamer.replay import replay

    asked = argparse.Namespace(config=args.config, model=args.model[0] if args.model else None)
    settings = shared.settings_of(asked)
    stream = shared.stream_of(settings, args.stream)
    scenes = annotated(args.soundscapes)
    backend = shared.backend_of(settings)
    labels = labels_of(settings, stream, backend.spec.labels)
    if not labels:
        where = shared.config_path(args)
        raise ConfigError(f"{where}: no threshold rule watches stream {stream!r}; add one for what should be heard")
    ignored = _ignored(args.soundscapes, scenes, labels, stream)
    settings = with_threshold_rules(settings, stream)
    hours = sum(scene.seconds for scene in scenes) / 3600
    heard = []
    with shared.hours_bar(hours, "listening") as bar:
        for scene in scenes:
            steps = replay(scene.path, settings, stream, lambda: backend)
            heard.append((scene.truths, events(_ticked(steps, bar))))
    found = {
        "soundscapes": len(scenes),
        "backgrounds": sum(not scene.truths for scene in scenes),
        "hours": round(hours, 4),
        "stream": stream,
        "model": {"name": backend.spec.name, "revision": backend.spec.revision},
        **report(labels, heard, hours),
        "not_counted": ignored,
    }
    print(json.dumps(found, ensure_ascii=False) if args.json else f"{_headline(found)}\n\n{table(found)}", flush=True)
    return shared.OK


def _ignored(folder: Path, scenes: "Sequence[Annotated]", labels: Sequence[str], stream: str) -> dict[str, int]:
    """Sounds by label that no rule listens for: they are named before the long wait.

    Raises:
        ConfigError: there are no others.
    """
    from models.train.soundscapes import ANNOTATIONS
    from streamer.mistakes import closest

    sounds = Counter(truth.label for scene in scenes for truth in scene.truths)
    ignored = {label: n for label, n in sorted(sounds.items()) if label not in labels}
    if not ignored:
        return {}
    said = ", ".join(f"{label!r} ({n})" for label, n in ignored.items())
    hints = ((label, closest(label, labels)) for label in ignored)
    hint = next((f"{hint[:-1]} by {label!r}?" for label, hint in hints if hint), "")
    text = f"{folder / ANNOTATIONS}: no rule of stream {stream!r} listens for {said}"
    if len(ignored) == len(sounds):
        known = ", ".join(map(repr, labels[:6])) + (" …" if len(labels) > 6 else "")
        how = f"rules listen for {known}: name the labels so, or add rules{hint}"
        raise ConfigError(f"{text}, and there is nothing else; {how}")
    print(f"{text}: these sounds are not counted; add rules, or name them as rules do{hint}", file=sys.stderr)
    return ignored


def _ticked(steps: "Iterable[Step]", bar: Any) -> "Iterator[Step]":
    """The same steps, while the bar goes on."""
    last_s = 0.0
    for step in steps:
        bar.update((step.end_s - last_s) / 3600)
        last_s = step.end_s
        yield step


def _headline(found: Record) -> str:
    n, n_backgrounds, model = found["soundscapes"], found["backgrounds"], found["model"]
    backgrounds = f", {n_backgrounds} of them without sounds" if n_backgrounds else ""
    files = f"{n} soundscape{'s' if n > 1 else ''}{backgrounds}, {found['hours']:.3g} h"
    return f"{files}; rules of stream {found['stream']!r}, model {model['name']} ({model['revision']})"
