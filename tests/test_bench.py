"""`python bench`: every bench is known to it, what fails is said, and the table is where it belongs."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from streamer.core import Level, Scores, StreamInfo
from streamer.rules.threshold import Config

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
HELPERS = {"__main__", "contender", "contenders", "figures", "listening"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, with a folder of its own for benches, their results and the document."""
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("bench_main", BENCH / "__main__.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path / "bench")
    monkeypatch.setattr(module, "DOCUMENT", tmp_path / "performance.md")
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "performance.md").write_text("before\n{}\nold\n{}\nafter\n".format(*module.MARKERS))
    return module


FOUND = """
from pathlib import Path
print("a row for people")
print('{"bench": "x", "machine": "m", "figures": [%s]}')
"""
FIGURE = {"name": "hop_1s", "value": 12.345, "unit": "ms", "goal": 15.0, "better": "lower", "met": True}


def write(bench: ModuleType, name: str, *figures: dict[str, object]) -> None:
    code = FOUND % ", ".join(json.dumps(FIGURE | figure) for figure in figures)
    (bench.HERE / f"{name}.py").write_text(code)


def test_every_bench_is_known_and_there(bench: ModuleType) -> None:
    there = {path.stem for path in BENCH.glob("*.py")} - HELPERS
    known = set(bench.KNOWN)
    assert there == known


def test_the_document_has_room_for_the_table(bench: ModuleType) -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    changed = bench.put_between(text, "new")
    assert "new" in changed
    assert bench.put_between(changed, "new") == changed


def test_a_run_is_kept_and_a_failure_stops_no_other(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(bench, "features", {}, {"name": "hop_1s_vs_x", "unit": "ratio", "better": "higher", "goal": 30, "met": False})
    unmeasured = {"value": None, "met": None}
    write(bench, "delivery", {"goal": None, "met": None}, unmeasured | {"why": "no broker"}, unmeasured)
    (bench.HERE / "parity.py").write_text("raise SystemExit(3)")
    (bench.HERE / "latency.py").write_text("print('no result')")
    monkeypatch.setattr("sys.argv", ["bench", "features", "latency", "delivery", "parity", "clips"])
    bench.main()
    assert "a row for people" in capsys.readouterr().out
    (path,) = (bench.HERE / "results").iterdir()
    kept = json.loads(path.read_text())
    date = kept["benches"]["parity"]["date"]
    assert path.name == f"{date}-{bench.slug(kept['machine'])}.json"
    assert bench.DOCUMENT.read_text() == f"""before
{bench.MARKERS[0]}
{kept["machine"]}

| bench | figure | measured | goal | met | on |
|---|---|---|---|---|---|
| features | hop 1s | 12.35 ms | ≤ 15 ms | yes | {date} |
| features | hop 1s vs x | 12.35 times | ≥ 30 times | **no** | {date} |
| latency | | its last line is no result | | | {date} |
| delivery | hop 1s | not measured: no broker | ≤ 15 ms |  | {date} |
| delivery | hop 1s | not measured | ≤ 15 ms |  | {date} |
| parity | | ended with 3 | | | {date} |
| clips | | there is no bench/clips.py | | | {date} |
{bench.MARKERS[1]}
after
"""


def test_what_did_not_run_stays_as_it_was(bench: ModuleType) -> None:
    results, kind = bench.HERE / "results", "x86_64, 2 cores, avx2"
    old = {"features": {"date": "2026-01-02", "options": [], "figures": [FIGURE]}}
    (results / f"2026-01-02-{bench.slug(kind)}.json").write_text(json.dumps({"machine": kind, "benches": old}))
    new = {"parity": {"date": "2026-01-03", "options": [], "figures": []}}
    assert bench.keep(results, kind, new) == old | new
    assert bench.newest(results, kind) == old | new
    assert bench.newest(results, "another") == {}


def test_a_failure_leaves_older_figures_and_is_said(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    results, kind = bench.HERE / "results", "x86_64, 2 cores, avx2"
    good = {"date": "2026-01-02", "options": [], "figures": [FIGURE]}
    failed = {"date": "2026-01-03", "options": [], "figures": [], "why": "ended with 3"}
    bench.keep(results, kind, {"features": good, "parity": failed})
    assert bench.keep(results, kind, {"features": failed, "latency": failed, "parity": failed | {"why": "else"}}) == {
        "features": good, "latency": failed, "parity": failed | {"why": "else"},
    }  # fmt: skip
    assert capsys.readouterr().out == "features: ended with 3; its figures of 2026-01-02 stay\n"
    assert bench.keep(results, kind, {"parity": good})["parity"] == good


@pytest.mark.parametrize(("value", "goal", "better", "why", "more"), [
    (1.0, 2.0, "lower", None, {"met": True}),
    (1.0, 2.0, "higher", "unused", {"met": False}),
    (1.0, None, "lower", None, {"met": None}),
    (None, 2.0, "lower", "no GPU", {"met": None, "why": "no GPU"}),
    (None, 2.0, "higher", None, {"met": None}),
])  # fmt: skip
def test_a_figure_is_met_missed_or_neither(
    monkeypatch: pytest.MonkeyPatch, value: float | None, goal: float | None, better: str, why: str | None, more: object
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    made = importlib.import_module("figures").figure("wait", value, "ms", goal, better, why=why)
    assert {key: made[key] for key in made.keys() & {"met", "why"}} == more


def test_quick_runs_change_nothing(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    write(bench, "features", {})
    before = bench.DOCUMENT.read_text()
    monkeypatch.setattr("sys.argv", ["bench", "--quick", "features"])
    bench.main()
    assert bench.DOCUMENT.read_text() == before
    assert not list((bench.HERE / "results").iterdir())


def test_a_document_without_markers_is_left_alone(bench: ModuleType) -> None:
    with pytest.raises(SystemExit, match="put both back"):
        bench.put_between("nothing", "new")


# -- thresholds --------------------------------------------------------------------------------------------------------

INFO = StreamInfo("mic", "garage", 0.5, 2.0, 100, ("Bark", "Siren"), ("/m/1", "/m/2"))


@pytest.mark.parametrize("options", [
    {},
    {"min_windows": 2, "of_windows": 3, "release_s": 0.0},
    {"smooth_windows": 5, "min_duration_s": 1.0},
    {"max_duration_s": 2.0, "refractory_s": 3.0, "unless": ["Siren"]},
])  # fmt: skip
def test_thresholds_are_tried_on_the_windows_that_matter(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """And what comes out is what the rule would say of all of them."""
    monkeypatch.syspath_prepend(BENCH)
    thresholds = importlib.import_module("thresholds")
    config = Config.model_validate({"labels": ["Bark"], **options})
    rng = np.random.default_rng(0)
    loud = np.repeat(rng.random((60, 2)) < 0.3, rng.integers(1, 20, 60), axis=0)
    scores = np.clip(0.5 * loud + rng.normal(0.15, 0.15, loud.shape), 0, 1).astype(np.float32)
    windows = [
        Scores("mic", 50 * i - 150, 50 * i + 50, 50, each, Level(-20.0, -10.0, 0)) for i, each in enumerate(scores)
    ]
    heard = thresholds.Heard("mixed-000", INFO, windows, scores, [], windows[-1].end)
    found = thresholds.events(heard, "Bark", config)
    everything = thresholds.Heard("mixed-000", INFO, windows, np.ones_like(scores), [], windows[-1].end)
    assert found == thresholds.events(everything, "Bark", config)
    assert len(found) > 5
