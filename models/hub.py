"""Checkpoints on the hub, fetched by the hub's own client: its cache, its offline switch, its progress bar."""

from functools import partial
from pathlib import Path
from typing import Unpack
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of httpx or httpx2
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)

from models.checkpoint import INDEX, PICKLE, WEIGHTS, HubOptions
from models.errors import CheckpointError

CONFIGS = ["config.json", "preprocessor_config.json"]
SAFE = [WEIGHTS, INDEX, "model-*-of-*.safetensors"]
TIMEOUT_S = 10  # what the client grants a file's header; it would wait for the list of files without end


def download(name: str, **options: Unpack[HubOptions]) -> Path:
    """The folder in the client's cache with those files of model `name` that are read here.

    What was fetched before serves when the hub does not answer.

    Raises:
        CheckpointError: it can't be had; the sentence says why and what may help.
    """
    revision, token = options.get("revision"), options.get("token")
    local_files_only, force_download = options.get("local_files_only", False), options.get("force_download", False)
    fetch = partial(snapshot_download, name, revision=revision, cache_dir=options.get("cache_dir"), token=token)
    problem: Exception | str = "local_files_only" if local_files_only else "HF_HUB_OFFLINE"
    if not (local_files_only or constants.HF_HUB_OFFLINE):
        try:
            info = HfApi(token=token).model_info(name, revision=revision, timeout=TIMEOUT_S)
            is_safe = any(file.rfilename in SAFE for file in info.siblings or ())
            wanted = CONFIGS + (SAFE if is_safe else [PICKLE])
            return Path(fetch(force_download=force_download, allow_patterns=wanted))
        except (HTTPError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: of its transport in Rust
            if force_download or isinstance(error, RevisionNotFoundError):
                raise CheckpointError(_sentence(name, error)) from None
            problem = error
    try:
        return Path(fetch(local_files_only=True, allow_patterns=CONFIGS + SAFE))
    except (LocalEntryNotFoundError, ValueError):
        raise CheckpointError(_sentence(name, problem)) from None


def _sentence(name: str, problem: Exception | str) -> str:
    """Why model `name` can't be had, and what may help; a text is the switch that forbids a download."""
    host = urlsplit(constants.ENDPOINT).netloc
    match problem:
        case str():
            why = f"nor in the hub's cache, and {problem} forbids a download; connect this machine once without it"
        case RevisionNotFoundError():
            why = f"and {host} has no such revision of it; give one of its branches, tags or commits"
        case GatedRepoError():
            why = f"and {host} gives it only to those who accept its terms; accept them there, run 'hf auth login'"
        case HfHubHTTPError() if problem.response.status_code in {401, 404}:
            why = f"and {host} knows no such model or hides it; check the name, run 'hf auth login' if it is private"
        case HfHubHTTPError():
            why = f"and {host} answered {problem.response.status_code}; check your token or try again later"
        case LocalEntryNotFoundError() | HTTPError():
            why = f"nor in the hub's cache, and {host} can't be reached; connect this machine once"
        case OSError(errno=int()):
            why = f"and can't be saved in the hub's cache: {problem.strerror}; make room there, set HF_HUB_CACHE"
        case _:
            why = (
                f"and can't be fetched from {host}: {str(problem).strip().splitlines()[0].rstrip('.')}; check the name"
            )
    return f"{name!r} is no folder here, {why}, or copy the checkpoint's folder here and give its path"
