"""What every bench ends with: figures beside their goals, and the machine they were taken on."""

import json
import os
import platform
import sys
from contextlib import contextmanager

from models.errors import ModelError
from streamer.errors import StreamerError


def figure(name, value, unit, goal=None, better="lower", *, why=None):
    """One line of the result; without a value no goal is met or missed, and `why` says what it would have taken."""
    met = None if value is None or goal is None else value <= goal if better == "lower" else value >= goal
    entry = {"name": name, "value": value, "unit": unit, "goal": goal, "better": better, "met": met}
    return entry | ({"why": why} if why and value is None else {})


@contextmanager
def sentences():
    """Mistakes of whoever runs a bench end it with their one sentence."""
    try:
        yield
    except (ModelError, StreamerError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def machine():
    """`x86_64, 2 cores, avx512_bf16`: what decides how fast it is, and nothing that names an owner."""
    kind = platform.processor() or platform.machine()
    return f"{kind}, {len(os.sched_getaffinity(0))} cores, {_widest()}"


def _widest():
    """The widest instructions for matrix products that the CPU has."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        flags = []
    known = ("amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")
    return next((flag for flag in known if flag in flags), "no vector flags found")


def finish(bench, figures):
    """Print the result as the last line of the output."""
    print(json.dumps({"bench": bench, "machine": machine(), "figures": figures}))
