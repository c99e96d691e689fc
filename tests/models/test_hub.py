"""Checkpoints on the hub: the real client against a hub on loopback, then without one."""

import errno
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

import models
from models import checkpoint
from models.audio_spectrogram_transformer import ASTForAudioClassification
from models.errors import CheckpointError
from tests.models.hub import Hub, serving

NAME = "someone/ast-small"
COPY = "or copy the checkpoint's folder here and give its path"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client's cache, empty."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return cache


@pytest.fixture
def files(folder: Path) -> dict[str, bytes]:
    """What a hub would hold of a small checkpoint: also what nobody here reads."""
    ours = {path.name: path.read_bytes() for path in folder.iterdir()}
    return ours | {"README.md": b"# Small", "pytorch_model.bin": b"left alone", "onnx/model.onnx": b"left alone"}


@pytest.fixture
def hub(files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with that checkpoint, answering; the client knows no other."""
    hub = Hub(NAME, {"main": files})
    with serving(hub):
        meet(hub, monkeypatch)
        yield hub
        huggingface_hub.close_session()


def meet(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `hub` the client's."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def no_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that is gone: its port answers nobody."""
    hub = Hub(NAME, {})
    with serving(hub):
        meet(hub, monkeypatch)
    return hub


def test_a_checkpoint_is_fetched_once_and_then_serves_without_the_hub(
    folder: Path, files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(NAME, {"main": files})
    with serving(hub):
        meet(hub, monkeypatch)
        found = checkpoint.find(NAME)
        assert found.is_relative_to(cache)
        assert hub.fetched() == {"config.json", "preprocessor_config.json", "model.safetensors"}
        assert {path.name for path in found.iterdir()} == hub.fetched()
        model, spec = models.load(NAME)
        assert spec.name == NAME
        expected = ASTForAudioClassification.from_pretrained(folder)
        torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
        hub.asked.clear()
        assert checkpoint.find(NAME) == found
        assert hub.fetched() == set(), "what is there is not fetched again"
        huggingface_hub.close_session()
    assert checkpoint.find(NAME) == found
    assert checkpoint.find(NAME, local_files_only=True) == found


@pytest.mark.parametrize("local_files_only", [True, False])
def test_switched_off_the_hub_is_not_asked(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, *, local_files_only: bool
) -> None:
    found = checkpoint.find(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not local_files_only)
    hub.asked.clear()
    assert checkpoint.find(NAME, local_files_only=local_files_only) == found
    assert hub.asked == []


def test_another_revision(hub: Hub, files: dict[str, bytes]) -> None:
    config = json.loads(files["config.json"]) | {"problem_type": "single_label_classification"}
    hub.branches["v2"] = files | {"config.json": json.dumps(config).encode()}
    for revision in ("v2", hub.commit("v2")):
        found = checkpoint.find(NAME, revision=revision)
        assert found.name == hub.commit("v2")
        assert "single_label" in (found / "config.json").read_text()
    assert "single_label" not in (checkpoint.find(NAME) / "config.json").read_text()


def test_a_changed_checkpoint_is_fetched_again(hub: Hub, files: dict[str, bytes]) -> None:
    before = checkpoint.find(NAME)
    hub.branches["main"] = files | {"config.json": files["config.json"] + b"\n"}
    assert checkpoint.find(NAME) != before


def test_force_download_fetches_what_is_there(hub: Hub) -> None:
    checkpoint.find(NAME)
    hub.asked.clear()
    checkpoint.find(NAME, force_download=True)
    assert "model.safetensors" in hub.fetched()


def test_another_cache(hub: Hub, tmp_path: Path) -> None:
    assert checkpoint.find(NAME, cache_dir=tmp_path / "mine").is_relative_to(tmp_path / "mine")


def test_a_pickle_is_fetched_only_where_there_is_nothing_better(
    hub: Hub, folder: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    del files["model.safetensors"]
    files["pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    found = checkpoint.find(NAME)
    assert hub.fetched() == {"config.json", "preprocessor_config.json", "pytorch_model.bin"}
    assert checkpoint.find(NAME, local_files_only=True) == found
    model = ASTForAudioClassification.from_pretrained(found)
    expected = ASTForAudioClassification.from_pretrained(folder)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_shards_are_fetched(hub: Hub, files: dict[str, bytes]) -> None:
    weights = files.pop("model.safetensors")
    files["model-00001-of-00001.safetensors"] = weights
    files["model.safetensors.index.json"] = b'{"weight_map": {}}'
    checkpoint.find(NAME)
    assert {"model-00001-of-00001.safetensors", "model.safetensors.index.json"} <= hub.fetched()


def test_a_folder_here_goes_before_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir(parents=True)
    assert checkpoint.find(NAME) == Path(NAME)
    assert hub.asked == []


def test_what_a_checkpoint_is_called(folder: Path) -> None:
    assert checkpoint.title(NAME) == NAME
    assert checkpoint.title("starter") == "starter"
    assert checkpoint.title(folder) == checkpoint.title(f"{folder}/") == "small"


def sentence(**options: Any) -> str:
    """What is said when `NAME` can't be had: one line, and no other error behind it."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.find(NAME, **options)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_hub(no_hub: Hub) -> None:
    assert sentence() == (
        f"'{NAME}' is no folder here, nor in the hub's cache, and {no_hub.url[7:]} can't be reached; "
        f"connect this machine once, {COPY}"
    )


def test_a_hub_that_hangs_up(hub: Hub) -> None:
    hub.drops = True
    assert "can't be reached" in sentence()


def test_a_hub_that_never_answers_is_not_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checkpoint.find(NAME)
    monkeypatch.setattr("models.hub.TIMEOUT_S", 0.05)
    hub.opens = threading.Event()
    try:
        assert checkpoint.find(NAME) == found
        assert "can't be reached" in sentence(force_download=True)
    finally:
        hub.opens.set()


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "local_files_only"])
def test_downloads_switched_off(hub: Hub, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switch == "HF_HUB_OFFLINE")
    assert sentence(local_files_only=switch == "local_files_only") == (
        f"'{NAME}' is no folder here, nor in the hub's cache, and {switch} forbids a download; "
        f"connect this machine once without it, {COPY}"
    )
    assert hub.asked == []


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            (404, "RepoNotFound"),
            "knows no such model or hides it; check the name, run 'hf auth login' if it is private",
        ),
        ((401, ""), "knows no such model or hides it; check the name, run 'hf auth login' if it is private"),
        ((403, "GatedRepo"), "gives it only to those who accept its terms; accept them there, run 'hf auth login'"),
        ((503, ""), "answered 503; check your token or try again later"),
    ],
)
def test_a_hub_that_refuses(hub: Hub, refusal: tuple[int, str], said: str) -> None:
    hub.refusal = refusal
    assert sentence() == f"'{NAME}' is no folder here, and {hub.url[7:]} {said}, {COPY}"


@pytest.mark.parametrize("refusal", [(404, "RepoNotFound"), (503, "")])
def test_what_was_fetched_serves_when_the_hub_refuses(hub: Hub, refusal: tuple[int, str]) -> None:
    found = checkpoint.find(NAME)
    hub.refusal = refusal
    assert checkpoint.find(NAME) == found
    assert "is no folder here, and" in sentence(force_download=True)


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    assert sentence(revision="v3") == (
        f"'{NAME}' is no folder here, and {hub.url[7:]} has no such revision of it; "
        f"give one of its branches, tags or commits, {COPY}"
    )


def test_a_full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert sentence() == (
        f"'{NAME}' is no folder here, and can't be saved in the hub's cache: No space left on device; "
        f"make room there, set HF_HUB_CACHE, {COPY}"
    )


def test_a_half_fetched_checkpoint_is_not_taken_for_one(hub: Hub, files: dict[str, bytes]) -> None:
    found = checkpoint.find(NAME)
    (found / "model.safetensors").unlink()
    assert "nor in the hub's cache" in sentence(local_files_only=True)


@pytest.mark.parametrize("name", ["smal", "./runs/mine", "../mine", "/runs/mine", "a/b/c", "~/mine"])
def test_what_is_no_hub_id_asks_nobody(hub: Hub, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"not found; known: .*starter, or give the path of a folder"):
        checkpoint.find(name)
    assert hub.asked == []


def test_what_the_hub_would_not_call_a_name(hub: Hub) -> None:
    with pytest.raises(
        CheckpointError, match=r"^'a--b/c' is no folder here, and can't be fetched from .*'a--b/c'; check"
    ):
        checkpoint.find("a--b/c")
