"""The recipe of `models/starter`: a small AST from scratch on ESC-10 and synthesised alarms.

    python -m models.train.starter --data ESC10 --out FOLDER --hold-out 4     # measure on fold 4
    python -m models.train.starter --data ESC10 --out models/starter          # what is shipped

`ESC10` is a folder with a sub-folder per ESC-10 class of `<fold>-….ogg` files and their `credits.csv`. The recordings
under CC Sampling+ are left out. Nothing random is left to chance: a seed gives the same clips, windows and weights.
"""

import argparse
import csv
import json
import logging
from pathlib import Path

import numpy as np
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from models.fbank import fbank
from models.spec import ModelSpec
from models.train.alarms import ALARMS
from models.train.data import Recording, read
from models.train.evaluate import clip_scores
from models.train.features import Features
from models.train.mixing import Mixer
from models.train.recipe import Recipe
from models.train.scratch import from_scratch, small
from models.train.training import STATE, train

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


def config() -> ASTConfig:
    """The small AST with the starter's labels."""
    names = [name for name, _ in LABELS.values()] + list(ALARMS)
    ids = (*(label_id for _, label_id in LABELS.values()), *(ALARM_IDS[name] for name in ALARMS))
    return small(id2label=dict(enumerate(names)), label_ids=ids, problem_type="multi_label_classification")


def recordings(data: Path) -> list[Recording]:
    """Every recording whose licence allows it, with its folder as label, sorted."""
    with (data / "credits.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "sampling" not in row["licence"].lower()]
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


def accuracy(model: ASTForAudioClassification, spec: ModelSpec, held_out: list[Recording]) -> dict[str, float]:
    """Top-1 among the ESC-10 labels."""
    scores = clip_scores(model, spec, held_out, device=str(model.device))[:, : len(LABELS)]
    wanted = [list(LABELS).index(recording.labels[0]) for recording in held_out]
    return {"top1": float(np.mean(scores.argmax(axis=1) == wanted))}


def main() -> None:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m models.train.starter", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="the ESC-10 folder")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--hold-out", type=int, help="a fold left out of training and measured")
    parser.add_argument("--init", type=Path, help="a checkpoint folder to go on from")
    parser.add_argument("--lr", type=float, default=Recipe().lr)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    files = recordings(args.data)
    held_out = [recording for recording in files if recording.fold == args.hold_out]
    sounds = [(read(each.path), list(LABELS).index(each.labels[0])) for each in files if each not in held_out]
    log.info("%d recordings for training, %d held out", len(sounds), len(held_out))
    sounds += alarms(np.random.default_rng(args.seed))
    torch.manual_seed(args.seed)
    model = ASTForAudioClassification.from_pretrained(args.init) if args.init else from_scratch(config())
    spec = ModelSpec(
        name="starter",
        revision="",
        labels=tuple(model.config.id2label.values()),
        label_ids=model.config.label_ids,
        window_frames=model.config.max_length,
    )
    targets = np.eye(model.config.num_labels, dtype=np.float32)[[label for _, label in sounds]]
    frames = [fbank(samples, spec.fbank) for samples, _ in sounds]
    features = Features(np.concatenate(frames), np.cumsum([0, *map(len, frames[:-1])]), list(map(len, frames)))
    mixer = Mixer(features, targets, spec.fbank, spec.window_frames, args.seed)
    recipe = Recipe(steps=args.steps, lr=args.lr, seed=args.seed)
    check = (lambda averaged: accuracy(averaged, spec, held_out)) if held_out else None
    history = train(model, mixer, recipe, args.out, device=args.device, check=check)
    ASTFeatureExtractor().save_pretrained(args.out)
    if held_out:
        measured = {"hold_out": args.hold_out, "top1": history[-1]["top1"]}
        (args.out / "measured.json").write_text(json.dumps(measured) + "\n")
    (args.out / STATE).unlink()


if __name__ == "__main__":
    main()
