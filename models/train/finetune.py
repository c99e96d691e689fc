"""From labelled recordings to a folder the daemon loads: what `streamer train` does.

Fine-tuning follows the paper (Gong et al. 2021, §3.1 and §3.2) where it applies; training from scratch follows the
starter's recipe. Features of all recordings are computed once and kept in the folder while training lasts.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from models import load_spec
from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from models.checkpoint import WEIGHTS, read_json
from models.errors import CheckpointError, DataError
from models.spec import FbankSpec, ModelSpec
from models.train import data
from models.train.clips import Clips
from models.train.evaluate import feature_windows, window_scores
from models.train.features import Features
from models.train.metrics import measure, require_sklearn
from models.train.mixing import Mixer
from models.train.recipe import Recipe
from models.train.scratch import from_scratch, small
from models.train.statistics import statistics
from models.train.training import STATE, Examples, Figures, Floats, train

FEATURES, RECORD = "features.f16", "training.json"
PROBLEM = {"bce": "multi_label_classification", "ce": "single_label_classification"}
LARGE = 100_000  # recordings: from here on the paper's rate for all of AudioSet, 1e-5, else that for its small part
MIN_EPOCH = 8  # steps: a handful of recordings needs more turns than one each
EPOCHS = 25  # of fine-tuning: the paper's for balanced AudioSet and ESC-50
PAPER = Recipe(
    decay="step",
    weight_decay=0.0,
    betas=(0.95, 0.999),
    smoothing=0.0,
    ema=0.0,
    quarter_share=0.0,
    half_share=0.0,
    drop=0.0,
)


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user may choose.

    Args:
        init: checkpoint to go on from; None trains a small model from scratch.
        examples: `scenes` are soundscapes composed from the recordings, sounds anywhere, as a microphone hears them;
            `clips` are the paper's: one recording a window from its first frame on, mixup, masks.
        loss: `bce` scores labels one by one (sigmoid), `ce` lets them compete (softmax); scenes need `bce`.
        hold_out: a fold number, or the share of recordings of each label kept out of training and measured on.
        epochs, batch, lr: None takes the recipe's.
        max_length: frames of a window; None takes the checkpoint's, 1024 from scratch.
        mixup, freq_mask, time_mask: of `clips`, as `Clips` takes them.
        seed: of everything random.
    """

    init: str | None = None
    examples: Literal["scenes", "clips"] = "scenes"
    loss: Literal["bce", "ce"] = "bce"
    hold_out: float = 0.2
    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    max_length: int | None = None
    mixup: float = 0.5
    freq_mask: int = 24
    time_mask: int | None = None
    seed: int = 0


def learn(
    source: Path,
    folder: Path,
    choices: Choices,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    watch: Callable[[Figures], None] | None = None,
) -> dict[str, Any]:
    """Train on the recordings in `source` and leave a checkpoint in `folder`; a killed run goes on.

    Args:
        source: a folder with a sub-folder per label, or a CSV (`models.train.data.recordings`).
        folder: gets the checkpoint and `training.json`, which says what was done and measured.
        choices: how.
        device: torch's name of it.
        dtype: as in `train`.
        watch: told the figures of each epoch as they come.

    Returns:
        The content of `training.json`.

    Raises:
        DataError: the recordings can't be learned from, or the folder holds something else.
        CheckpointError: `choices.init` can't be loaded.
    """
    require_sklearn()
    if (folder / WEIGHTS).exists() and not (folder / STATE).exists():
        raise DataError(f"{folder} already holds a model; give another folder, or delete it")
    found = data.recordings(source)
    data.check(source, found)
    labels = data.labels(found)
    kept, held_out = data.split(found, choices.hold_out, choices.seed)
    targets = data.targets(kept, labels)
    _check_loss(choices, targets)
    init = load_spec(choices.init) if choices.init else None
    base = init.fbank if init else FbankSpec()
    Features.build(found, base, folder / FEATURES)
    features, unheard = (Features.build(part, base, folder / FEATURES) for part in (kept, held_out))
    spec = _spec(folder.name, labels, choices, init, features)
    record = _record(source, found, held_out, spec, choices) | {"init": init.revision if init else None}
    _claim(folder, record)
    _extractor(spec).save_pretrained(folder)  # before the weights: nobody shall load these with other settings
    torch.manual_seed(choices.seed)
    model = _model(spec, choices, init, targets)
    wanted = data.targets(held_out, labels)

    def check(averaged: ASTForAudioClassification) -> Figures:
        windows = feature_windows(unheard, spec)
        scores = window_scores(averaged, spec, windows, len(held_out), device=device)
        figures = measure(scores, wanted, labels).to_dict()
        return {name: figures[name] for name in ("accuracy", "mAP") if figures[name] is not None}

    recipe = _recipe(choices, len(kept), model.config)
    examples = _examples(choices, features, targets, spec)
    history = train(
        model, examples, recipe, folder, device=device, dtype=dtype, check=check if held_out else None, watch=watch
    )
    record |= {"recipe": asdict(recipe), "history": history}
    _write(folder, record)
    (folder / FEATURES).unlink()
    (folder / STATE).unlink()
    return record


def _examples(choices: Choices, features: Features, targets: Floats, spec: ModelSpec) -> Examples:
    if choices.examples == "scenes":
        return Mixer(features, targets, spec.fbank, spec.window_frames, choices.seed)
    return Clips(
        features,
        targets,
        spec.fbank,
        spec.window_frames,
        choices.seed,
        mixup=choices.mixup,
        max_freq_mask=choices.freq_mask,
        max_time_mask=choices.time_mask,
    )


def _check_loss(choices: Choices, targets: Floats) -> None:
    if choices.loss == "bce":
        return
    if choices.examples == "scenes":
        raise DataError("loss 'ce' needs examples 'clips': a scene may hold no sound, or several at once")
    if not (targets.sum(axis=1) == 1).all():
        raise DataError("loss 'ce' needs exactly one label a recording; take 'bce' where there are several or none")


def _spec(
    name: str, labels: tuple[str, ...], choices: Choices, init: ModelSpec | None, features: Features
) -> ModelSpec:
    """What the new model will need; its input is normalised by the statistics of its own training recordings."""
    found = statistics(features)
    ids = dict(zip(init.labels, init.label_ids, strict=True)) if init else {}
    return ModelSpec(
        name=name,
        revision="",
        labels=labels,
        label_ids=tuple(ids.get(label, "") for label in labels),
        fbank=replace(init.fbank if init else FbankSpec(), mean=found.mean, std=found.std),
        window_frames=choices.max_length or (init.window_frames if init else 1024),
        activation="sigmoid" if choices.loss == "bce" else "softmax",
    )


def _model(
    spec: ModelSpec, choices: Choices, init: ModelSpec | None, targets: Floats
) -> ASTForAudioClassification:
    """The checkpoint to go on from with a head for the new labels, or a small model with random weights."""
    about: dict[str, Any] = {
        "id2label": dict(enumerate(spec.labels)),
        "label_ids": spec.label_ids if any(spec.label_ids) else (),
        "problem_type": PROBLEM[choices.loss],
        "max_length": spec.window_frames,
    }
    if choices.init and init:
        model = ASTForAudioClassification.from_pretrained(choices.init, ignore_mismatched_sizes=True, **about)
        if init.labels == spec.labels:
            return model
    else:
        model = from_scratch(small(**about))
    head: nn.Linear = model.classifier.dense
    odds = targets.mean(axis=0).clip(0.001, 0.999)  # begin with what is known without listening
    with torch.no_grad():
        nn.init.trunc_normal_(head.weight, std=model.config.initializer_range)
        head.bias.copy_(torch.from_numpy(np.log(odds / (1 - odds))))
    return model


def _recipe(choices: Choices, n: int, config: ASTConfig) -> Recipe:
    """The paper's for a checkpoint, the starter's from scratch, with the user's choices."""
    recipe = PAPER if choices.init else Recipe()
    batch = choices.batch or recipe.batch
    epoch = max(MIN_EPOCH, math.ceil(n / batch))
    steps = (choices.epochs or EPOCHS) * epoch
    if choices.init is None and choices.epochs is None:
        steps = max(steps, recipe.steps)
    return replace(
        recipe,
        batch=batch,
        steps=steps,
        epoch=epoch if choices.init else max(epoch, steps // EPOCHS),
        warmup=min(1000, steps // 20),
        lr=choices.lr or (_paper_rate(n, config) if choices.init else recipe.lr),
        loss=choices.loss,
        seed=choices.seed,
    )


def _paper_rate(n: int, config: ASTConfig) -> float:
    """1e-5 for large sets, 5e-5 for small ones (§3.1), for AST-base; narrower models take more, as 1 / width."""
    return (1e-5 if n >= LARGE else 5e-5) * 768 / config.hidden_size


def _record(
    source: Path, found: list[data.Recording], held_out: list[data.Recording], spec: ModelSpec, choices: Choices
) -> dict[str, Any]:
    """What the run depends on."""
    listing = repr([(str(recording.path), recording.labels, recording.fold) for recording in found])
    return {
        "data": str(source),
        "recordings": f"{len(found)}, sha256:{hashlib.sha256(listing.encode()).hexdigest()[:16]}",
        "choices": asdict(choices),
        "labels": list(spec.labels),
        "mean": spec.fbank.mean,
        "std": spec.fbank.std,
        "held_out": sorted(str(recording.path) for recording in held_out),
    }


def _claim(folder: Path, record: dict[str, Any]) -> None:
    """Note in the folder what is being trained.

    Raises:
        DataError: an unfinished run of something else is there.
    """
    if (folder / STATE).exists():
        try:
            before = read_json(folder / RECORD)
        except CheckpointError:
            before = {}
        changed = [name for name, value in record.items() if before.get(name) != value]
        if changed:
            raise DataError(
                f"{folder} holds an unfinished run with other {', '.join(changed)}; go on with the same arguments and "
                f"recordings, give another folder, or delete {STATE} in it to begin again"
            )
    _write(folder, record)


def _extractor(spec: ModelSpec) -> ASTFeatureExtractor:
    return ASTFeatureExtractor(
        sampling_rate=spec.fbank.sample_rate,
        num_mel_bins=spec.fbank.n_mels,
        max_length=spec.window_frames,
        mean=spec.fbank.mean,
        std=spec.fbank.std,
    )


def _write(folder: Path, record: dict[str, Any]) -> None:
    """Write `training.json`; a reader never sees half of it."""
    partial = folder / (RECORD + ".partial")
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8
    partial.replace(folder / RECORD)
