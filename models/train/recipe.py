"""How to train: optimiser, schedule, loss and average, as numbers.

The paper's (Gong et al. 2021, §3.1 and §3.2): Adam, warm-up, a learning rate that falls in steps, the mean of the
checkpoints' weights. Ours for small sets from scratch: a cosine, a moving average, and dropped patches (Koutini et al.
2022, "Efficient Training of Audio Transformers with Patchout"), which also make a step cheaper.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

STEP_FROM, STEP_FACTOR = 5, 0.85  # epochs at the full rate, then what each leaves of it (on ESC-50)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Args:
        steps: optimiser steps.
        epoch: steps after which the held-out clips are looked at, and the unit of `step` decay.
        batch: windows a step.
        lr: peak learning rate, reached linearly in `warmup` steps.
        decay: `cosine` falls to 1 % of it; `step` holds it for five epochs, then takes 15 % off each.
        weight_decay: of matrices (AdamW); at 0 it is Adam.
        betas: Adam's.
        optimiser: `adamw`; or `muon` (Jordan et al. 2024), which orthogonalises the steps of the layers' matrices, for
            those and AdamW for the rest: from nothing it takes fewer steps.
        loss: `bce` takes labels one by one, `ce` lets them compete.
        smoothing: how far targets keep away from 0 and 1.
        ema: of the moving average of weights; at 0 the result is the mean of all epochs' weights after the fifth.
        quarter_share, half_share: first parts of the steps, spent on a quarter and on half of the window (at positions
            drawn anew each step); the rest sees all of it.
        drop: share of the patches dropped from whole windows.
        seed: of everything random.
    """

    steps: int = 1600
    epoch: int = 200
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 60
    decay: Literal["cosine", "step"] = "cosine"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    optimiser: Literal["adamw", "muon"] = "adamw"
    loss: Literal["bce", "ce"] = "bce"
    smoothing: float = 0.02
    ema: float = 0.998
    quarter_share: float = 0.5
    half_share: float = 0.25
    drop: float = 0.4
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at `step`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "step":
            return self.lr * STEP_FACTOR ** max(0, step // self.epoch - STEP_FROM + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def average(self, averages: list[Tensor], values: list[Tensor], n_averaged: int) -> None:
        """Take values into their moving average, short at first so that the start is forgotten; or into the mean."""
        if averages[0].is_floating_point():
            n = n_averaged
            decay = min(self.ema, (1 + n) / (20 + n)) if self.ema else n / (n + 1)
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:
            torch._foreach_copy_(averages, values)

    def is_averaged(self, step: int) -> bool:
        """Whether the weights after `step` go into the average."""
        n_epochs = self.steps // self.epoch
        is_late = step + 1 > min(STEP_FROM, n_epochs - 1) * self.epoch
        return bool(self.ema) or ((step + 1) % self.epoch == 0 and is_late) or step + 1 == self.steps

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (B, C) against targets (B, C) in [0, 1]."""
        if self.loss == "ce":
            shares = targets / targets.sum(1, keepdim=True)
            return functional.cross_entropy(logits, shares, label_smoothing=self.smoothing)
        soft = targets * (1 - self.smoothing) + self.smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, soft)
