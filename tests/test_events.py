"""`streamer events`: the past, as people and programs ask for it."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from streamer import cli
from streamer.cli_events import when
from streamer.sinks import sqlite

START = json.loads((Path(__file__).parent / "golden" / "start.json").read_text())
END = json.loads((Path(__file__).parent / "golden" / "end.json").read_text())
INTERRUPTED = json.loads((Path(__file__).parent / "golden" / "interrupted.json").read_text())


def row(payload: dict[str, Any]) -> tuple[Any, ...]:
    return (*(payload[column] for column in sqlite.COLUMNS), json.dumps(payload))


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Four events on a day in November: two have ended, one was interrupted, one goes on."""
    path = tmp_path / "events.sqlite"
    told = [
        END | {"id": "1", "onset": "2026-11-22T10:00:00.000Z"},
        END | {"id": "2", "onset": "2026-11-22T11:00:00.000Z", "rule": "dog_bark", "label": "Bark"},
        INTERRUPTED | {"id": "3", "onset": "2026-11-22T12:00:00.000Z", "stream": "yard"},
        START | {"id": "4", "onset": "2026-11-22T13:00:00.000Z"},
    ]
    sqlite.write(path, [row(payload) for payload in told], None)
    return path


@pytest.fixture
def config(tmp_path: Path, history: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "node: garage\nmodel: {checkpoint: nowhere}\nstreams: {mic: {source: {type: microphone}}}\n"
        f"sinks:\n  log: {{type: jsonl, path: x.jsonl}}\n  history: {{type: sqlite, path: {history}}}\n"
    )
    return path


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine is in Greenwich."""
    import time

    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(("arguments", "ids"), [
    ([], "1234"),
    (["--since", "2026-11-22T11:00"], "234"),
    (["--since", "2026-11-22T12:00+01:00"], "234"),
    (["--until", "2026-11-22T11:00:00Z"], "1"),
    (["--since", "2026-11-22T10:30", "--until", "2026-11-22T12:30", "--stream", "mic"], "2"),
    (["--rule", "dog_bark"], "2"),
    (["--limit", "2"], "34"),
    (["--stream", "attic"], ""),
    (["--since", "1m"], ""),
])  # fmt: skip
def test_what_is_asked_for(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], ids: str
) -> None:
    assert cli.main(["events", "-c", str(config), *arguments]) == 0
    assert "".join(json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()) == ids


def test_into_a_pipe_go_whole_events(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["events", "--db", str(history), "--limit", "1"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        START | {"id": "4", "onset": "2026-11-22T13:00:00.000Z"}
    ]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, utc: None) -> Callable[[], None]:
    """Somebody looks, once pytest has put its own standard output in place."""
    return lambda: monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def test_people_get_a_table(history: Path, capsys: pytest.CaptureFixture[str], terminal: Callable[[], None]) -> None:
    terminal()
    assert cli.main(["events", "--db", str(history)]) == 0
    assert capsys.readouterr().out == (
        "began                stream     rule             label                        peak     lasted\n"
        "2026-11-22 10:00:00  mic        smoke_alarm      Smoke detector, smoke alarm  0.95      3.2 s, quiet\n"
        "2026-11-22 11:00:00  mic        dog_bark         Bark                         0.95      3.2 s, quiet\n"
        "2026-11-22 12:00:00  yard       smoke_alarm      Smoke detector, smoke alarm  0.91        ?    interrupted\n"
        "2026-11-22 13:00:00  mic        smoke_alarm      Smoke detector, smoke alarm  0.91        ?    goes on\n"
    )


def test_people_are_told_of_nothing(
    history: Path, capsys: pytest.CaptureFixture[str], terminal: Callable[[], None]
) -> None:
    terminal()
    assert cli.main(["events", "--db", str(history), "--rule", "fox"]) == 0
    assert capsys.readouterr().out == f"no such events in {history}\n"


def test_a_configuration_without_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("node: garage\nstreams: {mic: {source: {type: microphone}}}\n")
    assert cli.main(["events", "-c", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"{path}: no sink of type sqlite keeps a history; "
        "add one, as 'sinks: {history: {type: sqlite, path: events.sqlite}}', or name a file with --db\n"
    )


def test_a_history_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["events", "--db", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path / 'none'}: no such file; it is made with the first event, by 'streamer run'\n"
    )


@pytest.mark.usefixtures("utc")
def test_times_that_are_swapped(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--db", str(history), "--since", "2026-11-22T12:00", "--until", "2026-11-22"]
    assert cli.main(["events", *arguments]) == 2
    assert capsys.readouterr().err == (
        "--until 2026-11-22 00:00:00 is not after --since 2026-11-22 12:00:00; swap them, or leave one out\n"
    )


NOW = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(("text", "moment"), [
    ("90s", NOW - timedelta(seconds=90)),
    ("30m", NOW - timedelta(minutes=30)),
    ("2h", NOW - timedelta(hours=2)),
    ("1.5h", NOW - timedelta(minutes=90)),
    ("7d", NOW - timedelta(days=7)),
    ("2w", NOW - timedelta(days=14)),
    ("today", datetime(2026, 11, 24, tzinfo=UTC)),
    ("2026-11-24", datetime(2026, 11, 24, tzinfo=UTC)),
    ("2026-11-24T22:00", datetime(2026, 11, 24, 22, tzinfo=UTC)),
    ("2026-11-24T22:00:00.123Z", datetime(2026, 11, 24, 22, 0, 0, 123_000, UTC)),
    ("2026-11-24T22:00+02:00", datetime(2026, 11, 24, 22, tzinfo=timezone(timedelta(hours=2)))),
])  # fmt: skip
def test_when(text: str, moment: datetime) -> None:
    assert when(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterdayish", "7", "7y", "-2h", "2026-13-01", "99999999999d"])
def test_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        when(text, NOW)
    assert str(refused.value) == (
        f"{text!r} is no time; give a moment as 2026-11-24T22:00 (without a zone: of this machine's), "
        "a time ago as 30m, 2h or 7d, or today"
    )


@pytest.mark.parametrize("arguments", [
    ["--since", "soon"], ["--limit", "0"], ["--limit", "x"], ["--db", "x", "-c", "y"],
])  # fmt: skip
def test_bad_arguments_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["events", *arguments])
    assert stopped.value.code == 2
