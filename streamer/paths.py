"""Files that a configuration names and streamer writes: where they lie, and whether they can lie there."""

import os
from pathlib import Path

from streamer.errors import ConfigError


def expanded(path: str, shown: str | None = None) -> Path:
    """The path with `~` or `~user` as that home folder. Mistakes speak of it as `shown`.

    Raises:
        ConfigError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        said = f"'{shown or path}' lies in a home folder that is not there; write the path in full"
        raise ConfigError(said) from None


def misplaced(path: Path, shown: str) -> str:
    """Why `path` can't be a file that we write, in a sentence that speaks of it as `shown`; empty where it can."""
    if os.path.isdir(path):  # noqa: PTH112  pathlib's raises where we may not look
        return f"'{shown}' is a folder; name a file in it"
    around = next(folder for folder in path.absolute().parents if os.path.exists(folder))  # noqa: PTH110
    return "" if os.path.isdir(around) else f"the parent of '{shown}' is no folder; name a file in one"  # noqa: PTH112


def default_outbox(node: str) -> Path:
    """Where the outbox lies if nobody says otherwise: in systemd's state folder, or the user's.

    Raises:
        ConfigError: there is neither.
    """
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return expanded(folder or f"{state}/streamer") / f"outbox-{node}.sqlite"
    except ConfigError:
        raise ConfigError("there is no home folder to keep events in; set outbox.path to a file, or to null") from None


def cache_folder() -> Path:
    """Where we keep what can be made again: in systemd's cache folder, or the user's.

    Raises:
        ConfigError: there is neither.
    """
    folder = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return expanded(folder or f"{cache}/streamer")
    except ConfigError:
        raise ConfigError("there is no home folder to keep it in; set CACHE_DIRECTORY to a folder") from None
