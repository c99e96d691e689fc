"""The extractor gives what transformers' ASTFeatureExtractor gives."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.audio_spectrogram_transformer import ASTFeatureExtractor
from models.checkpoint import CheckpointError
from tests import reference

ATOL = 5e-4  # the 2e-3 of log-mel, after the division by 2 * std = 9.1
CLIP = 163_840  # samples, 10.24 s: two frames fewer than a window has


def noise(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


def both(clips: Any, **options: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    ours = ASTFeatureExtractor(**options)(clips, sampling_rate=16000)["input_values"]
    theirs = reference.ASTFeatureExtractor(**options)(clips, sampling_rate=16000, return_tensors="np")["input_values"]
    assert ours.dtype == np.float32
    return ours, theirs


@pytest.mark.parametrize("n", [400, 16_000, CLIP, 164_080, 200_000])
def test_a_clip_of_any_length(n: int) -> None:
    ours, theirs = both(noise(n))
    assert ours.shape == (1, 1024, 128)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


def test_a_batch_of_clips_of_different_lengths() -> None:
    ours, theirs = both([noise(16_000), noise(40_000, 1), noise(5000, 2)])
    assert ours.shape == (3, 1024, 128)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


def test_an_array_of_clips() -> None:
    ours, theirs = both(noise(32_000).reshape(2, -1))
    assert ours.shape == (2, 1024, 128)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    "options",
    [
        {"num_mel_bins": 64, "max_length": 100},
        {"mean": -6.5, "std": 3.25},
        {"do_normalize": False},
    ],
)
def test_other_settings(options: dict[str, Any]) -> None:
    atol = ATOL if options.get("do_normalize", True) else 2e-3
    np.testing.assert_allclose(*both(noise(20_000), **options), rtol=0, atol=atol)


def test_padding_is_louder_than_digital_silence() -> None:
    ours, theirs = both(np.zeros(CLIP, np.float32))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[0, :1022], -1.278, rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[0, 1022:], 0.467, rtol=0, atol=1e-3)


def test_the_wrong_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^sampling_rate 44100: this extractor was made for 16000 Hz$"):
        ASTFeatureExtractor()(noise(16_000), sampling_rate=44100)


@pytest.mark.parametrize(
    ("clips", "shape"),
    [
        (noise(32_000).reshape(-1, 2), "(2,)"),  # as soundfile reads stereo: a batch of far too short clips
        ([noise(32_000).reshape(2, -1)], "(2, 16000)"),
        (noise(64_000).reshape(2, 2, -1), "(2, 16000)"),
        (noise(399), "(399,)"),
    ],
)
def test_stereo_and_scraps_are_refused(clips: Any, shape: str) -> None:
    with pytest.raises(ValueError, match=r"one channel is needed, \(n,\) with n at least 400$") as caught:
        ASTFeatureExtractor()(clips, sampling_rate=16000)
    assert str(caught.value).startswith(f"a clip of shape {shape}: ")


def test_a_rate_off_the_frame_grid_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^sampling_rate 11025: 10 ms must be a whole number of samples$"):
        ASTFeatureExtractor(sampling_rate=11025)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_each_library_reads_what_the_other_wrote(tmp_path: Path, do_normalize: bool) -> None:
    options: dict[str, Any] = {"num_mel_bins": 64, "max_length": 200, "std": 3.0, "do_normalize": do_normalize}
    ours, theirs = ASTFeatureExtractor(**options), reference.ASTFeatureExtractor(**options)
    (tmp_path / "ours").mkdir()
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    read = ASTFeatureExtractor.from_pretrained(tmp_path / "theirs")
    assert read.spec == ours.spec
    assert read.max_length == 200
    clip, their_reading = noise(16_000), reference.ASTFeatureExtractor.from_pretrained(tmp_path / "ours")
    np.testing.assert_array_equal(
        their_reading(clip, sampling_rate=16000, return_tensors="np")["input_values"],
        theirs(clip, sampling_rate=16000, return_tensors="np")["input_values"],
    )


def test_a_folder_without_settings_gets_the_defaults(tmp_path: Path) -> None:
    assert ASTFeatureExtractor.from_pretrained(tmp_path).spec == ASTFeatureExtractor().spec
