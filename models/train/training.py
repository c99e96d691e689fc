"""Training an AST on soundscapes composed from labelled clips.

Loss: binary cross entropy per label (Gong et al. 2021, §3.1). Regularised by dropping patches (Koutini et al. 2022,
"Efficient Training of Audio Transformers with Patchout"), which also makes a step cheaper. The result is an
exponential moving average of the weights (the cheap relative of the paper's checkpoint averaging).
"""

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.train.mixing import Mixer

log = logging.getLogger(__name__)
SAVE_EVERY = 50  # steps: a killed run loses a minute or two


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train.

    Args:
        steps: optimiser steps.
        batch: windows a step.
        lr: peak learning rate; warm-up is linear, the fall a cosine to 1 % of it.
        quarter_share, half_share: first parts of the steps, spent on a quarter and on half of the window (at positions
            drawn anew each step); the rest sees all of it.
        drop: share of the patches dropped from whole windows.
        smoothing: labels become `smoothing / 2` and `1 - smoothing / 2`, so scores keep away from 0 and 1.
        seed: of everything random.
    """

    steps: int = 1600
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 60
    weight_decay: float = 0.05
    quarter_share: float = 0.5
    half_share: float = 0.25
    drop: float = 0.4
    smoothing: float = 0.02
    ema: float = 0.998
    seed: int = 0

    def average(self, average: Tensor, value: Tensor, n_averaged: Tensor) -> Tensor:
        """Moving average of weights: short at first, so that the random start is forgotten."""
        decay = torch.clamp((1 + n_averaged) / (20 + n_averaged), max=self.ema).to(average.device, average.dtype)
        return torch.lerp(value, average, decay)

    def rate(self, step: int) -> float:
        """Learning rate at `step`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    model: ASTForAudioClassification,
    mixer: Mixer,
    schedule: Schedule,
    folder: Path,
    *,
    device: str = "cpu",
    check: Callable[[ASTForAudioClassification], dict[str, float]] | None = None,
    check_every: int = 200,
) -> None:
    """Train, and leave the averaged weights in `folder`; an interrupted run goes on from its last `training.pt`.

    Args:
        model: where to start from; it is trained in place.
        mixer: where windows come from.
        schedule: how.
        folder: gets `training.pt` on the way; `config.json` and `model.safetensors` (float16) at the end.
        device: torch's name of it.
        check: called with the averaged model now and then; its figures are logged.
        check_every: steps between checks.
    """
    torch.manual_seed(schedule.seed)
    model.to(device).train()
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=schedule.average)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(_groups(model, schedule.weight_decay), betas=(0.9, 0.98))
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "training.pt"
    parts = {"model": model, "average": average, "optimiser": optimiser}
    first = _resume(saved, parts, mixer) if saved.exists() else 0
    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc="training", unit="step")
    running = math.nan
    for step in progress:
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        loss = _step(model, mixer, schedule, step, device)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update_parameters(model)
        running = loss if math.isnan(running) else 0.98 * running + 0.02 * loss
        progress.set_postfix(loss=f"{running:.4f}")
        if (step + 1) % SAVE_EVERY == 0:
            _save(saved, parts, mixer, step + 1)
        if check and ((step + 1) % check_every == 0 or step + 1 == schedule.steps):
            figures = check(_classifier(average).eval())
            log.info("step %d loss %.4f %s", step + 1, running, json.dumps(figures))
    _classifier(average).save_pretrained(folder, dtype=torch.float16)
    (folder / "schedule.json").write_text(json.dumps(asdict(schedule), indent=2) + "\n")
    saved.unlink(missing_ok=True)


def _classifier(average: torch.optim.swa_utils.AveragedModel) -> ASTForAudioClassification:
    assert isinstance(average.module, ASTForAudioClassification)
    return average.module


def _step(model: ASTForAudioClassification, mixer: Mixer, schedule: Schedule, step: int, device: str) -> float:
    """Loss and gradients of one batch."""
    view, keep = _patches(model.config, schedule, step / schedule.steps, mixer.rng)
    windows, labels = mixer.batch(schedule.batch, view)
    targets = torch.from_numpy(labels).to(device) * (1 - schedule.smoothing) + schedule.smoothing / 2
    with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
        logits = model(torch.from_numpy(windows).to(device), keep.to(device)).logits
    loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _patches(
    config: ASTConfig, schedule: Schedule, done: float, rng: np.random.Generator
) -> tuple[slice, Tensor]:
    """Frames in view when a share of `done` is behind us, and the indices of the patches kept among them."""
    is_quarter = done < schedule.quarter_share
    is_half = not is_quarter and done < schedule.quarter_share + schedule.half_share
    n_columns = config.grid[1]
    width = n_columns // 4 if is_quarter else n_columns // 2 if is_half else n_columns
    start = int(rng.integers(n_columns - width + 1))
    index = np.arange(config.grid[0] * n_columns).reshape(config.grid)[:, start : start + width].ravel()
    if width == n_columns:
        index = np.sort(rng.permutation(index)[: round(len(index) * (1 - schedule.drop))])
    return slice(start * config.time_stride, (start + width) * config.time_stride), torch.from_numpy(index)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases, norms, tokens and positions don't."""

    def pick(decays: bool) -> Iterator[nn.Parameter]:
        return (p for n, p in model.named_parameters() if (p.ndim > 1 and "embeddings." not in n) == decays)

    return [
        {"params": list(pick(decays=True)), "weight_decay": weight_decay},
        {"params": list(pick(decays=False)), "weight_decay": 0.0},
    ]


def _save(path: Path, parts: dict[str, Any], mixer: Mixer, step: int) -> None:
    """Everything a killed run needs to go on exactly where it was; a reader never sees half a file."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "numpy": json.dumps(mixer.rng.bit_generator.state), "torch": torch.get_rng_state()}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, parts: dict[str, Any], mixer: Mixer) -> int:
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    mixer.rng.bit_generator.state = json.loads(state["numpy"])
    torch.set_rng_state(state["torch"])
    return int(state["step"])
