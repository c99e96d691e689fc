"""How events are compared with the truth, as tables: `a1-3` sounds, or is reported, from 1 to 3 s."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from models.train.detections import Counts, Found, Told, event_based, intersection_based, onset_based, told
from models.train.soundscapes import Soundscape, Truth
from streamer.errors import ConfigError

BENCH = Path(__file__).parent.parent / "bench"


def truths(text: str) -> list[Truth]:
    return [Truth(*map(float, each.split("-")), "a", 10.0 * i) for i, each in enumerate(text.split())]


def found(text: str) -> list[Found]:
    """`1-3@4`: told at 4 s; without it, half a second after its onset."""
    events = []
    for each in text.split():
        span, _, at = each.partition("@")
        onset, offset = map(float, span.split("-"))
        events.append(Found(onset, offset, "a", float(at or onset + 0.5)))
    return events


@pytest.mark.parametrize(
    ("true", "reported", "collar_s", "counts"),
    [  #                                             right, missed, false
        ("", "", 1, (0, 0, 0)),
        ("5-7", "", 1, (0, 1, 0)),
        ("", "5-7", 1, (0, 0, 1)),
        ("5-7", "5.5-7.5", 0.5, (1, 0, 0)),
        ("5-7", "5.6-7", 0.5, (0, 1, 1)),  # begins too late
        ("5-7", "5-7.6", 0.5, (0, 1, 1)),  # ends too late
        ("5-25", "5-29", 0.5, (1, 0, 0)),  # but 20 % of a long one may be
        ("5-25", "5-29.1", 0.5, (0, 1, 1)),
        ("5-7", "5-7 5.2-7", 1, (1, 0, 1)),  # the same said twice is false once
        ("5-7 9-11", "5-11", 1, (0, 2, 1)),  # two that were taken for one
        ("5-7 6-8", "5.5-7.5 4.2-6.6", 1, (2, 0, 0)),  # the first fits both, the second one: as many pairs as can be
    ],
)
def test_event_based(true: str, reported: str, collar_s: float, counts: tuple[int, int, int]) -> None:
    assert event_based(truths(true), found(reported), collar_s) == Counts(*counts)


def test_onset_based_does_not_ask_when_it_ended() -> None:
    assert onset_based(truths("5-7 20-21"), found("5.4-16 22-23"), 0.5) == Counts(1, 1, 1)


@pytest.mark.parametrize(
    ("true", "reported", "counts"),
    [
        ("", "", (0, 0, 0)),
        ("5-7", "5-7", (1, 0, 0)),
        ("5-7", "6-7", (1, 0, 0)),  # half of it
        ("5-7", "6.1-7", (0, 1, 0)),  # true, but not enough: missed, no false alarm
        ("5-7", "5-9", (1, 0, 0)),
        ("5-7", "5-9.1", (0, 1, 1)),  # most of it is not there
        ("5-7 9-11", "5-11", (2, 0, 0)),
        ("5-9", "5-6 8-9", (1, 0, 0)),  # in two parts
        ("5-7", "6-6", (0, 1, 1)),  # an event without a length covers nothing
    ],
)
def test_intersection_based(true: str, reported: str, counts: tuple[int, int, int]) -> None:
    assert intersection_based(truths(true), found(reported)) == Counts(*counts)


@pytest.mark.parametrize(
    ("true", "reported", "expected"),
    [
        ("5-7", "", Told(Counts(0, 1, 0), missed_db=(0.0,))),
        ("", "5-7", Told(Counts(0, 0, 1))),
        ("5-7", "5.25-6@6.5", Told(Counts(1, 0, 0), (1.5,), (0.25,), (-1.0,), heard_db=(0.0,))),
        ("5-7", "8-8@9", Told(Counts(1, 0, 0), (4.0,), (3.0,), (1.0,), heard_db=(0.0,))),  # within a hop
        ("5-7", "8.5-9", Told(Counts(0, 1, 1), missed_db=(0.0,))),  # about something else
        # two sounds, one event: both are heard, one latency
        ("5-6 9-10", "5-12@6", Told(Counts(2, 0, 0), (1.0,), (0.0,), (2.0,), heard_db=(0.0, 10.0))),
        # it was told before the sound began: heard by luck, not told of it
        ("5-6", "1-8@2", Told(Counts(1, 0, 0), (), (-4.0,), (2.0,), heard_db=(0.0,))),
    ],
)
def test_what_a_user_notices(true: str, reported: str, expected: Told) -> None:
    assert told(truths(true), found(reported)) == expected


def test_counts_and_what_is_told_add_up() -> None:
    assert sum([Counts(1, 2, 3), Counts(4, 5, 6)], Counts()) == Counts(5, 7, 9)
    both = told(truths("5-7"), found("5-7")) + told(truths("1-2"), [])
    assert both == Told(Counts(1, 1, 0), (0.5,), (0.0,), (0.0,), heard_db=(0.0,), missed_db=(0.0,))


def test_shares_of_nothing_are_none() -> None:
    assert Counts().f1 is None
    assert Counts().recall is None
    assert Counts(0, 0, 2).f1 == 0
    assert Counts(3, 1, 1).f1 == 0.75
    assert Counts(3, 1).recall == 0.75


# -- bench/detection.py ------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("bench_detection", BENCH / "detection.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_report_counts_sounds_rooms_and_others_apart(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "psds", lambda heard, labels: ({}, None))  # a peer's, where it is installed
    nothing: list[Truth] = []
    heard = {
        "mixed-000": (truths("5-7 50-52"), found("5.5-7.2@7")),
        "rooms-000": (nothing, found("1-2")),
        "other-000": (nothing, found("1-2 9-10")),
        "strange-000": (nothing, found("1-2 4-5 9-10")),
    }
    bench.report(["a", "b"], heard, 1.0)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    values = {figure["name"]: figure["value"] for figure in result["figures"]}
    assert values == {
        "event_f1_half_second": 0.6667,
        "event_f1_one_second": 0.6667,
        "intersection_f1": 0.6667,
        "missed": 0.5,
        "smoke_alarms_heard_over_0_db": None,
        "smoke_alarms_heard_at_0_db": None,
        "smoke_alarms_f1_at_0_db": None,
        "false_alarms_in_rooms": 12,
        "false_alarms_among_other_sounds": 24,
        "false_alarms_among_strange_sounds": 36,
        "latency_p50": 2,
        "latency_p95": 2,
        "onset_error_median": 0.5,
        "offset_error_median": 0.2,
    }


def test_the_report_of_smoke_alarms_at_0_db_is_theirs_alone(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "psds", lambda heard, labels: ({}, None))
    alarms = [Truth(each.onset_s, each.offset_s, bench.SMOKE, 0.0) for each in truths("5-17 50-62 80-92 120-132")]
    events = [replace(each, label=bench.SMOKE) for each in found("5-17@5.5 50.2-62@50.6 90-99@90.5 200-201")]
    others = found("1-2")
    bench.report([bench.SMOKE, "a"], {"alarms-000": (alarms, events + others)}, 0.5)
    said, figures = capsys.readouterr().out.splitlines()
    assert said == (
        "smoke alarms at 0 dB in rooms: 1 of 4 missed, 1 false, F1 (1 s) 0.50, late 0.60 and 9.51 s (p50, p95); "
        "1 events of other labels"
    )
    values = {figure["name"]: figure["value"] for figure in json.loads(figures)["figures"]}
    assert values.pop("smoke_alarms_heard_at_0_db") == 0.75
    assert values.pop("smoke_alarms_f1_at_0_db") == 0.5
    assert set(values.values()) == {None}


def test_without_a_rule_for_smoke_alarms_none_is_said_to_be_missed(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "psds", lambda heard, labels: ({}, None))
    bench.report(["a"], {"alarms-000": ([Truth(5, 17, bench.SMOKE, 0.0)], [])}, 0.5)
    (figures,) = capsys.readouterr().out.splitlines()
    assert {figure["value"] for figure in json.loads(figures)["figures"]} == {None}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["mixed-000", "mixed-011", *(f"{kind}-{i:03}" for kind in ("rooms", "other", "strange") for i in (0, 5))]),
        ({"mixed": 0.1}, ["mixed-000", "mixed-001"]),
        ({"rooms": 0.01, "alarms": 0.25}, ["rooms-000", "rooms-000", "alarms-000", "alarms-002"]),
        ({"quick": True, "alarms": 3.0}, ["alarms-000", "alarms-000"]),
    ],
)
def test_kinds_are_made_as_asked(bench: ModuleType, options: dict[str, float], names: list[str]) -> None:
    found = list(scenes(bench, **options))
    each = {kind: [name for name in found if name.startswith(kind)] for kind in bench.KINDS}
    assert [edge for of_kind in each.values() if of_kind for edge in (of_kind[0], of_kind[-1])] == names


def scenes(bench: ModuleType, **options: float) -> dict[str, Callable[[], Soundscape]]:
    usual = {"data": None, "fold": None, "seed": 0, "quick": False, "mixed": None, "rooms": None, "alarms": None}
    args = SimpleNamespace(**(usual | options))
    return dict(bench.scenes(bench.banks_of(args, {bench.SMOKE, "Siren"}), args))


def test_smoke_alarms_at_0_db_are_at_0_db(bench: ModuleType) -> None:
    truths = scenes(bench, alarms=0.05)["alarms-000"]().truths
    assert truths
    assert {(truth.label, truth.snr_db) for truth in truths} == {(bench.SMOKE, 0.0)}


def test_the_first_hour_of_three_is_the_usual_one(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 30)
    usual, three = (scenes(bench, **options)["mixed-000"]() for options in ({}, {"mixed": 3.0}))
    np.testing.assert_array_equal(usual.samples, three.samples)
    assert usual.truths == three.truths


def test_scores_of_another_model_are_not_mixed_in(bench: ModuleType, tmp_path: Path) -> None:
    bench.check_same(tmp_path, {"seed": 0})
    bench.check_same(tmp_path, {"seed": 0})
    with pytest.raises(ConfigError, match=r"holds scores of seed 0, asked for is 1; name another folder"):
        bench.check_same(tmp_path, {"seed": 1})
    with pytest.raises(ConfigError, match=r"holds scores of labels None, asked for is \['Rain'\]; name another folder"):
        bench.check_same(tmp_path, {"seed": 0, "labels": ["Rain"]})


@pytest.mark.parametrize(("arguments", "said"), [
    ("detection.py --data /nowhere --quick", "data '/nowhere' not found; needed: a sub-folder for each label"),
    ("detection.py --rooms 0", "argument --rooms: 0 is not over 0"),
    ("detection.py --config /nowhere", "/nowhere: no such file; name an existing one with -c"),
    ("detection.py --scores /dev/null", "--scores: /dev/null can't be made: File exists; name another folder"),
    ("thresholds.py --offset-share 2", "argument --offset-share: 2 is not over 0 and up to 1"),
])  # fmt: skip
def test_mistakes_get_a_sentence(arguments: str, said: str) -> None:
    name, *others = arguments.split()
    done = subprocess.run([sys.executable, BENCH / name, *others], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
