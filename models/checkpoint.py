"""Checkpoints on disk: find, verify, read. Nothing here unpickles code."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = Path(__file__).parent
WEIGHTS = "model.safetensors"


class CheckpointError(Exception):
    """A checkpoint is missing, broken, or does not fit; the sentence says what to do."""


def bundled() -> list[str]:
    """Names of the checkpoints shipped with this package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{WEIGHTS}"))


def find(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint: a bundled name or a path to a folder.

    Raises:
        CheckpointError: neither; the sentence lists what is known.
    """
    if str(name_or_path) in bundled():
        return BUNDLED / str(name_or_path)
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint {str(name_or_path)!r} not found; known: {', '.join(bundled())}, "
            "or give the path of a folder with config.json and model.safetensors"
        )
    return folder


def _missing(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is missing; a checkpoint folder holds config.json and {WEIGHTS}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`.

    Raises:
        CheckpointError: it is missing or is not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; a JSON object is needed")
    return values


def revision(folder: Path) -> str:
    """`sha256:` and the first 16 hex digits of the hash of a checkpoint's weights.

    Raises:
        CheckpointError: there are none.
    """
    try:
        with (folder / WEIGHTS).open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except FileNotFoundError:
        raise _missing(folder / WEIGHTS) from None


def read_weights(folder: Path) -> "dict[str, Tensor]":
    """Tensors of `model.safetensors`, on the CPU, memory-mapped.

    Raises:
        CheckpointError: the file is missing or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        return load_file(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None


def write_weights(folder: Path, state: "dict[str, Tensor]") -> None:
    """Write `model.safetensors`; a reader never sees half a file."""
    from safetensors.torch import save_file

    partial = folder / (WEIGHTS + ".partial")
    save_file({name: value.contiguous() for name, value in state.items()}, partial, {"format": "pt"})
    partial.replace(folder / WEIGHTS)
