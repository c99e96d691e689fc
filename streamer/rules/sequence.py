"""An event when other rules' events follow one another: glass breaks, then there are footsteps."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from streamer.core import Event, Phase, Reason, Scores
from streamer.rules._options import OPTIONS, Span
from streamer.rules.base import Place

LATE_S = 60.0  # events are told so long after their onset, as for their shortest duration: their chain must be known
FEW = 100  # events are remembered for longer, as those counted by another rule may begin an hour before they are told
ONSET = attrgetter("onset")


class Config(BaseModel):
    """Options of a sequence rule: events of `rules` begin in this order, the last within `within_s` of the first.

    It starts when the last of them is known, and ends with it. Events that begin in the same hop are in either order.
    """

    model_config = OPTIONS

    type: Literal["sequence"] = "sequence"
    rules: Annotated[list[str], Field(min_length=2)]
    within_s: Span

    @field_validator("rules")
    @classmethod
    def _check(cls, rules: list[str]) -> list[str]:
        for index, rule in enumerate(rules):
            if rule in rules[:index]:
                raise ValueError(f"'{rule}' stands in it twice; a rule of type count counts events of one rule")
        return rules


def build(config: Config, place: Place) -> "Rule":
    """The rule at `place`."""
    return Rule(config, place)


class Rule:
    """One sequence rule on one stream: from the onset of the first event in its order to the offset of the last."""

    def __init__(self, config: Config, place: Place) -> None:
        self.watches = tuple(config.rules)
        self.labels: tuple[str, ...] = ()
        self.why = ""
        self._place = place
        self._within = place.samples(config.within_s)
        self._memory = place.samples(config.within_s + LATE_S)
        self._known: dict[str, Event] = {}  # the newest news of each event, by id; each is part of one chain
        self._last: Event | None = None  # of the chain
        self._open: Event | None = None

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> list[Event]:
        """Look for a chain where `heard` brings a new event; end with the end of its last one."""
        self.why = f"open since {self._place.shown(self._open.onset)}" if self._open else ""
        told = self._take(heard)
        if heard:
            self._forget(scores.end - self._memory)
        if self._open is None and any(event.phase == Phase.START for event in heard):
            self.why = ", ".join(f"{event.rule} began at {self._place.shown(event.onset)}" for event in heard)
            if chain := self._chain():
                told += self._start(chain, scores.end)
        return told

    def flush(
        self, at: int, reason: Reason, heard: Sequence[Event] = (), stopped: Collection[str] = ()
    ) -> list[Event]:
        """End what is open; what was heard is forgotten."""
        ended = self._take(heard)
        if self._open:
            ended.append(self._end(at, at, reason))
        self._known.clear()
        return ended

    def _take(self, heard: Sequence[Event]) -> list[Event]:
        told = []
        for event in heard:
            if self._open and self._last and event.id == self._last.id and event.offset is not None:
                told.append(self._end(event.at, event.offset, event.end_reason or Reason.QUIET))
            elif event.phase == Phase.START or event.id in self._known:
                self._known[event.id] = event
        return told

    def _forget(self, before: int) -> None:
        """Forget what began before a position, and can't be part of a chain any more, but for the newest few."""
        n_most = max(0, len(self._known) - FEW)
        for name in [name for name, event in self._known.items() if event.onset < before][:n_most]:
            del self._known[name]

    def _chain(self) -> list[Event]:
        """An event of each rule in their order, as near to each other as may be; none where that is too far."""
        *before, last = (self._of(rule) for rule in self.watches)
        for final in reversed(last):
            chain = [final]
            for events in reversed(before):
                n_earlier = bisect_right(events, chain[0].onset, key=ONSET)
                if not n_earlier:
                    break
                chain.insert(0, events[n_earlier - 1])
            if len(chain) == len(self.watches) and final.onset - chain[0].onset <= self._within:
                return chain
        return []

    def _of(self, rule: str) -> list[Event]:
        return sorted((event for event in self._known.values() if event.rule == rule), key=ONSET)

    def _start(self, chain: Sequence[Event], at: int) -> list[Event]:
        last = self._last = chain[-1]
        self._known.clear()
        self._open = replace(
            last,
            id=self._place.new_id(),
            rule=self._place.name,
            phase=Phase.START,
            at=at,
            onset=chain[0].onset,
            offset=None,
            peak_score=max(event.peak_score for event in chain),
            end_reason=None,
        )
        self.why += f": started, at {self._place.shown(self._open.onset)}"
        started = [self._open]
        if last.offset is not None:  # it was over before what came first was known
            started.append(self._end(at, last.offset, last.end_reason or Reason.QUIET))
        return started

    def _end(self, at: int, offset: int, reason: Reason) -> Event:
        assert self._open is not None
        self.why = f"ended, at {self._place.shown(offset)}: {reason.value}"
        ended = replace(self._open, phase=Phase.END, at=at, offset=offset, end_reason=reason)
        self._open = None
        return ended
