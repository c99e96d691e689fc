"""Graphs of models on the disk: making one takes from seconds to a minute, and torch.

Each is a folder of its own, with the digest of what is in it: OpenVINO reads half a file, as a power cut leaves it,
without a complaint, and the daemon would be deaf. Old ones stay until somebody deletes them.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import openvino as ov

from streamer.errors import ConfigError
from streamer.paths import cache_folder

log = logging.getLogger(__name__)
GRAPH = "graph.xml"
FILES = (GRAPH, "graph.bin")
DIGEST = "sha256"
MAKING = "making-"  # how folders begin that are not finished
ABANDONED_S = 86400.0  # no graph takes a day: whoever made it was killed


def kept(core: ov.Core, key: str, make: Callable[[], ov.Model]) -> ov.Model:
    """The graph called `key` from the cache; else it is made, and put there if that can be."""
    try:
        folder = cache_folder() / "openvino" / key
    except ConfigError as error:
        log.warning("each start makes the graph of the model anew: %s", error)
        return make()
    try:
        if folder.is_dir():
            return _read(core, folder)
    except (OSError, RuntimeError) as error:
        log.warning("%s: can't be used, made anew: %s", folder, last_line(error))
        shutil.rmtree(folder, ignore_errors=True)
    graph = make()
    try:
        _keep(graph, folder)
        return _read(core, folder)  # mapped from the disk, which takes less memory than what made it
    except (OSError, RuntimeError) as error:
        log.warning("%s: not kept, so the next start takes as long: %s", folder, last_line(error))
    return graph


def _read(core: ov.Core, folder: Path) -> ov.Model:
    if (folder / DIGEST).read_text(encoding="ascii", errors="replace") != _digest(folder):
        raise OSError("its files are not as they were written")
    return core.read_model(folder / GRAPH)


def _digest(folder: Path) -> str:
    parts = []
    for name in FILES:
        with (folder / name).open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(parts)


def _keep(graph: ov.Model, folder: Path) -> None:
    """Write a graph so that it is there whole or not at all; one that somebody else put there meanwhile is as good."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    making = Path(tempfile.mkdtemp(prefix=MAKING, dir=folder.parent))
    try:
        ov.save_model(graph, making / GRAPH, compress_to_fp16=False)
        (making / DIGEST).write_text(_digest(making), encoding="ascii")
        for name in (*FILES, DIGEST):
            _flush(making / name)
        if not folder.is_dir():
            making.rename(folder)
            _flush(folder.parent)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the disk hold it before anything is done that relies on it."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{MAKING}*"):
        if time.time() - folder.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)


def last_line(error: Exception) -> str:
    """OpenVINO's messages begin with its source lines; the last one says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
