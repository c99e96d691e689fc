"""The filterbank in torch gives what the one in numpy gives, on the device its input is on."""

import numpy as np
import pytest
import torch

from models import fbank as in_numpy
from models import fbank_tensor
from models.spec import FbankSpec

ATOL = 1e-5  # the contract; both compute in float64 and round to float32, where 1e-6 is one step of a log-mel of -16
SPECS = [FbankSpec(), FbankSpec(8000, 200, 80, 40, -3.0, 2.0), FbankSpec(44100, 1102, 441, 64)]


def sounds(n: int = 16_000) -> torch.Tensor:
    """(6, n): noise, digital silence, an offset, a click, and two loud tones, beside which rounding shows first."""
    t = torch.arange(n, dtype=torch.float64)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    click = (t == n // 2).double()
    tones = 0.9 * torch.sin(0.39 * t), 0.5 * torch.sin(0.3 * t)
    return torch.stack([0.1 * noise, 0 * t, 0.5 + 0.01 * noise, click, *tones]).float()


def expected(samples: torch.Tensor, spec: FbankSpec) -> np.ndarray:
    return np.stack([in_numpy.fbank(row, spec) for row in samples.cpu().numpy()])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.sample_rate} Hz")
def test_equals_numpy(spec: FbankSpec) -> None:
    frames = fbank_tensor.fbank(sounds(), spec)
    assert frames.shape == (6, spec.frames(16_000), spec.n_mels)
    assert frames.dtype == torch.float32
    np.testing.assert_allclose(frames, expected(sounds(), spec), rtol=0, atol=ATOL)


@pytest.mark.parametrize("n", [0, 399, 400, 559, 560])
def test_only_whole_frames(n: int) -> None:
    frames = fbank_tensor.fbank(sounds(n), FbankSpec())
    np.testing.assert_allclose(frames, expected(sounds(n), FbankSpec()), rtol=0, atol=ATOL)


@pytest.mark.parametrize("n_frames", [1, 60, 98, 99, 200])
def test_windows_are_cut_and_padded_as_in_numpy(n_frames: int) -> None:
    spec = FbankSpec()
    windows = fbank_tensor.clip_features(sounds(), spec, n_frames)
    assert windows.shape == (6, n_frames, 128)
    rows = [in_numpy.clip_features(row, spec, n_frames) for row in sounds().numpy()]
    np.testing.assert_allclose(windows, np.stack(rows), rtol=0, atol=ATOL)


@pytest.mark.parametrize("batch", [1, fbank_tensor.SLAB, fbank_tensor.SLAB + 1, 3 * fbank_tensor.SLAB - 1])
def test_a_clip_does_not_depend_on_those_beside_it(batch: int) -> None:
    clips = sounds(batch * 2000)[0].reshape(batch, -1)
    together = fbank_tensor.fbank(clips, FbankSpec())
    alone = torch.cat([fbank_tensor.fbank(clip[None], FbankSpec()) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=0, atol=ATOL)


def test_autocast_takes_no_digits() -> None:
    """A training loop may extract features inside its autocast region; bfloat16 there would be 1e-2 off."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames = fbank_tensor.fbank(sounds(), FbankSpec())
    np.testing.assert_allclose(frames, expected(sounds(), FbankSpec()), rtol=0, atol=ATOL)


def test_tables_made_in_inference_mode_serve_training_too() -> None:
    spec = FbankSpec(n_mels=33)  # of no other test, so that the tables are made here
    with torch.inference_mode():
        fbank_tensor.fbank(sounds(), spec)
    weight = torch.ones(33, requires_grad=True)
    (fbank_tensor.fbank(sounds(), spec) * weight).sum().backward()
    assert weight.grad is not None


def test_no_gradient_flows_into_the_samples() -> None:
    assert not fbank_tensor.fbank(sounds().requires_grad_(), FbankSpec()).requires_grad


def test_where_there_is_no_float64_float32_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fbank_tensor.precision(torch.device("mps")) == torch.float32
    assert fbank_tensor.precision(torch.device("cpu")) == torch.float64
    monkeypatch.setattr(fbank_tensor, "precision", lambda device: torch.float32)
    noise = sounds()[:1]
    apart = np.abs(fbank_tensor.fbank(noise, FbankSpec()).numpy() - expected(noise, FbankSpec()))
    assert 0 < apart.max() < 2e-3  # what the reference's float32 is apart, too


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.sample_rate} Hz")
def test_a_gpu_gives_the_same_and_keeps_it(spec: FbankSpec) -> None:
    samples = sounds().cuda()
    windows = fbank_tensor.clip_features(samples, spec, 100)
    assert windows.device == samples.device
    there, here = windows.cpu(), fbank_tensor.clip_features(sounds(), spec, 100)
    torch.testing.assert_close(there, here, rtol=0, atol=ATOL)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        torch.testing.assert_close(fbank_tensor.clip_features(samples, spec, 100).cpu(), here, rtol=0, atol=ATOL)
