"""The extractor's settings: checked wherever they come from, and written as transformers reads and writes them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.audio_spectrogram_transformer import ASTFeatureExtractor
from models.errors import CheckpointError
from tests import reference

WRONG: list[tuple[str, Any, str]] = [
    ("sampling_rate", None, "a positive multiple of 100 Hz, which makes 10 ms a whole number of samples"),
    ("sampling_rate", 11025, "a positive multiple of 100 Hz, which makes 10 ms a whole number of samples"),
    ("sampling_rate", 0, "a positive multiple of 100 Hz, which makes 10 ms a whole number of samples"),
    ("num_mel_bins", "128", "a whole number of at least 1"),
    ("num_mel_bins", True, "a whole number of at least 1"),
    ("max_length", -1, "a whole number of at least 1"),
    ("max_length", 1024.0, "a whole number of at least 1"),
    ("feature_size", 0, "a whole number of at least 1"),
    ("std", 0, "a finite number above 0"),
    ("std", float("nan"), "a finite number above 0"),
    ("std", "4.5", "a finite number above 0"),
    ("mean", float("inf"), "a finite number"),
    ("mean", 10**400, "a finite number"),
    ("mean", [1.0], "a finite number"),
    ("padding_value", None, "a finite number"),
    ("do_normalize", "yes", "true or false"),
    ("return_attention_mask", 1, "true or false"),
    ("padding_side", "up", "'right' or 'left'"),
    ("padding_side", [], "'right' or 'left'"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_settings_that_can_t_be_are_refused(name: str, value: Any, allowed: str, tmp_path: Path) -> None:
    sentence = f"{name} {value!r} is not {allowed}"
    extractor = ASTFeatureExtractor()
    with pytest.raises(CheckpointError) as caught:
        ASTFeatureExtractor(**{name: value})
    assert str(caught.value) == sentence
    with pytest.raises(CheckpointError) as caught:
        setattr(extractor, name, value)
    assert str(caught.value) == sentence
    assert extractor == ASTFeatureExtractor()
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({name: value}))
    with pytest.raises(CheckpointError) as caught:
        ASTFeatureExtractor.from_pretrained(tmp_path)
    assert str(caught.value) == f"{path}: {sentence}"


def test_a_misspelt_setting_is_no_setting() -> None:
    with pytest.raises(AttributeError):
        ASTFeatureExtractor().n_mels = 64  # type: ignore[attr-defined]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_mel_bins": 64, "max_length": 200, "std": 3.0, "do_normalize": False},
    {"feature_size": 2, "padding_value": 1.5, "mean": 0.25, "return_attention_mask": True, "padding_side": "left"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_library_reads_what_the_other_wrote(tmp_path: Path, options: dict[str, Any]) -> None:
    ours, theirs = ASTFeatureExtractor(**options), reference.ASTFeatureExtractor(**options)
    ours.save_pretrained(tmp_path / "a new folder" / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert ASTFeatureExtractor.from_pretrained(tmp_path / "theirs") == ours
    read = reference.ASTFeatureExtractor.from_pretrained(tmp_path / "a new folder" / "ours")
    assert read.to_dict() == theirs.to_dict()
    written = [path.read_text() for path in sorted(tmp_path.rglob("preprocessor_config.json"))]
    assert len(written) == 2
    assert written[0] == written[1]


def test_foreign_keys_are_ignored(tmp_path: Path) -> None:
    values = {"mean": 1, "image_mean": [0.5], "processor_class": None, "feature_extractor_type": "Other"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert ASTFeatureExtractor.from_pretrained(tmp_path) == ASTFeatureExtractor(mean=1.0)


def test_changes_go_before_the_file(tmp_path: Path) -> None:
    ASTFeatureExtractor(num_mel_bins=64).save_pretrained(tmp_path)
    changed = ASTFeatureExtractor.from_pretrained(tmp_path, max_length=512)
    assert changed == ASTFeatureExtractor(num_mel_bins=64, max_length=512)
    with pytest.raises(TypeError) as caught:
        ASTFeatureExtractor.from_pretrained(tmp_path, n_mels=32)
    assert str(caught.value) == (
        "ASTFeatureExtractor.from_pretrained has no option 'n_mels'; known: name_or_path, revision, cache_dir, "
        "local_files_only, force_download, token, feature_size, sampling_rate, num_mel_bins, max_length, "
        "padding_value, do_normalize, mean, std, return_attention_mask, padding_side"
    )


def test_normalize_and_input_names_are_the_reference_s() -> None:
    settings = {"mean": -3.0, "std": 2.0, "do_normalize": False}
    ours, theirs = ASTFeatureExtractor(**settings), reference.ASTFeatureExtractor(**settings)
    assert ours.model_input_names == theirs.model_input_names
    log_mel = np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32)
    expected = theirs.normalize(log_mel)
    np.testing.assert_array_equal(ours.normalize(log_mel), expected)
    assert ours.normalize(log_mel).dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(ours.normalize(torch.from_numpy(log_mel)).numpy(), expected)


def test_a_folder_without_settings_gets_the_defaults(tmp_path: Path) -> None:
    assert ASTFeatureExtractor.from_pretrained(tmp_path) == ASTFeatureExtractor()


def test_the_bundled_model_s_settings_are_found_by_name() -> None:
    assert ASTFeatureExtractor.from_pretrained("starter").spec.sample_rate == 16000


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not found"):
        ASTFeatureExtractor.from_pretrained(tmp_path / "nowhere")


def test_spec_is_the_filterbank() -> None:
    extractor = ASTFeatureExtractor(sampling_rate=8000, num_mel_bins=40, mean=-3.0, std=2.0)
    spec = extractor.spec
    assert (spec.sample_rate, spec.frame_length, spec.frame_hop, spec.n_mels) == (8000, 200, 80, 40)
    assert (spec.mean, spec.std) == (-3.0, 2.0)
    plain = replace(extractor, do_normalize=False).spec
    assert (plain.mean, plain.std) == (0.0, 0.5)
