"""One training loop for every recipe: windows in, averaged weights out, and a killed run goes on where it was."""

import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.errors import DataError
from models.train.recipe import Recipe

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
Figures = dict[str, float]
Batch = tuple[slice, Tensor | None, tuple[Tensor, ...]]
"""Frames in view, the patches kept (None: all), and the windows' frames in view with their targets."""
M = TypeVar("M", bound=nn.Module)
SAVE_S = 60.0  # between states on disk: what a killed run loses; AST-base's is 1.4 GB
MAX_GRADIENT = 1.0  # norm: a fresh head's first steps would shake the encoder
STATE = "training.pt"
PARTS = ("model", "average")  # of a run, with weights


class Examples(Protocol):
    """Where training windows come from: `models.train.mixing.Mixer` and `models.train.clips.Clips`."""

    rng: np.random.Generator  # all their randomness; each step sets its own

    def batch(self, size: int, n_frames: int) -> tuple[Floats, ...]:
        """`size` normalised windows of so many frames (B, T, M), and targets (B, C)."""


class Batches(Dataset[Batch]):
    """What each step learns from. It depends on seed and step alone: whoever composes it, and whatever came before."""

    def __init__(self, examples: Examples, recipe: Recipe, config: ASTConfig) -> None:
        self.examples = examples
        self.recipe = recipe
        self.config = config

    def __getitem__(self, step: int) -> Batch:
        rng = self.examples.rng = np.random.default_rng((self.recipe.seed, step))
        view, keep = _patches(self.config, self.recipe, step / self.recipe.steps, rng)
        batch = self.examples.batch(self.recipe.batch, view.stop - view.start)
        return view, keep, tuple(map(torch.from_numpy, batch))


Lesson = Callable[[nn.Module, Sequence[Tensor], slice, Tensor | None], Tensor]
"""The loss of a model on a batch (frames in view, then targets), given where the view lies and the patches kept."""


def train(
    model: ASTForAudioClassification,
    examples: Examples,
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
    check: Callable[[ASTForAudioClassification], Figures] | None = None,
    watch: Callable[[Figures], None] | None = None,
) -> list[Figures]:
    """Train a classifier as `fit` does, and leave the averaged weights in `folder`.

    It gets `config.json` and `model.safetensors` (float16). Its `training.pt` is left: the caller removes it when
    everything else is written.

    Returns:
        Each epoch's figures: `step`, `loss`, `lr`, and what `check` gave.

    Raises:
        DataError: as `fit`.
    """
    run = fit(model, examples, recipe, folder, device=device, dtype=dtype, workers=workers, check=check, watch=watch)
    averaged = run.averaged()
    assert isinstance(averaged, ASTForAudioClassification)
    averaged.save_pretrained(folder, dtype=torch.float16)
    return run.history


def fit(
    model: M,
    examples: Examples,
    recipe: Recipe,
    folder: Path,
    *,
    lesson: Lesson | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
    check: Callable[[Any], Figures] | None = None,
    watch: Callable[[Figures], None] | None = None,
) -> "Run[M]":
    """Train any model that has an `ASTConfig`; an interrupted run goes on from the folder's `training.pt`.

    On one kind of CPU, with as many threads, a seed gives the same weights every time, interrupted or not.

    Args:
        model: where to start from; it is trained in place.
        examples: where windows come from.
        recipe: how.
        folder: gets `training.pt` on the way.
        lesson: the loss; by default the recipe's criterion of a classifier's logits.
        device: torch's name of it.
        dtype: bfloat16 to compute in it under autocast; weights and optimiser stay float32.
        workers: processes that compose batches beside this one; none of them changes what is composed.
        check: called with the averaged model, which it leaves as it is, after each epoch; its figures are kept.
        watch: told the figures of each epoch as they come.

    Raises:
        DataError: the folder holds an unfinished run of other settings, or the loss is no longer a number.
    """
    torch.manual_seed(recipe.seed)
    run = Run(model.to(device).train(), recipe, lesson)
    folder.mkdir(parents=True, exist_ok=True)
    first = run.resume(folder / STATE) if (folder / STATE).exists() else 0
    saved_at = time.monotonic()
    config = model.config
    assert isinstance(config, ASTConfig)
    batches = DataLoader(
        Batches(examples, recipe, config),
        batch_size=None,
        sampler=range(first, recipe.steps),
        num_workers=workers,
        generator=torch.Generator(),  # what it draws to seed workers is not to shift the model's dropout
    )
    steps = tqdm(batches, "training", recipe.steps, unit="step", initial=first, disable=None)
    for step, batch in enumerate(steps, first):
        run.step(step, batch, device, dtype)
        is_epoch = (step + 1) % recipe.epoch == 0 or step + 1 == recipe.steps
        if is_epoch:
            run.settle(step)
            run.history.append({"step": step + 1, "loss": run.loss, "lr": recipe.rate(step)})
            run.history[-1] |= check(run.averaged()) if check else {}
            if steps.disable:  # no terminal: say it in the log
                log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in run.history[-1].items()))
            if watch:
                watch(run.history[-1])
        steps.set_postfix(run.postfix())
        if time.monotonic() - saved_at >= SAVE_S or step + 1 == recipe.steps:
            run.settle(step)
            run.save(folder / STATE, step + 1)
            saved_at = time.monotonic()
    return run


class Run(Generic[M]):
    """All that changes while training, and its copy on disk."""

    def __init__(self, model: M, recipe: Recipe, lesson: Lesson | None = None) -> None:
        self.model = model
        self.recipe = recipe
        self.lesson = lesson or self._classify
        self.average = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)  # type: ignore[arg-type]
        self.optimisers = _optimisers(model, recipe)
        self.history: list[Figures] = []
        self.loss = math.nan  # a moving average of it
        self._unsettled: Tensor | None = None  # the last step's, perhaps still being computed

    def step(self, step: int, batch: Batch, device: str, dtype: torch.dtype) -> None:
        """One batch, one turn of the optimiser. On a GPU it is still at work when this returns.

        Raises:
            DataError: the last step's loss is not a number.
        """
        recipe = self.recipe
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = recipe.rate(step)
        self.settle(step - 1)  # not earlier: the GPU works while the CPU composes
        view, keep, tensors = batch
        windows, *targets = (each.to(device) for each in tensors)
        kept = None if keep is None else keep.to(device)
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            loss = self.lesson(self.model, [windows, *targets], view, kept)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if recipe.is_averaged(step):
            self.average.update_parameters(self.model)
        self._unsettled = loss.detach()

    def _average(self, averages: list[Tensor], values: list[Tensor], n_averaged: Tensor) -> None:
        self.recipe.average(averages, values, int(self.average.n_averaged))  # the argument lies on the GPU: don't wait

    def _classify(self, model: nn.Module, batch: Sequence[Tensor], view: slice, keep: Tensor | None) -> Tensor:
        windows, targets = batch
        logits = model(placed(windows, view, self.model.config), keep=keep).logits
        return self.recipe.criterion(logits.float(), targets)

    def settle(self, step: int) -> None:
        """Wait for the loss of `step`, and take it into the moving average.

        Raises:
            DataError: it is not a number.
        """
        if self._unsettled is None:
            return
        value, self._unsettled = float(self._unsettled), None
        if not math.isfinite(value):
            raise DataError(
                f"the loss became {value} at step {step}; begin again in another folder with a learning rate below "
                f"{self.recipe.lr:g}"
            )
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value

    def averaged(self) -> M:
        """The model with the averaged weights, or the one in training before there is an average; no copy."""
        return cast(M, self.average.module) if self.average.n_averaged else self.model

    def postfix(self) -> dict[str, str]:
        """What the progress bar shows: the loss, and the newest figures of the held-out clips."""
        figures = {k: v for k, v in (self.history or [{}])[-1].items() if k not in {"step", "loss", "lr"}}
        return {name: f"{value:.4f}" for name, value in ({"loss": self.loss} | figures).items()}

    def save(self, path: Path, step: int) -> None:
        """Everything a killed run needs to go on exactly where it was; a reader never sees half a file."""
        state = {
            "step": step,
            "recipe": asdict(self.recipe),
            "loss": self.loss,
            "history": self.history,
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if next(self.model.parameters()).is_cuda else [],
        }
        state |= {name: getattr(self, name).state_dict() for name in PARTS}
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            raise DataError(f"{path} can't be written ({error}); make room and run the same again") from None

    def resume(self, path: Path) -> int:
        """Go back to what `save` wrote; return the step to go on with.

        Raises:
            DataError: it was written under another recipe, or can't be read.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            before, optimisers = state["recipe"], state["optimisers"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise DataError(f"{path} can't be read ({error}); delete it to begin again") from None
        changed = [
            f"{name} was {before.get(name)}, now {value}"
            for name, value in asdict(self.recipe).items()
            if before.get(name) != value
        ]
        if changed:
            raise DataError(
                f"{path.parent} holds an unfinished run of other settings ({'; '.join(changed)}); "
                f"go on with the same, give another folder, or delete {path.name} to begin again"
            )
        try:
            for name in PARTS:
                getattr(self, name).load_state_dict(state[name])
            for optimiser, stored in zip(self.optimisers, optimisers, strict=True):
                optimiser.load_state_dict(stored)
        except (RuntimeError, KeyError, ValueError):
            raise DataError(
                f"{path} is of another model; give another folder, or delete it to begin again"
            ) from None
        self.loss, self.history = state["loss"], state["history"]
        torch.set_rng_state(state["random"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        return int(state["step"])


def placed(windows: Tensor, view: slice, config: Any) -> Tensor:
    """Frames in view (B, V, M) in a whole window (B, T, M), for a model that keeps only patches that lie in view."""
    return functional.pad(windows, (0, 0, view.start, config.max_length - view.stop))


def _patches(config: ASTConfig, recipe: Recipe, done: float, rng: np.random.Generator) -> tuple[slice, Tensor | None]:
    """Frames in view when a share of `done` is behind us, and the indices of the patches kept, None for all."""
    n_rows, n_columns = config.grid
    part = 4 if done < recipe.quarter_share else 2 if done < recipe.quarter_share + recipe.half_share else 1
    width = max(1, n_columns // part)
    start = int(rng.integers(n_columns - width + 1))
    index = np.arange(n_rows * n_columns).reshape(config.grid)[:, start : start + width].ravel()
    if width < n_columns:
        stop = (start + width - 1) * config.time_stride + config.patch[1]
        return slice(start * config.time_stride, stop), torch.from_numpy(index)
    if not recipe.drop:
        return slice(0, config.max_length), None
    kept = rng.permutation(index)[: round(len(index) * (1 - recipe.drop))]
    return slice(0, config.max_length), torch.from_numpy(np.sort(kept))


def _optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Matrices decay; biases, norms, tokens and positions don't. Of the layers' matrices Muon takes care, if asked."""
    named = list(model.named_parameters())
    layers = [p for n, p in named if recipe.optimiser == "muon" and p.ndim == 2 and ".layers." in n]
    rest = [(p, p.ndim > 1 and "embeddings." not in n) for n, p in named if all(p is not each for each in layers)]
    groups = [
        {"params": [p for p, decays in rest if decays], "weight_decay": recipe.weight_decay},
        {"params": [p for p, decays in rest if not decays], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, betas=recipe.betas)
    if not layers:
        return [adam]
    muon = torch.optim.Muon(layers, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")  # at Adam's rates
    return [adam, muon]
