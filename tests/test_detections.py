"""`streamer evaluate --soundscapes`, and what it shares with the bench; counting is in test_detection_measures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from models.train.alarms import smoke_alarm
from models.train.detections import Found
from streamer import cli, cli_shared, config, edges
from streamer.core import Message, Reason, Samples, SegmentEnd
from streamer.detections import events, labels_of, with_threshold_rules
from streamer.replay import Step
from streamer.settings import Settings
from tests.fakes import FakeBackend, loudness, spec_of

RATE = 16000
SMOKE = "Smoke detector, smoke alarm"
END = SegmentEnd("mic", 0, Reason.SOURCE_END)  # what a step came of does not matter here


def parsed(rules: str, streams: str = "room: {source: {type: microphone}}") -> Settings:
    return config.parse(f"node: here\nstreams:\n  {streams}\nrules:\n{rules}", "test.yaml", edges.edge_config)


# -- what is measured --------------------------------------------------------------------------------------------------


def step(end_s: float, *told: dict[str, object]) -> Step:
    return Step(end_s, tuple(Message("mic/event", {"id": "1", "label": "a", **event}) for event in told), {}, END)


def end(onset_s: float, offset_s: float, peak: float, **more: object) -> dict[str, object]:
    return {"event_type": "end", "onset_s": onset_s, "offset_s": offset_s, "score_peak": peak, **more}


START: dict[str, object] = {"event_type": "start"}


def test_an_event_is_told_when_its_start_is() -> None:
    assert events([step(6, START), step(7), step(17, end(5, 7, 0.9))]) == [Found(5, 7, "a", 6, 0.9)]


def test_events_of_a_label_that_overlap_are_one() -> None:
    steps = [
        step(6, START, {"id": "2", **START}),
        step(8, {"id": "3", **START}, {"id": "4", "label": "b", **START}),
        step(17, end(5, 7, 0.8), end(5.5, 9, 0.9, id="2"), end(9, 9, 0.5, id="3"), end(6, 6.5, 0.7, id="4", label="b")),
    ]
    assert events(steps) == [Found(5, 9, "a", 6, 0.9), Found(6, 6.5, "b", 8, 0.7), Found(9, 9, "a", 8, 0.5)]


def test_labels_that_rules_listen_for() -> None:
    known = ["Bark", "Beep", "Rain", "Siren", "Speech"]
    groups = "  alarm: {type: threshold, labels: [Alarm], groups: {Alarm: [Siren, Beep]}, unless: [Rain]}"
    assert labels_of(parsed(groups), "room", known) == ["Beep", "Siren"]
    everything = "  any: {type: threshold, labels: any, unless: [Weather], groups: {Weather: [Rain]}}"
    assert labels_of(parsed(everything), "room", known) == ["Bark", "Beep", "Siren", "Speech"]


def test_only_threshold_rules_of_the_stream_and_at_all_hours() -> None:
    rules = """
      bark: {type: threshold, labels: [Bark], schedule: {hours: "01:00-01:01", time_zone: UTC}}
      rain: {type: threshold, labels: [Rain]}
      nuisance: {type: count, rule: bark, n: 5, within_s: 600}
    """
    here = parsed(rules, "room: {source: {type: microphone}, rules: {rain: false, bark: {onset_threshold: 0.7}}}")
    only = with_threshold_rules(here, "room").rules_of("room")
    assert list(only) == ["bark"]
    assert only["bark"].model_dump().items() >= {"schedule": [], "onset_threshold": 0.7}.items()


# -- the command -------------------------------------------------------------------------------------------------------

CONFIG = """
node: here
streams:
  room: {source: {type: microphone}, hop_s: 0.1}
  hall: {source: {type: microphone}, hop_s: 0.1, rules: {siren: false}}
rules:
  siren: {type: threshold, labels: [Siren], release_s: 0.2}
  bark: {type: threshold, labels: [Bark], release_s: 0.2}
  bark_too: {type: threshold, labels: [Bark], release_s: 0.2}
"""


def hear(window: Samples) -> Sequence[float]:
    """A tone of 3 kHz is a siren, one of 200 Hz a bark."""
    return 8 * loudness(window[:, 80:88]) + 2, 8 * loudness(window[:, 8:14]) + 2


def scene(path: Path, seconds: float, *tones: tuple[float, float, float]) -> Path:
    """Quiet noise with tones: Hz, from and to in seconds."""
    at = np.arange(int(seconds * RATE)) / RATE
    sound = np.random.default_rng(4).normal(0, 1e-4, len(at))
    for hz, from_s, to_s in tones:
        sound += 0.2 * np.sin(2 * np.pi * hz * at) * ((at >= from_s) & (at < to_s))
    soundfile.write(path, sound.astype(np.float32), RATE)
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in a folder with `config.yaml` and soundscapes: a siren is heard, a bark missed, another made up."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    folder = tmp_path / "scenes"
    folder.mkdir()
    scene(folder / "1.wav", 6.0, (3000, 1.0, 2.0), (200, 4.0, 4.5))
    scene(folder / "2.wav", 3.0)
    (folder / "annotations.tsv").write_text(
        "filename\tonset\toffset\tevent_label\n1.wav\t1\t2\tSiren\n2.wav\t1\t2\tBark\n1.wav\t3\t4\tDoor\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        cli_shared, "backend_of", lambda settings: FakeBackend(spec_of("Siren", "Bark", window_frames=50), hear)
    )

    def evaluate(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["evaluate", *map(str, arguments)])
        return code, *capsys.readouterr()

    return evaluate


def test_what_programs_read(run: Run) -> None:
    code, out, err = run("--soundscapes", "scenes", "--json")
    assert code == 0
    assert err == (
        "scenes/annotations.tsv: no rule of stream 'room' listens for 'Door' (1): these sounds are not counted; add "
        "rules, or name them as rules do\n"
    )
    nothing = dict.fromkeys(("late_p50_s", "late_p95_s", "onset_error_s", "offset_error_s"))
    siren = {"late_p50_s": 0.015, "late_p95_s": 0.015, "onset_error_s": 0.085, "offset_error_s": 0.05}
    assert json.loads(out) == {
        "soundscapes": 2,
        "backgrounds": 0,
        "hours": 0.0025,
        "stream": "room",
        "model": {"name": "fake", "revision": "sha256:0"},
        "labels": [
            {
                "label": "Bark", "sounds": 1, "missed": 1, "false": 1, "false_per_h": 400.0,
                "event_f1_half_second": 0.0, "event_f1_one_second": 0.0, "intersection_f1": 0.0, **nothing,
            },
            {
                "label": "Siren", "sounds": 1, "missed": 0, "false": 0, "false_per_h": 0.0,
                "event_f1_half_second": 1.0, "event_f1_one_second": 1.0, "intersection_f1": 1.0, **siren,
            },
        ],
        "all": {
            "sounds": 2, "missed": 1, "false": 1, "false_per_h": 400.0,
            "event_f1_half_second": 0.5, "event_f1_one_second": 0.5, "intersection_f1": 0.5, **siren,
        },
        "mean_over_labels": {"event_f1_half_second": 0.5, "event_f1_one_second": 0.5, "intersection_f1": 0.5},
        "not_counted": {"Door": 1},
    }  # fmt: skip


def test_what_people_read(run: Run) -> None:
    rows = "filename\tonset\toffset\tevent_label\n1.wav\t1\t2\tSiren\n"
    Path("scenes/annotations.tsv").write_text(rows)
    code, out, err = run("--soundscapes", "scenes")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    files = "2 soundscapes, 1 of them without sounds, 0.0025 h"
    assert lines[0] == f"{files}; rules of stream 'room', model fake (sha256:0)"
    assert [" ".join(line.split()) for line in lines[2:6]] == [
        "label sounds missed false false/h F1 0.5 s F1 1 s F1 inter. late p50 p95 onset offset",
        "Bark 0 0 1 400.00 0.00 0.00 0.00 - - - -",
        "Siren 1 0 0 0.00 1.00 1.00 1.00 0.01 0.01 0.09 0.05",
        "all 1 0 1 400.00 0.67 0.67 0.67 0.01 0.01 0.09 0.05",
    ]
    assert lines[7] == "The three F1 as mean over the labels that sound: 1.00, 1.00, 1.00."
    assert lines[-1] == "1 of the false events are of labels that the annotations don't name."


def test_nothing_but_backgrounds(run: Run) -> None:
    Path("scenes/annotations.tsv").write_text("filename\tonset\toffset\tevent_label\n")
    code, out, _ = run("--soundscapes", "scenes", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["backgrounds"] == 2
    assert (found["all"]["sounds"], found["all"]["false"]) == (0, 2)
    assert set(found["mean_over_labels"].values()) == {None}


def test_another_stream(run: Run) -> None:
    code, out, err = run("--soundscapes", "scenes", "--stream", "hall", "--json")
    assert code == 0
    assert [each["label"] for each in json.loads(out)["labels"]] == ["Bark"]
    assert "no rule of stream 'hall' listens for 'Door' (1), 'Siren' (1): " in err


EITHER = "evaluate: give --data, clips with labels, or --soundscapes, sounds at known times;"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], f"{EITHER} one of them is needed\n"),
        (["--data", "clips", "--soundscapes", "scenes"], f"{EITHER} not both\n"),
        (["--data", "clips"], "--model: needed with --data; name the checkpoints to measure"),
        (["--data", "clips", "--model", "starter", "-c", "config.yaml"],
         "--config: goes with --soundscapes, not with --data; leave it out"),
        (["--soundscapes", "scenes", "--fold", "1"], "--fold: goes with --data, not with --soundscapes; leave it out"),
        (["--soundscapes", "scenes", "--model", "a", "b"], "--model: --soundscapes takes one checkpoint, not 2"),
        (["--soundscapes", "scenes", "--stream", "attic"], "--stream: unknown stream 'attic'; known: room, hall"),
        (["--soundscapes", "scenes", "--model", "nothing"], "checkpoint 'nothing' not found"),
        (["--soundscapes", "nowhere"], "nowhere is no folder; needed: a folder with audio files and annotations.tsv"),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(run: Run, arguments: list[str], sentence: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert "Traceback" not in err


def test_labels_of_another_set(run: Run) -> None:
    Path("scenes/annotations.tsv").write_text("filename\tonset\toffset\tevent_label\n1.wav\t1\t2\tbark\n")
    assert run("--soundscapes", "scenes") == (2, "", (
        "scenes/annotations.tsv: no rule of stream 'room' listens for 'bark' (1), and there is nothing else; rules "
        "listen for 'Bark', 'Siren': name the labels so, or add rules. Did you mean 'Bark' by 'bark'?\n"
    ))  # fmt: skip


def test_rules_that_measure_nothing(run: Run) -> None:
    Path("config.yaml").write_text("node: here\nstreams:\n  room: {source: {type: microphone}}\n")
    assert run("--soundscapes", "scenes") == (
        2, "", "config.yaml: no threshold rule watches stream 'room'; add one for what should be heard\n"
    )  # fmt: skip


def test_a_file_that_breaks_off(run: Run) -> None:
    path = Path("scenes/1.wav")
    path.write_bytes(path.read_bytes()[: 44 + 2 * 5 * RATE])
    code, out, err = run("--soundscapes", "scenes")
    assert (code, out) == (2, "")
    assert "1.wav: truncated: the header promises 6.00 s of sound, the file ends after 5.00 s; copy it again" in err


def test_a_smoke_alarm_in_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled model hears it, and nothing in a room of noise."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.003, 20 * RATE)
    alarm = 0.3 * smoke_alarm(rng, 10.0, hz=3100.0)
    soundfile.write("quiet.wav", noise[: 8 * RATE], RATE)
    noise[6 * RATE : 16 * RATE] += alarm
    soundfile.write("alarm.wav", noise, RATE)
    Path("annotations.tsv").write_text(f"filename\tonset\toffset\tevent_label\nalarm.wav\t6\t16\t{SMOKE}\n")
    Path("config.yaml").write_text(
        "node: here\nstreams:\n  mic: {source: {type: microphone}}\n"
        f'rules:\n  smoke: {{type: threshold, labels: ["{SMOKE}"], onset_threshold: 0.3, offset_threshold: 0.2}}\n'
    )
    assert cli.main(["evaluate", "--soundscapes", ".", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["backgrounds"] == 1
    [smoke] = found["labels"]
    assert (smoke["label"], smoke["sounds"], smoke["missed"], smoke["false"]) == (SMOKE, 1, 0, 0)
    assert 0 < smoke["late_p50_s"] < 6
    assert found["model"]["name"] == "starter"
