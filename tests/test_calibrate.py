"""`streamer calibrate`: what it hears, finds, proposes and says; statistics are tested in test_thresholds."""

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from models import ModelSpec, load_spec
from models.train.alarms import smoke_alarm
from streamer import calibration, calibration_report, cli, config, edges
from streamer.core import Level, Phase, Reason, Scores, SegmentEnd
from streamer.errors import ConfigError, DeviceLost
from streamer.replay import write_header, write_output
from streamer.room import Room, Span, listen, stretch, without
from streamer.thresholds import logit
from tests.fakes import FakeBackend, FakeSource, spec_of

RATE = 16000
WINDOW = 164080  # samples
SPEC = spec_of("Siren", "Beep", "Rain")
CONFIG = """
node: here
streams:
  hall: {source: {type: microphone}}
rules:
  siren: {type: threshold, labels: [Siren], onset_threshold: 0.3, offset_threshold: 0.2}
  beep: {type: threshold, labels: [Beep], onset_threshold: 0.5, offset_threshold: 0.3, min_windows: 2, of_windows: 3}
"""
PLANTED_S = 3600  # a true siren, in the second hour


def scores(hours: float, seed: int) -> np.ndarray:
    """A room with some 20 sounds an hour; a siren at `PLANTED_S`."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(-6, 0.5, (int(hours * 3600), 3))
    for column in levels.T:
        for at in rng.integers(0, len(levels), rng.poisson(20 * hours)):
            column[at : at + 10] = np.maximum(column[at : at + 10], -5 + rng.exponential(0.7))
    levels[PLANTED_S : PLANTED_S + 12, 0] = 4.0
    return (1 / (1 + np.exp(-levels))).astype(np.float32)


def windows(rows: np.ndarray) -> list[Scores]:
    """Rows of scores, one a second."""
    ends = (np.arange(len(rows)) + 1) * RATE
    return [
        Scores("hall", int(end) - WINDOW, int(end), RATE, row, Level(-40.0, -30.0, 0))
        for end, row in zip(ends, rows, strict=True)
    ]


def save(path: Path, rows: np.ndarray, hop_s: float = 1.0, spec: ModelSpec = SPEC) -> Path:
    with path.open("w") as file:
        write_header(file, spec, hop_s, RATE, 1.79e9)
        for window in windows(rows):
            write_output(file, window)
        write_output(file, SegmentEnd("hall", len(rows) * RATE, Reason.SOURCE_END))
    return path


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("room") / "night.jsonl", scores(6, 1))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, and we are in it."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def calibrate(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main(["calibrate", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return calibrate


def records(run: Run, *arguments: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """What --json says of each rule, and in the end."""
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    *found, summary = map(json.loads, out.splitlines())
    return {record["rule"]: record for record in found}, summary


# -- what it proposes --------------------------------------------------------------------------------------------------


def test_thresholds_under_which_the_room_is_quiet(run: Run, night: Path) -> None:
    found, summary = records(run, night, "--false-alarms", "1/day")
    beep = found["beep"]
    assert beep["present"] == {"onset": 0.5, "offset": 0.3}
    assert beep["fired"]["proposed"] == 0
    low, high = beep["between"]
    assert low <= beep["proposed"]["onset"] <= 1
    assert low < high
    assert beep["proposed"]["offset"] <= beep["proposed"]["onset"]
    assert summary["heard_h"] == 6
    assert summary["false_alarms_per_week"] == 7
    assert summary["config"]["rules"]["beep"]["onset_threshold"] == beep["proposed"]["onset"]


def test_rarer_wishes_give_higher_thresholds(run: Run, night: Path) -> None:
    onsets = [records(run, night, "--false-alarms", wish)[0]["beep"]["proposed"]["onset"]
              for wish in ("1/hour", "1/day", "1/week")]  # fmt: skip
    assert onsets == sorted(set(onsets))


def test_an_event_ends_in_the_room_that_its_thresholds_are_of(run: Run, night: Path, here: Path) -> None:
    """An offset threshold under what the room scores all the time would keep the first event open for ever."""
    file = here / "config.yaml"
    file.write_text(CONFIG.replace("onset_threshold: 0.5, offset_threshold: 0.3", "offset_threshold: 0.001"))
    found, summary = records(run, night, "--false-alarms", "1/day")
    asked = config.load(file, edges.edge_config)
    changed = asked.rules["beep"].model_copy(update=summary["config"]["rules"]["beep"])
    info = calibration.info_of(SPEC, 1.0, asked, "hall")
    rule = edges.build_rule(changed, "beep", info, lambda position: None)
    room = 1 / (1 + np.exp(-np.random.default_rng(3).normal(-6, 0.5, (300, 3)))).astype(np.float32)
    room[100:105, 1] = 0.97
    told = [event for window in windows(room) for event in rule.update(window)]
    assert found["beep"]["proposed"]["offset"] > 0.001
    assert [(event.phase, event.end_reason) for event in told] == [(Phase.START, None), (Phase.END, Reason.QUIET)]


def test_a_true_siren_is_listed_and_can_be_left_out(run: Run, night: Path) -> None:
    before, _ = records(run, night, "--false-alarms", "1/day")
    loudest = before["siren"]["candidates"][0]
    assert loudest["from_s"] <= PLANTED_S + 1 <= loudest["to_s"]
    assert loudest["score"] == pytest.approx(0.982, abs=1e-3)
    assert loudest["time"].startswith("2026-")
    assert before["siren"]["fired"]["present"] > 0
    span = f"night.jsonl:{loudest['from_s']}-{loudest['to_s']}"
    after, summary = records(run, night, "--false-alarms", "1/day", "--exclude", span)
    assert after["siren"]["fired"]["present"] == before["siren"]["fired"]["present"] - 1
    assert after["siren"]["candidates"][0]["score"] < 0.9
    onsets = [(found["siren"]["proposed"] or {"onset": 1})["onset"] for found in (after, before)]
    assert onsets[0] < onsets[1]
    assert 5.99 < summary["heard_h"] < 6


def test_what_people_read_ends_with_options_to_paste(run: Run, night: Path, here: Path) -> None:
    code, out, err = run(night, "--false-alarms", "1/day")
    assert (code, err) == (0, "")
    said = "Heard 6.00 h from 1 source, 21600 windows; wished: of each threshold at most 7 false alarms a week.\n"
    assert out.startswith(said)
    assert re.search(r"^  siren +0\.98\d\d  \S+night\.jsonl:\d+\.\d-\d+\.\d  2026-", out, re.MULTILINE)
    options = yaml.safe_load(out[out.index("\nrules:\n") :])
    asked = yaml.safe_load(CONFIG)
    for name, changed in options["rules"].items():
        asked["rules"][name] |= changed
    (here / "new.yaml").write_text(yaml.safe_dump(asked))
    assert config.load(here / "new.yaml", edges.edge_config).rules


def test_what_is_written(run: Run, night: Path, here: Path) -> None:
    code, out, _ = run(night, "--false-alarms", "1/day", "--out", "found")
    assert code == 0
    assert out.endswith("\nfound holds them too, and a report.\n")
    assert yaml.safe_load((here / "found" / "thresholds.yaml").read_text()).keys() == {"rules"}
    page = (here / "found" / "report.html").read_text()
    assert page.count("<img ") == 2
    assert "<h2>siren</h2>" in page


def test_without_matplotlib_all_but_the_pictures_comes(
    run: Run, night: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run(night, "--false-alarms", "1/day", "--out", "found")
    assert code == 0
    assert err == "report.html needs matplotlib; run: pip install -e '.[train]'\n"
    assert "\nrules:\n" in out
    assert (here / "found" / "thresholds.yaml").is_file()


def test_far_wishes_are_warned_of(run: Run, night: Path) -> None:
    _, out, _ = run(night, "--false-alarms", "1/month")
    said = "That is 122 times as long as was heard: these thresholds are guesses on the safe side; 24 h tell more."
    assert said in out


def test_where_streams_share_rules_the_options_are_the_streams_own(run: Run, night: Path, here: Path) -> None:
    (here / "config.yaml").write_text(CONFIG.replace("rules:", "  yard: {source: {type: microphone}}\nrules:"))
    _, summary = records(run, night, "--stream", "yard", "--false-alarms", "1/day")
    assert summary["config"]["streams"]["yard"]["rules"].keys() <= {"siren", "beep"}


def test_a_label_with_thresholds_of_its_own_is_a_dial_of_its_own(run: Run, night: Path, here: Path) -> None:
    rule = "{type: threshold, labels: [Beep, Rain], thresholds: {Rain: {onset: 0.9, offset: 0.8}}}"
    (here / "config.yaml").write_text(CONFIG[: CONFIG.index("rules:")] + f"rules:\n  noise: {rule}\n")
    code, out, _ = run(night, "--false-alarms", "1/day", "--json")
    *found, summary = map(json.loads, out.splitlines())
    assert code == 0
    assert [(each["rule"], each["label"], each["present"]["onset"]) for each in found] == [
        ("noise", None, 0.6), ("noise", "Rain", 0.9),
    ]  # fmt: skip
    assert summary["config"]["rules"]["noise"].keys() == {"onset_threshold", "offset_threshold", "thresholds"}


# -- what is a mistake -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "calibrate: nothing to listen to; recordings or scores of 'streamer detect --save-scores' as FILE"),
    (["NIGHT", "--hours", "2"], "calibrate: give recordings, or --hours, not both; recordings or scores"),
    (["--hours", "2"], "--hours: needs --out FOLDER, where scores.jsonl keeps what was heard; no sound is kept"),
    (["NIGHT", "--false-alarms", "1/year"], "once in 8766 h; give at least 29 h, better 292 h and more, "),
    (["NIGHT", "--false-alarms", "often"], "'often' is no rate; write it as 1/week: units are hour, day, week, month,"),
    (["NIGHT", "--exclude", "day.wav:1-2"], "--exclude: no recording 'day.wav' was given; known: NIGHT"),
    (["NIGHT", "--exclude", "NIGHT:0-7:00:00"], "--exclude: nothing is left of what was heard; exclude less"),
    (["NIGHT", "--exclude", "day.wav:2-1"], "'day.wav:2-1' is no stretch of a recording; write FILE:FROM-TO, as"),
    (["NIGHT", "--stream", "attic"], "--stream: unknown stream 'attic'; known: hall"),
])  # fmt: skip
def test_mistakes(run: Run, night: Path, arguments: list[str], said: str) -> None:
    code, out, err = run(*(argument.replace("NIGHT", str(night)) for argument in arguments))
    assert (code, out) == (2, "")
    assert said.replace("NIGHT", str(night)) in err


@pytest.mark.parametrize("differs", [{"hop_s": 0.5}, {"spec": replace(SPEC, window_frames=256)}])
def test_scores_of_two_hops_or_windows_are_not_mixed(
    run: Run, night: Path, here: Path, differs: dict[str, Any]
) -> None:
    other = save(here / "other.jsonl", scores(1.5, 2), **differs)
    code, _, err = run(night, other)
    assert code == 2
    assert f"{night} and {other} are not of one model, window and hop; calibrate each alone" in err


def test_too_few_sounds_give_no_threshold_but_a_reason(run: Run, here: Path) -> None:
    short = save(here / "short.jsonl", scores(1.1, 1)[-300:])
    code, out, _ = run(short, "--false-alarms", "1/hour")
    assert code == 0
    assert re.search(r"siren: no threshold proposed; \d sounds that could be told apart; at least 20 are needed", out)


def test_rules_that_do_not_fit_the_scores(run: Run, night: Path, here: Path) -> None:
    (here / "config.yaml").write_text(CONFIG.replace("[Beep]", "[Crow]"))
    code, _, err = run(night)
    assert code == 2
    assert "the model does not know 'Crow'; run 'streamer labels' for the list" in err


# -- what a dial is turned by ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    "labels: [Siren, Beep], unless: [Rain], unless_threshold: 0.6",
    "labels: [Siren, Beep], min_windows: 2, of_windows: 4, smooth_windows: 3, instant: [Beep]",
    "labels: [Noise], groups: {Noise: [Siren, Beep]}, min_windows: 2, of_windows: 2",
    "labels: any, unless: [Rain], smooth_windows: 2, smoothing: mean",
])  # fmt: skip
def test_levels_are_those_at_which_the_rule_starts(options: str) -> None:
    settings = config.parse(
        f"node: x\nstreams: {{hall: {{source: {{type: microphone}}}}}}\nrules: {{r: {{type: threshold, {options}}}}}",
        "test.yaml", edges.edge_config,
    )  # fmt: skip
    rng = np.random.default_rng(4)
    for _ in range(40):
        rows = windows(rng.random((25, 3), np.float32))
        room = Room(SPEC, 1.0, (stretch("hall", None, RATE, rows),))
        info = calibration.info_of(SPEC, 1.0, settings, "hall")
        (dial,) = calibration.dials(settings, "hall", info)
        onset = round(float(rng.uniform(0.4, 0.95)), 2)
        over = calibration.levels(dial, room.stretches[0], info) >= logit(onset)
        rule = edges.build_rule(dial.config.with_onset(onset), "r", info, lambda position: None)
        starts = [i for i, row in enumerate(rows) if any(e.phase == Phase.START for e in rule.update(row))]
        assert starts[:1] == list(np.flatnonzero(over)[:1])


def test_a_name_that_two_sources_share_is_asked_about() -> None:
    rows = windows(np.zeros((60, 3), np.float32))
    room = Room(SPEC, 1.0, tuple(stretch(name, None, RATE, rows) for name in ("mon/s.jsonl", "tue/s.jsonl", "s.jsonl")))
    assert [len(each.end) for each in without(room, [Span("s.jsonl", 20.0, 21.0)]).stretches] == [60, 60, 20, 29]
    with pytest.raises(ConfigError, match=r"'s.jsonl' may be each of mon/s.jsonl, tue/s.jsonl; write one of these"):
        without(replace(room, stretches=room.stretches[:2]), [Span("s.jsonl", 20.0, 21.0)])


def test_what_the_gate_kept_from_the_model_is_no_sound(run: Run, here: Path) -> None:
    """A day behind a gate that let nine sounds an hour through: a tail of these, not of the nothing between them."""
    rng, rows = np.random.default_rng(2), np.zeros((24 * 3600, 3), np.float32)
    for at in rng.integers(0, len(rows), 9 * 24):
        rows[at : at + 5] = 1 / (1 + np.exp(5 - rng.exponential(0.7)))
    found, _ = records(run, save(here / "day.jsonl", rows), "--false-alarms", "1/day")
    assert 0.02 < found["siren"]["proposed"]["onset"] < 0.9


def test_scores_that_break_off_count_as_far_as_they_go(run: Run, night: Path, here: Path) -> None:
    """Whoever saved them was killed, and the last line is half there."""
    lines = night.read_text().splitlines(keepends=True)
    (here / "cut.jsonl").write_text("".join(lines[:7201]) + lines[7201][:40])
    code, out, err = run("cut.jsonl", "--false-alarms", "1/day")
    assert (code, err) == (0, "cut.jsonl breaks off; what was heard before counts\n")
    assert out.startswith("Heard 2.00 h from 1 source")


def test_scores_of_another_hop_than_the_configurations(run: Run, night: Path, here: Path) -> None:
    (here / "config.yaml").write_text(CONFIG.replace("microphone}", "microphone}, hop_s: 0.5"))
    code, _, err = run(night, "--false-alarms", "1/day")
    assert code == 0
    assert "the scores are of hop 1 s, window 10.24 s; the configuration has hop 0.5 s, window 10.24 s, and thr" in err


def test_a_clip_that_can_start_nothing_is_missed() -> None:
    """One window of a rule that takes two."""
    settings = config.parse(CONFIG, "test.yaml", edges.edge_config)
    info = calibration.info_of(SPEC, 1.0, settings, "hall")
    *_, beep = calibration.dials(settings, "hall", info)
    room = Room(SPEC, 1.0, (stretch("hall", None, RATE, windows(scores(1.2, 1))),))
    clips = [[stretch("clip", None, RATE, windows(np.full((n, 3), 0.99, np.float32)))] for n in (1, 4)]
    (finding,) = calibration.calibrate(room, [beep], info, 1.0, {"Beep": clips})
    assert finding.recall(0.5) == 0.5
    assert "<img " in calibration_report.html("said", room, [finding], 1.0)


def test_what_was_heard_before_is_not_written_over(run: Run, night: Path, here: Path) -> None:
    (here / "found").mkdir()
    kept = save(here / "found" / "scores.jsonl", scores(1.2, 2))
    before = kept.read_bytes()
    code, _, err = run("--seconds", "100", "--false-alarms", "1/hour", "--out", "found")
    assert code == 2
    assert "--out: found/scores.jsonl holds hours heard before; name another folder, or give that file as FILE" in err
    assert kept.read_bytes() == before


def test_what_is_left_out_takes_every_window_that_holds_it() -> None:
    room = Room(SPEC, 1.0, (stretch("a/hall", None, RATE, windows(np.zeros((60, 3), np.float32))),))
    left = without(room, [Span("hall", 20.0, 21.0)])
    assert [len(each.end) for each in left.stretches] == [20, 29]
    assert all(each.end[-1] <= 20 * RATE or each.start[0] >= 21 * RATE for each in left.stretches)
    assert left.hours == pytest.approx(49 / 3600)


# -- with sound --------------------------------------------------------------------------------------------------------

STARTER = """
node: here
streams:
  hall: {source: {type: file, path: room.wav, realtime: false}, hop_s: 8.0}
rules:
  smoke_alarm: {type: threshold, labels: ["Smoke detector, smoke alarm"], onset_threshold: 0.25, offset_threshold: 0.18}
"""


@pytest.fixture
def house(here: Path) -> Path:
    """A configuration of the starter, `room.wav` with 18 minutes of a fan that comes and goes, and labelled alarms."""
    rng = np.random.default_rng(5)
    n = 18 * 60 * RATE
    noise = np.repeat(10 ** rng.uniform(-4, -2, 18 * 6), n // (18 * 6)) * rng.normal(size=n)
    soundfile.write(here / "room.wav", noise, RATE, subtype="PCM_16")
    for kind in ("smoke_alarm", "bell"):
        (here / "clips" / kind).mkdir(parents=True)
    for i in range(3):
        alarm = 0.1 * smoke_alarm(np.random.default_rng(i), 10.0, hz=3100.0)
        soundfile.write(here / "clips" / "smoke_alarm" / f"{i}.wav", alarm, RATE)
    (here / "config.yaml").write_text(STARTER)
    return here


def test_from_sound_to_thresholds_with_recall(run: Run, house: Path) -> None:
    found, summary = records(run, "room.wav", "--labelled", "clips", "--false-alarms", "1/hour", "--out", "found")
    alarm = found["smoke_alarm"]
    assert alarm["proposed"] is not None
    assert (alarm["clips"], alarm["recall"]) == (3, {"present": 1.0, "proposed": 1.0})
    assert alarm["fired"] == {"present": 0, "proposed": 0}
    assert alarm["candidates"][0]["file"] == "room.wav"
    assert summary["heard_h"] == pytest.approx(0.3, abs=0.01)


def test_a_recording_that_is_not_there(run: Run, house: Path) -> None:
    code, out, err = run("nowhere.wav")
    assert (code, out) == (2, "")
    assert "nowhere.wav" in err


def test_listening_now(run: Run, house: Path) -> None:
    """The stream's own source: here a file; what was heard is kept, and can be given again."""
    code, out, _ = run("--seconds", "100", "--false-alarms", "1/hour", "--out", "found")
    assert code == 0
    assert "smoke_alarm: no threshold proposed; " in out
    kept = (house / "found" / "scores.jsonl").read_text().splitlines()
    assert 13 <= len(kept) < 40
    again, out_again, _ = run("found/scores.jsonl", "--false-alarms", "1/hour")
    assert (again, out_again.split("\n")[0]) == (0, out.split("\n")[0])


def test_labelled_clips_are_heard_in_the_window_of_the_scores(run: Run, house: Path) -> None:
    (house / "config.yaml").write_text(STARTER.replace("hop_s: 8.0", "hop_s: 1.0") + "model: {window_s: 2.56}\n")
    other = save(house / "other.jsonl", np.full((99, 13), 0.1, np.float32), spec=load_spec("starter"))
    code, _, err = run(other, "--labelled", "clips", "--false-alarms", "1/hour")
    assert code == 2
    assert "with windows of 10.24 s, the model at hand is starter sha256:" in err
    assert err.endswith(" with windows of 2.56 s; name the same with --model, and its window with model.window_s\n")


def test_folders_are_named_as_labels_or_rules(run: Run, house: Path) -> None:
    soundfile.write(house / "clips" / "bell" / "1.wav", np.ones(RATE) * np.linspace(-0.1, 0.1, RATE), RATE)
    code, _, err = run("room.wav", "--labelled", "clips", "--false-alarms", "1/hour")
    assert code == 2
    assert (
        "--labelled: no rule listens for 'bell'; folders are named as labels or rules are: "
        "'Smoke detector, smoke alarm', 'smoke_alarm'"
    ) in err


def test_a_microphone_that_is_lost_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else hours of nothing would count as hours of quiet."""
    lost = FakeSource(np.zeros(20 * RATE, np.float32), end=Reason.SOURCE_LOST)
    monkeypatch.setattr(edges, "build_source", lambda options: lost)
    settings = config.parse(CONFIG, "test.yaml", edges.edge_config)
    backend = FakeBackend(SPEC, lambda window: [-6.0] * 3)
    with io.StringIO() as file, pytest.raises(DeviceLost, match="fake was lost; what was heard before is kept"):
        listen(settings, "hall", backend, 3600.0, save=file, tick=lambda seconds: None)
