"""Checkpoints: what a caller gets from one, and what is wrong with one, in one sentence."""

import json
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
from models.checkpoint import CheckpointError


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
        (
            lambda t: [t.pop(name) for name in sorted(t) if name.startswith("classifier")],
            "missing: classifier.layernorm.weight, classifier.layernorm.bias, classifier.dense.weight and 1 more",
        ),
    ],
    ids=["missing", "left over", "shape", "renamed", "no head"],
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
        ({"patch_size": [16, 16]}, "patch_size [16, 16] is not a whole number of at least 1"),
        ({"max_length": 15}, "max_length 15 is smaller than one patch of 16"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is unknown; known: gelu, gelu_new, relu, silu"),
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
        "checkpoint 'smal' not found; known: small, or give the path of a folder with config.json and model.safetensors"
    )
