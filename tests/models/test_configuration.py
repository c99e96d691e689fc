"""ASTConfig: the reference's fields, defaults and files, and one sentence for what no AST can be."""

import copy
import json
import math
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audio_spectrogram_transformer import ASTConfig
from models.audio_spectrogram_transformer.activations import ACTIVATIONS
from models.audio_spectrogram_transformer.configuration import HIDDEN_ACTS, LABELS, PROBLEM_TYPES
from models.errors import CheckpointError
from tests import reference

OURS = {"label_ids", "architectures", "num_labels"}  # not there, empty there, not in files
NAMES = [item.name for item in fields(ASTConfig) if item.name not in OURS]
OTHER: dict[str, Any] = {  # of each field a value that is not its default
    "hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 77, "hidden_act": "relu",
    "hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.5, "initializer_range": 0.5, "layer_norm_eps": 1e-6,
    "patch_size": (8, 4), "qkv_bias": False, "frequency_stride": 3, "time_stride": 4, "max_length": 99,
    "num_mel_bins": 44, "id2label": {0: "a", 1: "é", 2: "c"}, "label2id": {"a": 0, "é": 1, "c": 2},
    "problem_type": "multi_label_classification", "output_attentions": True, "output_hidden_states": True,
    "return_dict": False,
}  # fmt: skip


def values(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in NAMES} | {"patch_size": tuple_or_int(config.patch_size)}


def tuple_or_int(size: Any) -> Any:
    return size if isinstance(size, int) else tuple(size)


def test_fields_and_defaults_are_the_reference_s() -> None:
    assert set(OTHER) == set(NAMES)
    assert values(ASTConfig()) == values(reference.ASTConfig())
    assert ASTConfig().num_labels == reference.ASTConfig().num_labels == 2


@pytest.mark.parametrize("options", [{}, OTHER, {"num_labels": 5}, {"patch_size": [16, 8]}, {"num_labels": 1}])
def test_each_library_reads_what_the_other_wrote(tmp_path: Path, options: dict[str, Any]) -> None:
    ours, theirs = ASTConfig(**options), reference.ASTConfig(**options)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert values(reference.ASTConfig.from_pretrained(tmp_path / "ours")) == values(ours) == values(theirs)
    assert ASTConfig.from_pretrained(tmp_path / "theirs") == ours == ASTConfig.from_pretrained(tmp_path / "ours")


def test_every_field_survives_a_file(tmp_path: Path) -> None:
    config = ASTConfig(**OTHER, label_ids=("/m/1", "", "/m/2"))
    assert all(getattr(config, name) != getattr(ASTConfig(), name) for name in NAMES)
    config.save_pretrained(tmp_path)
    assert ASTConfig.from_pretrained(tmp_path) == config
    assert "é" in (tmp_path / "config.json").read_text(encoding="utf-8")


@given(
    hidden=st.integers(1, 9), heads=st.integers(1, 9), side=st.integers(1, 20), eps=st.floats(1e-30, 1),
    more=st.integers(0, 50), dropout=st.floats(0, 1), labels=st.lists(st.text(), min_size=1, unique=True),
)  # fmt: skip
def test_json_carries_values_exactly(
    hidden: int, heads: int, side: int, eps: float, more: int, dropout: float, labels: list[str]
) -> None:
    config = ASTConfig(
        hidden_size=hidden * heads, num_attention_heads=heads, patch_size=(side, side + more), layer_norm_eps=eps,
        hidden_dropout_prob=dropout, id2label=dict(enumerate(labels)),
    )  # fmt: skip
    assert ASTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_files_of_4_x_and_strangers_keys() -> None:
    old = {
        "_name_or_path": "somewhere/else", "architectures": ["ASTForAudioClassification"], "torch_dtype": "float32",
        "transformers_version": "4.25.0.dev0", "model_type": "audio-spectrogram-transformer", "layer_norm_eps": 1e-12,
        "hidden_size": 96, "patch_size": 16, "id2label": {"1": "Bark", "10": "k", "0": "Speech"} | {
            str(i): f"l{i}" for i in range(2, 10)
        },
        "label2id": {"stale": "0"}, "problem_type": None, "return_dict": None, "pruned_heads": {}, "use_cache": True,
    }  # fmt: skip
    config = ASTConfig.from_dict(old)
    assert (config.hidden_size, config.num_labels, config.return_dict) == (96, 11, True)
    assert list(config.id2label.items())[:3] == [(0, "Speech"), (1, "Bark"), (2, "l2")]
    assert config.label2id["k"] == 10
    assert config.architectures == ("ASTForAudioClassification",)
    assert dict(config.id2label) == reference.ASTConfig(**old).id2label


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {"1": "b", "0": "a"}}, ["a", "b"]),
        ({"label2id": {"b": "1", "a": 0}}, ["a", "b"]),  # where the reference forgets the names
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"b": 1, "a": 0}, "num_labels": 2}, ["a", "b"]),
    ],
)
def test_labels_follow_from_whatever_is_given(options: dict[str, Any], labels: list[str]) -> None:
    config = ASTConfig(**options)
    assert config.num_labels == len(labels)
    assert list(config.id2label.items()) == list(enumerate(labels))
    assert config.label2id == {label: i for i, label in enumerate(labels)}


def test_a_name_that_is_no_field_s() -> None:
    names = ", ".join(item.name for item in fields(ASTConfig))
    for make in (ASTConfig, ASTConfig().replace):
        with pytest.raises(TypeError) as caught:
            make(max_length=64, foo=1)
        assert str(caught.value) == f"ASTConfig has no field 'foo'; its fields: {names}"


def test_it_is_a_value() -> None:
    """Refusing names does not stand in the way of copies and pickles."""
    config = ASTConfig(**OTHER)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("options", [{}, OTHER])
def test_its_json_and_its_type_are_the_reference_s(options: dict[str, Any]) -> None:
    ours, theirs = ASTConfig(**options), reference.ASTConfig(**options)
    assert ours.model_type == ASTConfig.model_type == theirs.model_type
    assert ASTConfig.from_dict(json.loads(theirs.to_json_string())) == ours
    assert values(reference.ASTConfig(**json.loads(ours.to_json_string()))) == values(ours)


def test_replace_settles_labels_anew() -> None:
    config = ASTConfig(id2label={0: "a", 1: "b", 2: "c"}, label_ids=("x", "y", "z"), num_hidden_layers=3)
    assert config.replace(max_length=256) == ASTConfig(
        id2label={0: "a", 1: "b", 2: "c"}, label_ids=("x", "y", "z"), num_hidden_layers=3, max_length=256
    )
    assert config.replace(num_labels=3) == config
    assert config.replace(num_labels=2) == ASTConfig(num_hidden_layers=3)
    renamed = config.replace(id2label={0: "d"})
    assert (renamed.num_labels, renamed.label2id, renamed.label_ids) == (1, {"d": 0}, ())
    with pytest.raises(TypeError, match="max_lenght"):
        config.replace(max_lenght=256)
    assert {item.name for item in fields(ASTConfig)} >= LABELS


@pytest.mark.parametrize(
    ("size", "kept", "patch"),
    [(16, 16, (16, 16)), ((8, 4), (8, 4), (8, 4)), ([8, 4], (8, 4), (8, 4)), ([16, 16], 16, (16, 16))],
)
def test_patches_are_square_or_a_pair(size: Any, kept: Any, patch: tuple[int, int]) -> None:
    """A square pair becomes one number: the reference reads pairs, but computes only numbers."""
    config = ASTConfig(patch_size=size, num_mel_bins=20, max_length=40, frequency_stride=5, time_stride=9)
    assert (config.patch_size, config.patch) == (kept, patch)
    assert config.grid == ((20 - patch[0]) // 5 + 1, (40 - patch[1]) // 9 + 1)


def test_every_known_activation_is_computed() -> None:
    assert set(ACTIVATIONS) == set(HIDDEN_ACTS)


WHOLE = "is not a whole number of at least 1"
NO_PATCH = "is neither a whole number of at least 1 nor a pair of them: mel bins, frames"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hidden_size": "768"}, f"hidden_size '768' {WHOLE}"),
        ({"hidden_size": 768.0}, f"hidden_size 768.0 {WHOLE}"),
        ({"num_hidden_layers": True}, f"num_hidden_layers True {WHOLE}"),
        ({"time_stride": 0}, f"time_stride 0 {WHOLE}"),
        ({"max_length": None}, f"max_length None {WHOLE}"),
        ({"hidden_size": 770}, "hidden_size 770 is not a multiple of num_attention_heads 12"),
        ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob -0.1 is not a number from 0 to 1"),
        ({"hidden_dropout_prob": math.nan}, "hidden_dropout_prob nan is not a number from 0 to 1"),
        ({"attention_probs_dropout_prob": 1.5}, "attention_probs_dropout_prob 1.5 is not a number from 0 to 1"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps 0.0 is not a number above 0"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps '1e-12' is not a number above 0"),
        ({"initializer_range": math.inf}, "initializer_range inf is not a number above 0"),
        ({"qkv_bias": 1}, "qkv_bias 1 is neither true nor false"),
        ({"output_attentions": "no"}, "output_attentions 'no' is neither true nor false"),
        ({"hidden_act": "softmax"}, f"hidden_act 'softmax' is unknown; known: {', '.join(HIDDEN_ACTS)}"),
        ({"hidden_act": ["gelu"]}, f"hidden_act ['gelu'] is unknown; known: {', '.join(HIDDEN_ACTS)}"),
        ({"problem_type": "tagging"}, f"problem_type 'tagging' is unknown; known: {', '.join(PROBLEM_TYPES)}, or none"),
        ({"problem_type": []}, f"problem_type [] is unknown; known: {', '.join(PROBLEM_TYPES)}, or none"),
        (
            {"problem_type": "single_label_classification", "num_labels": 1},
            "problem_type 'single_label_classification' needs at least 2 labels; leave it out for one",
        ),
        ({"patch_size": 0}, f"patch_size 0 {NO_PATCH}"),
        ({"patch_size": [16]}, f"patch_size [16] {NO_PATCH}"),
        ({"patch_size": (16, 8.0)}, f"patch_size (16, 8.0) {NO_PATCH}"),
        ({"patch_size": (129, 8)}, "num_mel_bins 128 is smaller than one patch of 129"),
        ({"patch_size": 20, "max_length": 19}, "max_length 19 is smaller than one patch of 20"),
        ({"num_labels": 0}, f"num_labels 0 {WHOLE}"),
        ({"num_labels": "3"}, f"num_labels '3' {WHOLE}"),
        (
            {"num_labels": 3, "id2label": {0: "a"}},
            "num_labels is 3, but 1 labels are named; leave num_labels out",
        ),
        ({"id2label": {}}, "id2label names no labels; leave it out for LABEL_0 and LABEL_1"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label must number its labels 0 to 1 without a gap"),
        ({"label2id": {"a": 1}}, "label2id must number its labels 0 to 0 without a gap"),
        ({"label2id": {"a": 0, "b": 0}}, "label2id gives two labels one number"),
        ({"id2label": {0: "a", "0": "b"}}, "id2label gives two labels one number"),
        ({"id2label": {0: 7}}, "id2label has a label that is not a text"),
        ({"id2label": ["a"]}, "id2label is not an object of label numbers and names"),
        ({"id2label": {0: "a", 1: "b", 2: "a"}}, "id2label names 2 labels 'a'; give each a name of its own"),
        ({"label2id": {"a": "b"}}, "label2id is not an object of label names and numbers"),
        ({"id2label": {0: "a"}, "label2id": {"b": 0}}, "label2id contradicts id2label; leave label2id out"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0}}, "label2id contradicts id2label; leave label2id out"),
        ({"label_ids": ("/m/1",)}, "1 label_ids for 2 labels"),
        ({"label_ids": "ab"}, "label_ids 'ab' is not a list of texts"),
    ],
)
def test_what_no_ast_can_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ASTConfig(**options)
    assert str(caught.value) == sentence
