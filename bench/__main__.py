"""Runs benches one after another, keeps what they found, and puts it into the table of docs/performance.md.

    python bench [--quick] [NAME …]

Without names: those that a CPU runs in an hour. Each is a process of its own; one that fails stops no other, and is in
the table if it has no older figures. `bench/results/<date>-<machine>.json` holds the newest run of each bench on this
kind of machine. Quick runs show that benches work: they change neither file.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from figures import machine

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "performance.md"
MARKERS = ("<!-- figures: made by `make bench` -->", "<!-- end of figures -->")
DEFAULT = {  # with their options
    "features": (), "forward_cpu": (), "engine": (), "streams": (), "latency": (), "soak": ("--quick",), "delivery": (),
    "parity": (),
}  # fmt: skip
BY_NAME = (  # a GPU, recordings, scores, or hours; gate is in engine
    "forward_gpu", "clips", "detection", "thresholds", "finetune", "gate",
)  # fmt: skip
KNOWN = (*DEFAULT, *BY_NAME)
LIMIT_S = 4 * 3600.0  # for one bench: finetune takes an hour and a half


def run(name, options):
    """Run one bench; return its figures and options, or why there are none."""
    began = time.monotonic()
    entry = {"date": time.strftime("%Y-%m-%d"), "options": list(options), "figures": []}
    script = HERE / f"{name}.py"
    if not script.exists():
        return entry | {"why": f"there is no bench/{name}.py"}
    print(f"== {name} {' '.join(options)}", flush=True)
    command = [sys.executable, str(script), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as process:
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        last = ""
        for line in process.stdout:
            last = line
            if not line.startswith('{"bench"'):
                print(line, end="", flush=True)
    timer.cancel()
    entry["seconds"] = round(time.monotonic() - began)
    if process.returncode:
        return entry | {"why": f"ended with {process.returncode}"}
    try:
        return entry | {"figures": json.loads(last)["figures"]}
    except (ValueError, KeyError, TypeError):
        return entry | {"why": "its last line is no result"}


def slug(text):
    """`x86_64, 2 cores, avx2` as a part of a file's name."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def newest(folder, kind):
    """What the newest file of this kind of machine holds, by bench."""
    files = sorted(folder.glob(f"????-??-??-{slug(kind)}.json"))
    return json.loads(files[-1].read_text(encoding="utf-8"))["benches"] if files else {}


def keep(folder, kind, found):
    """Write today's file: the newest run of each bench, as it was before where it did not run now, or failed."""
    before = newest(folder, kind)
    failed = {name for name, entry in found.items() if "why" in entry and before.get(name, {}).get("figures")}
    for name in sorted(failed):
        print(f"{name}: {found[name]['why']}; its figures of {before[name]['date']} stay")
    benches = before | {name: entry for name, entry in found.items() if name not in failed}
    path = folder / f"{time.strftime('%Y-%m-%d')}-{slug(kind)}.json"
    path.write_text(json.dumps({"machine": kind, "benches": benches}, indent=1) + "\n", encoding="utf-8")
    return benches


def table(benches):
    """Markdown: every figure that has a goal, and each bench that has none to show."""
    rows = ["| bench | figure | measured | goal | met | on |", "|---|---|---|---|---|---|"]
    for name in (name for name in KNOWN if name in benches):
        entry = benches[name]
        title = " ".join((name, *entry["options"]))
        if "why" in entry:
            rows.append(f"| {title} | | {entry['why']} | | | {entry['date']} |")
        rows += [row(title, figure, entry["date"]) for figure in entry["figures"] if figure["goal"] is not None]
    return "\n".join(rows)


def row(title, figure, date):
    name = figure["name"].replace("_", " ")
    unit = {"ratio": " times"}.get(figure["unit"], f" {figure['unit']}")
    bound = "≤" if figure["better"] == "lower" else "≥"
    why = f": {figure['why']}" if figure.get("why") else ""
    value = f"not measured{why}" if figure["value"] is None else f"{figure['value']:.4g}{unit}"
    met = {True: "yes", False: "**no**", None: ""}[figure["met"]]
    return f"| {title} | {name} | {value} | {bound} {figure['goal']:g}{unit} | {met} | {date} |"


def put_between(text, inside):
    """The text with what stood between the markers replaced."""
    before, start, rest = text.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not (start and end):
        raise SystemExit(f"{DOCUMENT} has no '{MARKERS[0]}' … '{MARKERS[1]}'; put both back")
    return f"{before}{start}\n{inside}\n{end}{after}"


def main():
    parser = argparse.ArgumentParser(prog="python bench", description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(KNOWN))
    parser.add_argument("--quick", action="store_true", help="short runs that are not kept")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in KNOWN]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(KNOWN)}")
    wanted = dict.fromkeys(args.names, ()) or DEFAULT
    if args.quick:
        wanted = dict.fromkeys(wanted, ("--quick",))
    found = {name: run(name, options) for name, options in wanted.items()}
    kind = machine()
    if args.quick:
        print(f"\n{kind}; quick, not kept\n\n{table(found)}")
        return
    benches = keep(HERE / "results", kind, found)
    text = put_between(DOCUMENT.read_text(encoding="utf-8"), f"{kind}\n\n{table(benches)}")
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"\n{kind}\n\n{table(found)}")


if __name__ == "__main__":
    main()
