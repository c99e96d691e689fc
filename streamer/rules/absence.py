"""An event while a sound is missing that should be there: the pump stopped."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel

from streamer.core import Event, Phase, Reason, Scores
from streamer.rules._options import OPTIONS, Span
from streamer.rules.base import Place


class Config(BaseModel):
    """Options of an absence rule: `rule` heard something, and since that ended nothing for `for_s`.

    An event that `max_duration_s` cut off leaves open whether its sound goes on; the next one will say.
    A lost microphone is not a stopped pump: only seconds of sound count, and they are counted anew where sound goes on
    after a break. Digital silence counts: a microphone with a noise gate delivers it where a pump stopped.
    """

    model_config = OPTIONS

    type: Literal["absence"] = "absence"
    rule: str
    for_s: Span


def build(config: Config, place: Place) -> "Rule":
    """The rule at `place`."""
    return Rule(config, place)


class Rule:
    """One absence rule on one stream: from when the watched sound was last there to when it is heard again."""

    def __init__(self, config: Config, place: Place) -> None:
        self.watches = (config.rule,)
        self.labels: tuple[str, ...] = ()
        self.why = ""
        self._config = config
        self._place = place
        self._for = place.samples(config.for_s)
        self.known: Event | None = None  # the newest news of the watched rule; before there is any, nothing is missing
        self._may_sound = False  # whether that leaves open that the sound goes on
        self._since: int | None = None  # where the silence began that is counted
        self._free_from = 0  # the last event's end, a snooze's or a hole's: the watched one may be told with one before
        self._heard_to = 0
        self._open: Event | None = None

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> list[Event]:
        """Take note of what the watched rule heard; return the end or start which that, or its want, brings."""
        if (begins := scores.end - scores.hop) > self._heard_to:  # after a hole: what was lost is no silence
            self._since, self._free_from = None, max(self._free_from, begins)
        self._heard_to = scores.end
        told = [ended for event in heard for ended in self._take(event)]
        if self.known is None or self._may_sound:
            self.why = self.why if told else self._why_not()
            return told
        score = float(scores.scores[self.known.label])
        if self._open:
            self._open = replace(self._open, score=score, peak_score=max(score, self._open.peak_score))
            self.why = f"open since {self._place.shown(self._open.onset)}"
            return told
        if self._since is None:
            self._since = max(begins, self._free_from)
        missing = scores.end - self._since
        self.why = f"{self._config.rule} not heard for {self._place.shown(missing)} of {self._config.for_s:g} s"
        return [*told, self._start(scores, score)] if missing >= self._for else told

    def flush(
        self, at: int, reason: Reason, heard: Sequence[Event] = (), stopped: Collection[str] = ()
    ) -> list[Event]:
        """End what is open: whether the sound is there is not known any more. That it was heard before stays known.

        But for a snooze or another threshold of the watched rule: after them that must be heard anew.
        """
        told = [ended for event in heard for ended in self._take(event)]
        if self._open:
            told.append(self._end(at, at, reason))
        self._since = None
        is_deaf = not set(self.watches).isdisjoint(stopped)
        self.known = None if is_deaf else self.known
        if reason == Reason.SNOOZE and not is_deaf:  # it is this one that sleeps: the watched event may go on
            self._free_from = max(self._free_from, at)
        else:
            self._may_sound = False
        return told

    def _take(self, event: Event) -> list[Event]:
        ended = [self._end(event.at, event.onset, Reason.QUIET)] if self._open else []
        self.known = event
        self._since = None if event.offset is None else max(event.offset, self._free_from)
        is_cut = event.end_reason == Reason.MAX_DURATION and event.offset == event.at  # else it had left before
        self._may_sound = event.phase != Phase.END or is_cut
        return ended

    def _why_not(self) -> str:
        """What there is to say while nothing is counted."""
        is_cut = self.known is not None and self.known.end_reason == Reason.MAX_DURATION
        return f"{self._config.rule} may go on: its event was cut off by max_duration_s" if is_cut else ""

    def _start(self, scores: Scores, score: float) -> Event:
        assert self.known is not None
        assert self._since is not None
        self._open = replace(
            self.known,
            id=self._place.new_id(),
            rule=self._place.name,
            phase=Phase.START,
            at=scores.end,
            onset=self._since,
            offset=None,
            score=score,
            peak_score=score,
            level_dbfs=scores.level.rms_dbfs,
            end_reason=None,
        )
        self.why += f": started, at {self._place.shown(self._since)}"
        return self._open

    def _end(self, at: int, offset: int, reason: Reason) -> Event:
        assert self._open is not None
        offset = max(offset, self._open.onset)
        self._free_from = max(self._free_from, offset)
        self.why = f"ended, at {self._place.shown(offset)}: {reason.value}"
        ended = replace(self._open, phase=Phase.END, at=at, offset=offset, end_reason=reason)
        self._open = None
        return ended
