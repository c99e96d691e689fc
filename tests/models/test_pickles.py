"""Checkpoints as pickles: their tensors are read, code in them never runs."""

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import models
from models import checkpoint
from models.audio_spectrogram_transformer import ASTForAudioClassification
from models.errors import CheckpointError


def pickled(folder: Path) -> Path:
    """Make the weights a pickle, as checkpoints were before safetensors."""
    path = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), path)
    (folder / "model.safetensors").unlink()
    return path


def test_pickled_weights(folder: Path, model: ASTForAudioClassification) -> None:
    path = pickled(folder)
    loaded, spec = models.load(folder)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert spec.revision == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_safetensors_go_before_a_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    models.load(folder)


class Bomb:
    """Unpickled with code allowed, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("is_bare", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path, *, is_bare: bool) -> None:
    path, mark = pickled(folder), tmp_path / "mark"
    if is_bare:
        path.write_bytes(pickle.dumps({"a": Bomb(mark)}, protocol=2))
        pickle.loads(path.read_bytes())
    else:
        torch.save({"a": Bomb(mark)}, path)
        torch.load(path, weights_only=False)
    assert mark.exists(), "it would have run"
    mark.unlink()
    with pytest.raises(CheckpointError) as caught:
        models.load(folder)
    assert str(caught.value) == (
        f"{path} holds objects or code besides tensors, or is no torch file; only plain tensors are loaded: "
        "save its state dict as safetensors where you trust it"
    )
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([torch.zeros(1)], "holds a list, not names and their tensors (a state dict)"),
        ({"epoch": 3}, "holds a dict, not names and their tensors (a state dict)"),
        ({1: torch.zeros(1)}, "holds a dict, not names and their tensors (a state dict)"),
        (torch.zeros(1), "holds a Tensor, not names and their tensors (a state dict)"),
    ],
)
def test_a_pickle_of_something_else(folder: Path, content: Any, sentence: str) -> None:
    path = pickled(folder)
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        models.load(folder)
    assert str(caught.value) == f"{path} {sentence}"


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 0.999), junk=st.binary(max_size=40))
def test_broken_pickles_are_one_sentence(tmp_path_factory: pytest.TempPathFactory, share: float, junk: bytes) -> None:
    """Whatever is left of the file: its tensors or a sentence."""
    path = tmp_path_factory.mktemp("broken") / "weights.pth"
    torch.save({"a": torch.zeros(40)}, path)
    whole = path.read_bytes()
    for content in (whole[: int(share * len(whole))], junk, whole[: int(share * len(whole))] + junk):
        path.write_bytes(content)
        try:
            assert checkpoint.read_pickle(path)["a"].shape == (40,)
        except CheckpointError as error:
            assert re.fullmatch(f"{re.escape(str(path))} .+", str(error))  # noqa: PT017  # either is right
