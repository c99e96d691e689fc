"""A checkpoint for windows of another length, height or stride, and for other labels."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models
from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification, ASTModel
from models.audio_spectrogram_transformer.transfer import POSITIONS, fit_positions
from models.errors import CheckpointError
from tests import reference
from tests.models.small import SMALL, randomise, windows

Matrix = npt.NDArray[np.float64]
STARTER_COLUMNS = slice(24, 40)  # the middle 16 of 64


def interpolation(n: int, m: int) -> Matrix:
    """(m, n): m values between n, pixel centres aligned, the ends held."""
    at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    left = np.minimum(at.astype(int), n - 1)
    right = np.minimum(left + 1, n - 1)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m), left), 1 - (at - left))
    np.add.at(matrix, (np.arange(m), right), at - left)
    return matrix


def authors_rule(n: int, m: int) -> Matrix:
    """(m, n): the middle of a longer axis, or a shorter one stretched."""
    return np.eye(n)[n // 2 - m // 2 :][:m] if m <= n else interpolation(n, m)


def axis(old_size: int, new_size: int, side: int, old_stride: int, new_stride: int) -> Matrix:
    old, restrided, new = (
        (size - side) // stride + 1
        for size, stride in ((old_size, old_stride), (old_size, new_stride), (new_size, new_stride))
    )
    return authors_rule(restrided, new) @ interpolation(old, restrided)


sizes, strides = st.integers(4, 40), st.integers(1, 9)


@settings(deadline=None)
@given(
    mels=st.tuples(sizes, sizes),
    frames=st.tuples(sizes, sizes),
    stride=st.tuples(strides, strides, strides, strides),
    side=st.sampled_from([4, (2, 4), (4, 3)]),
)
def test_positions_follow_the_authors_rule(
    mels: tuple[int, int], frames: tuple[int, int], stride: tuple[int, int, int, int], side: Any
) -> None:
    old = ASTConfig(
        num_mel_bins=mels[0], max_length=frames[0], frequency_stride=stride[0], time_stride=stride[2], patch_size=side
    )
    new = old.replace(num_mel_bins=mels[1], max_length=frames[1], frequency_stride=stride[1], time_stride=stride[3])
    positions = torch.randn(1, 2 + old.grid[0] * old.grid[1], 3, generator=torch.Generator().manual_seed(0))
    fitted = fit_positions(positions, old, new)
    field = positions[0, 2:].double().numpy().reshape(*old.grid, 3)
    rows, columns = axis(*mels, old.patch[0], *stride[:2]), axis(*frames, old.patch[1], *stride[2:])
    expected = np.einsum("fg,st,gtd->fsd", rows, columns, field)
    assert fitted.shape == (1, 2 + new.grid[0] * new.grid[1], 3)
    np.testing.assert_allclose(fitted[0, 2:].reshape(*new.grid, 3).numpy(), expected, rtol=0, atol=1e-5)
    assert torch.equal(fitted[:, :2], positions[:, :2])
    if old == new:
        assert fitted is positions


def columns_of(model: ASTForAudioClassification) -> Tensor:
    positions = model.audio_spectrogram_transformer.embeddings.position_embeddings
    return positions[0, 2:].unflatten(0, model.config.grid)


def test_the_starter_hears_windows_of_2_56_seconds() -> None:
    whole, _ = models.load("starter")
    short, spec = models.load("starter", max_length=256)
    assert (spec.window_frames, spec.window_s) == (256, 2.56)
    assert models.load_spec("starter", max_length=256) == spec
    assert short.config == whole.config.replace(max_length=256)
    assert torch.equal(columns_of(short), columns_of(whole)[:, STARTER_COLUMNS])
    others = [name for name in whole.state_dict() if not name.endswith(POSITIONS)]
    assert all(torch.equal(short.state_dict()[name], whole.state_dict()[name]) for name in others)
    # It is the whole model with all but the middle columns dropped.
    x = windows(whole.config, 1)
    keep = torch.arange(8 * 64).reshape(8, 64)[:, STARTER_COLUMNS].flatten()
    with torch.inference_mode():
        middle = short(x[:, 24 * 16 : 40 * 16]).logits
        dropped = whole(x, keep=keep).logits
    torch.testing.assert_close(middle, dropped, rtol=0, atol=1e-4)
    assert middle.shape == (1, 13)


def test_other_mel_bins_are_asked_of_the_features_too(folder: Path) -> None:
    model, spec = models.load(folder, num_mel_bins=48, time_stride=16)
    assert spec.fbank.n_mels == 48
    assert model(windows(model.config)).logits.shape == (2, 3)
    assert models.load_spec(folder, num_mel_bins=48, time_stride=16) == spec


def test_half_precision_positions_stay_so(folder: Path, model: ASTForAudioClassification) -> None:
    model.save_pretrained(folder, dtype=torch.float16)
    longer = ASTForAudioClassification.from_pretrained(folder, dtype="auto", max_length=128)
    assert {value.dtype for value in longer.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch_size": 8}, "patch_size 8 is asked for, the checkpoint has 16"),
        ({"patch_size": (16, 8)}, "patch_size (16, 8) is asked for, the checkpoint has 16"),
        ({"hidden_size": 96}, "hidden_size 96 is asked for, the checkpoint has 48"),
        ({"num_hidden_layers": 1}, "num_hidden_layers 1 is asked for, the checkpoint has 2"),
        ({"num_attention_heads": 2}, "num_attention_heads 2 is asked for, the checkpoint has 4"),
        ({"qkv_bias": False}, "qkv_bias False is asked for, the checkpoint has True"),
    ],
)
def test_what_can_not_be_changed(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        models.load(folder, **changes)
    name = next(iter(changes))
    assert str(caught.value) == f"{sentence} and can't change it; leave {name} out"


def test_other_names_for_as_many_labels_keep_the_head(folder: Path, model: ASTForAudioClassification) -> None:
    renamed = ASTForAudioClassification.from_pretrained(folder, id2label={0: "a", 1: "b", 2: "c"})
    assert renamed.config.label2id == {"a": 0, "b": 1, "c": 2}
    torch.testing.assert_close(renamed.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("is_bare", [False, True], ids=["classifier", "encoder"])
def test_a_fresh_head_has_to_be_asked_for(
    folder: Path, model: ASTForAudioClassification, caplog: pytest.LogCaptureFixture, is_bare: bool
) -> None:
    if is_bare:
        model.audio_spectrogram_transformer.save_pretrained(folder)
    had = "no head" if is_bare else "a head for 3 labels"
    with pytest.raises(CheckpointError) as caught:
        models.load(folder, num_labels=5)
    assert str(caught.value) == (
        f"{folder} has {had}, one for 5 is asked for; give ignore_mismatched_sizes=True for a fresh one, to be trained"
    )
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO):
        fresh, spec = models.load(folder, num_labels=5, ignore_mismatched_sizes=True)
    [said] = caplog.records
    assert said.getMessage() == f"{folder} has {had}: a fresh one for 5 labels is to be trained"
    assert said.levelname == ("WARNING" if is_bare else "INFO")  # who asks for other labels knows it
    assert spec.labels == tuple(fresh.config.label2id)
    head = fresh.classifier
    assert head.dense.weight.shape == (5, 48)
    assert 0.015 < head.dense.weight.std() < 0.025  # initializer_range 0.02
    assert not head.dense.bias.any()
    kept = torch.ones(48) if is_bare else model.classifier.layernorm.weight
    assert torch.equal(head.layernorm.weight, kept)
    encoder = model.audio_spectrogram_transformer.state_dict()
    torch.testing.assert_close(fresh.audio_spectrogram_transformer.state_dict(), encoder, rtol=0, atol=0)
    assert not any(value.is_meta for value in fresh.state_dict().values())
    assert ASTForAudioClassification(fresh.config).config.id2label[4] == "LABEL_4"


@pytest.mark.parametrize("is_bare", [False, True], ids=["classifier", "encoder"])
def test_what_is_kept_beside_a_fresh_head_is_what_the_reference_keeps(tmp_path: Path, is_bare: bool) -> None:
    config = reference.ASTConfig(**SMALL)
    made = (reference.ASTModel if is_bare else reference.ASTForAudioClassification)(config)
    randomise(made)
    made.save_pretrained(tmp_path)
    options: dict[str, Any] = {"num_labels": 7, "ignore_mismatched_sizes": True}
    ours = ASTForAudioClassification.from_pretrained(tmp_path, **options).state_dict()
    theirs = reference.ASTForAudioClassification.from_pretrained(tmp_path, **options).state_dict()
    for name, value in ours.items():
        if name != "classifier.dense.weight":  # drawn anew
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=0, msg=name)


def test_an_encoder_without_labels_of_its_own_is_an_encoder_still(folder: Path) -> None:
    encoder = ASTModel.from_pretrained(folder, num_labels=9, max_length=96)
    assert (encoder.config.num_labels, encoder.config.grid) == (9, (2, 9))
    assert encoder(windows(encoder.config)).pooler_output.shape == (2, 48)
