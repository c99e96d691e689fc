"""What a recipe's numbers mean."""

from typing import Any

import numpy as np
import pytest
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.train.recipe import Recipe
from models.train.training import _optimisers, _patches
from tests.models.small import SMALL


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        # of 100 steps, 10 an epoch, warm-up 4   at step: 0, 3, 4, 49, 59, 99
        ("step", [0.25, 1, 1, 1, 0.85, 0.85**5]),
        ("cosine", [0.25, 1, 1, 0.5535, 0.3926, 0.0103]),
    ],
)
def test_the_rate_warms_up_and_falls(decay: str, rates: list[float]) -> None:
    recipe = Recipe(steps=100, epoch=10, warmup=4, lr=1.0, decay=decay)  # type: ignore[arg-type]
    assert [recipe.rate(step) for step in (0, 3, 4, 49, 59, 99)] == pytest.approx(rates, abs=1e-3)


def test_without_a_moving_average_the_result_is_the_mean_of_late_epochs() -> None:
    recipe = Recipe(steps=80, epoch=10, ema=0.0)
    assert [step for step in range(80) if recipe.is_averaged(step)] == [59, 69, 79]
    mean, counter = torch.zeros(1), torch.zeros(1, dtype=torch.long)
    for n, value in enumerate((3.0, 6.0, 12.0)):
        recipe.average([mean], [torch.tensor([value])], n)
        recipe.average([counter], [torch.tensor([n])], n)
    assert mean == pytest.approx(7.0)
    assert counter == 2


def test_a_moving_average_forgets_its_start_and_then_as_fast_as_asked() -> None:
    recipe, average, expected = Recipe(ema=0.5), torch.zeros(1), 0.0
    for n, decay in enumerate((1 / 20, 2 / 21, 3 / 22)):
        recipe.average([average], [torch.ones(1)], n)
        expected = decay * expected + (1 - decay)
        assert average == pytest.approx(expected)
    recipe.average([average], [torch.zeros(1)], 1000)
    assert average == pytest.approx(0.5 * expected)


@pytest.mark.parametrize(
    ("options", "targets", "expected"),
    [
        # logits are [2, -1]                      by hand
        ({}, [1.0, 0.0], (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2),
        ({"smoothing": 0.2}, [1.0, 0.0], (np.log1p(np.exp(-2)) + 0.2 + np.log1p(np.exp(-1)) + 0.1) / 2),
        ({"loss": "ce"}, [1.0, 0.0], np.log1p(np.exp(-3))),
        ({"loss": "ce"}, [0.25, 0.75], np.log1p(np.exp(-3)) + 0.75 * 3),
    ],
)
def test_losses(options: dict[str, Any], targets: list[float], expected: float) -> None:
    loss = Recipe(**({"smoothing": 0.0} | options)).criterion(torch.tensor([[2.0, -1.0]]), torch.tensor([targets]))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stride", [16, 10])
@pytest.mark.parametrize(("done", "share"), [(0.1, 4), (0.6, 2)])
def test_in_a_partial_view_the_patches_kept_see_its_frames_and_no_others(done: float, share: int, stride: int) -> None:
    config = ASTConfig(max_length=256, num_mel_bins=32, frequency_stride=stride, time_stride=stride)
    view, keep = _patches(config, Recipe(), done, np.random.default_rng(0))
    assert keep is not None
    frames = np.zeros((256,), bool)
    for column in keep.numpy() % config.grid[1]:
        frames[column * stride : column * stride + 16] = True
    assert np.array_equal(np.flatnonzero(frames), np.arange(256)[view])
    assert len(keep) == config.grid[0] * (config.grid[1] // share)


def test_the_whole_view_drops_the_share_asked_for() -> None:
    config = ASTConfig(max_length=256, num_mel_bins=32)
    view, keep = _patches(config, Recipe(drop=0.25), 0.9, np.random.default_rng(0))
    n_patches = config.grid[0] * config.grid[1]
    assert view == slice(0, 256)
    assert keep is not None
    assert len(keep.unique()) == len(keep) == round(0.75 * n_patches)
    assert _patches(config, Recipe(drop=0.0), 0.9, np.random.default_rng(0)) == (slice(0, 256), None)


def test_matrices_decay_and_nothing_else() -> None:
    model = ASTForAudioClassification(ASTConfig(**SMALL))
    (adam,) = _optimisers(model, Recipe(weight_decay=0.05))
    decaying, others = adam.param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    names = {id(value): name for name, value in model.named_parameters()}
    picked = {names[id(value)] for value in decaying["params"]}
    assert all(name.endswith("weight") and "norm" not in name and "embeddings" not in name for name in picked)
    assert len(picked) == 6 * 2 + 1
    assert len(picked) + len(others["params"]) == len(names)


def test_muon_takes_the_layers_matrices_and_adam_the_rest() -> None:
    model = ASTForAudioClassification(ASTConfig(**SMALL))
    adam, muon = _optimisers(model, Recipe(optimiser="muon"))
    names = {id(value): name for name, value in model.named_parameters()}
    its = [names[id(value)] for group in muon.param_groups for value in group["params"]]
    assert len(its) == 6 * 2
    assert all(".layers." in name and name.endswith("weight") and "norm" not in name for name in its)
    others = [names[id(value)] for group in adam.param_groups for value in group["params"]]
    assert sorted(its + others) == sorted(names.values())
