"""The command line's part about speed. Nothing heavy is imported at the top."""

import argparse
import json
import os
import platform
from typing import TYPE_CHECKING

from streamer import cli_shared as shared
from streamer.cli_shared import Command, Record

if TYPE_CHECKING:
    from streamer.settings import Settings
    from streamer.speed import Advice, Form, Line


def bench(args: argparse.Namespace) -> int:
    """Measure this machine, and say what to configure."""
    from tqdm import tqdm

    from models import load_spec
    from streamer import speed

    settings = shared.settings_of(args, for_model=not args.model)
    if args.model:  # the rules are for another model, perhaps
        settings = settings.model_copy(update={"rules": {}})
    spec = load_spec(settings.model.checkpoint, max_length=settings.model.window_frames)
    line = speed.line(settings, spec)
    trial, found = speed.Trial(settings, spec), []
    for backend, dtype in (progress := tqdm(speed.forms(), disable=None, leave=False, unit="form")):
        progress.set_description(f"{backend} {dtype}")
        found.append(trial.run(backend, dtype))
    advice = speed.advise(settings, found, line, spec.window_s)
    if args.json:
        print(json.dumps(_record(settings, line, found, advice), ensure_ascii=False))
    else:
        _show(settings, line, found, advice)
    return shared.OK


def _record(settings: "Settings", line: "Line", found: "list[Form]", advice: "Advice") -> Record:
    from streamer.speed import shortest_hop_s

    n = len(settings.streams)
    forms = [
        {
            "backend": form.backend,
            "dtype": form.dtype,
            "window_ms": {str(batch): round(ms, 2) for batch, ms in form.window_ms.items()},
            "difference": None if form.difference is None else round(form.difference, 5),
            "hop_s": shortest_hop_s(form, line, n) if form.window_ms else None,
            "why": form.why,
        }
        for form in found
    ]
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "checkpoint": settings.model.checkpoint,
        "streams": n,
        "features_ms": round(line.features_ms, 3),
        "line_ms": round(line.all_ms, 3),
        "forms": forms,
        "config": {
            "model": {"backend": advice.form.backend, "dtype": advice.form.dtype},
            "streams": {name: {"hop_s": hop_s} for name, hop_s in advice.hops_s.items()},
        },
        "hop_s": advice.shortest_s,
    }


def _show(settings: "Settings", line: "Line", found: "list[Form]", advice: "Advice") -> None:
    from streamer.speed import BATCHES, SAME, UTILISATION, shortest_hop_s

    n, hop_s = len(settings.streams), next(iter(settings.streams.values())).hop_s
    streams = f"{n} stream{'s' if n > 1 else ''}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {settings.model.checkpoint}, {streams}\n")
    print(f"a hop of {hop_s:g} s, from 48 kHz: features {line.features_ms:.2f} ms, with all but the model "
          f"{line.all_ms:.2f} ms")  # fmt: skip
    print(f"\n{'the model':<22}{'ms a window':>12}{f'in {max(BATCHES)}s':>8}{'difference':>12}{'shortest hop':>14}")
    for form in found:
        name = f"{form.backend} {form.dtype}"
        if form.difference is None:
            print(f"{name:<22}  not here: {form.why}")
            continue
        four = f"{form.window_ms[max(BATCHES)]:8.1f}" if max(BATCHES) in form.window_ms else f"{'-':>8}"
        hop = f"{shortest_hop_s(form, line, n):.2f} s"
        print(f"{name:<22}{form.window_ms[1]:12.1f}{four}{form.difference:12.4f}{hop:>14}")
    print(f"\nDifference: the largest of any score to float32's. Shortest hop: of {streams}, {UTILISATION:.0%} busy.")
    print(f"From a hop's last sample to its event: {advice.form.window_ms[1] + line.all_ms:.0f} ms, then delivery.")
    print(f"\nFastest within {SAME} of float32; in the configuration:\n\n{_yaml(settings, advice)}")


def _yaml(settings: "Settings", advice: "Advice") -> str:
    lines = ["model:", f"  backend: {advice.form.backend}", f"  dtype: {advice.form.dtype}"]
    if not advice.hops_s:
        how = "take a smaller model, fewer streams or a faster machine"
        return "\n".join([*lines, f"# a hop of {advice.shortest_s:g} s would be longer than the window: {how}"])
    lines.append("streams:")
    for name, hop_s in advice.hops_s.items():
        asked_s = settings.streams[name].hop_s
        said = f"{asked_s:g} is too short" if hop_s > asked_s else f"can be {advice.shortest_s:g}"
        lines += [f"  {name}:", f"    hop_s: {round(hop_s, 2)}    # {said}"]
    return "\n".join(lines)


def add_commands(command: Command) -> None:
    """Add this module's command to the command line."""
    sub = command(bench, "measure this machine: features, model, the hop it sustains, and what to configure for that")
    shared.config_option(sub)
    shared.model_option(sub)
    sub.add_argument("--json", action="store_true", help="one JSON object on stdout")
