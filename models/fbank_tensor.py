"""Kaldi log-mel filterbank in torch: `models.fbank` for batches of tensors, on the device they are on.

In: floats in [-1, 1]. Out: log-mel frames (B, T, M) float32. Tables and steps are those of `models.fbank`, and so are
the values, within 1e-5. No gradient flows through: features are input, nothing learns in front of them.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from models.fbank import FLOOR, PREEMPHASIS, kernel
from models.spec import FbankSpec

SLAB = 4  # clips computed at once: in float64 the work on one window takes 18 MB


def precision(device: torch.device) -> torch.dtype:
    """What to compute in: float64, as `models.fbank` does, except on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


@lru_cache(maxsize=8)
def _tables(spec: FbankSpec, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    plan = kernel(spec)
    window, banks = torch.from_numpy(plan.window), torch.from_numpy(plan.banks)
    return window.to(dtype).to(device), banks.to(dtype).to(device)


@torch.no_grad()
def fbank(samples: Tensor, spec: FbankSpec) -> Tensor:
    """Log-mel of whole clips, not normalised: (B, n) floats in [-1, 1] to (B, T, M), T = `spec.frames(n)`.

    Samples count as float32, whatever their type: so do those of `models.fbank` and of the reference extractor.
    """
    n_frames = spec.frames(samples.shape[1])
    out = torch.empty((len(samples), n_frames, spec.n_mels), dtype=torch.float32, device=samples.device)
    if n_frames:
        for i in range(0, len(samples), SLAB):
            out[i : i + SLAB] = _compute(samples[i : i + SLAB], spec)
    return out


def _compute(samples: Tensor, spec: FbankSpec) -> Tensor:
    dtype = precision(samples.device)
    window, banks = _tables(spec, samples.device, dtype)
    x = samples.float().to(dtype).unfold(1, spec.frame_length, spec.frame_hop)  # B T L
    x = x - x.mean(dim=-1, keepdim=True)
    # The window is 0 at a frame's first sample: leaving that out shifts the rest, which changes no power.
    x = (x[..., 1:] - PREEMPHASIS * x[..., :-1]) * window[1:]
    spectrum = torch.fft.rfft(x, 2 * (len(banks) - 1))
    power = spectrum.real.square() + spectrum.imag.square()
    # In float64 to the end: autocast and TF32 leave it alone.
    energies: Tensor = power @ banks  # B T M
    return energies.clamp_min(FLOOR).log()


def clip_features(samples: Tensor, spec: FbankSpec, n_frames: int) -> Tensor:
    """Model input (B, n_frames, M) of clips (B, n), cut or padded as `models.fbank.clip_features` says."""
    frames = fbank(samples[:, : spec.samples(n_frames)], spec)
    padded = functional.pad(frames, (0, 0, 0, n_frames - frames.shape[1]))
    return (padded - spec.mean) / (2 * spec.std)
