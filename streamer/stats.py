"""What the process counts about itself: counters, gauges and latency percentiles. Any thread writes and reads."""

from collections import Counter, defaultdict, deque
from itertools import islice
from math import ceil
from threading import Lock

KEPT = 1000  # observations of each latency: p99 still rests on ten of them
PERCENTILES = (50, 95, 99)


class Stats:
    """Named numbers. A name is used by one of the three kinds only."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counters: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}
        self._latencies_ms: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))

    def count(self, name: str, n: int = 1) -> None:
        """`n` more of `name` happened."""
        with self._lock:
            self._counters[name] += n

    def gauge(self, name: str, value: float) -> None:
        """`name` is at `value` now."""
        with self._lock:
            self._gauges[name] = value

    def observe_ms(self, name: str, value: float) -> None:
        """`name` took `value` milliseconds this time."""
        with self._lock:
            self._latencies_ms[name].append(value)

    def number(self, name: str) -> float:
        """A counter or a gauge; 0 while there is none of that name."""
        with self._lock:
            return self._gauges.get(name, self._counters[name])

    def p95_ms(self, name: str, newest: int) -> float:
        """The 95th percentile of so many of the newest observations, as far as they are kept; 0: of none."""
        with self._lock:
            values = sorted(islice(reversed(self._latencies_ms.get(name, ())), newest))
        return _percentile(values, 95) if values else 0.0

    def snapshot(self) -> dict[str, float | dict[str, float]]:
        """Everything at this moment: `{"overruns": 3, "queue": 0, "latency_ms": {"p50": …, "p95": …, "p99": …}}`.

        Percentiles are of the last 1000 observations, by nearest rank; a name without any is not there.
        """
        with self._lock:
            numbers: dict[str, float] = {**self._counters, **self._gauges}
            latencies = {name: sorted(values) for name, values in self._latencies_ms.items()}
        return {**numbers, **{f"{name}_ms": _percentiles(values) for name, values in latencies.items()}}


def _percentiles(ordered: list[float]) -> dict[str, float]:
    return {f"p{p}": _percentile(ordered, p) for p in PERCENTILES}


def _percentile(ordered: list[float], p: int) -> float:
    return round(ordered[ceil(p / 100 * len(ordered)) - 1], 2)
