"""One stream's line as the configuration describes it: windows in front of the model, rules behind it.

`run` and `detect` build the same line, so a replay gives the events that live listening gives.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from models.spec import ModelSpec
from streamer import edges
from streamer.core import StreamInfo
from streamer.reporter import Reporter
from streamer.rules.base import Rule
from streamer.settings import Settings
from streamer.stats import Stats
from streamer.stream import Stream


@dataclass(frozen=True, slots=True)
class Line:
    """What is in front of the model, and what is behind it."""

    stream: Stream
    reporter: Reporter
    rules: Mapping[str, tuple[str, ...]]  # the labels of each


def build_line(settings: Settings, name: str, spec: ModelSpec, stats: Stats, *, is_replay: bool = False) -> Line:
    """The line of stream `name`; a replay's events carry no latency.

    Raises:
        ConfigError: a rule names labels the model does not know, and `settings` were loaded without asking it.
    """
    options = settings.streams[name]
    stream = Stream(name, spec, options.hop_s, options.gate_dbfs, stats)
    info = StreamInfo(
        stream_id=name,
        node=settings.node,
        hop_s=options.hop_s,
        window_s=spec.window_s,
        sample_rate=spec.fbank.sample_rate,
        labels=spec.labels,
        label_ids=spec.label_ids,
        model={"name": spec.name, "revision": spec.revision},
    )
    rules = {rule: edges.build_rule(config, rule, info, stream.utc) for rule, config in settings.rules_of(name).items()}
    labels = {rule: _labels(rule, rules) for rule in rules}
    top, every_s = (options.scores.top, options.scores.every_s) if options.scores else (0, 1.0)

    def latency_ms(position: int) -> int | None:
        """None where sound comes faster than life."""
        passed_s = time.monotonic() - stream.captured(position)
        return round(passed_s * 1e3) if passed_s >= 0 and not is_replay else None

    return Line(stream, Reporter(info, rules, stream.utc, latency_ms, top=top, every_s=every_s), labels)


def _labels(name: str, rules: Mapping[str, Rule]) -> tuple[str, ...]:
    """What rule `name` may report: its own labels, or those of the rules it watches; none where it hears anything."""
    rule = rules[name]
    if not rule.watches:
        return rule.labels
    theirs = [_labels(watched, rules) for watched in rule.watches]
    return tuple(dict.fromkeys(label for labels in theirs for label in labels)) if all(theirs) else ()
