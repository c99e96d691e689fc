"""The command line's second half: commands that make, measure and show models. Nothing heavy is imported at the top."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from streamer import cli_shared as shared
from streamer import cli_soundscapes
from streamer.cli_shared import OK, Command, count, number, whole
from streamer.errors import BackendError, ConfigError


def train(args: argparse.Namespace) -> int:
    """Fine-tune a checkpoint, or train a small one from scratch."""
    from models.train.finetune import Choices, learn

    choices = Choices(
        init=args.init,
        examples=args.examples,
        loss=args.loss,
        hold_out=args.hold_out,
        epochs=args.epochs,
        batch=args.batch,
        lr=args.lr,
        max_length=args.max_length,
        mixup=args.mixup,
        freq_mask=args.freq_mask,
        time_mask=args.time_mask,
        seed=args.seed,
    )
    device, dtype = _hardware(args.device, args.dtype)
    if device.startswith("cuda"):
        _make_cuda_deterministic()
    watch = _board(args.out) if args.tensorboard else None
    try:
        with _memory(device, "give a smaller --batch"):
            record = learn(args.data, args.out, choices, device=device, dtype=dtype, watch=watch)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on from what {args.out} holds, or begins again", file=sys.stderr)
        raise
    figures = record["history"][-1]
    if args.json:
        print(json.dumps({"out": str(args.out), **figures}))
    else:
        print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        print(f"{args.out} is ready: streamer tag FILE --model {args.out}")
    return OK


def stats(args: argparse.Namespace) -> int:
    """Print the mean and standard deviation of a data set's features."""
    from dataclasses import asdict

    from models import load_spec
    from models.spec import FbankSpec
    from models.train.statistics import of_data

    found = of_data(args.data, load_spec(args.model).fbank if args.model else FbankSpec())
    text = f"mean {found.mean:.7f}\nstd  {found.std:.7f}\n{found.n_frames} frames"
    print(json.dumps(asdict(found)) if args.json else text)
    return OK


def evaluate(args: argparse.Namespace) -> int:
    """Measure checkpoints on labelled recordings, or a configuration on soundscapes."""
    cli_soundscapes.check(args)
    if args.soundscapes:
        return cli_soundscapes.evaluate(args)
    from models.train.data import recordings
    from models.train.evaluate import evaluate as measured

    device, _ = _hardware(args.device)
    with _memory(device, "give --device cpu"):
        report = measured(args.model, recordings(args.data), average=args.average, fold=args.fold, device=device)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if args.json else report.table(), flush=True)
    if args.confusion:
        from models.train.confusion import picture

        picture(report, args.confusion)
    return OK


def info(args: argparse.Namespace) -> int:
    """Show what a checkpoint is."""
    from models.info import info as about
    from models.info import table

    found = about(args.checkpoint)
    print(json.dumps(found, ensure_ascii=False) if args.json else table(found))
    return OK


def convert(args: argparse.Namespace) -> int:
    """Write any checkpoint as a folder that the daemon loads."""
    from models.convert import convert as write

    write(
        args.source,
        args.out,
        labels=args.labels,
        max_length=args.max_length,
        strides=tuple(args.strides) if args.strides else None,
        mean=args.mean,
        std=args.std,
        dtype=args.dtype,
    )
    print(f"{args.out} is ready: streamer tag FILE --model {args.out}")
    return OK


def add_commands(command: Command, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this module's commands to the command line."""
    _add_train(command(train, "fine-tune a checkpoint on one's own sounds, or train a small one from scratch"))

    sub = command(stats, "print the normalisation mean and standard deviation of a data set")
    _data(sub)
    sub.add_argument("--model", metavar="M", help="whose sampling rate and mel bins to use (16 kHz, 128 bins)")
    _json(sub)

    _add_evaluate(command(evaluate, "measure checkpoints on labelled clips, or a configuration on soundscapes"))

    model = commands.add_parser("model", help="show or convert a checkpoint")
    kinds = model.add_subparsers(required=True, metavar="COMMAND")
    sub = kinds.add_parser("info", help="labels, sizes, hash, window, floating-point operations")
    sub.set_defaults(command=info)
    sub.add_argument("checkpoint", metavar="M", help="bundled name, folder or hub id")
    _json(sub)
    _add_convert(kinds.add_parser("convert", help="write any checkpoint as a folder that the daemon loads"))


def _add_evaluate(sub: argparse.ArgumentParser) -> None:
    text = (
        "bundled name, folder or hub id; for clips several make an ensemble, and '{fold}' stands for the fold left out "
        "of training; for soundscapes one (the configured one)"
    )
    sub.add_argument("--model", nargs="+", metavar="M", help=text)
    _json(sub)

    clips = sub.add_argument_group("clips: accuracy, mAP, AUC, d', per label")
    _data(clips, is_required=False)
    clips.add_argument("--fold", type=int, metavar="K", help="only the recordings of this fold")
    clips.add_argument("--average", action="store_true", help="mean of the models' weights instead of their scores")
    clips.add_argument("--confusion", type=Path, metavar="FILE.png", help="draw which label is taken for which")
    _device(clips)

    scenes = sub.add_argument_group("soundscapes: what is missed, made up, how late and how far off events are")
    text = "audio files, annotations.tsv (filename, onset, offset, event_label) and, if there, durations.tsv"
    scenes.add_argument("--soundscapes", type=Path, metavar="FOLDER", help=text)
    shared.config_option(scenes)
    text = "whose hop and rules to use (the configuration's first)"
    scenes.add_argument("--stream", metavar="NAME", help=text)


def _add_train(sub: argparse.ArgumentParser) -> None:
    _data(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    sub.add_argument("--init", metavar="M", help="bundled name, folder or hub id to go on from (none: from scratch)")
    sub.add_argument(
        "--examples",
        choices=("scenes", "clips"),
        default="scenes",
        help="scenes: sounds anywhere in a soundscape, as a microphone hears them; clips: one recording a window, "
        "mixup, masks, as the paper trains (scenes)",
    )
    text = "bce: labels one by one; ce: one label a recording (bce)"
    sub.add_argument("--loss", choices=("bce", "ce"), default="bce", help=text)
    text = "a fold of the CSV, or the share of each label's recordings, kept out of training and measured on (0.2)"
    sub.add_argument("--hold-out", type=_hold_out, default=0.2, metavar="X", help=text)
    sub.add_argument("--epochs", type=count, metavar="N", help="(25; from scratch at least 1600 steps)")
    sub.add_argument("--batch", type=count, metavar="N", help="windows a step (32)")
    sub.add_argument("--lr", type=_rate, metavar="X", help="peak learning rate (5e-5 at 768 wide; from scratch 1e-3)")
    sub.add_argument("--max-length", type=count, metavar="T", help="frames of a window (the checkpoint's, or 1024)")
    sub.add_argument("--mixup", type=_share, default=0.5, metavar="X", help="clips: share of mixed windows (0.5)")
    sub.add_argument("--freq-mask", type=whole, default=24, metavar="N", help="clips: mel bins hidden at most (24)")
    sub.add_argument("--time-mask", type=whole, metavar="N", help="clips: frames hidden at most (3/16 of a window)")
    sub.add_argument("--seed", type=whole, default=0, metavar="N", help="of everything random (0)")
    sub.add_argument("--tensorboard", action="store_true", help="write curves to DIR/tensorboard")
    sub.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="to compute in (auto)")
    _device(sub)
    _json(sub)


def _add_convert(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(command=convert)
    sub.add_argument("source", metavar="SOURCE", help="bundled name, folder, hub id, or the authors' .pth file")
    sub.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    text = "label names: the authors' class_labels_indices.csv, or a text file with one a line"
    sub.add_argument("--labels", type=Path, metavar="FILE", help=text)
    sub.add_argument("--max-length", type=count, metavar="T", help="frames of a window")
    sub.add_argument("--strides", type=count, nargs=2, metavar=("F", "T"), help="mel bins and frames between patches")
    sub.add_argument("--mean", type=float, metavar="X", help="of the features it was trained on (AudioSet's)")
    sub.add_argument("--std", type=float, metavar="X", help="of the same")
    sub.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights in the file")


def _data(sub: "argparse._ActionsContainer", *, is_required: bool = True) -> None:
    text = "a folder with a sub-folder per label, or a CSV of file,labels[,fold] with ';' between labels"
    sub.add_argument("--data", type=Path, required=is_required, metavar="DIR|CSV", help=text)


def _json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _device(sub: "argparse._ActionsContainer") -> None:
    sub.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:0 (auto)")


def _hardware(device: str, dtype: str = "float32") -> tuple[str, Any]:
    """Torch's device and number format, picked as the daemon picks them, but for float16, whose gradients vanish."""
    import torch

    from streamer.backends.local import pick_device, pick_dtype

    try:
        picked = pick_device(device)
    except LookupError as error:
        raise ConfigError(f"--device: {error}") from None
    return picked, pick_dtype(dtype, picked, [torch.bfloat16])


def _make_cuda_deterministic() -> None:
    """Have a seed give the same weights on a GPU too, as far as its kernels can; torch warns of those that can't."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def _memory(device: str, remedy: str) -> Iterator[None]:
    """Say it in a sentence when the device's memory is full."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise BackendError(f"{device} has too little memory for this; {remedy}") from None


def _board(folder: Path) -> Callable[[dict[str, float]], None]:
    """What writes an epoch's figures for TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("--tensorboard needs TensorBoard; run: pip install -e '.[train]'") from None

    @cache
    def writer() -> Any:  # made when there is something to write: by then the folder is known to be good
        return SummaryWriter(folder / "tensorboard")

    def watch(figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if name != "step":
                writer().add_scalar(name, value, int(figures["step"]))
        writer().flush()

    return watch


def _hold_out(text: str) -> float:
    value = number(text)
    if not (0 <= value < 1 or (value >= 1 and value.is_integer())):
        raise argparse.ArgumentTypeError(f"{text} is neither a share under 1 nor the number of a fold")
    return value


def _share(text: str) -> float:
    share = number(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return share


def _rate(text: str) -> float:
    rate = number(text)
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return rate
