"""Counting, and percentiles by nearest rank."""

from threading import Thread

import pytest

from streamer.stats import KEPT, Stats


def test_counters_add_up_and_gauges_hold_the_newest() -> None:
    stats = Stats()
    stats.count("overruns")
    stats.count("overruns", 2)
    stats.gauge("queue", 5)
    stats.gauge("queue", 0.5)
    assert stats.snapshot() == {"overruns": 3, "queue": 0.5}


@pytest.mark.parametrize(
    ("values_ms", "p50", "p95", "p99"),
    [
        ([7.0], 7.0, 7.0, 7.0),
        ([3.0, 1.0, 2.0], 2.0, 3.0, 3.0),
        ([float(n) for n in range(100, 0, -1)], 50.0, 95.0, 99.0),
        ([9999.0] * KEPT + [float(n) for n in range(1, KEPT + 1)], 500.0, 950.0, 990.0),  # only the newest count
    ],
)
def test_percentiles(values_ms: list[float], p50: float, p95: float, p99: float) -> None:
    stats = Stats()
    for value in values_ms:
        stats.observe_ms("latency", value)
    assert stats.snapshot() == {"latency_ms": {"p50": p50, "p95": p95, "p99": p99}}


def test_numbers_and_what_took_long_of_late() -> None:
    stats = Stats()
    for value in range(1, 101):
        stats.observe_ms("queue", value)
    assert [stats.p95_ms("queue", n) for n in (0, 1, 20, 1000)] == [0, 100, 99, 95]
    assert stats.p95_ms("infer", 20) == 0
    stats.count("skipped", 3)
    stats.gauge("hop_factor", 2)
    assert [stats.number(name) for name in ("skipped", "hop_factor", "windows")] == [3, 2, 0]
    assert stats.snapshot().keys() == {"skipped", "hop_factor", "queue_ms"}, "asking leaves no trace"


def test_a_snapshot_stays_as_it_was() -> None:
    stats = Stats()
    stats.count("losses")
    before = stats.snapshot()
    stats.count("losses")
    assert before == {"losses": 1}


def test_threads_lose_no_count() -> None:
    stats = Stats()

    def count() -> None:
        for _ in range(2000):
            stats.count("n")

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stats.snapshot() == {"n": 8000}
