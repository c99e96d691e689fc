"""The house: imports point down only, each library has its rooms, and importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the top. A module imports from the rows under its own; within a row only what BESIDE allows.
LAYERS = (
    ("streamer.cli",),
    ("streamer.cli_bench",),
    ("streamer.cli_calibrate",),
    ("streamer.cli_events",),
    ("streamer.cli_models",),
    ("streamer.cli_soundscapes",),
    ("streamer.cli_shared",),
    ("streamer.demo",),
    ("streamer.daemon",),
    ("streamer.calibration_report",),
    ("streamer.calibration", "streamer.detections"),
    ("streamer.room",),
    ("streamer.app", "streamer.replay", "streamer.tag", "streamer.speed"),
    ("streamer.orders",),
    ("streamer.supervisor",),
    ("streamer.line",),
    ("streamer.edges",),
    ("streamer.engine",),
    ("streamer.stream", "streamer.reporter", "streamer.pace", "streamer.overload"),
    ("streamer.sources", "streamer.backends", "streamer.rules", "streamer.sinks"),
    ("streamer.audio", "streamer.config", "streamer.stats", "streamer.outbox"),
    ("streamer.journal",),
    ("streamer.journal_file",),
    ("streamer.database",),
    ("streamer.references",),
    ("streamer.settings",),
    ("streamer.mistakes",),
    ("streamer.document",),
    ("streamer.core", "streamer.payload", "streamer.paths", "streamer.thresholds"),
    ("streamer.errors",),
    ("models",),
)
# Inside these folders modules know only their `base`, and what begins with an underscore.
EDGES = ("streamer.sources", "streamer.backends", "streamer.rules", "streamer.sinks")

# Which of our modules import what of `models`, where not all may. `models` stands for the package's own functions.
MODELS = {
    "models.spec": ("streamer",),
    "models.fbank": ("streamer",),
    "models.errors": ("streamer",),
    "models.sound": ("streamer.sources",),
    "models": ("streamer.backends", "streamer.cli", "streamer.cli_bench", "streamer.cli_models", "streamer.cli_shared"),
    "models.audio_spectrogram_transformer.configuration": ("streamer.backends",),
    "models.audio_spectrogram_transformer.inference": ("streamer.backends",),
    "models.checkpoint": ("streamer.backends", "streamer.cli"),
    "models.info": ("streamer.cli_models",),
    "models.convert": ("streamer.cli_models",),
    "models.train.annotations": ("streamer.cli_soundscapes",),
    "models.train.confusion": ("streamer.cli_models",),
    "models.train.data": ("streamer.cli_models", "streamer.cli_calibrate"),
    "models.train.detections": ("streamer.detections",),
    "models.train.evaluate": ("streamer.cli_models",),
    "models.train.finetune": ("streamer.cli_models",),
    "models.train.report": ("streamer.detections",),
    "models.train.soundscapes": ("streamer.detections", "streamer.cli_soundscapes"),
    "models.train.statistics": ("streamer.cli_models",),
    "models.train.alarms": ("streamer.demo",),
}

# Which modules may import a library, and which of those may not.
ROOMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "torch": (("models", "streamer.backends", "streamer.cli_models"), ("models.spec", "models.fbank")),
    "openvino": (("streamer.backends",), ()),
    "torchaudio": (("models.train",), ()),
    "sounddevice": (("streamer.sources._capture",), ()),
    "aiomqtt": (("streamer.sinks.mqtt", "streamer.sinks._mqtt_connect"), ()),
    "httpcore2": (("streamer.sinks.webhook",), ()),
    "amqtt": (("streamer.demo",), ()),
    "asyncio": (
        (
            "streamer.app", "streamer.supervisor", "streamer.outbox", "streamer.journal", "streamer.sinks",
            "streamer.daemon", "streamer.demo", "streamer.cli",
        ),
        (),
    ),
    "threading": (
        (
            "streamer.daemon", "streamer.engine", "streamer.sources", "streamer.sinks._dial", "streamer.stats",
            "streamer.journal_file",
        ),
        (),
    ),
}


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def modules() -> dict[str, Path]:
    """Every module of ours, by name."""
    paths = [path for package in ("streamer", "models") for path in sorted((ROOT / package).rglob("*.py"))]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


MODULES = modules()


@cache
def imports(name: str) -> set[str]:
    """Every module that `name` imports, anywhere in its text; `from package import module` is the module."""
    return set(_imports(name))


def _imports(name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{name}: imports are absolute"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (full if full in MODULES else node.module for full in submodules)


def layer(module: str) -> int:
    """Number of the row, counted from the top."""
    return next(i for i, row in enumerate(LAYERS) if any(is_in(module, package) for package in row))


def may_import(importer: str, imported: str) -> bool:
    if is_in(importer, "models"):
        return is_in(imported, "models")
    if is_in(imported, "models"):
        allowed = MODELS.get(imported, ())
        return any(is_in(importer, package) for package in allowed)
    for edge in EDGES:
        if is_in(importer, edge) and is_in(imported, edge):
            own = imported.removeprefix(f"{edge}.")
            return own == "base" or own.startswith("_")
    if is_in(importer, "streamer.audio") and is_in(imported, "streamer.audio"):
        return True
    return layer(importer) < layer(imported)


def test_there_is_something_to_look_at() -> None:
    assert {"streamer.cli", "streamer.sources.microphone", "models", "models.fbank"} <= set(MODULES)
    assert "streamer.core" in imports("streamer.stream")
    assert "streamer.daemon" in imports("streamer.cli"), "imports inside functions count"


@pytest.mark.parametrize(("importer", "imported", "allowed"), [
    ("streamer.engine", "streamer.stream", True),
    ("streamer.stream", "streamer.engine", False),
    ("streamer.sinks.mqtt", "streamer.sinks.base", True),
    ("streamer.sinks.mqtt", "streamer.sinks.jsonl", False),
    ("streamer.sinks.mqtt", "streamer.rules.base", False),
    ("streamer.replay", "streamer.app", False),
    ("streamer.engine", "models.spec", True),
    ("streamer.engine", "models.checkpoint", False),
    ("streamer.app", "models", False),
    ("models.fbank", "streamer.core", False),
])  # fmt: skip
def test_what_the_table_means(importer: str, imported: str, *, allowed: bool) -> None:
    assert may_import(importer, imported) == allowed


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    ours = {imported for imported in imports(name) if imported.split(".")[0] in {"streamer", "models"}}
    assert [imported for imported in sorted(ours) if not may_import(name, imported)] == []


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_keep_to_their_rooms(library: str) -> None:
    rooms, but = ROOMS[library]
    users = {name for name in MODULES if any(is_in(imported, library) for imported in imports(name))}
    assert [
        user for user in sorted(users)
        if not any(is_in(user, room) for room in rooms) or any(is_in(user, room) for room in but)
    ] == []  # fmt: skip


def test_edge_folders_hold_nothing_of_their_own() -> None:
    for edge in EDGES:
        assert MODULES[edge].read_text() == "", edge


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_command_line_answers_at_once() -> None:
    heavy = ["torch", "sounddevice", "soundfile", "aiomqtt", "amqtt", "pydantic", "yaml", "matplotlib"]
    assert python(f"import sys, streamer.cli; print([name for name in {heavy} if name in sys.modules])") == "[]"


WATCHED = """
import importlib, logging, sys

def ours(frame):
    "Whether a module of ours did it itself, not a library that it imports."
    while frame and "importlib" not in frame.f_code.co_filename:
        if frame.f_code.co_filename.startswith(({root!r} + "/streamer", {root!r} + "/models")):
            return True
        frame = frame.f_back
    return False

def watch(event, args):
    if event in {{"open", "os.putenv", "socket.connect", "subprocess.Popen"}} and ours(sys._getframe(1)):
        print(event, args)

sys.addaudithook(watch)
for name in {names!r}:
    importlib.import_module(name)
print(logging.root.handlers, logging.root.level == logging.WARNING)
"""


def test_importing_does_nothing() -> None:
    """No file is read, no process started, no environment set, no logging configured."""
    names = [name for name in MODULES if not any(is_in(imported, "torch") for imported in imports(name))]
    assert len(names) > 30
    assert python(WATCHED.format(root=str(ROOT), names=names)) == "[] True"
