"""Overload that longer hops do nothing about: of streams that look at every window, or at the newest whenever they can.

In: counts and waits of the whole process. Out: lines in its log. Time is its caller's.
"""

import logging
import math

from streamer.stats import Stats

log = logging.getLogger(__name__)
SKIPPED = 0.1  # of the windows: fewer are lost to other programs too
BUSY = 0.5  # share of the time under which it isn't the model that they are skipped for: drivers deliver in lumps
WAIT_S = 5.0  # for the model: news that old is of little use, and a ring of 20 s has room for some more
AGAIN_S = 600.0  # from one warning to the next
N_CALM = 2  # looks without it until it is over: what comes and goes is one overload
ADVICE = "give streams a longer hop_s, listen to fewer, or choose a faster dtype or device"


class Overload:
    """Looks at `stats` now and then, and warns. What is skipped while hops are longer the engine has told."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._before: dict[str, float] = {}
        self._was_slowed = False
        self._is_told = False
        self._told = -math.inf  # when, the last time
        self._n_calm = 0

    def look(self, now: float) -> None:
        """Judge what happened since the last look; `now` is in seconds of a monotonic clock."""
        symptom = self._symptom()
        self._n_calm = 0 if symptom else self._n_calm + 1
        if symptom and now - self._told >= AGAIN_S:
            self._is_told, self._told = True, now
            log.warning("the model can't keep up: %s; %s", symptom, ADVICE)
        elif self._is_told and self._n_calm >= N_CALM:
            self._is_told = False
            log.info("the model keeps up again")

    def _symptom(self) -> str:
        """What there is to see of it, in words; empty: nothing."""
        n_seen, n_skipped = self._more("windows"), self._more("skipped")
        is_slowed = self._stats.number("hop_factor") > 1
        may_skip = is_slowed or self._was_slowed or self._stats.number("real_time_factor") < BUSY
        self._was_slowed = is_slowed
        said = []
        if n_skipped and not may_skip and n_skipped >= SKIPPED * (n_seen + n_skipped):
            said.append(f"{n_skipped / (n_seen + n_skipped):.0%} of the windows are skipped")
        if (wait_s := self._stats.p95_ms("queue", round(n_seen)) / 1e3) > WAIT_S:
            said.append(f"windows wait {wait_s:.0f} s for it")
        return " and ".join(said)

    def _more(self, name: str) -> float:
        """By how much a count grew since the last look."""
        before, self._before[name] = self._before.get(name, 0), self._stats.number(name)
        return self._before[name] - before
