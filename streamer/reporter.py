"""One stream's rules, and what they notice as messages: the shapes that `docs/mqtt.md` promises.

In: `Scores` and `SegmentEnd` in order. Out: messages with topics relative to `<base>/<node>/`. Pure but for the clock.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from streamer.core import Event, Level, Message, Phase, Reason, Scores, SegmentEnd, Status, StreamInfo
from streamer.references import within
from streamer.rules.base import Remembering, Rule

VERSION = 1
LEVEL_S = 0.99  # seconds of sound between readings of level: one a second, also where hops are not quite that


class Reporter:
    """Feeds one stream's rules.

    Args:
        info: the stream.
        rules: by name; those that watch others are asked after them.
        utc: capture time of a position.
        latency_ms: how long ago the sound at a position was captured; None where that means nothing (replays).
        top: so many of the highest scores are read out, at most every `every_s` seconds of sound; 0: none.
    """

    def __init__(
        self,
        info: StreamInfo,
        rules: Mapping[str, Rule],
        utc: Callable[[int], datetime],
        latency_ms: Callable[[int], int | None],
        *,
        top: int = 0,
        every_s: float = 1.0,
    ) -> None:
        self.info = info
        self.rules = {name: rules[name] for name in _in_order(rules)}
        self._top = top
        self._every = round(every_s * info.sample_rate)
        self._scores_due = 0
        self._awake_at: dict[str, int] = {}  # positions at which snoozed rules are asked again
        self._utc = utc
        self._latency_ms = latency_ms
        self._n_events = 0
        self._heard_to = 0
        self._level_due = 0
        self._onsets: dict[str, str] = {}  # of open events: said the same at start and end, whatever the clock did

    def idle(self) -> Iterator[Message]:
        """The state of every rule before anything was heard: retained states of an earlier life may be stale."""
        for rule in self.rules:
            yield self._state(rule, None)

    def report(self, output: Scores | SegmentEnd) -> Iterator[Message]:
        """What `output` brought: level, highest scores, events, states."""
        if isinstance(output, Scores):
            yield from self._readings(output)
        self._heard_to = output.end if isinstance(output, Scores) else output.at
        yield from self._wake()
        heard: list[Event] = []
        for name, rule in self.rules.items():
            watched = _of(rule.watches, heard)
            if isinstance(output, SegmentEnd):
                events = rule.flush(output.at, output.reason, watched)
            elif name in self._awake_at:
                events = rule.flush(output.end, Reason.SNOOZE, watched)
            else:
                events = rule.update(output, watched)
            heard.extend(events)
            for event in events:
                yield from self._messages(event)

    def stop(self, reason: Reason = Reason.STOP) -> Iterator[Message]:
        """Ends for whatever is still open, however that came about; nothing after an orderly `SegmentEnd`."""
        yield from self.report(SegmentEnd(self.info.stream_id, self._heard_to, reason))

    def snooze(self, name: str, seconds: float) -> Iterator[Message]:
        """End what a rule has open, and don't ask it for `seconds` of sound; 0 wakes it if it sleeps."""
        if seconds:
            yield from self._cut(name, Reason.SNOOZE)
            self._awake_at[name] = self._heard_to + round(seconds * self.info.sample_rate)
            yield self._state(name, None)
        elif name in self._awake_at:
            self._awake_at[name] = self._heard_to
            yield from self._wake()

    def snoozed(self) -> dict[str, float]:
        """Rules that sleep, and for how many more seconds of sound; none that only waits for it to be told it woke."""
        left = {name: at - self._heard_to for name, at in self._awake_at.items()}
        return {name: n / self.info.sample_rate for name, n in left.items() if n > 0}

    def replace(self, name: str, rule: Rule) -> Iterator[Message]:
        """Go on with another rule of that name; what the old one has open ends."""
        yield from self._cut(name, Reason.RELOAD)
        self.rules[name] = rule

    def known(self, same: Collection[str]) -> dict[str, Event]:
        """What rules know of the time before, of those that are the `same` in what is to come, with all they watch."""
        watches = {name: rule.watches for name, rule in self.rules.items()}
        rules = {name: self.rules[name] for name in same if set(same).issuperset(within([name], watches))}
        return {name: rule.known for name, rule in rules.items() if isinstance(rule, Remembering) and rule.known}

    def remember(self, known: Mapping[str, Event]) -> None:
        """Give rules what those of another configuration knew."""
        for name, event in known.items():
            if isinstance(rule := self.rules[name], Remembering):
                rule.known = event

    def _cut(self, name: str, reason: Reason) -> Iterator[Message]:
        """End what a rule has open, and what those have open that watch it: they know of nothing but its events."""
        cut, ended = {name}, list[Event]()
        for each, rule in self.rules.items():
            if each in cut or not cut.isdisjoint(rule.watches):
                cut.add(each)
                ended.extend(rule.flush(self._heard_to, reason, _of(rule.watches, ended), cut))
        for event in ended:
            yield from self._messages(event)

    def _wake(self) -> Iterator[Message]:
        """Say of the rules that slept long enough that they are awake."""
        for name in [name for name, at in self._awake_at.items() if at <= self._heard_to]:
            self.rules[name].flush(self._awake_at.pop(name), Reason.SNOOZE)  # nothing is open: to tell it when it woke
            yield self._state(name, None)

    def _readings(self, scores: Scores) -> Iterator[Message]:
        if scores.end >= self._level_due:
            self._level_due = scores.end + round(LEVEL_S * self.info.sample_rate)
            yield level_message(self.info.stream_id, scores.level)
        if self._top and scores.end >= self._scores_due:
            self._scores_due = scores.end + self._every
            yield self._highest(scores)

    def _messages(self, event: Event) -> Iterator[Message]:
        self._n_events += 1
        self._onsets.setdefault(event.id, _iso(self._utc(event.onset)))
        yield Message(f"{self.info.stream_id}/event", self._payload(event))
        if event.phase != Phase.UPDATE:
            yield self._state(event.rule, event if event.phase == Phase.START else None)
        if event.phase == Phase.END:
            del self._onsets[event.id]

    def _payload(self, event: Event) -> dict[str, object]:
        rate, has_ended = self.info.sample_rate, event.offset is not None
        offset = event.offset or 0
        return {
            "v": VERSION,
            "event_type": event.phase.value,
            "id": event.id,
            "node": self.info.node,
            "stream": self.info.stream_id,
            "rule": event.rule,
            "label": self.info.labels[event.label],
            "label_id": self.info.label_ids[event.label],
            "score": round(event.score, 4),
            "score_peak": round(event.peak_score, 4),
            "onset": self._onsets[event.id],
            "offset": _iso(self._utc(offset)) if has_ended else None,
            "onset_s": round(event.onset / rate, 3),
            "offset_s": round(offset / rate, 3) if has_ended else None,
            "duration_s": round((offset - event.onset) / rate, 3) if has_ended else None,
            "end_reason": event.end_reason.value if event.end_reason else None,
            "level_dbfs": round(event.level_dbfs, 1),
            "window_s": self.info.window_s,
            "hop_s": self.info.hop_s,
            "model": dict(self.info.model),
            "latency_ms": self._latency_ms(event.at),
            "seq": self._n_events,
            "replayed": False,
        }

    def _highest(self, scores: Scores) -> Message:
        rate = self.info.sample_rate
        best = np.argsort(-scores.scores, kind="stable")[: self._top]
        payload = {
            "start_s": round(max(0, scores.start) / rate, 3),
            "end_s": round(scores.end / rate, 3),
            "scores": [{"label": self.info.labels[i], "score": round(float(scores.scores[i]), 4)} for i in best],
        }
        return Message(f"{self.info.stream_id}/scores", payload, qos=0)

    def _state(self, rule: str, event: Event | None) -> Message:
        payload = {
            "state": "ON" if event else "OFF",
            "event_id": event.id if event else None,
            "label": self.info.labels[event.label] if event else None,
            "score": round(event.score, 4) if event else None,
            "onset": self._onsets[event.id] if event else None,
            "snoozed_until": self._snoozed_until(rule),
        }
        return Message(f"{self.info.stream_id}/{rule}/state", payload, retain=True)

    def _snoozed_until(self, rule: str) -> str | None:
        """Until when at least: a stream that hears nothing now, or nothing yet, may have been deaf for hours."""
        awake_at = self._awake_at.get(rule)
        if awake_at is None:
            return None
        return _iso(datetime.now(UTC) + timedelta(seconds=(awake_at - self._heard_to) / self.info.sample_rate))


def status_message(stream_id: str, status: Status) -> Message:
    """A stream's retained status."""
    return Message(f"{stream_id}/status", status.value, retain=True)


def interrupted(start: Message) -> Message:
    """The end of an event whose start a crash left without one: when it ended, nobody heard."""
    assert isinstance(start.payload, Mapping)
    changes = {"event_type": Phase.END.value, "end_reason": Reason.INTERRUPTED.value, "latency_ms": None, "seq": 0}
    return replace(start, payload={**start.payload, **changes})


def level_message(stream_id: str, level: Level) -> Message:
    """A reading of how loud a stream's newest hop was."""
    payload = {
        "rms_dbfs": round(level.rms_dbfs, 1),
        "peak_dbfs": round(level.peak_dbfs, 1),
        "clipped": level.clipped,
    }
    return Message(f"{stream_id}/level", payload, qos=0)


def _in_order(rules: Mapping[str, Rule]) -> Iterator[str]:
    """Names, each after those it watches, else as they stand; there are no circles."""
    waiting = dict(rules)
    while waiting:
        name = next(name for name, rule in waiting.items() if waiting.keys().isdisjoint(rule.watches))
        del waiting[name]
        yield name


def _of(rules: Collection[str], events: Iterable[Event]) -> list[Event]:
    """The events of these rules."""
    return [event for event in events if event.rule in rules]


def _iso(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
