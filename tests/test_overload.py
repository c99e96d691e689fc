"""Overload of streams that do not back off is told when it begins, every ten minutes, and when it is over."""

import pytest

from streamer.app import STATS_S
from streamer.overload import ADVICE, Overload
from streamer.stats import Stats

# Of half a minute: windows seen, and skipped; share of the time the model was busy; `hop_factor`; seconds waited.
KINDS = {
    ".": (100, 0, 0.3, 1, 0.1),
    "S": (100, 100, 1.0, 1, 0.1),  # `late: latest`
    "s": (100, 10, 1.0, 1, 0.1),  # a few
    "l": (100, 100, 0.2, 1, 0.1),  # for a driver
    "2": (50, 50, 0.9, 2, 0.1),  # `late: auto`
    "W": (100, 0, 1.0, 1, 12.4),  # `late: every`
    "w": (100, 0, 1.0, 1, 4.0),
    "V": (50, 50, 1.0, 2, 12.4),  # both
    "B": (100, 100, 1.0, 1, 12.4),
    "0": (0, 0, 0.0, 1, 0.0),  # paused
}
SKIPS, WAITS, OVER = "50% of the windows are skipped", "windows wait 12 s for it", "over"


def looks(periods: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The period of each line, and what it says."""
    caplog.set_level("INFO")
    stats, said = Stats(), []
    overload = Overload(stats)
    for i, kind in enumerate(periods):
        n_seen, n_skipped, busy, factor, wait_s = KINDS[kind]
        for _ in range(n_seen):
            stats.observe_ms("queue", wait_s * 1e3)
        stats.count("windows", n_seen)
        stats.count("skipped", n_skipped)
        stats.gauge("real_time_factor", busy)
        stats.gauge("hop_factor", factor)
        caplog.clear()
        overload.look((i + 1) * STATS_S)
        for record in caplog.records:
            words = record.message.removeprefix("the model can't keep up: ").removesuffix(f"; {ADVICE}")
            assert record.levelname == ("INFO" if words == "the model keeps up again" else "WARNING")
            said.append(f"{i} {words.replace('the model keeps up again', OVER)}")
    return said


@pytest.mark.parametrize(("periods", "said"), [
    ("..........",      []),
    ("ssssllll2222ww",  []),                            # few, not the model's fault, the engine's to tell, or short
    ("s2222....",       []),
    ("222S2",           []),                            # some of these were skipped while hops were longer
    (".SSSS",           [f"1 {SKIPS}"]),
    (".WWWW",           [f"1 {WAITS}"]),
    (".WWWW.W..",       [f"1 {WAITS}", f"8 {OVER}"]),   # not before it is
    ("V",               [f"0 {WAITS}"]),
    ("B",               [f"0 {SKIPS} and {WAITS}"]),
    ("WW0000",          [f"0 {WAITS}", f"3 {OVER}"]),
    ("S" * 45,          [f"{i} {SKIPS}" for i in (0, 20, 40)]),
    ("S...W....",       [f"0 {SKIPS}", f"2 {OVER}"]),   # again, but within ten minutes
    ("S..." + "W" * 20, [f"0 {SKIPS}", f"2 {OVER}", f"20 {WAITS}"]),
    ("." * 50 + "W..",  [f"50 {WAITS}", f"52 {OVER}"]), # waits of long ago don't count
])  # fmt: skip
def test_what_is_told(periods: str, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert looks(periods, caplog) == said
