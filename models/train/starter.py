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
from torch import nn

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from models.spec import FbankSpec
from models.train.alarms import ALARMS
from models.train.data import Clip, clip, read
from models.train.mixing import Mixer
from models.train.training import Schedule, train

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
    """2.8 M parameters: a twelfth of AST-base's depth times width, patches that do not overlap."""
    names = [name for name, _ in LABELS.values()] + list(ALARMS)
    return ASTConfig(
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        layer_norm_eps=1e-6,
        frequency_stride=16,
        time_stride=16,
        id2label=dict(enumerate(names)),
        label_ids=(*(label_id for _, label_id in LABELS.values()), *(ALARM_IDS[name] for name in ALARMS)),
        problem_type="multi_label_classification",
    )


def initialise(model: ASTForAudioClassification) -> None:
    """A start from which a few hundred recordings suffice.

    Positions already tell pitch and time apart (two-dimensional sines, after Vaswani et al. 2017, §3.5); patches and
    layers begin at a scale that passes signals on. From the reference's start the data taught nothing in 650 steps.
    """
    embeddings = model.audio_spectrogram_transformer.embeddings
    n_mels, n_columns = model.config.grid
    mel, column = np.divmod(np.arange(n_mels * n_columns), n_columns)
    sines = np.hstack((_sines(4 * mel, model.config.hidden_size // 2), _sines(column, model.config.hidden_size // 2)))
    with torch.no_grad():
        embeddings.position_embeddings[0, 2:] = torch.from_numpy(0.3 * sines)
        nn.init.normal_(embeddings.patch_embeddings.projection.weight, std=1 / model.config.patch_size)
        nn.init.normal_(embeddings.cls_token, std=0.02)
        nn.init.normal_(embeddings.distillation_token, std=0.02)
    for module in model.audio_spectrogram_transformer.layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def _sines(position: np.ndarray, width: int) -> np.ndarray:
    angles = position[:, None] / 10000 ** (np.arange(width // 2) / (width // 2))
    return np.hstack((np.sin(angles), np.cos(angles)))


def recordings(data: Path) -> list[tuple[Path, int, int]]:
    """(file, label, fold) of every recording whose licence allows it, sorted."""
    with (data / "credits.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "sampling" not in row["licence"].lower()]
    order = list(LABELS)
    return sorted((data / row["file"], order.index(row["file"].split("/")[0]), int(row["fold"])) for row in rows)


def alarms(rng: np.random.Generator, spec: FbankSpec) -> list[Clip]:
    """Synthesised clips of each alarm, a third of them through an echoing room."""
    made = []
    for i, make in enumerate(ALARMS.values(), start=len(LABELS)):
        for _ in range(ALARM_EXAMPLES):
            samples = make(rng)
            if rng.random() < 0.35:
                decay = np.exp(-np.arange(8000) / (16000 * rng.uniform(0.05, 0.3) / 6.9))
                echo = np.convolve(samples, rng.normal(0, 1, 8000) * decay * 0.05)[: len(samples)]
                samples = (samples + echo).astype(np.float32)
            made.append(clip(samples, (i,), spec))
    return made


def accuracy(model: ASTForAudioClassification, clips: list[tuple[np.ndarray, int]]) -> dict[str, float]:
    """Top-1 among the ESC-10 labels, each clip padded as the reference extractor pads."""
    extract = ASTFeatureExtractor()
    right = 0
    with torch.inference_mode():
        for samples, label in clips:
            logits = model(torch.from_numpy(extract(samples)["input_values"])).logits
            right += int(logits[0, : len(LABELS)].argmax()) == label
    return {"top1": right / len(clips)}


def main() -> None:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m models.train.starter", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="the ESC-10 folder")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--hold-out", type=int, help="a fold left out of training and measured")
    parser.add_argument("--init", type=Path, help="a checkpoint folder to go on from")
    parser.add_argument("--lr", type=float, default=Schedule().lr)
    parser.add_argument("--steps", type=int, default=Schedule().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    spec, rng = FbankSpec(), np.random.default_rng(args.seed)
    files = [(read(path), label, fold) for path, label, fold in recordings(args.data)]
    clips = [clip(samples, (label,), spec) for samples, label, fold in files if fold != args.hold_out]
    held_out = [(samples, label) for samples, label, fold in files if fold == args.hold_out]
    log.info("%d recordings for training, %d held out", len(clips), len(held_out))
    torch.manual_seed(args.seed)
    if args.init:
        model = ASTForAudioClassification.from_pretrained(args.init)
    else:
        model = ASTForAudioClassification(config())
        initialise(model)
    mixer = Mixer(clips + alarms(rng, spec), model.config.num_labels, spec, model.config.max_length, args.seed)
    schedule = Schedule(steps=args.steps, lr=args.lr, seed=args.seed)
    check = (lambda averaged: accuracy(averaged, held_out)) if held_out else None
    train(model, mixer, schedule, args.out, device=args.device, check=check)
    ASTFeatureExtractor().save_pretrained(args.out)
    if check:
        figures = accuracy(ASTForAudioClassification.from_pretrained(args.out), held_out)
        (args.out / "measured.json").write_text(json.dumps({"hold_out": args.hold_out, **figures}) + "\n")


if __name__ == "__main__":
    main()
