"""An event while another rule's events come thick and fast: a dog that barks five times in ten minutes."""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from streamer.core import Event, Phase, Reason, Scores
from streamer.rules._options import OPTIONS, Span
from streamer.rules.base import Place


class Config(BaseModel):
    """Options of a count rule.

    It starts with the event of `rule` by which `n` began within `within_s`. It ends when fewer than half as many have,
    and none goes on: were it fewer than `n`, it would end and start again with each bark of a dog that just makes it.
    """

    model_config = OPTIONS

    type: Literal["count"] = "count"
    rule: str
    n: Annotated[int, Field(ge=2)]
    within_s: Span


def build(config: Config, place: Place) -> "Rule":
    """The rule at `place`."""
    return Rule(config, place)


class Rule:
    """One count rule on one stream: from the onset of the first event it counts to the offset of the last."""

    def __init__(self, config: Config, place: Place) -> None:
        self.watches = (config.rule,)
        self.labels: tuple[str, ...] = ()
        self.why = ""
        self._config = config
        self._place = place
        self._within = place.samples(config.within_s)
        self._begun: deque[Event] = deque(maxlen=config.n)  # newest news of each that counts
        self._is_on = False  # whether the watched event goes on
        self._sounded_to = 0  # offset of the last watched event, or its onset
        self._open: Event | None = None

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> list[Event]:
        """Count the starts in `heard`; return the start or end that they, or their want, brought."""
        told = [started for event in heard if (started := self._take(event))]
        n = sum(event.onset > scores.end - self._within for event in self._begun)
        so_far = f"{self._config.rule}: {n} of {self._config.n} within {self._config.within_s:g} s"
        self.why = so_far if heard else ""
        if self._open and not told:
            self.why = f"open since {self._place.shown(self._open.onset)}; {so_far}"
        if told:
            self.why += f": started, at {self._place.shown(told[0].onset)}"
        if self._open and not self._is_on and 2 * n < self._config.n:
            told.append(self._end(scores.end, Reason.QUIET))
        return told

    def flush(
        self, at: int, reason: Reason, heard: Sequence[Event] = (), stopped: Collection[str] = ()
    ) -> list[Event]:
        """End what is open; what was counted is forgotten."""
        for event in heard:
            self._take(event)
        ended = [self._end(at, reason)] if self._open else []
        self._begun.clear()
        self._is_on = False
        return ended

    def _take(self, event: Event) -> Event | None:
        """Take note of a watched event; return the event that it starts."""
        self._is_on = event.phase != Phase.END
        self._sounded_to = event.onset if event.offset is None else event.offset
        if event.phase == Phase.START:
            self._begun.append(event)
        elif self._begun:
            self._begun[-1] = event
        if self._open:
            peak = max(self._open.peak_score, event.peak_score)
            self._open = replace(self._open, score=event.score, peak_score=peak)
            return None
        if event.phase != Phase.START or len(self._begun) < self._config.n:
            return None
        first = self._begun[0]
        if event.onset - first.onset > self._within:
            return None
        peak = max(begun.peak_score for begun in self._begun)
        self._open = replace(event, id=self._place.new_id(), rule=self._place.name, onset=first.onset, peak_score=peak)
        return self._open

    def _end(self, at: int, reason: Reason) -> Event:
        assert self._open is not None
        offset = at if self._is_on else self._sounded_to
        ended = replace(self._open, phase=Phase.END, at=at, offset=offset, end_reason=reason)
        self.why = f"ended, at {self._place.shown(offset)}: {reason.value}"
        self._open = None
        self._begun.clear()
        return ended
