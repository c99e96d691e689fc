"""Checkpoints: find them here or on the hub, verify, read, write. Nothing here runs code from a checkpoint."""

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from models.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BUNDLED = Path(__file__).parent
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
DTYPES = ("float32", "bfloat16", "float16", "float64")


class HubOptions(TypedDict, total=False):
    """How a hub id is looked up; a bundled name and a folder have no use for it."""

    revision: str | None  # branch, tag or commit; `main` by default
    cache_dir: str | Path | None  # instead of the client's cache
    local_files_only: bool  # look in the cache only
    force_download: bool  # also what is in the cache already
    token: str | bool | None  # for private and gated models; by default the one that `hf auth login` has saved


def bundled() -> list[str]:
    """Names of the checkpoints shipped with this package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{WEIGHTS}"))


def title(name_or_path: str | Path) -> str:
    """What a checkpoint is called: its bundled name, its hub id, or the name of its folder."""
    folder = Path(name_or_path)
    return folder.absolute().name if folder.is_dir() else str(name_or_path)


def split(options: dict[str, Any], function: Callable[..., Any], kind: type[Any]) -> tuple[HubOptions, dict[str, Any]]:
    """What came as `**options` of `function`: those for `find`, and changes of fields of `kind`, a dataclass.

    Raises:
        TypeError: one is neither.
    """
    *named, _ = inspect.signature(function).parameters
    known = dict.fromkeys((*named, *HubOptions.__annotations__, *(item.name for item in fields(kind))))
    for name in options:
        if name not in known:
            raise TypeError(f"{function.__qualname__} has no option {name!r}; known: {', '.join(known)}")
    of_hub = {name: value for name, value in options.items() if name in HubOptions.__annotations__}
    changes = {name: value for name, value in options.items() if name not in of_hub}
    return cast("HubOptions", of_hub), changes


def to_dtype(asked: "torch.dtype | str", *, auto: "torch.dtype") -> "torch.dtype":
    """Torch's number format of a name; `auto` says what the name `auto` stands for.

    Raises:
        CheckpointError: weights have none of that name.
    """
    import torch

    if isinstance(asked, torch.dtype):
        return asked
    known: dict[str, torch.dtype] = {"auto": auto, **{name: getattr(torch, name) for name in DTYPES}}
    if asked not in known:
        raise CheckpointError(f"dtype {asked!r} is unknown; known: {', '.join(known)}")
    return known[asked]


def find(name_or_path: str | Path, **options: Unpack[HubOptions]) -> Path:
    """The folder of a checkpoint: a bundled name, a path to a folder, or a hub id.

    A hub id is downloaded into the hub client's own cache, only the files that are read here; what is there already is
    used when the hub can't be reached or `HF_HUB_OFFLINE` is set.

    Args:
        name_or_path: `starter`, a folder, or `owner/name`.
        options: as `HubOptions` says.

    Raises:
        CheckpointError: it is nowhere, or can't be fetched; the sentence says what was tried and what may help.
    """
    name = str(name_or_path)
    if name in bundled():
        return BUNDLED / name
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"checkpoint {name!r} not found; known: {', '.join(bundled())}, "
            f"or give the path of a folder with config.json and {WEIGHTS}, or a hub id (owner/name)"
        )
    from models import hub

    return hub.download(name, **options)


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


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: one, or shards in the order of their names.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        return sorted(_shards(folder))
    if (folder / PICKLE).exists():
        return [folder / PICKLE]
    raise _missing(folder / WEIGHTS)


def revision(folder: Path) -> str:
    """`sha256:` and the first 16 hex digits of the hash of a checkpoint's weights.

    Of several files it is the hash of all their bytes, in the order of the files' names.

    Raises:
        CheckpointError: there are none, or they can't be read.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    return "sha256:" + digest.hexdigest()[:16]


def read_weights(folder: Path) -> "dict[str, Tensor]":
    """Tensors of a checkpoint folder under the file's names, on the CPU.

    From `model.safetensors` (memory-mapped), from the shards that `model.safetensors.index.json` lists, or from
    `pytorch_model.bin`, of which only tensors are unpickled.

    Raises:
        CheckpointError: a file is missing, is not readable, or holds something else.
    """
    files = weight_files(folder)
    if files == [folder / PICKLE]:
        return read_pickle(files[0])
    if files == [folder / WEIGHTS]:
        return _read_safetensors(files[0])
    state: dict[str, Tensor] = {}
    for path, names in sorted(_shards(folder).items()):
        shard = _read_safetensors(path)
        if lacking := sorted(names - set(shard)):
            raise CheckpointError(f"{path} lacks {lacking[0]}, which {INDEX} places there; fetch the checkpoint again")
        state |= shard
    return state


def read_pickle(path: Path) -> "dict[str, Tensor]":
    """Tensors of a `.pth` or `.bin` file that `torch.save` wrote, on the CPU. Code in it is refused, not run.

    Raises:
        CheckpointError: it is missing, is no such file, or holds more than tensors.
    """
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds objects or code besides tensors, or is no torch file; only plain tensors are loaded: "
            "save its state dict as safetensors where you trust it"
        ) from None
    except Exception as error:  # noqa: BLE001  # a broken pickle may raise any, says the pickle module's documentation
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is not a readable torch file: {why}") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not names and their tensors (a state dict)")
    return state


def write_weights(folder: Path, state: "dict[str, Tensor]") -> None:
    """Write `model.safetensors`; nobody ever finds half a file, not even after a power cut.

    Raises:
        CheckpointError: it can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = folder / (WEIGHTS + ".partial")
    try:
        save_file({name: value.contiguous() for name, value in state.items()}, partial, {"format": "pt"})
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())  # safetensors lets only the owner read: the daemon may be another user
        partial.replace(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{folder / WEIGHTS} can't be written: {error}") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _shards(folder: Path) -> dict[Path, set[str]]:
    """Shards that the index lists, each with the names of its tensors."""
    index = folder / INDEX
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map of tensors and files")
    shards: dict[Path, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index} places {name} in {file!r}; only a file beside it will do")
        shards.setdefault(folder / file, set()).add(name)
    for path in shards:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; {INDEX} lists it: fetch the checkpoint again")
    return shards


def _read_safetensors(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
