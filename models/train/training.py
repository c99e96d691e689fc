"""One training loop for every recipe: windows in, averaged weights out, and a killed run goes on where it was."""

import json
import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.errors import DataError
from models.train.recipe import Recipe

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
Figures = dict[str, float]
SAVE_S = 60.0  # between states on disk: what a killed run loses; AST-base's is 1.4 GB
MAX_GRADIENT = 1.0  # norm: a fresh head's first steps would shake the encoder
STATE = "training.pt"
PARTS = ("model", "average", "optimiser")  # of a run, with weights


class Examples(Protocol):
    """Where training windows come from: `models.train.mixing.Mixer` and `models.train.clips.Clips`."""

    rng: np.random.Generator  # all their randomness: a resumed run draws what an uninterrupted one would have

    def batch(self, size: int, view: slice) -> tuple[Floats, Floats]:
        """`size` normalised windows (B, T, M) with their sounds in the frames of `view`, and targets (B, C)."""


def train(
    model: ASTForAudioClassification,
    examples: Examples,
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    check: Callable[[ASTForAudioClassification], Figures] | None = None,
    watch: Callable[[Figures], None] | None = None,
) -> list[Figures]:
    """Train, and leave the averaged weights in `folder`; an interrupted run goes on from its `training.pt`.

    That file is left: the caller removes it when everything else is written. On a CPU a seed gives the same weights
    every time, interrupted or not.

    Args:
        model: where to start from; it is trained in place.
        examples: where windows come from.
        recipe: how.
        folder: gets `training.pt` on the way, `config.json` and `model.safetensors` (float16) at the end.
        device: torch's name of it.
        dtype: bfloat16 to compute in it under autocast; weights and optimiser stay float32.
        check: called with the averaged model, which it leaves as it is, after each epoch; its figures are kept.
        watch: told the figures of each epoch as they come.

    Returns:
        Each epoch's figures: `step`, `loss`, `lr`, and what `check` gave.

    Raises:
        DataError: the folder holds an unfinished run of other settings, or the loss is no longer a number.
    """
    torch.manual_seed(recipe.seed)
    run = Run(model.to(device).train(), recipe, examples)
    folder.mkdir(parents=True, exist_ok=True)
    first = run.resume(folder / STATE) if (folder / STATE).exists() else 0
    saved_at = time.monotonic()
    steps = tqdm(range(first, recipe.steps), "training", recipe.steps, unit="step", initial=first, disable=None)
    for step in steps:
        run.step(step, device, dtype)
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
    run.averaged().save_pretrained(folder, dtype=torch.float16)
    return run.history


class Run:
    """All that changes while training, and its copy on disk."""

    def __init__(self, model: ASTForAudioClassification, recipe: Recipe, examples: Examples) -> None:
        self.model = model
        self.recipe = recipe
        self.examples = examples
        self.average = AveragedModel(model, avg_fn=recipe.average)  # type: ignore[arg-type]
        self.optimiser = torch.optim.AdamW(_groups(model, recipe.weight_decay), betas=recipe.betas)
        self.history: list[Figures] = []
        self.loss = math.nan  # a moving average of it
        self._unsettled: Tensor | None = None  # the last step's, perhaps still being computed

    def step(self, step: int, device: str, dtype: torch.dtype) -> None:
        """One batch, one turn of the optimiser. On a GPU it is still at work when this returns.

        Raises:
            DataError: the last step's loss is not a number.
        """
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        view, keep = _patches(self.model.config, recipe, step / recipe.steps, self.examples.rng)
        windows, targets = self.examples.batch(recipe.batch, view)
        self.settle(step - 1)  # not earlier: the GPU works while the CPU composes
        kept = None if keep is None else keep.to(device)
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            logits = self.model(torch.from_numpy(windows).to(device), keep=kept).logits
        loss = recipe.criterion(logits.float(), torch.from_numpy(targets).to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if recipe.is_averaged(step):
            self.average.update_parameters(self.model)
        self._unsettled = loss.detach()

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

    def averaged(self) -> ASTForAudioClassification:
        """The model with the averaged weights, or the one in training before there is an average; no copy."""
        model = self.average.module if self.average.n_averaged else self.model
        assert isinstance(model, ASTForAudioClassification)
        return model

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
            "examples": json.dumps(self.examples.rng.bit_generator.state),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if next(self.model.parameters()).is_cuda else [],
        }
        state |= {name: getattr(self, name).state_dict() for name in PARTS}
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
            before = state["recipe"]
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
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.loss, self.history = state["loss"], state["history"]
        self.examples.rng.bit_generator.state = json.loads(state["examples"])
        torch.set_rng_state(state["random"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        return int(state["step"])


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


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases, norms, tokens and positions don't."""

    def pick(decays: bool) -> Iterator[nn.Parameter]:
        return (p for n, p in model.named_parameters() if (p.ndim > 1 and "embeddings." not in n) == decays)

    return [
        {"params": list(pick(decays=True)), "weight_decay": weight_decay},
        {"params": list(pick(decays=False)), "weight_decay": 0.0},
    ]
