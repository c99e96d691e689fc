"""Fine-tuning and training from scratch on ESC-10 by `streamer train` as it is: folds 1 to 3, measured on fold 4.

    python bench/finetune.py [--quick] [--data FOLDER] [--init M …] [--seeds N] [--out FOLDER]

FOLDER is the ESC-10 folder with its `credits.csv`. The bundled starter has heard fold 4: for an honest figure give as
`--init` a checkpoint trained without it (`python -m models.train.starter --data ESC10 --out hold4 --hold-out 4`). The
peer is training from scratch in the same run. Takes an hour and a half on two cores; an interrupted run goes on.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from figures import figure, finish


def listing(data, folder):
    """Write the recordings as a CSV with folds; return its path."""
    with (data / "credits.csv").open(newline="", encoding="utf-8") as file:
        rows = [(data / row["file"], row["file"].split("/")[0], row["fold"]) for row in csv.DictReader(file)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "esc10.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "labels", "fold"), *((file.resolve(), *rest) for file, *rest in rows)])
    return path


def trained(sounds, out, *options):
    """Accuracy and mAP on fold 4 of a run of `streamer train`, made now or before."""
    record = out / "training.json"
    if not (out / "model.safetensors").exists() or (out / "training.pt").exists():
        command = [sys.executable, "-m", "streamer.cli", "train", "--data", sounds, "--hold-out", "4", "--out", out]
        subprocess.run([str(part) for part in (*command, *options)], check=True, stdout=subprocess.DEVNULL)
    return json.loads(record.read_text(encoding="utf-8"))["history"][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two epochs: shows that it runs, not what it reaches")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/esc10"))
    parser.add_argument("--init", nargs="*", default=["starter"], metavar="M")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/finetune"))
    args = parser.parse_args()
    out = args.out / "quick" if args.quick else args.out
    quick = ["--epochs", 2] if args.quick else []
    figures = []
    if (args.data / "credits.csv").exists():
        sounds = listing(args.data, out)
        for name, init in [("scratch", None), *((Path(init).name, init) for init in args.init)]:
            for seed in range(args.seeds):
                options = [*(["--init", init] if init else []), "--seed", seed, *quick]
                found = trained(sounds, out / f"{name}-{seed}", *options)
                print(f"{name:<16} seed {seed}  accuracy {found['accuracy']:.4f}  mAP {found['mAP']:.4f}")
                figures += [
                    figure(f"{name}_{seed}_{measure}", found[measure], "share", 0.75, "higher")
                    for measure in ("accuracy", "mAP")
                ]  # fmt: skip
    else:
        figures = [figure("accuracy", None, "share", 0.75, "higher", why=f"no recordings in {args.data}")]
    finish("finetune", figures)


if __name__ == "__main__":
    main()
