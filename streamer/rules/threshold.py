"""An event while a label's score is high: two thresholds, N of M windows, and event times finer than the window.

A sound enters a window at its right edge and leaves it at its left edge. So the onset is the start of the newest hop of
the first window over `onset_threshold`, and the offset is the start of the last window over `offset_threshold`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ulid import ULID

from streamer.core import Event, Phase, Reason, Scores, StreamInfo
from streamer.errors import ConfigError

Threshold = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(ge=0)]


class Config(BaseModel):
    """Options of a threshold rule.

    A start needs `min_windows` of the last `of_windows` windows over `onset_threshold`. The end comes when scores
    stayed under `offset_threshold` for `release_s`, or after `max_duration_s`; then no start for `refractory_s`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    type: Literal["threshold"] = "threshold"
    labels: Annotated[list[str], Field(min_length=1)]
    onset_threshold: Threshold = 0.6
    offset_threshold: Threshold = 0.4
    min_windows: Annotated[int, Field(ge=1)] = 1
    of_windows: Annotated[int, Field(ge=1)] = 1
    release_s: Seconds = 2.0
    refractory_s: Seconds = 0.0
    max_duration_s: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = []
        if self.offset_threshold > self.onset_threshold:
            mistakes.append(
                f"offset_threshold {self.offset_threshold} is above onset_threshold {self.onset_threshold}; "
                "it must be at or below it"
            )
        if self.min_windows > self.of_windows:
            mistakes.append(
                f"min_windows {self.min_windows} is more than of_windows {self.of_windows}; raise of_windows"
            )
        if mistakes:
            raise ValueError(". Also: ".join(mistakes))
        return self

    def with_onset(self, threshold: float) -> "Config":
        """The same with another onset threshold, and the offset threshold at most that.

        Raises:
            ValueError: it is no score between 0 and 1.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"a threshold lies between 0 and 1, not at {threshold:g}")
        offset = min(self.offset_threshold, threshold)
        return self.model_copy(update={"onset_threshold": threshold, "offset_threshold": offset})


def build(
    config: Config,
    name: str,
    info: StreamInfo,
    utc: Callable[[int], datetime] = lambda at: datetime.now(UTC),
    new_id: Callable[[], str] = lambda: str(ULID()),
) -> "Rule":
    """The rule `name` for one stream; `utc` tells the capture time of a position.

    Raises:
        ConfigError: labels the stream's model does not know; all of them.
    """
    unknown = [label for label in config.labels if label not in info.labels]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ConfigError(f"the model does not know {names}; run 'streamer labels' for the list")
    return Rule(config, name, info, new_id)


class Rule:
    """One threshold rule on one stream; at most one event is open at a time."""

    def __init__(self, config: Config, name: str, info: StreamInfo, new_id: Callable[[], str]) -> None:
        self.config = config
        self.name = name
        self.watches: tuple[str, ...] = ()
        self.why = ""
        self._names = info.labels
        self._sample_rate = info.sample_rate
        self._labels = [info.labels.index(label) for label in config.labels]
        self._release = round(config.release_s * info.sample_rate)
        self._refractory = round(config.refractory_s * info.sample_rate)
        self._max_duration = config.max_duration_s and round(config.max_duration_s * info.sample_rate)
        self._new_id = new_id
        self._over: deque[tuple[int, float] | None] = deque(maxlen=config.of_windows)  # newest hop's start, and score
        self._open: Event | None = None
        self._last = (0, 0)  # [start, end) of the last window over offset_threshold
        self._is_over = False  # whether that is the newest one
        self._armed_at = 0  # position from which a start is allowed again

    def update(self, scores: Scores, heard: Sequence[Event] = ()) -> list[Event]:
        """Take one window's scores; return the start or end it brought."""
        label = max(self._labels, key=lambda i: float(scores.scores[i]))
        score = float(scores.scores[label])
        self._is_over = score >= self.config.offset_threshold
        if self._is_over:
            self._last = (scores.start, scores.end)
        if self._open is None:
            started = self._maybe_start(scores, label, score)
            self.why = self._why_started(scores.end, label, score)
            return started
        self.why = f"open since {self._seconds(self._open.onset)}; {self._names[label]} {score:.2f}"
        self._open = replace(self._open, score=score, peak_score=max(score, self._open.peak_score))
        if scores.end - self._last[1] >= max(1, self._release):
            return [self._end(scores.end, self._last[0], Reason.QUIET)]
        if self._max_duration and scores.end - self._open.onset >= self._max_duration:
            return [self._end(scores.end, self._sounds_to(scores.end), Reason.MAX_DURATION)]
        return []

    def flush(self, at: int, reason: Reason, heard: Sequence[Event] = ()) -> list[Event]:
        """End the open event, if any: sound stops at `at`, and what comes later is another stretch."""
        self._over.clear()
        return [self._end(at, self._sounds_to(at), reason)] if self._open else []

    def _maybe_start(self, scores: Scores, label: int, score: float) -> list[Event]:
        is_over = score >= self.config.onset_threshold and scores.end >= self._armed_at
        self._over.append((scores.end - scores.hop, score) if is_over else None)
        over = [window for window in self._over if window]
        if not is_over or len(over) < self.config.min_windows:
            return []
        self._over.clear()
        self._open = Event(
            id=self._new_id(),
            stream_id=scores.stream_id,
            rule=self.name,
            label=label,
            phase=Phase.START,
            at=scores.end,
            onset=over[0][0],
            offset=None,
            score=score,
            peak_score=max(peak for _, peak in over),
            level_dbfs=scores.level.rms_dbfs,
        )
        return [self._open]

    def _why_started(self, end: int, label: int, score: float) -> str:
        """Why an event began with the window that ended at `end`, or did not; nothing where nothing was near."""
        config = self.config
        heard = f"{self._names[label]} {score:.2f}"
        if not self._is_over:
            return ""
        if score < config.onset_threshold:
            return f"{heard} < {config.onset_threshold:g}"
        if end < self._armed_at:
            return f"{heard}, but for {self._seconds(self._armed_at - end)} more an end is too fresh (refractory_s)"
        reached = f"{heard} >= {config.onset_threshold:g}"
        if self._open:
            return f"{reached}: started, at {self._seconds(self._open.onset)}"
        n_over = sum(window is not None for window in self._over)
        return f"{reached}: {n_over} of {config.min_windows} windows"

    def _seconds(self, samples: int) -> str:
        return f"{samples / self._sample_rate:.2f} s"

    def _sounds_to(self, at: int) -> int:
        """Where an event cut off at `at` ended: there, or before, when the sound had left and was being waited for."""
        return at if self._is_over else self._last[0]

    def _end(self, at: int, offset: int, reason: Reason) -> Event:
        assert self._open is not None
        offset = max(self._open.onset, offset)
        self.why = f"ended, at {self._seconds(offset)}: {reason.value}"
        ended = replace(self._open, phase=Phase.END, at=at, offset=offset, end_reason=reason)
        self._open = None
        self._armed_at = at + self._refractory
        return ended
