"""The command line. Nothing heavy is imported before a command needs it: `streamer --help` answers at once.

Exit codes: 0 done or stopped as asked, 1 a fault, 2 bad configuration, arguments or input.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import CheckpointError, ModelError
from streamer import cli_models
from streamer.errors import ConfigError, SourceError, StreamerError

if TYPE_CHECKING:
    from models import ModelSpec
    from streamer.backends.base import Backend
    from streamer.config import Settings

OK, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130
DEMO_S = 40.0  # long enough for two alarms, each with its end


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        code: int = args.command(args)
    except (ConfigError, ModelError, SourceError) as error:
        print(error, file=sys.stderr)
        code = MISTAKE
    except StreamerError as error:
        print(error, file=sys.stderr)
        code = FAULT
    except PermissionError as error:
        print(f"{error.filename} may not be read or written by this user: {error.strerror}", file=sys.stderr)
        code = MISTAKE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    return code


# -- commands ----------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Listen until told to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):  # until the daemon takes over
        signal.signal(number, lambda *_: sys.exit(OK))
    from streamer.app import serve

    asyncio.run(serve(_settings(args)))
    return OK


def demo(args: argparse.Namespace) -> int:
    """Show the whole line at work."""
    from streamer.demo import demo as show

    if not args.verbose:
        logging.getLogger().setLevel(logging.WARNING)
    asyncio.run(show(_default_settings(), args.seconds))
    return OK


def detect(args: argparse.Namespace) -> int:
    """Print the events of recordings."""
    from streamer.replay import replay

    settings = _settings(args)
    stream = args.stream or next(iter(settings.streams))
    if stream not in settings.streams:
        raise ConfigError(f"--stream: unknown stream {stream!r}; known: {', '.join(settings.streams)}")
    backend = _backend(settings)

    def events(path: Path) -> Iterable[dict[str, Any]]:
        for message in replay(path, settings, stream, backend):
            if message.topic.endswith("/event") and isinstance(message.payload, Mapping):
                yield {"file": str(path), **message.payload}

    def row(event: dict[str, Any]) -> str:
        length = "" if event["offset_s"] is None else f" {event['duration_s']:8.2f} s, {event['end_reason']}"
        at = event["onset_s"] if event["offset_s"] is None else event["offset_s"]
        return f"{at:9.2f} s  {event['event_type']:<5} {event['label']:<28} {event['score_peak']:.2f} {length}"

    return _each_file(args, events, row)


def tag(args: argparse.Namespace) -> int:
    """Print the scores of recordings' windows."""
    from streamer.tag import tag as scores_of

    backend = _backend(_settings(args, for_model=False))

    def row(window: dict[str, Any]) -> str:
        scores = "  ".join(f"{entry['label']} {entry['score']:.2f}" for entry in window["scores"])
        return f"{window['start_s']:8.2f} - {window['end_s']:.2f} s  {scores}"

    return _each_file(args, lambda path: scores_of(path, backend, args.top), row)


def devices(args: argparse.Namespace) -> int:
    """List capture devices."""
    from dataclasses import asdict

    from streamer.sources.microphone import devices as known

    found = known()
    for device in found:
        mark = "*" if device.is_default else " "
        print(
            json.dumps(asdict(device), ensure_ascii=False)
            if args.json
            else f"{mark} {device.id}\n    {device.name}, {device.host_api}, "
            f"{device.channels} channels, {device.sample_rate} Hz"
        )
    if not found:
        print("no capture device; plug in a microphone, or check the sound server", file=sys.stderr)
    elif not args.json:
        print("* is the system's default. Name a device by its id in the configuration: it outlives a reboot.")
    return OK


def labels(args: argparse.Namespace) -> int:
    """List what a model can hear."""
    from models import load_spec

    spec = load_spec(args.model or "starter")
    for label, label_id in zip(spec.labels, spec.label_ids, strict=True):
        if args.json:
            print(json.dumps({"label": label, "label_id": label_id}, ensure_ascii=False))
        else:
            print(f"{label_id:<14} {label}")
    return OK


def check(args: argparse.Namespace) -> int:
    """Report every mistake of a configuration."""
    from streamer import config, edges

    if args.schema:
        print(json.dumps(config.schema(edges.edge_configs()), indent=2))
        return OK
    settings = _settings(args)
    print(config.effective(settings) if args.print else f"{_config_path(args)}: no mistakes")
    return OK


# -- what they share ---------------------------------------------------------------------------------------------------


def _each_file(args: argparse.Namespace, records: Any, row: Any) -> int:
    """Print every file's records, one a line; a bad file is named and the others go on."""
    as_json = args.json or not sys.stdout.isatty()
    code = OK
    for path in args.files:
        if not as_json:
            print(path)
        try:
            is_silent = True
            for record in records(path):
                is_silent = False
                print(json.dumps(record, ensure_ascii=False) if as_json else row(record), flush=True)
            if is_silent and not as_json:
                print("  nothing that a rule reports; 'streamer tag' shows the scores")
        except SourceError as error:
            print(error, file=sys.stderr)
            code = MISTAKE
    return code


def _config_path(args: argparse.Namespace) -> Path:
    """The file named with -c, else config.yaml here, else the one that comes with the package."""
    here = Path("config.yaml")
    return args.config or (here if here.is_file() else _packaged_config())


def _packaged_config() -> Path:
    """The default configuration: beside this file in an installed package, at the top of a checkout."""
    package = Path(__file__).parent
    beside = package / "config.yaml"
    return beside if beside.is_file() else package.parent / "config.yaml"


def _settings(args: argparse.Namespace, *, for_model: bool = True) -> "Settings":
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

    settings = config.load(_config_path(args), edges.edge_config, spec_of if for_model else None)
    if model:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"checkpoint": model})})
    return settings


def _default_settings() -> "Settings":
    from streamer import config, edges

    return config.load(_packaged_config(), edges.edge_config)


def _backend(settings: "Settings") -> "Backend":
    from streamer import edges

    return edges.build_backend(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streamer", description="Listens to microphones and says what it hears.")
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(command=function)
        return sub

    def config_option(sub: argparse.ArgumentParser) -> None:
        text = "configuration (default: config.yaml here, else the one that comes with streamer)"
        sub.add_argument("-c", "--config", type=Path, metavar="FILE", help=text)

    def model_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--model", metavar="M", help="bundled name, checkpoint folder or hub id (the configured one)")

    def json_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="JSON lines (detect and tag: always so into a pipe)")

    config_option(command(run, "listen and publish, until told to stop"))

    sub = command(demo, "show the whole line at work, with a scene made in code and a broker of its own")
    sub.add_argument("--seconds", type=_seconds, default=DEMO_S, metavar="N", help=f"length of the scene ({DEMO_S:g})")

    sub = command(detect, "print the events of recordings, as live listening would report them")
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE")
    sub.add_argument("--stream", metavar="NAME", help="whose hop and rules to use (the configuration's first)")
    config_option(sub)
    model_option(sub)
    json_option(sub)

    sub = command(tag, "print the scores of recordings, window by window")
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE")
    sub.add_argument("--top", type=cli_models.count, default=5, metavar="K", help="labels a window (5)")
    config_option(sub)
    model_option(sub)
    json_option(sub)

    json_option(command(devices, "list capture devices with ids that outlive a reboot"))

    sub = command(labels, "list what a model can hear")
    model_option(sub)
    json_option(sub)

    sub = command(check, "report every mistake of a configuration at once")
    config_option(sub)
    sub.add_argument("--print", action="store_true", help="print the effective configuration, secrets masked")
    sub.add_argument("--schema", action="store_true", help="print the JSON Schema of configurations")

    cli_models.add_commands(command, commands)
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 3600 seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
