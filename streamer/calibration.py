"""Which thresholds a room allows: each threshold rule's own decision, its tail, and what would have fired.

A dial is a threshold that can be set: a rule's, or one that a rule's label has of its own. Schedules and
`min_duration_s` are left out of account, as if it were always the hour and every sound long: both only make false
alarms rarer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from models.spec import ModelSpec
from streamer import edges
from streamer.core import Phase, Reason, StreamInfo
from streamer.references import within
from streamer.room import Room, Span, Stretch
from streamer.rules import threshold
from streamer.rules._labels import Thresholds
from streamer.settings import Settings
from streamer.thresholds import BETWEEN, NO_LEVEL, Floats, Tail, decisions, fit, logit, peaks, score, smoothed

Clips = Mapping[str, Sequence[Sequence[Stretch]]]  # by label: each clip's windows

LOWEST, HIGHEST = 0.05, 0.9999  # thresholds that are proposed: under it sound that nobody heard yet decides
USUAL = 0.99  # share of a room's windows that must be under an offset threshold, so that events in it end
N_CANDIDATES = 5  # the loudest sounds of a dial, for people to listen to


@dataclass(frozen=True, slots=True)
class Pair:
    """An onset and an offset threshold."""

    onset: float
    offset: float


@dataclass(frozen=True, slots=True)
class Dial:
    """A threshold: of `rule`, or of its label or group `name`; `labels`, the model's, are those it decides about."""

    rule: str
    name: str | None
    config: threshold.Config
    labels: tuple[str, ...]
    present: Pair


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sound at which a dial was nearly turned, or was; `time` is known of live listening only."""

    span: Span
    score: float
    time: datetime | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a room says about a dial.

    Args:
        dial: the threshold.
        proposed: for the wished rate; None for the reason `why`.
        between: scores between which that threshold lies, 9 to 1.
        present_per_h: false alarms an hour at the present threshold, most likely, and between which rates, 9 to 1.
        fired: how often the rule would have started, in what was heard, at the present and the proposed threshold.
        candidates: the loudest sounds, loudest first; `if_real`: the threshold, were none of them a false alarm.
        peaks: logits of all sounds that could be told apart.
        clips: logits of labelled clips: the highest threshold at which each would start an event.
        tail: the fit.
        why: why there is no proposal.
    """

    dial: Dial
    proposed: Pair | None
    between: tuple[float, float] | None
    present_per_h: tuple[float, float, float] | None
    fired: tuple[int, int | None]
    candidates: tuple[Candidate, ...]
    if_real: float | None
    peaks: Floats
    clips: Floats
    tail: Tail | None
    why: str = ""

    def recall(self, onset: float) -> float | None:
        """Share of the labelled clips that are found at a threshold; None: there are none."""
        return float((self.clips >= logit(onset)).mean()) if len(self.clips) else None


# -- dials -------------------------------------------------------------------------------------------------------------


def dials(settings: Settings, stream: str, info: StreamInfo) -> list[Dial]:
    """The thresholds of all threshold rules that watch `stream`.

    Raises:
        ConfigError: one has labels that the model of `info` does not know.
    """
    found = []
    for rule, config in settings.rules_of(stream).items():
        if isinstance(config, threshold.Config):
            free = config.model_copy(update={"schedule": [], "min_duration_s": 0.0})
            edges.build_rule(free, rule, info, _no_time)
            found += list(_dials(rule, free, info.labels))
    return found


def _dials(rule: str, config: threshold.Config, known: Sequence[str]) -> Iterator[Dial]:
    barred = set(within(config.unless, config.groups))
    wanted = within(config.labels, config.groups) if config.labels != "any" else (*config.groups, *known)
    names = [name for name in dict.fromkeys(wanted) if name not in barred]
    shared = [name for name in names if name not in config.thresholds]
    for name, parts in ((None, shared), *((name, [name]) for name in names if name in config.thresholds)):
        labels = [part for part in within(parts, config.groups) if part in known and part not in barred]
        if labels:
            yield Dial(rule, name, config, tuple(labels), Pair(*config.thresholds_of("" if name is None else name)))


def levels(dial: Dial, each: Stretch, info: StreamInfo) -> Floats:
    """The logit (n,) of the highest threshold at which each window would start an event.

    Where the gate kept the window from the model all scores are 0: that can start nothing.
    """
    config, labels = dial.config, info.labels
    smooth = smoothed(each.scores, config.smooth_windows, threshold.SMOOTHING[config.smoothing])
    hasty = set(within(config.instant, config.groups))
    slow = [labels.index(label) for label in dial.labels if label not in hasty and dial.name not in hasty]
    fast = [labels.index(label) for label in dial.labels if label in hasty or dial.name in hasty]
    barred = _barred(dial, each, smooth, info)

    def highest(scores: np.ndarray[Any, Any], columns: list[int]) -> Floats:
        found = scores[:, columns].max(axis=1) if columns else np.full(len(scores), NO_LEVEL)
        return logit(np.where(barred | (found == 0), NO_LEVEL, found))

    counted = decisions(highest(smooth, slow), config.min_windows, config.of_windows)
    return np.maximum(counted, highest(each.scores, fast))


def _usual(dial: Dial, room: Room, info: StreamInfo) -> float:
    """The score that the dial's loudest label seldom reaches, of what the model heard of the room; 0: nothing."""
    config, columns = dial.config, [info.labels.index(label) for label in dial.labels]
    smoothing = threshold.SMOOTHING[config.smoothing]
    each = [smoothed(part.scores[:, columns], config.smooth_windows, smoothing).max(axis=1) for part in room.stretches]
    heard = np.concatenate([one[one > 0] for one in each])
    return float(np.quantile(heard, USUAL)) if len(heard) else 0.0


def _barred(dial: Dial, each: Stretch, smooth: np.ndarray[Any, Any], info: StreamInfo) -> np.ndarray[Any, Any]:
    if not dial.config.unless and dial.config.min_level_dbfs is None:
        return np.zeros(len(smooth), bool)
    rule: Any = edges.build_rule(dial.config, dial.rule, info, _no_time)
    onsets = each.end - each.hop
    rows = zip(smooth, each.level_dbfs, onsets, strict=True)
    return np.array([bool(rule.bar.why(row, float(level), int(onset))) for row, level, onset in rows], bool)


def _no_time(position: int) -> datetime:
    return datetime.fromtimestamp(position, UTC)


def info_of(spec: ModelSpec, hop_s: float, settings: Settings, stream: str) -> StreamInfo:
    """The stream as its rules see it."""
    model = {"name": spec.name, "revision": spec.revision}
    rate = spec.fbank.sample_rate
    return StreamInfo(stream, settings.node, hop_s, spec.window_s, rate, spec.labels, spec.label_ids, model)


def fired(rule: str, config: threshold.Config, room: Room, info: StreamInfo) -> list[tuple[Stretch, int, str]]:
    """Every start of a rule in what was heard: where, the position of its onset, its label."""
    least = min(config.onset_threshold, *(own.onset for own in config.thresholds.values()), 1.0)
    found = []
    for each in room.stretches:
        if each.scores.max() < least:
            continue
        watching = edges.build_rule(config, rule, info, _no_time)
        for i in range(len(each.end)):
            events = watching.update(each.window(i))
            found += [(each, e.onset, info.labels[e.label]) for e in events if e.phase == Phase.START]
        watching.flush(int(each.end[-1]), Reason.SOURCE_END)
    return found


# -- findings ----------------------------------------------------------------------------------------------------------


def calibrate(
    room: Room, all_dials: Sequence[Dial], info: StreamInfo, per_hour: float, clips: Clips
) -> Iterator[Finding]:
    """What the room says about each dial, in their order.

    Args:
        room: where nothing should be reported.
        all_dials: those of one stream.
        info: the stream.
        per_hour: false alarms an hour, of each dial.
        clips: labelled recordings by label, or by the name of a rule, group or label of a rule.
    """
    found = [_finding(dial, room, info, per_hour, clips) for dial in all_dials]
    for rule in dict.fromkeys(dial.rule for dial in all_dials):
        of_rule = [finding for finding in found if finding.dial.rule == rule]
        before = fired(rule, of_rule[0].dial.config, room, info)
        after = fired(rule, proposed(of_rule), room, info)
        for finding in of_rule:
            counts = [sum(label in finding.dial.labels for _, _, label in starts) for starts in (before, after)]
            yield replace(finding, fired=(counts[0], counts[1] if finding.proposed else None))


def proposed(findings: Sequence[Finding]) -> threshold.Config:
    """The options of the rule that `findings` are all of, with what they propose."""
    config = findings[0].dial.config
    for finding in findings:
        if finding.proposed and finding.dial.name is None:
            new = {"onset_threshold": finding.proposed.onset, "offset_threshold": finding.proposed.offset}
            config = config.model_copy(update=new)
        elif finding.proposed:
            own = Thresholds(onset=finding.proposed.onset, offset=finding.proposed.offset)
            config = config.model_copy(update={"thresholds": {**config.thresholds, str(finding.dial.name): own}})
    return config


def _finding(
    dial: Dial, room: Room, info: StreamInfo, per_hour: float, clips: Clips
) -> Finding:
    each = [levels(dial, part, info) for part in room.stretches]
    all_levels = np.concatenate(each) if each else np.empty(0)
    at_s = np.cumsum(np.concatenate([part.hop for part in room.stretches])) / info.sample_rate
    found = peaks(all_levels, at_s)
    heights = all_levels[found]
    tail, why = None, ""
    try:
        tail = fit(heights, at_s[found] / 3600, room.hours, per_hour)
    except ValueError as error:
        why = str(error)
    level = tail.level(per_hour) if tail else np.inf
    if tail and score(level) > HIGHEST:
        why = f"the room reaches {HIGHEST} more often; exclude what is no false alarm, or wish for more of them"
    floor = tail.floor if tail else np.inf
    named = [every for label, every in clips.items() if label in {*dial.labels, dial.name, dial.rule}]
    heard = [max(levels(dial, part, info).max() for part in clip) for every in named for clip in every if clip]
    return Finding(
        dial=dial,
        proposed=None if why else _pair(score(level), dial.present, _usual(dial, room, info)),
        between=None if why or not tail else _between(tail, per_hour),
        present_per_h=_per_h(heights, tail, float(logit(dial.present.onset)), room.hours),
        fired=(0, None),
        candidates=tuple(_candidate(dial, room, each, int(i), floor) for i in found[:N_CANDIDATES]),
        if_real=_if_real(heights, at_s[found] / 3600, room.hours, per_hour),
        peaks=heights,
        clips=np.array(heard, np.float64),
        tail=tail,
        why=why,
    )


def _between(tail: Tail, per_hour: float) -> tuple[float, float]:
    low, high = tail.levels(per_hour)
    return max(LOWEST, score(low)), max(LOWEST, score(high))


def _pair(onset: float, present: Pair, usual: float) -> Pair:
    """`onset` as people write it, not lower; the present offset, but over what the room usually scores."""
    digits = 10**4 if onset > 0.99 else 10**3
    rounded = min(HIGHEST, max(LOWEST, float(np.ceil(onset * digits - 1e-6)) / digits))
    return Pair(rounded, min(rounded, max(present.offset, float(np.ceil(usual * digits)) / digits)))


def _per_h(heights: Floats, tail: Tail | None, level: float, hours: float) -> tuple[float, float, float] | None:
    if not tail:
        return None
    if level < tail.floor:  # there is nothing to extrapolate: as many as there were, give or take
        n = int((heights >= level).sum())
        spread = 1.645 * np.sqrt(n * tail.unevenness)
        return n / hours, max(0.0, n - spread) / hours, (n + spread) / hours
    low, middle, high = np.quantile(tail.rates(level), (BETWEEN[0], 0.5, BETWEEN[1]))  # the mean is on the safe side
    return float(middle), float(low), float(high)


def _if_real(heights: Floats, at_h: Floats, hours: float, per_hour: float) -> float | None:
    try:
        level = fit(heights[N_CANDIDATES:], at_h[N_CANDIDATES:], hours, per_hour).level(per_hour)
    except ValueError:
        return None
    return max(LOWEST, score(level)) if score(level) <= HIGHEST else None


def _candidate(dial: Dial, room: Room, all_levels: Sequence[Floats], i: int, floor: float) -> Candidate:
    """The sound around window `i` of all: as long as windows in a row are over `floor`."""
    which = 0
    while i >= len(all_levels[which]):
        i -= len(all_levels[which])
        which += 1
    each, over = room.stretches[which], all_levels[which] >= min(floor, all_levels[which][i])
    first = i - int(np.argmin(np.append(over[i::-1], False))) + 1
    last = i + int(np.argmin(np.append(over[i:], False))) - 1
    first = max(0, first - (dial.config.of_windows - 1) - dial.config.smooth_windows // 2)
    begin = int(each.end[first] - each.hop[first])
    end = max(int(each.start[last]), begin) + int(each.hop[last])
    span = Span(each.source, round(begin / each.rate, 2), round(end / each.rate, 2))
    moment = None if each.begins is None else datetime.fromtimestamp(each.begins + begin / each.rate, UTC)
    return Candidate(span, score(float(all_levels[which][i])), moment)
