"""How well a checkpoint, an ensemble of several or an average of their weights does on labelled recordings.

Clips are scored as `streamer tag` does it: windows side by side, the last one padded as the reference extractor pads; a
clip's score is the mean over its windows, each as heavy as it is long. Ensembles take the mean of scores, weight
averages the mean of parameters: the two ways in which Gong et al. 2021, §3.1, combine checkpoints.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice, zip_longest
from typing import NamedTuple

import numpy as np
import torch

from models import checkpoint, load, load_spec
from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.errors import CheckpointError, DataError
from models.fbank import normalise
from models.spec import ModelSpec
from models.train.data import Recording, targets
from models.train.features import check_headers, compute
from models.train.metrics import Floats, confusion, measure, require_sklearn
from models.train.report import Member, Report

FOLD = "{fold}"  # in a model's name: stands for the fold it was not trained on


class Window(NamedTuple):
    """A part of a recording as the model takes it.

    Args:
        recording: its place in the list.
        frames: (T, M), normalised, padded where the recording ends.
        n_frames: those that are the recording's own.
    """

    recording: int
    frames: Floats
    n_frames: int


def clip_scores(
    model: ASTForAudioClassification,
    spec: ModelSpec,
    recordings: Sequence[Recording],
    *,
    device: str = "cpu",
    batch: int = 16,
) -> Floats:
    """Scores (n, C) float32 of n files, as `window_scores` gives them. A bar shows on a terminal.

    Raises:
        DataError: after the last file, if some can't be used: three with their reasons, and how many more.
    """
    windows = feature_windows(compute(recordings, spec.fbank, spec.name), spec)
    return window_scores(model, spec, windows, len(recordings), device=device, batch=batch)


def window_scores(
    model: ASTForAudioClassification,
    spec: ModelSpec,
    windows: Iterable[Window],
    n: int,
    *,
    device: str = "cpu",
    batch: int = 16,
) -> Floats:
    """Scores (n, C) float32 of each recording: the mean over its windows, each as heavy as it is long; dropout off.

    Args:
        model: on `device`.
        spec: what it needs.
        windows: every recording has one at least.
        n: recordings.
        device: torch's name of it.
        batch: windows in a forward pass.
    """
    sums = np.zeros((n, len(spec.labels)))
    n_frames = np.zeros((n, 1))
    remaining = iter(windows)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            while chunk := list(islice(remaining, batch)):
                at = [window.recording for window in chunk]
                weights = np.array([[window.n_frames] for window in chunk])
                inputs = torch.from_numpy(np.stack([window.frames for window in chunk]))
                logits = model(inputs.to(device)).logits.float()
                scores = logits.sigmoid() if spec.activation == "sigmoid" else logits.softmax(dim=1)
                np.add.at(sums, at, weights * scores.cpu().numpy())
                np.add.at(n_frames, at, weights)
    finally:
        model.train(was_training)
    return np.asarray(sums / n_frames, np.float32)


def feature_windows(features: Iterable[Floats], spec: ModelSpec) -> Iterator[Window]:
    """The windows, side by side, of one recording after the other, given as log-mel (T, M), not normalised."""
    seen = spec.fbank.frames(spec.window_frames * spec.fbank.frame_hop)  # the last two reach into the next window
    for i, frames in enumerate(features):
        for start in range(0, len(frames), spec.window_frames):
            part = frames[start : start + seen]
            window = np.zeros((spec.window_frames, spec.fbank.n_mels), np.float32)  # padded as `clip_features` pads
            window[: len(part)] = part
            yield Window(i, normalise(window, spec.fbank), len(part))


@dataclass(frozen=True, slots=True)
class _Task:
    """Recordings, and the checkpoints to score them with."""

    fold: int | None
    names: tuple[str, ...]
    specs: tuple[ModelSpec, ...]
    recordings: tuple[Recording, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(Member(name, spec.revision, self.fold) for name, spec in zip(self.names, self.specs, strict=True))


def evaluate(
    models: Sequence[str],
    recordings: Sequence[Recording],
    *,
    average: bool = False,
    fold: int | None = None,
    device: str = "cpu",
    batch: int = 16,
) -> Report:
    """Score `recordings` and measure. Mistakes in what was asked for and files that are no sound show before that.

    Args:
        models: bundled names, folders or hub ids; several are an ensemble. One with `{fold}` in it (`runs/fold{fold}`)
            stands for a model of each fold, used on that fold's recordings only; figures then come by fold as well.
        recordings: labelled files.
        average: one model with the mean of the weights instead of an ensemble with the mean of the scores.
        fold: look at this fold only.
        device: torch's name of it.
        batch: windows in a forward pass.

    Raises:
        CheckpointError: a checkpoint is missing or broken, or several don't fit together.
        DataError: no recordings, no such fold, an unknown label, unreadable files, or scikit-learn is missing.
    """
    require_sklearn()
    tasks = _tasks(models, _of_fold(recordings, fold))
    labels = _same_labels(tasks)
    if average:
        for task in tasks:
            _check_averageable(task)
    truths = [targets(task.recordings, labels) for task in tasks]
    rate = max(spec.fbank.sample_rate for task in tasks for spec in task.specs)
    check_headers([each for task in tasks for each in task.recordings], rate)
    scores = [_average(task, device, batch) if average else _ensemble(task, device, batch) for task in tasks]
    by_fold = {
        task.fold: measure(scored, carried, labels)
        for task, scored, carried in zip(tasks, scores, truths, strict=True)
        if task.fold is not None
    }
    pooled = np.concatenate(scores), np.concatenate(truths)
    return Report(
        members=tuple(member for task in tasks for member in task.members),
        average=average,
        metrics=measure(*pooled, labels),
        folds=by_fold,
        confusion=confusion(*pooled),
    )


def _of_fold(recordings: Sequence[Recording], fold: int | None) -> list[Recording]:
    kept = [each for each in recordings if fold is None or each.fold == fold]
    if not recordings:
        raise DataError("there are no recordings to evaluate; give at least one")
    if not kept:
        known = sorted({each.fold for each in recordings if each.fold is not None})
        raise DataError(
            f"the data have no fold {fold}; known: {', '.join(map(str, known))}"
            if known
            else f"fold {fold} was asked for, but the data have no folds; give a CSV with a column 'fold'"
        )
    return kept


def _tasks(models: Sequence[str], recordings: Sequence[Recording]) -> list[_Task]:
    """What to score with what: everything at once, or fold by fold where a model's name asks for it."""
    asking = next((name for name in models if FOLD in name), None)
    if asking is None:
        return [_task(None, models, recordings)]
    homeless = next((each.path for each in recordings if each.fold is None), None)
    if homeless:
        raise DataError(
            f"{homeless} has no fold, but {asking!r} is a model of each fold; give a CSV with a column 'fold'"
        )
    folds = sorted({each.fold for each in recordings if each.fold is not None})
    return [_task(fold, models, [each for each in recordings if each.fold == fold]) for fold in folds]


def _task(fold: int | None, models: Sequence[str], recordings: Sequence[Recording]) -> _Task:
    names = tuple(name.replace(FOLD, str(fold)) for name in models)
    return _Task(fold, names, tuple(load_spec(name) for name in names), tuple(recordings))


def _same_labels(tasks: Sequence[_Task]) -> tuple[str, ...]:
    """The labels of all checkpoints."""
    named = [pair for task in tasks for pair in zip(task.names, task.specs, strict=True)]
    first, labels = named[0][0], named[0][1].labels
    for name, spec in named:
        if spec.labels != labels:
            at, (one, other) = next(
                (i, pair) for i, pair in enumerate(zip_longest(labels, spec.labels)) if pair[0] != pair[1]
            )
            raise CheckpointError(
                f"{name!r} and {first!r} have different labels (number {at} is {other!r} and {one!r}); "
                "models evaluated together must have the same labels in the same order"
            )
    return labels


def _check_averageable(task: _Task) -> None:
    """Weights have a mean only where every weight means the same."""
    if len(task.names) < 2:
        raise CheckpointError(f"only {task.names[0]!r} was given; an average of weights needs two checkpoints or more")
    first, *others = (_shape(name, spec) for name, spec in zip(task.names, task.specs, strict=True))
    for name, other in zip(task.names[1:], others, strict=True):
        differ = [f"{field} ({other[field]} and {first[field]})" for field in first if first[field] != other[field]]
        if differ:
            raise CheckpointError(
                f"{name!r} and {task.names[0]!r} differ in {', '.join(differ)}; weights can be averaged only between "
                "checkpoints of one configuration: evaluate them as an ensemble instead"
            )


def _shape(name: str, spec: ModelSpec) -> dict[str, object]:
    """All that must agree before weights can be averaged."""
    config = ASTConfig.from_pretrained(checkpoint.find(name))
    return {field.name: getattr(config, field.name) for field in fields(config)} | {"fbank": spec.fbank}


def _ensemble(task: _Task, device: str, batch: int) -> Floats:
    """Mean of the checkpoints' scores; one of them in memory at a time."""
    total = np.zeros((len(task.recordings), len(task.specs[0].labels)), np.float32)
    for name in task.names:
        model, spec = load(name, device=device)
        total += clip_scores(model, spec, task.recordings, device=device, batch=batch)
    return total / np.float32(len(task.names))


def _average(task: _Task, device: str, batch: int) -> Floats:
    """Scores of one model that has the mean of the checkpoints' weights."""
    model, spec = load(task.names[0], device=device)
    total = dict(model.state_dict())
    for name in task.names[1:]:
        for key, value in load(name, device=device)[0].state_dict().items():
            total[key] = total[key] + value
    model.load_state_dict({key: value / len(task.names) for key, value in total.items()})
    return clip_scores(model, spec, task.recordings, device=device, batch=batch)
