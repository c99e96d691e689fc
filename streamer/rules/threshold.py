"""An event while a label's score is high: two thresholds, N of M windows, and event times finer than the window.

Over `onset_threshold` a sound is there, and it lasts as long as it stays over `offset_threshold`, before and after. A
sound enters a window at its right edge and leaves it at its left edge. So the onset is the start of the newest hop of
the first window of the unbroken run over `offset_threshold`, but no more than a window's length back. The last window
of the run holds the sound and the next does not: it ended between their starts, and the offset is the middle, half a
hop after the start of the former.
Smoothed scores are those of the window in the middle: smoothing delays the news, not the times that it states.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from streamer.core import Event, Phase, Reason, Samples, Scores
from streamer.errors import ConfigError
from streamer.references import NOTHING_LEFT, within
from streamer.rules._bar import Bar
from streamer.rules._labels import Listener, Sound, Threshold, Thresholds, all_but, strangers
from streamer.rules._options import OPTIONS, Seconds, Span
from streamer.rules._schedule import Schedule
from streamer.rules.base import Place

Labels = Annotated[list[str], Field(min_length=1)]
NEVER = np.iinfo(np.int64).max  # a position
MOST_SMOOTH = 50  # windows: of so many the median of 527 labels takes 0.5 ms, and it grows with them
SMOOTHING: dict[str, Callable[..., Samples]] = {"median": np.median, "mean": np.mean}


class Config(BaseModel):
    """Options of a threshold rule: `docs/rules.md` says what each is for.

    A start needs `min_windows` of the last `of_windows` windows over `onset_threshold`. The end comes when scores
    stayed under `offset_threshold` for `release_s`, or after `max_duration_s`; then no start for `refractory_s`.
    There is no further option for merging two sounds with a gap between them: an end that was told can't be taken
    back, so what waits out a gap is what waits for the end, `release_s`.
    """

    model_config = OPTIONS

    type: Literal["threshold"] = "threshold"
    labels: Labels | Literal["any"]
    groups: dict[str, Labels] = {}
    onset_threshold: Threshold = 0.6
    offset_threshold: Threshold = 0.4
    thresholds: dict[str, Thresholds] = {}
    smooth_windows: Annotated[int, Field(ge=1, le=MOST_SMOOTH)] = 1
    smoothing: Literal["median", "mean"] = "median"
    min_windows: Annotated[int, Field(ge=1)] = 1
    of_windows: Annotated[int, Field(ge=1)] = 1
    min_duration_s: Seconds = 0.0
    release_s: Seconds = 2.0
    refractory_s: Seconds = 0.0
    max_duration_s: Span | None = None
    instant: list[str] = []
    unless: list[str] = []
    unless_threshold: Threshold = 0.5
    min_level_dbfs: Annotated[float, Field(le=0)] | None = None
    schedule: Schedule | list[Schedule] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = {"thresholds": self.thresholds, "instant": self.instant}
        if mistakes := [*self._contradictions(), *strangers(self.labels, self.groups, self.unless, named)]:
            raise ValueError(". Also: ".join(mistakes))
        return self

    def _contradictions(self) -> Iterator[str]:
        if self.offset_threshold > self.onset_threshold:
            yield (
                f"offset_threshold {self.offset_threshold} is above onset_threshold {self.onset_threshold}; "
                "it must be at or below it"
            )
        if self.min_windows > self.of_windows:
            yield f"min_windows {self.min_windows} is more than of_windows {self.of_windows}; raise of_windows"
        if self.max_duration_s and self.max_duration_s < self.min_duration_s:
            yield f"max_duration_s {self.max_duration_s:g} is under min_duration_s {self.min_duration_s:g}; raise it"

    def thresholds_of(self, name: str) -> tuple[float, float]:
        """Onset and offset threshold of a label or group."""
        own = self.thresholds.get(name)
        return (own.onset, own.offset) if own else (self.onset_threshold, self.offset_threshold)

    def with_onset(self, threshold: float) -> "Config":
        """The same with another onset threshold, and the offset threshold at most that; labels' own stay.

        Raises:
            ValueError: it is no score between 0 and 1.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"a threshold lies between 0 and 1, not at {threshold:g}")
        offset = min(self.offset_threshold, threshold)
        return self.model_copy(update={"onset_threshold": threshold, "offset_threshold": offset})


def build(config: Config, place: Place) -> "Rule":
    """The rule at `place`.

    Raises:
        ConfigError: labels the stream's model does not know, all of them; or it knows none but those of `unless`.
    """
    known, named = place.info.labels, [] if config.labels == "any" else config.labels
    barred = within(config.unless, config.groups)
    wanted = within([*named, *config.groups, *barred, *config.thresholds, *config.instant], config.groups)
    unknown = [label for label in wanted if label not in known and label not in config.groups]
    if unknown:
        said = ", ".join(map(repr, unknown))
        raise ConfigError(f"the model does not know {said}; run 'streamer labels' for the list")
    groups, names = all_but(barred, config.groups, known) if config.labels == "any" else (config.groups, named)
    if not names:
        raise ConfigError(f"rule '{place.name}': {NOTHING_LEFT}")
    listener = Listener(names, groups, config.thresholds_of, known, config.instant)
    threshold = (config.unless_threshold, config.unless_threshold)
    unless = Listener(barred, config.groups, lambda name: threshold, known) if barred else None
    schedule = config.schedule if isinstance(config.schedule, list) else [config.schedule]
    bar = Bar(unless, known, config.min_level_dbfs, schedule, place.utc)
    return Rule(config, place, listener, bar)


@dataclass(frozen=True, slots=True)
class _Heard:
    """One window as the rule takes it: what it is the first to hold has this `onset`, what it misses left in its `hop`.

    With smoothing, its `start` and `hop` are those of the window in the middle.
    """

    scores: Scores
    smooth: Samples
    sound: Sound
    onset: int
    start: int
    hop: int


@dataclass(frozen=True, slots=True)
class _Counted:
    """A window over `onset_threshold`: what counted, where it says that began, and where its run says so."""

    name: int
    onset: int
    since: int
    score: float


class Rule:
    """One threshold rule on one stream; at most one event is open, or withheld until it lasted long enough."""

    def __init__(self, config: Config, place: Place, listener: Listener, bar: Bar) -> None:
        self.config = config
        self.labels = () if config.labels == "any" else tuple(n for n in listener.names if n in place.info.labels)
        self.watches: tuple[str, ...] = ()
        self.why = ""
        self._place = place
        self._listener = listener
        self.bar = bar
        self._release = place.samples(config.release_s)
        self._refractory = place.samples(config.refractory_s)
        self._min_duration = place.samples(config.min_duration_s)
        self._max_duration = config.max_duration_s and place.samples(config.max_duration_s)
        self._recent: deque[Scores] = deque(maxlen=config.smooth_windows)
        self._over: deque[_Counted | None] = deque(maxlen=config.of_windows)
        self._since = np.full(len(listener.names), NEVER)  # (N,) where each name's run over offset_threshold began
        self._open: Event | None = None
        self._withheld: Event | None = None
        self._last = (0, 0)  # offset, of a newest one its start, and end of the last window over offset_threshold
        self._is_over = False  # whether that is the newest one
        self._armed_at = 0  # position from which a start is allowed again
        self._counted_from = 0  # where the open or withheld event's first window over onset_threshold says it began
        self._ended_at = 0  # offset of the last event: smoothing looks back, but not behind that
        self._heard_to = 0

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> list[Event]:
        """Take one window's scores; return the start or end it brought."""
        if (begins := scores.end - scores.hop) > self._heard_to:  # after a hole: what was lost is no quiet
            self._forget()
            self._last = (self._last[0], begins)
        self._heard_to = scores.end
        window = self._hear(scores)
        was_over, self._is_over = self._is_over, window.sound.is_over_offset
        if self._is_over:
            self._last = (max(window.start, self._last[0]), scores.end)
        elif was_over:
            self._last = (self._last[0] + window.hop // 2, self._last[1])
        barred = self._barred(window) if self._is_over else ""
        self._follow(window, is_barred=bool(barred))
        if self._open:
            return self._maybe_end(window)
        begun = self._begun(window, barred) if self._withheld is None or window.sound.is_instant else None
        self._withheld = begun or self._withheld
        return self._maybe_tell(window, at_once=bool(begun) and window.sound.is_instant) if self._withheld else []

    def flush(
        self, at: int, reason: Reason, heard: Sequence[Event] = (), stopped: Collection[str] = ()
    ) -> list[Event]:
        """End the open event, if any: sound stops at `at`, and what comes later is another stretch."""
        self._forget()
        self._withheld = None
        return [self._end(at, self._sounds_to(at), reason)] if self._open else []

    def _forget(self) -> None:
        """What comes next is another stretch of sound."""
        self._over.clear()
        self._recent.clear()
        self._since[:] = NEVER

    def _hear(self, scores: Scores) -> _Heard:
        self._recent.append(scores)
        smooth = scores.scores
        if len(self._recent) > 1:
            smooth = SMOOTHING[self.config.smoothing]([window.scores for window in self._recent], axis=0)
            smooth[self._listener.instant_labels] = scores.scores[self._listener.instant_labels]
        sound = self._listener.hear(smooth)
        middle = scores if sound.is_instant else self._recent[len(self._recent) // 2]
        return _Heard(scores, smooth, sound, middle.end - middle.hop, middle.start, middle.hop)

    def _barred(self, window: _Heard) -> str:
        """Why nothing may start with this window; empty where it may."""
        if (wait := self._armed_at - window.scores.end) > 0:
            return f"for {self._place.shown(wait)} more an end is too fresh (refractory_s)"
        return self.bar.why(window.smooth, window.scores.level.rms_dbfs, window.onset)

    def _follow(self, window: _Heard, *, is_barred: bool) -> None:
        """Take note of where each name's run over its offset threshold began; what may not start breaks it."""
        onset = np.where(self._listener.is_instant, window.scores.end - window.scores.hop, window.onset)
        goes_on = window.sound.over_offset & (not is_barred)
        self._since = np.where(goes_on, np.minimum(self._since, onset), NEVER)

    def _begun(self, window: _Heard, barred: str) -> Event | None:
        """The event that begins with this window, if one does."""
        sound, end = window.sound, window.scores.end
        counts = sound.is_over_onset and not barred
        since = max(int(self._since[sound.name]), window.start)
        self._over.append(_Counted(sound.name, window.onset, since, sound.score) if counts else None)
        over = [found for found in self._over if found]
        if counts and sound.is_instant:
            over = over[-1:]
        elif not counts or len(over) < self.config.min_windows:
            self.why = self._why_not(window, barred, len(over))
            return None
        self._over.clear()
        self._counted_from = over[0].onset
        onset = min(found.since if found.name == sound.name else found.onset for found in over)
        return Event(
            id=self._place.new_id(),
            stream_id=window.scores.stream_id,
            rule=self._place.name,
            label=sound.label,
            phase=Phase.START,
            at=end,
            onset=max(onset, self._ended_at),
            offset=None,
            score=sound.score,
            peak_score=max(found.score for found in over),
            level_dbfs=window.scores.level.rms_dbfs,
        )

    def _maybe_tell(self, window: _Heard, *, at_once: bool) -> list[Event]:
        """Tell the withheld start once it lasted long enough for what an end would say, and that end if it is known."""
        sound, end = window.sound, window.scores.end
        assert self._withheld is not None
        peak = max(sound.score, self._withheld.peak_score)
        event = replace(self._withheld, at=end, score=sound.score, peak_score=peak)
        lasted = max(0, self._last[0] - event.onset)
        is_long = lasted >= self._min_duration
        so_far = f"lasts {self._place.shown(lasted)} of {self.config.min_duration_s:g} s (min_duration_s)"
        self._withheld = None
        if is_long or at_once:
            reached = f" >= {sound.onset_threshold:g}" if sound.is_over_onset else ""
            how = "started at once (instant)" if at_once else "started"
            self.why = f"{self._says(window)}{reached}: {how}, at {self._place.shown(event.onset)}"
            self._open = event
            return [event, self._end(end, self._last[0], Reason.QUIET)] if self._has_left(end) else [event]
        if self._has_left(end):
            self.why = f"not told: {so_far}"
        else:
            self.why = f"{self._says(window)}: withheld, {so_far}"
            self._withheld = event
        return []

    def _maybe_end(self, window: _Heard) -> list[Event]:
        assert self._open is not None
        end, score = window.scores.end, window.sound.score
        self.why = f"open since {self._place.shown(self._open.onset)}; {self._says(window)}"
        self._open = replace(self._open, score=score, peak_score=max(score, self._open.peak_score))
        if self._has_left(end):
            return [self._end(end, self._last[0], Reason.QUIET)]
        if self._max_duration and end - self._counted_from >= self._max_duration:
            return [self._end(end, self._sounds_to(end), Reason.MAX_DURATION)]
        return []

    def _why_not(self, window: _Heard, barred: str, n_over: int) -> str:
        """Why nothing begins with this window; nothing where nothing was near."""
        sound, says = window.sound, self._says(window)
        if not sound.is_over_onset:
            newest = float(window.scores.scores[sound.label])
            is_near = sound.is_over_offset or newest >= sound.onset_threshold
            return f"{says} < {sound.onset_threshold:g}" if is_near else ""
        if barred:
            return f"{says}, but {barred}"
        needed = f"{n_over} of the {self.config.min_windows} windows that make a start"
        return f"{says} >= {sound.onset_threshold:g}: {needed}"

    def _says(self, window: _Heard) -> str:
        sound, n = window.sound, len(self._recent)
        said = f"{self._place.info.labels[sound.label]} {sound.score:.2f}"
        if n == 1 or sound.is_instant:
            return said
        return f"{said} ({self.config.smoothing} of {n}, now {window.scores.scores[sound.label]:.2f})"

    def _has_left(self, end: int) -> bool:
        """Whether it was quiet for `release_s` up to `end`."""
        return end - self._last[1] >= max(1, self._release)

    def _sounds_to(self, at: int) -> int:
        """Where an event cut off at `at` ended: there, or before, when the sound had left and was being waited for."""
        return at if self._is_over else self._last[0]

    def _end(self, at: int, offset: int, reason: Reason) -> Event:
        assert self._open is not None
        self._ended_at = max(self._open.onset, offset)
        self.why = f"ended, at {self._place.shown(self._ended_at)}: {reason.value}"
        ended = replace(self._open, phase=Phase.END, at=at, offset=self._ended_at, end_reason=reason)
        self._open = None
        self._armed_at = at + self._refractory
        return ended
