"""The command line. Nothing heavy is imported before a command needs it: `streamer --help` answers at once.

Exit codes: 0 done or stopped as asked, 1 a fault, 2 bad configuration, arguments or input.
"""

import argparse
import asyncio
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ModelError
from streamer import cli_bench, cli_calibrate, cli_events, cli_models
from streamer import cli_shared as shared
from streamer.cli_shared import FAULT, INTERRUPTED, MISTAKE, OK
from streamer.errors import ConfigError, SourceError, StreamerError

if TYPE_CHECKING:
    from streamer.settings import Settings

DEMO_S = 40.0  # long enough for two alarms, each with its end


def program() -> None:
    """The process: `main`, and its exit code.

    It ends at once, not as Python does. To take down torch costs a third of a second, on a busy machine more than a
    stop has left; and a thread that still computes in it (a model that was too slow to stop) aborts the process, when
    it comes back to find no interpreter.
    """
    code = main()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
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
    reload = asyncio.Event()
    signal.signal(signal.SIGHUP, lambda *_: reload.set())  # the file may have been read already
    from streamer.daemon import serve

    asyncio.run(serve(shared.settings_of(args), lambda: shared.settings_of(args), reload))
    return OK


def demo(args: argparse.Namespace) -> int:
    """Show the whole line at work."""
    from streamer.demo import demo as show

    if not args.verbose:
        logging.getLogger().setLevel(logging.WARNING)
    asyncio.run(show(_default_settings(), args.seconds))
    return OK


def tag(args: argparse.Namespace) -> int:
    """Print the scores of recordings' windows, as long as the checkpoint's own."""
    from streamer.tag import tag as scores_of

    settings = shared.settings_of(args, for_model=False)
    whole = settings.model.model_copy(update={"window_s": None})
    backend = shared.backend_of(settings.model_copy(update={"model": whole}))

    def row(window: dict[str, Any]) -> str:
        scores = "  ".join(f"{entry['label']} {entry['score']:.2f}" for entry in window["scores"])
        return f"{window['start_s']:8.2f} - {window['end_s']:.2f} s  {scores}"

    return shared.each_file(args, lambda path: scores_of(path, backend, args.top), row)


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

    spec = load_spec(args.model or shared.settings_of(args, for_model=False).model.checkpoint)
    for label, label_id in zip(spec.labels, spec.label_ids, strict=True):
        if args.json:
            print(json.dumps({"label": label, "label_id": label_id}, ensure_ascii=False))
        else:
            print(f"{label_id:<14} {label}")
    return OK


def check(args: argparse.Namespace) -> int:
    """Report every mistake of a configuration."""
    from streamer import config, edges
    from streamer.journal import place_of

    if args.schema:
        print(json.dumps(config.schema(edges.edge_configs()), indent=2))
        return OK
    settings = shared.settings_of(args)
    place_of(settings)
    print(config.effective(settings) if args.print else f"{shared.config_path(args)}: no mistakes")
    return OK


# -- the parser --------------------------------------------------------------------------------------------------------


def _default_settings() -> "Settings":
    from streamer import config, edges

    return config.load(shared.packaged_config(), edges.edge_config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streamer", description="Listens to microphones and says what it hears.")
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(command=function)
        return sub

    shared.config_option(command(run, "listen and publish, until told to stop"))

    sub = command(demo, "show the whole line at work, with a scene made in code and a broker of its own")
    sub.add_argument("--seconds", type=_seconds, default=DEMO_S, metavar="N", help=f"length of the scene ({DEMO_S:g})")

    cli_events.add_commands(command)

    sub = command(tag, "print the scores of recordings, window by window")
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE")
    sub.add_argument("--top", type=shared.count, default=5, metavar="K", help="labels a window (5)")
    shared.config_option(sub)
    shared.model_option(sub)
    shared.json_option(sub)

    shared.json_option(command(devices, "list capture devices with ids that outlive a reboot"))

    sub = command(labels, "list what a model can hear")
    shared.config_option(sub)
    shared.model_option(sub)
    shared.json_option(sub)

    sub = command(check, "report every mistake of a configuration at once")
    shared.config_option(sub)
    sub.add_argument("--print", action="store_true", help="print the effective configuration, secrets masked")
    sub.add_argument("--schema", action="store_true", help="print the JSON Schema of configurations")

    cli_calibrate.add_commands(command)
    cli_bench.add_commands(command)
    cli_models.add_commands(command, commands)
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 3600 seconds")
    return seconds


if __name__ == "__main__":
    program()
