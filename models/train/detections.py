"""How well events match the truth: what was missed, what was made up, how late it was told, how far off its times are.

Two measures of the field, and one of ours. Event-based (Mesaros et al. 2016, "Metrics for Polyphonic Sound Event
Detection"): an event is right if its onset and offset lie within collars of a true one's. Intersection-based (Bilen et
al. 2020, "A Framework for the Robust Evaluation of Sound Event Detection"): they cover one another. What a user feels
is a third: was I told of it, and how soon? There an event and a sound that it touches belong together.

All functions take the sounds and events of one label in one soundscape, neither overlapping among themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from models.train.soundscapes import Truth

TOUCH_S = 1.0  # an event this near to a sound is about it: a hop of the default configuration


@dataclass(frozen=True, slots=True)
class Found:
    """An event: seconds of the stream, of which it was `told_s`; and its highest score."""

    onset_s: float
    offset_s: float
    label: str
    told_s: float
    peak: float = 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """True events that were found, or missed, and found ones that are false. They add up."""

    right: int = 0
    missed: int = 0
    false: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.right + other.right, self.missed + other.missed, self.false + other.false)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where there is nothing, and nothing was found."""
        total = 2 * self.right + self.missed + self.false
        return 2 * self.right / total if total else None

    @property
    def recall(self) -> float | None:
        """Share of the true events that was found."""
        return self.right / (self.right + self.missed) if self.right + self.missed else None


@dataclass(frozen=True, slots=True)
class Told:
    """What a user notices. They add up.

    Args:
        counts: sounds that an event touches, sounds that none does, and events that touch no sound.
        latency_s: of events, from the onset of the first sound they touch to when they were told.
        onset_s: of events, stated less true; the truth is the first sound they touch.
        offset_s: the same of ends, with the last sound they touch.
        heard_db: SNR of each sound that was heard.
        missed_db: and of each that was not.
    """

    counts: Counts = Counts()
    latency_s: tuple[float, ...] = ()
    onset_s: tuple[float, ...] = ()
    offset_s: tuple[float, ...] = ()
    heard_db: tuple[float, ...] = ()
    missed_db: tuple[float, ...] = ()

    def __add__(self, other: "Told") -> "Told":
        return Told(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def told(truths: Sequence[Truth], found: Sequence[Found]) -> Told:
    """What a user notices of these events.

    One that was told before the sound began was false, and lasted into it by luck: it gives no latency.
    """
    heard = [truth for truth in truths if any(touches(truth, event) for event in found)]
    missed = [truth for truth in truths if truth not in heard]
    about = [(event, [truth for truth in truths if touches(truth, event)]) for event in found]
    right = [(event, its) for event, its in about if its]
    onsets = [(event, min(truth.onset_s for truth in its)) for event, its in right]
    return Told(
        counts=Counts(len(heard), len(missed), len(found) - len(right)),
        latency_s=tuple(event.told_s - onset_s for event, onset_s in onsets if event.told_s >= onset_s),
        onset_s=tuple(event.onset_s - onset_s for event, onset_s in onsets),
        offset_s=tuple(event.offset_s - max(truth.offset_s for truth in its) for event, its in right),
        heard_db=tuple(truth.snr_db for truth in heard),
        missed_db=tuple(truth.snr_db for truth in missed),
    )


def touches(truth: Truth, event: Found) -> bool:
    """Whether an event is about a sound: it reaches to within `TOUCH_S` of it."""
    return event.onset_s <= truth.offset_s + TOUCH_S and event.offset_s >= truth.onset_s - TOUCH_S


def event_based(
    truths: Sequence[Truth], found: Sequence[Found], collar_s: float, *, offset_share: float = 0.2
) -> Counts:
    """Pairs whose onsets differ by `collar_s` at most, and offsets by that or `offset_share` of the true length.

    Each sound and each event is in one pair at most; there are as many pairs as can be.
    """

    def fits(truth: Truth, event: Found) -> bool:
        offset_collar_s = max(collar_s, offset_share * (truth.offset_s - truth.onset_s))
        is_onset = abs(truth.onset_s - event.onset_s) <= collar_s
        return is_onset and abs(truth.offset_s - event.offset_s) <= offset_collar_s

    n_pairs = _most_pairs([[i for i, event in enumerate(found) if fits(truth, event)] for truth in truths])
    return Counts(n_pairs, len(truths) - n_pairs, len(found) - n_pairs)


def onset_based(truths: Sequence[Truth], found: Sequence[Found], collar_s: float) -> Counts:
    """The same by onsets alone."""
    return event_based(truths, found, collar_s, offset_share=float("inf"))


def intersection_based(
    truths: Sequence[Truth], found: Sequence[Found], *, detection: float = 0.5, truth: float = 0.5
) -> Counts:
    """Events of which a share of `detection` is true, and sounds of which a share of `truth` lies in such events."""
    valid = [event for event in found if _covered(event, truths) >= detection * (event.offset_s - event.onset_s)]
    valid = [event for event in valid if _covered(event, truths) > 0]
    right = sum(_covered(each, valid) >= truth * (each.offset_s - each.onset_s) for each in truths)
    return Counts(right, len(truths) - right, len(found) - len(valid))


def _most_pairs(candidates: Sequence[Sequence[int]]) -> int:
    """How many can each have one of its own candidates (Kuhn's augmenting paths)."""
    taken: dict[int, int] = {}

    def settle(one: int, tried: set[int]) -> bool:
        for candidate in candidates[one]:
            if candidate in tried:
                continue
            tried.add(candidate)
            if candidate not in taken or settle(taken[candidate], tried):
                taken[candidate] = one
                return True
        return False

    return sum(settle(one, set()) for one in range(len(candidates)))


def _covered(one: Truth | Found, others: Sequence[Truth] | Sequence[Found]) -> float:
    """Seconds of `one` that lie in others, which do not overlap one another."""
    return sum(max(0.0, min(one.offset_s, o.offset_s) - max(one.onset_s, o.onset_s)) for o in others)
