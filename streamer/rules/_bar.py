"""What keeps a rule from starting events: other sounds, quiet, the hours."""

from collections.abc import Callable, Sequence
from datetime import datetime

from streamer.core import Samples
from streamer.rules._labels import Listener
from streamer.rules._schedule import Schedule


class Bar:
    """Looks at one window after the other; each may be barred.

    Args:
        unless: hears the sounds beside which nothing starts; None: there are none.
        labels: the model's, for what is said.
        min_level_dbfs: of the newest hop; None: however quiet.
        schedule: hours in which something may start; none: always.
        utc: capture time of a position.
    """

    def __init__(
        self,
        unless: Listener | None,
        labels: Sequence[str],
        min_level_dbfs: float | None,
        schedule: Sequence[Schedule],
        utc: Callable[[int], datetime],
    ) -> None:
        self._unless = unless
        self._labels = labels
        self._min_level_dbfs = min_level_dbfs
        self._schedule = schedule
        self._utc = utc

    def why(self, scores: Samples, level_dbfs: float, onset: int) -> str:
        """Why no sound may start at `onset`, in a window with these scores (C,); empty where one may."""
        if self._unless and (sound := self._unless.hear(scores)).is_over_onset:
            return f"{self._labels[sound.label]} {sound.score:.2f} >= {sound.onset_threshold:g} (unless)"
        if self._min_level_dbfs is not None and level_dbfs < self._min_level_dbfs:
            return f"the hop has {level_dbfs:.1f} dBFS < {self._min_level_dbfs:g} (min_level_dbfs)"
        if self._schedule:
            moment = self._utc(onset)
            if not any(schedule.holds(moment) for schedule in self._schedule):
                return f"{self._schedule[0].shown(moment)} is not in the schedule"
        return ""
