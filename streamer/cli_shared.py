"""What commands share: reading the configuration, loading its model, printing what came of files."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import CheckpointError
from streamer.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from models import ModelSpec
    from streamer.backends.base import Backend
    from streamer.settings import Settings

OK, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130
Command = Callable[[Any, str], argparse.ArgumentParser]
Record = dict[str, Any]


def settings_of(args: argparse.Namespace, *, for_model: bool = True) -> "Settings":
    """The configuration, with the model of --model; unless `for_model`, its rules need not fit that model."""
    from models import load_spec
    from streamer import config, edges

    model = getattr(args, "model", None)
    asked = load_spec(model) if model else None

    def spec_of(checkpoint: str) -> "ModelSpec":
        try:
            return asked or load_spec(checkpoint)
        except CheckpointError as error:
            raise ConfigError(str(error)) from None

    settings = config.load(config_path(args), edges.edge_config, spec_of if for_model else None)
    if model:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"checkpoint": model})})
    return settings


def config_path(args: argparse.Namespace) -> Path:
    """The file named with -c, else config.yaml here, else the one that comes with the package."""
    here = Path("config.yaml")
    return args.config or (here if here.is_file() else packaged_config())


def packaged_config() -> Path:
    """The default configuration: beside this file in an installed package, at the top of a checkout."""
    package = Path(__file__).parent
    beside = package / "config.yaml"
    return beside if beside.is_file() else package.parent / "config.yaml"


def backend_of(settings: "Settings") -> "Backend":
    """Load the model that `settings` name."""
    from streamer import edges

    return edges.build_backend(settings)


def stream_of(settings: "Settings", name: str | None) -> str:
    """The stream called `name`, whose hop and rules are used; None: the first."""
    stream = name or next(iter(settings.streams))
    if stream not in settings.streams:
        raise ConfigError(f"--stream: unknown stream {stream!r}; known: {', '.join(settings.streams)}")
    return stream


def is_for_programs(args: argparse.Namespace) -> bool:
    """Whether to print JSON lines: asked for, or nobody looks."""
    return args.json or not sys.stdout.isatty()


def show(record: Record, row: Callable[[Record], str], *, as_json: bool) -> None:
    """Print a record: as JSON, or as the row that people read."""
    print(json.dumps(record, ensure_ascii=False) if as_json else row(record), flush=True)


def each_file(
    args: argparse.Namespace, records: Callable[[Path], Iterable[Record]], row: Callable[[Record], str]
) -> int:
    """Print every file's records, one a line; a bad file is named and the others go on."""
    as_json = is_for_programs(args)
    code = OK
    for path in args.files:
        if not as_json:
            print(path)
        try:
            is_silent = True
            for record in records(path):
                is_silent = False
                show(record, row, as_json=as_json)
            if is_silent and not as_json:
                print("  nothing that a rule reports; 'streamer tag' shows the scores")
        except SourceError as error:
            print(error, file=sys.stderr)
            code = MISTAKE
    return code


def hours_bar(total: float | None, text: str) -> Any:
    """Hours on a terminal; nothing elsewhere."""
    from tqdm import tqdm

    share = "" if total is None else " of {total:.2f} h, {percentage:.0f}%"
    form = "{desc}: {n:.2f} h" + share + " [{elapsed}]"
    return tqdm(total=total, disable=None, leave=False, desc=text, bar_format=form)


def config_option(sub: "argparse._ActionsContainer") -> None:
    """`-c FILE`."""
    text = "configuration (default: config.yaml here, else the one that comes with streamer)"
    sub.add_argument("-c", "--config", type=Path, metavar="FILE", help=text)


def model_option(sub: argparse.ArgumentParser) -> None:
    """`--model M`."""
    sub.add_argument("--model", metavar="M", help="bundled name, checkpoint folder or hub id (the configured one)")


def json_option(sub: argparse.ArgumentParser) -> None:
    """`--json`."""
    text = "JSON lines (detect, events and tag: always so into a pipe)"
    sub.add_argument("--json", action="store_true", help=text)


def count(text: str) -> int:
    """An argument that counts things."""
    if whole(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return whole(text)


def whole(text: str) -> int:
    """An argument that counts things, or says that there are none."""
    value = number(text)
    if value < 0 or not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(value)


def number(text: str) -> float:
    """An argument that is any number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
