"""The command line: exit codes, sentences, what goes where."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamer import cli
from streamer.rules import threshold
from tests.fakes import FakeBackend, loudness, spec_of


def run(*arguments, **options):
    command = [sys.executable, "-m", "streamer.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_labels_are_the_starters(capsys):
    assert cli.main(["labels", "--json"]) == 0
    labels = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"label": "Smoke detector, smoke alarm", "label_id": "/m/01y3hg"} in labels
    assert len(labels) == 13


def test_labels_are_those_of_the_configured_model(tmp_path, monkeypatch, capsys):
    shutil.copytree(Path(__file__).parent.parent / "models" / "starter", tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    path.write_text(path.read_text().replace('"Bark"', '"Doorbell"'))
    microphone = "streams: {a: {source: {type: microphone}}}\n"
    (tmp_path / "config.yaml").write_text("node: x\nmodel: {checkpoint: mine}\n" + microphone)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["labels"]) == 0
    assert "Doorbell" in capsys.readouterr().out


def test_a_name_that_is_no_utf_8_is_shown(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000 * 3), 16000)
    (tmp_path / "a.wav").rename(path)
    done = run("tag", path, env=os.environ | {"PYTHONUTF8": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[0])["file"].endswith("caf\udce9.wav")


def test_default_configuration_has_a_rule_for_each_label(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "--print"]) == 0
    shown = capsys.readouterr().out
    cli.main(["labels", "--json"])
    for line in capsys.readouterr().out.splitlines():
        assert json.loads(line)["label"] in shown


def test_check_reports_every_mistake_and_exits_2(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "node: garage\n"
        "streams:\n"
        "  mic: {source: {type: microfone}, hop_s: 0.123}\n"
        "rules:\n"
        "  bark: {type: threshold, labels: [Bark], onset_treshold: 0.5}\n"
    )
    assert cli.main(["check", "-c", str(path)]) == 2
    mistakes = capsys.readouterr().err.splitlines()
    assert len(mistakes) == 3
    assert [mistake.split(":")[1] for mistake in mistakes] == ["3", "3", "5"]
    assert "Did you mean 'microphone'?" in mistakes[0]
    assert "Did you mean 'onset_threshold'?" in mistakes[2]


def test_check_knows_whether_events_can_be_kept(tmp_path, capsys, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    path = tmp_path / "config.yaml"
    path.write_text("node: garage\nstreams: {mic: {source: {type: microphone}}}\n")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["check", "-c", str(path)]) == 2
    said = "there is no home folder to keep events in; set outbox.path to a file, or to null"
    assert capsys.readouterr().err == f"{path}:1: outbox.path: {said}\n"


def test_check_knows_the_models_labels(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "node: garage\n"
        "streams: {mic: {source: {type: microphone}}}\n"
        "rules:\n"
        "  bark: {type: threshold, labels: [Siren, Barking]}\n"
        "sinks:\n"
        "  mqtt: {type: mqtt, port: 70000}\n"
    )
    assert cli.main(["check", "-c", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"{path}:4: rules.bark.labels[1]: unknown label 'Barking'; run 'streamer labels' for the list. "
        "Did you mean 'Bark'?\n"
        f"{path}:6: sinks.mqtt.port: must be at most 65535, not 70000\n"
    )


def test_another_model_is_asked_for_its_labels_before_the_configured_one(tmp_path, capsys, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text("node: garage\nmodel: {checkpoint: nope}\nstreams: {mic: {source: {type: microphone}}}\n"
                    "rules:\n  bark: {type: threshold, labels: [Barking]}\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err.startswith("config.yaml:2: model.checkpoint: checkpoint 'nope' not found; known: ")
    assert cli.main(["detect", "--model", "starter", "x.wav"]) == 2
    assert capsys.readouterr().err.startswith("config.yaml:5: rules.bark.labels[0]: unknown label 'Barking'; ")
    assert cli.main(["tag", "--model", "starter", "x.wav"]) == 2
    assert capsys.readouterr().err == "x.wav: no such file; check the path\n"  # rules are no matter of tag


@pytest.mark.parametrize("command", ["run", "detect", "tag"])
def test_bad_configuration_exits_2_before_anything_else(tmp_path, capsys, command):
    files = [] if command == "run" else ["x.wav"]
    assert cli.main([command, *files, "-c", str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_unknown_checkpoint_names_the_known_ones(capsys):
    assert cli.main(["labels", "--model", "nope"]) == 2
    assert capsys.readouterr().err == (
        "checkpoint 'nope' not found; known: starter, "
        "or give the path of a folder with config.json and model.safetensors, or a hub id (owner/name)\n"
    )


def test_bad_files_are_named_and_the_others_go_on(tmp_path):
    text, empty, good = tmp_path / "text.wav", tmp_path / "empty.wav", tmp_path / "good.wav"
    text.write_text("no sound")
    empty.touch()
    soundfile.write(good, np.zeros((44100, 2)), 44100)
    done = run("tag", text, empty, good, tmp_path / "none.wav", "--json")
    assert done.returncode == 2
    assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == [str(good)]
    sentences = done.stderr.splitlines()
    assert len(sentences) == 3
    assert sentences[0].startswith(f"{text}: not an audio file")
    assert sentences[1] == f"{empty}: empty: it holds no sound"
    assert sentences[2] == f"{tmp_path / 'none.wav'}: no such file; check the path"


def test_silence_is_no_event_and_stdout_stays_empty(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000 * 15), 16000)
    done = run("detect", tmp_path / "silence.wav", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("arguments", [["fly"], ["demo", "--seconds", "0"], ["tag"], ["tag", "x.wav", "--top", "0"]])
def test_bad_arguments_exit_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2


def test_the_configured_window_is_what_events_tell_but_tags_are_of_the_checkpoints_own(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("node: garage\nmodel: {window_s: 2.56}\nstreams: {mic: {source: {type: microphone}}}\n"
                    "rules: {sound: {type: threshold, labels: any, onset_threshold: 0.01, offset_threshold: 0.01}}\n")
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 16000 * 6), 16000)
    assert cli.main(["tag", "-c", str(path), str(tmp_path / "noise.wav")]) == 0
    assert [window["end_s"] for window in lines(capsys)] == [6.0]
    assert cli.main(["detect", "-c", str(path), str(tmp_path / "noise.wav")]) == 0
    events = lines(capsys)
    assert [event["event_type"] for event in events] == ["start", "end"]
    assert {event["window_s"] for event in events} == {2.56}


# -- detect --explain, --save-scores, --at -----------------------------------------------------------------------------


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A folder with a configuration and 2 s of sound, siren from the first second on, and a model that hears levels."""
    (tmp_path / "config.yaml").write_text(
        "node: garage\n"
        "streams: {mic: {source: {type: microphone}, hop_s: 0.1}}\n"
        "rules: {siren: {type: threshold, labels: [Siren], onset_threshold: 0.6}}\n"
    )
    sound = np.random.default_rng(1).normal(0, 1e-4, 32000)
    sound[16000:] += 0.2 * np.sin(2 * np.pi * 0.1875 * np.arange(16000))
    soundfile.write(tmp_path / "siren.wav", sound, 16000, subtype="FLOAT")
    backend = FakeBackend(spec_of("Siren", window_frames=50), lambda window: [8 * loudness(window[:, 80:88]) + 2])
    monkeypatch.setattr("streamer.cli_shared.backend_of", lambda settings: backend)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def talkative(monkeypatch):
    """Rules that say of each window how it scored, unless it was low."""
    def update(rule, scores, heard=(), update=threshold.Rule.update):
        events = update(rule, scores, heard)
        rule.why = f"Siren {scores.scores[0]:.1f}" if scores.scores[0] > 0.6 else ""
        return events

    monkeypatch.setattr(threshold.Rule, "update", update)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("quick", "talkative")
def test_explain_says_why_window_by_window(capsys, monkeypatch):
    assert cli.main(["detect", "--explain", "siren.wav"]) == 0
    found = lines(capsys)
    assert found[0] == {"file": "siren.wav", "end_s": 1.015, "rule": "siren", "why": "Siren 1.0"}
    assert (found[1]["event_type"], found[-1]["event_type"]) == ("start", "end")
    assert {record["why"] for record in found[2:-1]} == {"Siren 1.0"}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["detect", "--explain", "siren.wav"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[:2] == ["siren.wav", "     1.01 s  siren: Siren 1.0"]
    assert rows[2].split() == ["0.92", "s", "start", "siren", "Siren", "1.00"]


@pytest.mark.usefixtures("quick")
def test_events_on_a_terminal_say_which_rule_told_them(capsys, monkeypatch):
    path = Path("config.yaml")
    path.write_text(path.read_text().replace("0.6}}\n", "0.6}, gone: {type: absence, rule: siren, for_s: 0.1}}\n"))
    soundfile.write("siren.wav", np.append(soundfile.read("siren.wav")[0], np.zeros(64000)), 16000, subtype="FLOAT")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["detect", "siren.wav"]) == 0
    rows = [row.split()[2:5] for row in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [[phase, rule, "Siren"] for rule in ("siren", "gone") for phase in ("start", "end")]


@pytest.mark.usefixtures("quick", "talkative")
def test_explain_is_silent_where_there_is_nothing_to_say_unless_v(capsys, monkeypatch):
    assert cli.main(["-v", "detect", "--explain", "siren.wav"]) == 0
    found = lines(capsys)
    assert [record["why"] for record in found[:9]] == [""] * 9
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["-v", "detect", "--explain", "siren.wav"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "     0.12 s  siren: nothing to say"
    assert cli.main(["detect", "siren.wav"]) == 0
    assert "nothing to say" not in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_scores_are_saved_and_tried_again_without_the_model(capsys, monkeypatch):
    assert cli.main(["detect", "siren.wav", "--save-scores", "scores.jsonl", "--at", "2026-11-24T22:00Z"]) == 0
    first = lines(capsys)
    assert [event["onset"] for event in first] == ["2026-11-24T22:00:00.915Z"] * 2
    monkeypatch.setattr("streamer.cli_shared.backend_of", lambda settings: pytest.fail("scores need no model"))
    Path("config.yaml").write_text(Path("config.yaml").read_text() + "model: {checkpoint: nowhere}\n")
    assert cli.main(["detect", "scores.jsonl"]) == 0
    same = {"file": "", "id": ""}
    assert [event | same for event in lines(capsys)] == [event | same for event in first]
    assert cli.main(["detect", "scores.jsonl", "siren.wav"]) == 2
    assert "checkpoint 'nowhere' not found" in capsys.readouterr().err
    Path("config.yaml").write_text(Path("config.yaml").read_text().replace("[Siren]", "[Bark]"))
    assert cli.main(["detect", "scores.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("scores.jsonl: the rules don't fit its scores of 'Siren': ")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("arguments", "sentence"), [
    (["siren.wav", "siren.wav", "--save-scores", "s"],
     "--save-scores: takes the scores of one recording, not of 2; give one FILE\n"),
    (["siren.wav", "--save-scores", "siren.wav"],
     "--save-scores: siren.wav is the recording itself; name another file\n"),
    (["siren.wav", "--save-scores", "no/folder"],
     "--save-scores: no/folder can't be written: No such file or directory; check its folder\n"),
])  # fmt: skip
def test_scores_that_can_not_be_saved(capsys, arguments, sentence):
    assert cli.main(["detect", *arguments]) == 2
    assert capsys.readouterr().err == sentence
    assert soundfile.info("siren.wav").duration == 2


def test_a_beginning_that_is_no_time(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["detect", "x.wav", "--at", "2h"])
    assert stopped.value.code == 2
    assert "'2h' is no time; write it as 2026-11-24T22:00" in capsys.readouterr().err


BUSY = """
import sys, threading, torch

def compute():
    with torch.inference_mode():
        while True:
            torch.nn.functional.linear(matrix, matrix)
            begun.set()

matrix, begun = torch.ones(1000, 1000), threading.Event()
threading.Thread(target=compute, daemon=True).start()
begun.wait()
sys.argv = ["streamer", *sys.argv[1:]]
from streamer import cli
cli.program()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["labels", "--json"], 0), (["check", "-c", "none.yaml"], 2)])
def test_a_model_that_still_computes_does_not_abort_the_process(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", BUSY, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout + done.stderr
