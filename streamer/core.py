"""The nouns.

Positions are sample indices at the model rate, counted from stream start and never reset; ranges are half-open.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


class Phase(StrEnum):
    """Where in its life an event is."""

    START = "start"
    UPDATE = "update"
    END = "end"


class Reason(StrEnum):
    """Why a stretch of sound, and with it an open event, ended."""

    QUIET = "quiet"
    MAX_DURATION = "max_duration"
    SOURCE_END = "source_end"
    SOURCE_LOST = "source_lost"
    PAUSE = "pause"
    SNOOZE = "snooze"
    RELOAD = "reload"
    STOP = "stop"
    INTERRUPTED = "interrupted"


class Status(StrEnum):
    """What a stream is doing, as published on its status topic."""

    ONLINE = "online"
    STALLED = "stalled"
    PAUSED = "paused"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Level:
    """Loudness of a stretch of sound: dBFS (digital silence is -120), and how many samples clipped.

    A stretch that `is_constant`, all samples equal as the source gave them, is what a dead microphone delivers, silent
    or not.
    """

    rms_dbfs: float
    peak_dbfs: float
    clipped: int
    is_constant: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """One model input.

    `fbank` is (T, M) float32, a view into the stream's frame ring that is valid until the stream is polled again.
    The newest `hop` samples, [end - hop, end), were in no earlier window. `start` is negative while the window still
    reaches back before the first sample. `coverage` is the fraction of real, not padded, frames. A window that
    `is_gated` holds nothing as loud as the stream's gate: the model need not look at it.
    """

    stream_id: str
    start: int
    end: int
    hop: int
    fbank: Samples
    coverage: float
    level: Level
    is_gated: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model said of one window: (C,) float32 in [0, 1], with the window's positions and newest hop's level."""

    stream_id: str
    start: int
    end: int
    hop: int
    scores: Samples
    level: Level


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """A stream's unbroken stretch of sound ended at position `at`."""

    stream_id: str
    at: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Event:
    """Something a rule noticed; `id` is the same from start to end, `at` is how far the sound was heard."""

    id: str
    stream_id: str
    rule: str
    label: int
    phase: Phase
    at: int
    onset: int
    offset: int | None
    score: float
    peak_score: float
    level_dbfs: float
    end_reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """Something to publish.

    `topic` is relative to `<base>/<node>/`. `retain` marks a state: only its newest value matters.
    QoS 1 without `retain` is an event: kept until acknowledged. QoS 0 is a reading: worthless once late.
    """

    topic: str
    payload: Mapping[str, Any] | str
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as its listeners see it."""

    stream_id: str
    node: str
    hop_s: float
    window_s: float
    sample_rate: int
    labels: tuple[str, ...]
    label_ids: tuple[str, ...]
    model: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamRules:
    """A stream and its rules, as a sink announces them: `rules` gives each rule's labels, by its name.

    Of a rule that watches other rules the labels are theirs; of one that hears anything there are none. `tunable` are
    those whose threshold can be set: rules that listen to the sound, not to other rules.
    """

    stream_id: str
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tunable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Site:
    """What a sink is told of the daemon it speaks for.

    `command` takes an order from outside: its topic relative to `<base>/<node>/`, as `mic/listening/set`, and its
    text. It returns at once, on the event loop, and raises `CommandError` with a sentence for what can't be obeyed.
    """

    node: str
    streams: tuple[StreamRules, ...] = ()
    command: Callable[[str, str], None] = lambda topic, text: None
