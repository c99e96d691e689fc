"""Checkpoints: what a caller gets from one, and what is wrong with one, in one sentence."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import models
from models import FbankSpec, checkpoint
from models.audio_spectrogram_transformer import ASTForAudioClassification
from models.audio_spectrogram_transformer.configuration import HIDDEN_ACTS
from models.errors import CheckpointError
from tests import reference
from tests.models.small import SMALL, randomise


def edit(folder: Path, **values: Any) -> None:
    """Change some values of `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_load_gives_a_model_and_what_its_caller_must_know(folder: Path, model: ASTForAudioClassification) -> None:
    edit(folder, label_ids=["/m/09x0r", "", "/m/01y3hg"])
    loaded, spec = models.load(folder)
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert spec.name == "small"
    assert re.fullmatch("sha256:[0-9a-f]{16}", spec.revision)
    assert spec.labels == ("Speech", "Sjödjur: “bark”", "Smoke detector")
    assert spec.label_ids == ("/m/09x0r", "", "/m/01y3hg")
    assert spec.fbank == FbankSpec(n_mels=32)
    assert spec.window_frames == 64
    assert spec.activation == "sigmoid"


def test_the_revision_is_that_of_the_weights(folder: Path, model: ASTForAudioClassification) -> None:
    before = models.load_spec(folder).revision
    edit(folder, label_ids=["a", "b", "c"])
    assert models.load_spec(folder).revision == before
    with torch.no_grad():
        model.classifier.dense.bias[0] += 1
    model.save_pretrained(folder)
    assert models.load_spec(folder).revision != before


def test_one_label_a_window_means_softmax(folder: Path) -> None:
    edit(folder, problem_type="single_label_classification")
    assert models.load_spec(folder).activation == "softmax"


def test_weights_in_another_precision(folder: Path) -> None:
    loaded, _ = models.load(folder, dtype=torch.bfloat16)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.bfloat16}


def test_reading_a_spec_does_not_import_torch(folder: Path) -> None:
    code = "import sys, models; print(models.load_spec(sys.argv[1]).labels[0], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(models.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("Speech False\n", "")


PATCHES = "audio_spectrogram_transformer.embeddings.patch_embeddings.projection.weight"
QUERY = "audio_spectrogram_transformer.encoder.layer.1.attention.attention.query.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        # of the tensors                                        what is said
        (lambda t: t.pop(QUERY), f"missing: {QUERY}"),
        (lambda t: t.update(extra=torch.zeros(1)), "not known: extra"),
        (
            lambda t: t.update({PATCHES: torch.zeros(48, 1, 8, 8)}),
            f"wrong shape: {PATCHES} is (48, 1, 8, 8), the configuration needs (48, 1, 16, 16)",
        ),
        (lambda t: t.update(a=t.pop(QUERY), b=torch.zeros(1)), f"missing: {QUERY}; not known: a, b"),
    ],
    ids=["missing", "left over", "shape", "renamed"],
)
def test_tensors_that_do_not_fit(folder: Path, change: Callable[[dict[str, Tensor]], object], sentence: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        models.load(folder)
    assert str(caught.value) == "the weights do not fit the configuration; " + sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"model_type": "wav2vec2"},
            "{folder}: model_type is 'wav2vec2'; this project runs 'audio-spectrogram-transformer' checkpoints",
        ),
        ({"hidden_size": 50}, "hidden_size 50 is not a multiple of num_attention_heads 4"),
        ({"num_attention_heads": 0}, "num_attention_heads 0 is not a whole number of at least 1"),
        (
            {"patch_size": [16]},
            "patch_size [16] is neither a whole number of at least 1 nor a pair of them: mel bins, frames",
        ),
        ({"max_length": 15}, "max_length 15 is smaller than one patch of 16"),
        ({"hidden_act": "prelu"}, f"hidden_act 'prelu' is unknown; known: {', '.join(HIDDEN_ACTS)}"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must number its labels 0 to 1 without a gap"),
        ({"id2label": ["a", "b", "c"]}, "id2label is not an object of label numbers and names"),
        ({"label_ids": ["/m/09x0r"]}, "1 label_ids for 3 labels"),
        ({"num_mel_bins": 64}, "{folder}: preprocessor_config.json makes 32 mel bins, config.json needs 64"),
    ],
)
def test_configurations_that_no_checkpoint_can_have(folder: Path, values: dict[str, Any], sentence: str) -> None:
    edit(folder, **values)
    with pytest.raises(CheckpointError) as caught:
        models.load(folder)
    assert str(caught.value) == sentence.format(folder=folder)


@pytest.mark.parametrize("read", [models.load, models.load_spec])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(folder: Path, name: str, read: Callable[[Path], object]) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    sentence = "is missing; a checkpoint folder holds config.json and model.safetensors"
    assert str(caught.value) == f"{folder / name} {sentence}"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", "{", r"config\.json can't be read as JSON: Expecting property name"),
        ("config.json", "[1]", r"config\.json holds a list; a JSON object is needed$"),
        ("preprocessor_config.json", "", r"preprocessor_config\.json can't be read as JSON: "),
        ("model.safetensors", "not tensors", r"model\.safetensors is not a readable safetensors file: "),
    ],
)
def test_a_broken_file(folder: Path, name: str, content: str, sentence: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(f"{folder}/") + sentence):
        models.load(folder)


def test_a_file_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable safetensors file: "):
        models.load(folder)


def test_an_unknown_name_is_answered_with_the_known_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", folder.parent)
    assert models.load_spec("small").name == "small"
    with pytest.raises(CheckpointError) as caught:
        models.load("smal")
    assert str(caught.value) == (
        "checkpoint 'smal' not found; known: small, or give the path of a folder with config.json and "
        "model.safetensors, or a hub id (owner/name)"
    )


@pytest.fixture
def shards(folder: Path, model: ASTForAudioClassification) -> Path:
    """The same checkpoint as the reference writes it in several files."""
    theirs = reference.ASTForAudioClassification(reference.ASTConfig(**SMALL))
    theirs.load_state_dict(model.state_dict())
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_shards_that_the_reference_wrote(shards: Path) -> None:
    theirs = reference.ASTForAudioClassification.from_pretrained(shards).eval()
    ours, spec = models.load(shards)
    x = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(4)) / 2
    with torch.inference_mode():
        torch.testing.assert_close(ours(x).logits, theirs(x).logits, rtol=0, atol=1e-5)
    content = b"".join(path.read_bytes() for path in sorted(shards.glob("model-*.safetensors")))
    assert spec.revision == "sha256:" + hashlib.sha256(content).hexdigest()[:16]


def test_the_revision_of_one_file_is_the_beginning_of_its_hash(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    assert checkpoint.revision(folder) == "sha256:" + hashlib.sha256(content).hexdigest()[:16]


def index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    values = json.loads(path.read_text())
    change(values["weight_map"])
    path.write_text(json.dumps(values))


CLASS_TOKEN = "audio_spectrogram_transformer.embeddings.cls_token"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        # of the index                                           what is said
        (
            lambda m: m.update({CLASS_TOKEN: "../small/x.safetensors"}),
            f"{{index}} places {CLASS_TOKEN} in '../small/x.safetensors'; only a file beside it will do",
        ),
        (
            lambda m: m.update({CLASS_TOKEN: "/etc/passwd"}),
            f"{{index}} places {CLASS_TOKEN} in '/etc/passwd'; only a file beside it will do",
        ),
        (lambda m: m.update({CLASS_TOKEN: 1}), f"{{index}} places {CLASS_TOKEN} in 1; only a file beside it will do"),
        (
            lambda m: m.update({CLASS_TOKEN: ".."}),
            "{folder}/.. is missing; model.safetensors.index.json lists it: fetch the checkpoint again",
        ),
        (
            lambda m: m.update(lost=m[CLASS_TOKEN]),
            "{shard} lacks lost, which model.safetensors.index.json places there; fetch the checkpoint again",
        ),
        (lambda m: m.clear(), "{index} has no weight_map of tensors and files"),
    ],
    ids=["above", "elsewhere", "a number", "a folder", "a key that is not there", "empty"],
)
def test_an_index_that_lies(shards: Path, change: Callable[[dict[str, str]], object], sentence: str) -> None:
    path = shards / "model.safetensors.index.json"
    shard = shards / json.loads(path.read_text())["weight_map"][CLASS_TOKEN]
    index(shards, change)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_weights(shards)
    assert str(caught.value) == sentence.format(index=path, folder=shards, shard=shard)


@pytest.mark.parametrize("read", [checkpoint.read_weights, checkpoint.revision])
def test_a_missing_shard(shards: Path, read: Callable[[Path], object]) -> None:
    lost = sorted(shards.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError) as caught:
        read(shards)
    assert str(caught.value) == f"{lost} is missing; model.safetensors.index.json lists it: fetch the checkpoint again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_of_any_precision(folder: Path, model: ASTForAudioClassification, dtype: torch.dtype) -> None:
    checkpoint.write_weights(folder, {name: value.to(dtype) for name, value in model.state_dict().items()})
    assert {value.dtype for value in checkpoint.read_weights(folder).values()} == {dtype}
    loaded, _ = models.load(folder)
    expected = {name: value.to(dtype).float() for name, value in model.state_dict().items()}
    torch.testing.assert_close(loaded.state_dict(), expected, rtol=0, atol=0)


def test_weights_that_can_not_be_written(folder: Path, model: ASTForAudioClassification) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    for place in (folder, folder / "gone"):
        with pytest.raises(CheckpointError, match=f"^{place}/model.safetensors can't be written: "):
            checkpoint.write_weights(place, model.state_dict())
    assert not list(folder.rglob("*.partial"))


def test_weights_replace_others_only_when_they_are_on_the_disk(
    folder: Path, model: ASTForAudioClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint.revision(folder)

    def full(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size > 1000
        raise OSError(errno.ENOSPC, "No space left on device")

    randomise(model, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.write_weights(folder, model.state_dict())
    assert str(caught.value) == (f"{folder / 'model.safetensors'} can't be written: [Errno 28] No space left on device")
    assert checkpoint.revision(folder) == before
    assert not list(folder.glob("*.partial"))
    checkpoint.write_weights(folder, model.state_dict())
    assert checkpoint.revision(folder) != before


def test_whoever_may_read_the_configuration_may_read_the_weights(folder: Path) -> None:
    modes = {(folder / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
