"""The extractor gives what transformers' ASTFeatureExtractor gives."""

import copy
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.audio_spectrogram_transformer import ASTFeatureExtractor
from models.audio_spectrogram_transformer.feature_extraction import BatchFeature
from tests import reference

ATOL = 5e-4  # the 2e-3 of log-mel, after the division by 2 * std = 9.1
SAME = 1e-6  # numpy and torch compute in float64 and round to float32: 1e-5 of log-mel at most, after that division
CLIP = 163_840  # samples, 10.24 s: two frames fewer than a window has


def noise(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


def features(clips: Any, **options: Any) -> npt.NDArray[np.float32]:
    return ASTFeatureExtractor(**options)(clips, sampling_rate=16000, return_tensors="np")["input_values"]


def both(clips: Any, rate: int = 16000, **options: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    ours, theirs = (
        kind(sampling_rate=rate, **options)(clips, sampling_rate=rate, return_tensors="np")["input_values"]
        for kind in (ASTFeatureExtractor, reference.ASTFeatureExtractor)
    )
    assert ours.dtype == theirs.dtype == np.float32
    return ours, theirs


@pytest.mark.parametrize("n", [400, 16_000, CLIP, 164_080, 200_000])
def test_a_clip_of_any_length(n: int) -> None:
    ours, theirs = both(noise(n))
    assert ours.shape == (1, 1024, 128)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


ONE, TWO, THREE = noise(16_000), noise(40_000, 1), noise(5000, 2)
SAME_LENGTH = noise(32_000).reshape(2, -1)


@pytest.mark.parametrize(
    ("clips", "n"),
    [
        (ONE.tolist(), 1),
        (tuple(ONE.tolist()), 1),
        (list(ONE), 1),  # numpy's scalars
        (ONE.astype(np.float64), 1),
        (SAME_LENGTH, 2),
        (SAME_LENGTH.astype(np.float64), 2),
        ([ONE], 1),
        ([ONE, TWO, THREE], 3),
        ((ONE, TWO, THREE), 3),
        ([ONE.tolist(), THREE.tolist()], 2),
        ([tuple(ONE.tolist()), THREE.astype(np.float64)], 2),
        (noise(32_000)[::2], 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_of_clips(clips: Any, n: int) -> None:
    ours, theirs = both(clips)
    assert ours.shape == (n, 1024, 128)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    "options",
    [
        {"num_mel_bins": 64, "max_length": 100},
        {"num_mel_bins": 80, "max_length": 37, "mean": 1, "std": 2},
        {"mean": -6.5, "std": 3.25},
        {"do_normalize": False},
        {"padding_value": 3.5, "feature_size": 2, "return_attention_mask": True, "padding_side": "left"},
        {"rate": 8000, "num_mel_bins": 40},
        {"rate": 32_000},
        {"rate": 44_100, "num_mel_bins": 64, "max_length": 60},
    ],
    ids=str,
)
def test_other_settings(options: dict[str, Any]) -> None:
    atol = ATOL if options.get("do_normalize", True) else 2e-3
    np.testing.assert_allclose(*both(noise(20_000), **options), rtol=0, atol=atol)


def test_positions_of_the_arguments_are_the_reference_s() -> None:
    values = (2, 8000, 40, 50, 0.5, False, -3.0, 2.0, True)
    ours, theirs = ASTFeatureExtractor(*values), reference.ASTFeatureExtractor(*values)
    assert ours.to_dict() == theirs.to_dict()


def test_there_is_never_a_mask() -> None:
    for kind in (ASTFeatureExtractor, reference.ASTFeatureExtractor):
        assert list(kind(return_attention_mask=True)(ONE, sampling_rate=16000)) == ["input_values"]


def test_padding_is_louder_than_digital_silence() -> None:
    ours, theirs = both(np.zeros(CLIP, np.float32))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[0, :1022], -1.278, rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[0, 1022:], 0.467, rtol=0, atol=1e-3)


@given(lengths=st.lists(st.integers(400, 12_000), min_size=1, max_size=5), as_tensors=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_batch_is_its_clips_one_by_one(lengths: list[int], as_tensors: bool) -> None:
    clips: list[Any] = [noise(n, seed) for seed, n in enumerate(lengths)]
    if as_tensors:
        clips = [torch.from_numpy(clip) for clip in clips]
    alone = np.concatenate([features(clip, max_length=40) for clip in clips])
    np.testing.assert_allclose(features(clips, max_length=40), alone, rtol=0, atol=SAME)


@pytest.mark.parametrize(
    ("tensors", "arrays"),
    [
        (torch.from_numpy(ONE), ONE),
        (torch.from_numpy(ONE).double(), ONE),
        (torch.from_numpy(SAME_LENGTH), SAME_LENGTH),
        (torch.from_numpy(SAME_LENGTH.T.copy()).T, SAME_LENGTH),
        (torch.from_numpy(ONE).requires_grad_(), ONE),
        ([torch.from_numpy(ONE), torch.from_numpy(THREE)], [ONE, THREE]),
        ((torch.from_numpy(ONE), THREE), [ONE, THREE]),
        (torch.from_numpy(ONE).half(), ONE.astype(np.float16)),
        (torch.from_numpy(ONE).bfloat16(), torch.from_numpy(ONE).bfloat16().float().numpy()),
        (list(torch.from_numpy(ONE)), ONE),  # scalars
    ],
    ids=["one", "double", "batch", "transposed", "gradient", "list", "mixed", "half", "bfloat16", "scalars"],
)
def test_tensors_give_what_arrays_give(tensors: Any, arrays: Any) -> None:
    np.testing.assert_allclose(features(tensors), features(arrays), rtol=0, atol=SAME)
    as_tensors = ASTFeatureExtractor()(tensors, sampling_rate=16000, return_tensors="pt").input_values
    assert as_tensors.dtype == torch.float32
    assert as_tensors.is_contiguous()
    assert not as_tensors.requires_grad


def test_tensors_equal_the_reference() -> None:
    theirs = reference.ASTFeatureExtractor()(SAME_LENGTH, sampling_rate=16000, return_tensors="pt")["input_values"]
    ours = ASTFeatureExtractor()(torch.from_numpy(SAME_LENGTH), sampling_rate=16000, return_tensors="pt")
    torch.testing.assert_close(ours["input_values"], theirs, rtol=0, atol=ATOL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("clips", [torch.from_numpy(SAME_LENGTH), [torch.from_numpy(ONE), torch.from_numpy(THREE)]])
def test_tensors_stay_on_the_gpu(clips: Any) -> None:
    on_gpu = clips.cuda() if isinstance(clips, torch.Tensor) else [clip.cuda() for clip in clips]
    extractor = ASTFeatureExtractor()
    there = extractor(on_gpu, sampling_rate=16000, return_tensors="pt").input_values
    assert there.device.type == "cuda"
    assert all(row.device == there.device for row in extractor(on_gpu, sampling_rate=16000).input_values)
    np.testing.assert_allclose(there.cpu(), features(clips), rtol=0, atol=SAME)
    np.testing.assert_allclose(features(on_gpu), features(clips), rtol=0, atol=SAME)


@pytest.mark.parametrize("clips", [ONE, [ONE, THREE]], ids=["one", "two"])
def test_return_tensors_as_in_the_reference(clips: Any) -> None:
    for kind, expected in (("np", np.ndarray), ("pt", torch.Tensor), (None, list)):
        ours, theirs = (
            extractor(max_length=99)(clips, sampling_rate=16000, return_tensors=kind)["input_values"]
            for extractor in (ASTFeatureExtractor, reference.ASTFeatureExtractor)
        )
        assert type(ours) is type(theirs) is expected
        assert len(ours) == len(theirs)
        for row, their_row in zip(ours, theirs, strict=True):
            assert type(row) is type(their_row)
            assert row.shape == their_row.shape == (99, 128)
            assert row.dtype == their_row.dtype


def test_a_list_of_tensors_comes_from_tensors() -> None:
    rows = ASTFeatureExtractor()(torch.from_numpy(SAME_LENGTH), sampling_rate=16000)["input_values"]
    assert [type(row) for row in rows] == [torch.Tensor, torch.Tensor]


def test_other_return_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^return_tensors 'tf' is unknown; known: 'pt', 'np' and None$"):
        ASTFeatureExtractor()(ONE, sampling_rate=16000, return_tensors="tf")


def test_features_are_attributes_and_keywords() -> None:
    found = ASTFeatureExtractor()(ONE, sampling_rate=16000, return_tensors="pt")
    assert found.input_values is found["input_values"]
    assert dict(**found) == found
    assert list(copy.deepcopy(found)) == list(pickle.loads(pickle.dumps(found))) == ["input_values"]
    with pytest.raises(AttributeError, match=r"^no 'pixels' among these features; there are: input_values$"):
        _ = found.pixels


def test_features_move_and_are_cast_but_labels_stay_integers() -> None:
    found = BatchFeature(x=torch.ones(2), rows=[torch.ones(1)], labels=torch.tensor([1]), name="dog", array=np.ones(1))
    assert found.to("meta", torch.bfloat16) is found
    assert (found.x.dtype, found.x.device.type) == (torch.bfloat16, "meta")
    assert (found.rows[0].dtype, found.rows[0].device.type) == (torch.bfloat16, "meta")
    assert (found.labels.dtype, found.labels.device.type) == (torch.int64, "meta")
    assert found.name == "dog"
    assert found.array.dtype == np.float64
    assert BatchFeature(x=torch.ones(2)).to(torch.float16).x.dtype == torch.float16
    assert BatchFeature(x=torch.ones(2)).to(device="meta").x.is_meta


def test_the_wrong_rate_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^sampling_rate 44100: this extractor was made for 16000 Hz; resample first$"
    ):
        ASTFeatureExtractor()(noise(16_000), sampling_rate=44100)


def test_no_rate_is_warned_about_once_a_call(caplog: pytest.LogCaptureFixture) -> None:
    ASTFeatureExtractor(sampling_rate=8000)([ONE, TWO])
    assert caplog.messages == ["no sampling_rate given, 8000 Hz assumed: at any other rate the features are wrong"]
    assert caplog.records[0].levelno == logging.WARNING
    caplog.clear()
    ASTFeatureExtractor()([ONE, TWO], sampling_rate=16000)
    assert not caplog.messages


def test_statistics_may_be_set_once_they_are_measured() -> None:
    """The usual way to one's own statistics, with numbers as numpy and torch give them."""
    extractor, theirs = ASTFeatureExtractor(do_normalize=False), reference.ASTFeatureExtractor(do_normalize=False)
    plain = extractor([ONE, TWO], sampling_rate=16000, return_tensors="np").input_values
    for one in (extractor, theirs):
        one.mean, one.std, one.do_normalize = plain.mean(), plain.std(), True
    assert type(extractor.mean) is type(extractor.std) is float
    ours = extractor([ONE, TWO], sampling_rate=16000, return_tensors="np").input_values
    np.testing.assert_allclose((ours.mean(), ours.std()), (0, 0.5), rtol=0, atol=1e-4)
    expected = theirs([ONE, TWO], sampling_rate=16000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=ATOL)


def test_arrays_need_no_torch() -> None:
    script = """
import sys
import numpy as np
from models.audio_spectrogram_transformer import ASTFeatureExtractor
extractor = ASTFeatureExtractor.from_pretrained("starter")
extractor([np.zeros(16000), [0.0] * 800], sampling_rate=16000, return_tensors="np")
extractor(np.zeros(16000), sampling_rate=16000)
assert "torch" not in sys.modules
extractor(np.zeros(16000), sampling_rate=16000, return_tensors="pt")
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
