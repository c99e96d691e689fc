"""The recipe of `models/starter`: a small AST from scratch on ESC-10, synthesised alarms and sounds that mean nothing.

    python -m models.train.starter --data ESC10 --out FOLDER --hold-out 4     # measure on fold 4
    python -m models.train.starter --data ESC10 --out models/starter          # what is shipped

First a convolutional teacher learns from the mixed windows, then the AST from them and from the teacher
(`models.train.teacher`). Last the AST learns that rooms come through microphones too: recordings were resampled to
16 kHz, which takes a little off their top, what is made in code was not, and so it took any resampled hiss for rain.
What is kept is the mean of its weights before and after that (Wortsman et al. 2022, "Robust fine-tuning").

`ESC10` is a folder with a sub-folder per ESC-10 class of `<fold>-….ogg` files and their `credits.csv`. The recordings
under CC Sampling+ are left out. A run that was stopped goes on. Nothing random is left to chance: on one kind of CPU,
with as many threads, a seed gives the same weights, and one kind of GPU is asked to add in the same order each time.
"""

import argparse
import csv
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import soxr
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from models.errors import DataError, ModelError
from models.fbank import fbank
from models.spec import ModelSpec
from models.train.alarms import ALARMS, RATE
from models.train.arguments import whole
from models.train.data import Recording, read
from models.train.evaluate import clip_scores
from models.train.features import Features
from models.train.mixing import RATES, Mixer
from models.train.recipe import Recipe
from models.train.rooms import OTHERS, things
from models.train.scratch import from_scratch, small
from models.train.teacher import Correct, Learn, Pupil, Teacher, teach
from models.train.training import Lesson, fit

log = logging.getLogger(__name__)
LABELS = {  # ESC-10 folder → AudioSet display name and id
    "dog_bark": ("Bark", "/m/05tny_"),
    "rain": ("Rain", "/m/06mb1"),
    "sea_waves": ("Waves, surf", "/m/034srq"),
    "baby_cry": ("Baby cry, infant cry", "/t/dd00002"),
    "clock_tick": ("Tick-tock", "/m/07qjznl"),
    "person_sneeze": ("Sneeze", "/m/01hsr_"),
    "helicopter": ("Helicopter", "/m/09ct_"),
    "chainsaw": ("Chainsaw", "/m/01j4z9"),
    "rooster": ("Crowing, cock-a-doodle-doo", "/m/07qn5dc"),
    "fire_crackling": ("Crackle", "/m/07pzfmf"),
}
ALARM_IDS = {"Smoke detector, smoke alarm": "/m/01y3hg", "Siren": "/m/03kmc9", "Beep, bleep": "/m/02fs_r"}
ALARM_EXAMPLES = 48  # of each kind; ESC-10 gives about 32 recordings a class
CREDITS = "credits.csv"  # names each recording's file, fold and licence
MEASURED = "measured.json"  # says of a checkpoint which fold it had not heard
OTHER_EXAMPLES, OTHER_S = 48, (2.0, 10.0)  # of each kind; seconds
TEACHER = Recipe(
    steps=3300, epoch=500, batch=64, lr=2e-3, ema=0.995, weight_decay=0.02, quarter_share=1.0, half_share=0.0
)
PUPIL = Recipe(
    steps=4000, epoch=1000, batch=64, lr=2.5e-3, optimiser="muon", ema=0.995, quarter_share=0.94, half_share=0.0
)
FINISH = Recipe(steps=400, epoch=200, lr=2.5e-4, optimiser="muon", ema=0.995, quarter_share=0.9, half_share=0.0)
WRONG = ("Rain",)  # what it took hiss for, where that came from a microphone of 44.1 or 48 kHz


def config() -> ASTConfig:
    """The small AST with the starter's labels."""
    names = [name for name, _ in LABELS.values()] + list(ALARMS)
    ids = (*(label_id for _, label_id in LABELS.values()), *(ALARM_IDS[name] for name in ALARMS))
    return small(id2label=dict(enumerate(names)), label_ids=ids, problem_type="multi_label_classification")


def recordings(data: Path) -> list[Recording]:
    """Every recording whose licence allows it, with its folder as label, sorted.

    Raises:
        DataError: there is no list of them.
    """
    try:
        with (data / CREDITS).open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if "sampling" not in row["licence"].lower()]
    except OSError as error:
        how = "put models/starter/credits.csv beside the folders of recordings that it names"
        raise DataError(f"{data / CREDITS} can't be read: {error.strerror}; {how}") from None
    found = [Recording(data / row["file"], (row["file"].split("/")[0],), int(row["fold"])) for row in rows]
    return sorted(found, key=lambda recording: recording.path)


def alarms(rng: np.random.Generator) -> list[tuple[np.ndarray, int]]:
    """Synthesised examples of each alarm with their label, a third of them through an echoing room."""
    made = []
    for i, make in enumerate(ALARMS.values(), start=len(LABELS)):
        for _ in range(ALARM_EXAMPLES):
            samples = make(rng)
            if rng.random() < 0.35:
                decay = np.exp(-np.arange(8000) / (16000 * rng.uniform(0.05, 0.3) / 6.9))
                echo = np.convolve(samples, rng.normal(0, 1, 8000) * decay * 0.05)[: len(samples)]
                samples = (samples + echo).astype(np.float32)
            made.append((samples, i))
    return made


def accuracy(model: ASTForAudioClassification, spec: ModelSpec, held_out: list[Recording]) -> float:
    """Top-1 among the ESC-10 labels."""
    scores = clip_scores(model, spec, held_out, device=str(model.device))[:, : len(LABELS)]
    wanted = [list(LABELS).index(recording.labels[0]) for recording in held_out]
    return float(np.mean(scores.argmax(axis=1) == wanted))


def others(rng: np.random.Generator) -> list[np.ndarray]:
    """Talk, music, knocks and things, made in code: none of the labels."""
    makers = [make for make in (*OTHERS.values(), things) for _ in range(OTHER_EXAMPLES)]
    return [make(rng, int(rng.uniform(*OTHER_S) * RATE), RATE) * np.float32(0.1) for make in makers]


def material(
    found: list[Recording], spec: ModelSpec, seed: int, rates: Sequence[int]
) -> tuple[Features, np.ndarray]:
    """Log-mel of everything that windows are mixed from, and its targets (n, C); what is made is sampled at `rates`."""
    rng = np.random.default_rng(seed)
    made = [(_sampled(samples, rates[i % len(rates)]), label) for i, (samples, label) in enumerate(alarms(rng))]
    unknown = [_sampled(samples, rates[i % len(rates)]) for i, samples in enumerate(others(rng))]
    known = [(read(each.path), list(LABELS).index(each.labels[0])) for each in found] + made
    targets = np.eye(len(spec.labels), dtype=np.float32)[[label for _, label in known]]
    targets = np.concatenate((targets, np.zeros((len(unknown), len(spec.labels)), np.float32)))
    frames = [fbank(samples, spec.fbank) for samples in [*(samples for samples, _ in known), *unknown]]
    return Features(np.concatenate(frames), np.cumsum([0, *map(len, frames[:-1])]), list(map(len, frames))), targets


def _sampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """As a microphone of `rate` Hz hands it over: a little less reaches up to 8 kHz."""
    if rate == RATE:
        return samples
    resampled: np.ndarray = soxr.resample(soxr.resample(samples, RATE, rate), rate, RATE)
    return resampled


def main() -> None:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m models.train.starter", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="the ESC-10 folder")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--hold-out", type=int, help="a fold left out of training and measured")
    stages = [recipe.steps for recipe in (TEACHER, PUPIL, FINISH)]
    parser.add_argument("--steps", type=whole, nargs=3, default=stages, help="of teacher, AST and its finish")
    parser.add_argument("--seed", type=whole, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=whole, default=0, help="processes that compose windows; 3 keep a GPU busy")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args = parser.parse_args()
    try:
        train(args)
    except ModelError as error:
        parser.error(str(error))


def train(args: argparse.Namespace) -> None:
    """All three stages, and the checkpoint that they end with."""
    if args.device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS can't be the same each time
        torch.use_deterministic_algorithms(True, warn_only=True)
    files = recordings(args.data)
    held_out = [recording for recording in files if recording.fold == args.hold_out]
    found = [recording for recording in files if recording.fold != args.hold_out]
    log.info("%d recordings for training, %d held out", len(found), len(held_out))
    labelled = config()
    spec = ModelSpec(
        name="starter",
        revision="",
        labels=tuple(labelled.id2label.values()),
        label_ids=labelled.label_ids,
        window_frames=labelled.max_length,
    )

    def mixers(seed: int, rates: Sequence[int]) -> Callable[..., Mixer]:
        features, targets = material(found, spec, seed, rates)
        return partial(Mixer, features, targets, spec.fbank, spec.window_frames, rates=rates)

    mixer = mixers(args.seed, (RATE,))
    torch.manual_seed(args.seed)
    teacher, pupil = Teacher(labelled), Pupil(from_scratch(labelled))
    pupil.ast.set_attn_implementation("eager")  # backwards the fused kernel is slow on a CPU and random on a GPU
    how = {"device": args.device, "dtype": torch.bfloat16, "workers": args.workers}
    recipe = replace(TEACHER, steps=args.steps[0], seed=args.seed)
    unfinished = args.out / f"without-{args.hold_out}"  # another fold held out is another run
    (args.out / MEASURED).unlink(missing_ok=True)
    examples = mixer(args.seed, column=labelled.time_stride)
    taught = fit(teacher, examples, recipe, unfinished / "teacher", lesson=teach, **how)
    lesson: Lesson = Learn(taught.averaged().eval().requires_grad_(False))
    recipe = replace(PUPIL, steps=args.steps[1], seed=args.seed + 1)
    learned = fit(pupil, mixer(args.seed + 1), recipe, unfinished / "pupil", lesson=lesson, **how).averaged().ast
    before = deepcopy(learned).eval().requires_grad_(False)
    lesson = Correct(before, [spec.labels.index(label) for label in WRONG])
    recipe = replace(FINISH, steps=args.steps[2], seed=args.seed + 2)
    examples = mixers(args.seed + 2, RATES)(args.seed + 2)
    finished = fit(learned, examples, recipe, unfinished / "finish", lesson=lesson, **how).averaged()
    with torch.no_grad():
        for weight, earlier in zip(finished.parameters(), before.parameters(), strict=True):
            weight.lerp_(earlier, 0.5)  # half way it has learned nearly all of it and forgotten little
    finished.save_pretrained(args.out, dtype=torch.float16)
    ASTFeatureExtractor().save_pretrained(args.out)
    if held_out:
        top1 = accuracy(finished, spec, held_out)
        measured = {"hold_out": args.hold_out, "seed": args.seed, "top1": top1}
        (args.out / MEASURED).write_text(json.dumps(measured) + "\n")
    shutil.rmtree(unfinished)


if __name__ == "__main__":
    main()
