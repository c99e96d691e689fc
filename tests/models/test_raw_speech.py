"""What an extractor takes for sound, what it warns about and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch

from models.audio_spectrogram_transformer import ASTFeatureExtractor
from models.audio_spectrogram_transformer.raw_speech import batches
from tests import reference

ONE = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


@pytest.mark.parametrize(
    ("raw_speech", "shapes"),
    [
        (ONE, [(1, 16_000)]),
        (ONE.reshape(4, -1), [(4, 4000)]),
        (ONE.tolist(), [(1, 16_000)]),
        ([ONE, ONE[:500]], [(1, 16_000), (1, 500)]),
        (ONE.reshape(4, -1).tolist(), [(1, 4000)] * 4),
        (ONE.astype(">f8"), [(1, 16_000)]),
        (ONE[::-2], [(1, 8000)]),
    ],
)
def test_clips_become_float32_batches(raw_speech: Any, shapes: list[tuple[int, int]]) -> None:
    found = batches(raw_speech, 400)
    assert [batch.shape for batch in found] == shapes
    assert all(batch.dtype == np.float32 and batch.dtype.isnative for batch in found)


def test_samples_are_not_copied_without_need() -> None:
    assert np.shares_memory(batches(ONE, 400)[0], ONE)


INT16 = (ONE * 32768).astype(np.int16)


@pytest.mark.parametrize("clips", [[INT16, INT16], [torch.from_numpy(INT16), torch.from_numpy(INT16)]])
def test_integers_keep_their_scale_and_are_warned_about(clips: Any, caplog: pytest.LogCaptureFixture) -> None:
    ours = ASTFeatureExtractor()(clips, sampling_rate=16000, return_tensors="np")["input_values"]
    assert caplog.messages == [
        "raw_speech holds int16, used unscaled: samples in [-1, 1] are needed, so divide int16 by 32768"
    ]
    arrays = [np.asarray(clip) for clip in clips]
    theirs = reference.ASTFeatureExtractor()(arrays, sampling_rate=16000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-4)


STEREO = np.stack((ONE, ONE), axis=1)


@pytest.mark.parametrize(
    ("clips", "named", "batch"),
    [
        (STEREO, "raw_speech of shape (16000, 2)", True),  # as soundfile reads it
        ([STEREO.T], "raw_speech[0] of shape (2, 16000)", False),
        ([ONE, STEREO.T], "raw_speech[1] of shape (2, 16000)", False),
        (np.zeros((2, 2, 16_000)), "raw_speech of shape (2, 2, 16000)", True),
        (STEREO.T[None].tolist(), "raw_speech[0] of shape (2, 16000)", False),
        (ONE[:399], "raw_speech of shape (399,)", True),
        ([ONE, ONE[:399]], "raw_speech[1] of shape (399,)", False),
        ([], "raw_speech of shape (0,)", True),
        ([[]], "raw_speech[0] of shape (0,)", False),
        (np.zeros((0, 16_000)), "raw_speech of shape (0, 16000)", True),
        (0.5, "raw_speech of shape ()", True),
        ([ONE, 0.5], "raw_speech[1] of shape ()", False),
        (torch.from_numpy(STEREO.copy()), "raw_speech of shape (16000, 2)", True),
        (torch.zeros(2, 2, 16_000), "raw_speech of shape (2, 2, 16000)", True),
        ([torch.zeros(2, 16_000)], "raw_speech[0] of shape (2, 16000)", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stereo_and_scraps_are_refused(clips: Any, named: str, batch: bool) -> None:
    with pytest.raises(ValueError, match="one channel is needed") as caught:
        ASTFeatureExtractor()(clips, sampling_rate=16000)
    assert str(caught.value) == (
        f"{named}: one channel is needed, (n,){' or a batch (B, n)' if batch else ''} "
        "with n at least 400, one frame; take the mean of a stereo clip's channels"
    )


@pytest.mark.parametrize(
    ("clips", "named"),
    [
        ("dog.wav", "raw_speech is a str of str224"),
        ({"array": ONE}, "raw_speech is a dict of object"),
        (None, "raw_speech is a NoneType of object"),
        ([ONE, None], "raw_speech[1] is a NoneType of object"),
        ([[0.0, [0.0, 1.0]]], "raw_speech[0] is a list of object"),
        (np.zeros(16_000, complex), "raw_speech is a ndarray of complex128"),
        (np.zeros(16_000, bool), "raw_speech is a ndarray of bool"),
        (torch.zeros(16_000, dtype=torch.complex64), "raw_speech is a Tensor of complex64"),
        ([torch.zeros(16_000, dtype=torch.bool)], "raw_speech[0] is a Tensor of bool"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_sound_is_refused(clips: Any, named: str) -> None:
    with pytest.raises(ValueError, match="real numbers") as caught:
        ASTFeatureExtractor()(clips, sampling_rate=16000)
    assert str(caught.value) == f"{named}; needed: real numbers in [-1, 1], in an array, tensor or list"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, torch.from_numpy], ids=["array", "list", "tensor"])
def test_broken_samples_are_refused(broken: float, form: Any) -> None:
    clip = ONE.astype(np.float64)
    clip[15_999] = broken
    sentence = r" holds NaN or infinite samples; replace or leave out what is broken$"
    with pytest.raises(ValueError, match="^raw_speech" + sentence):
        ASTFeatureExtractor()(form(clip), sampling_rate=16000)
    with pytest.raises(ValueError, match=r"^raw_speech\[1\]" + sentence):
        ASTFeatureExtractor()([form(ONE.astype(np.float64)), form(clip)], sampling_rate=16000)
