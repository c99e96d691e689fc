"""Orders from outside, as MQTT brings them: checked word by word, and obeyed until the process ends.

In: a topic under `<base>/<node>/` and its text. Out: messages that say what is so now. Event loop only.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from streamer import edges
from streamer.core import Message
from streamer.errors import CommandError
from streamer.journal import Journal
from streamer.journal_file import Order
from streamer.rules.base import Tunable
from streamer.settings import Settings
from streamer.supervisor import Supervisor

log = logging.getLogger(__name__)

LONGEST_SNOOZE_S = 7 * 86400.0  # a rule asleep for longer is a rule forgotten: remove it from the configuration
SHOWN_CHARS = 40  # of what somebody sent

Verb = Literal["listening", "snooze", "threshold"]


@dataclass(frozen=True, slots=True)
class Command:
    """What to do, and its `value`: 1 or 0 for listening, seconds for snooze, a score for threshold.

    `rule` is empty for listening, which is an order to a whole stream.
    """

    verb: Verb
    stream_id: str
    rule: str
    value: float

    @property
    def topic(self) -> str:
        """Where it is given."""
        return "/".join(word for word in (self.stream_id, self.rule, self.verb, "set") if word)


class Orders:
    """Obeys.

    Args:
        settings: what runs.
        supervisors: of each stream.
        put: takes the messages that an order brings about.
        journal: keeps thresholds over a restart, if `settings` say so; None: there is no file to keep them in.
    """

    def __init__(
        self,
        settings: Settings,
        supervisors: Mapping[str, Supervisor],
        put: Callable[[Message], None],
        journal: Journal | None = None,
    ) -> None:
        self._settings = settings
        self._supervisors = supervisors
        self._put = put
        self._journal = journal
        self._rules = {name: supervisor.line.rules for name, supervisor in supervisors.items()}
        self._tuned: dict[tuple[str, str], Command] = {}  # thresholds that were set, by stream and rule

    def states(self) -> Iterator[Message]:
        """What can be ordered otherwise, as it is before any order."""
        for name, supervisor in self._supervisors.items():
            yield supervisor.listening()
            for rule, config in self._settings.rules_of(name).items():
                if isinstance(config, Tunable):
                    yield _threshold(name, rule, config.onset_threshold)

    def take(self, topic: str, text: str) -> None:
        """Obey `text` on `topic`.

        Raises:
            CommandError: that can't be obeyed; nothing was changed.
        """
        self._obey(parse(topic, text, self._rules), topic)
        log.info("ordered: %s %s", topic, text)

    def obey_again(self, orders: Iterable[Order]) -> None:
        """Obey what an earlier life was ordered to keep; what the configuration overruled since is forgotten.

        A disk that is late may tell of it when there is a newer order already, which has taken its place there too.
        """
        for order in orders:
            with suppress(CommandError):    # that stream or rule is gone
                command = parse(order.topic, order.text, self._rules)
                has_newer = (command.stream_id, command.rule) in self._tuned
                if self._settings.keep_thresholds and (has_newer or order.instead_of == self._configured(command)):
                    if not has_newer:
                        self._obey(command, order.topic)
                        log.info("ordered before the restart: %s %s", order.topic, order.text)
                    continue
            if self._journal:
                self._journal.drop(order)

    def standing(self, settings: Settings) -> list[Command]:
        """What was ordered and holds on when `settings` take over: of a rule that they change, not its threshold."""
        lasting = []
        for name, supervisor in self._supervisors.items():
            if name not in settings.streams:
                continue
            if supervisor.is_paused:
                lasting.append(Command("listening", name, "", 0.0))
            same, new = self._settings.same_rules(settings, name), settings.rules_of(name)
            lasting += [self._tuned[name, rule] for rule in same if (name, rule) in self._tuned]
            snoozed = supervisor.line.reporter.snoozed()
            lasting += [Command("snooze", name, rule, left_s) for rule, left_s in snoozed.items() if rule in new]
        return lasting

    def go_on(self, standing: Iterable[Command]) -> None:
        """Obey what was ordered before another configuration took over."""
        for command in standing:
            self._obey(command, command.topic)
            log.info("ordered before the reload: %s %g", command.topic, command.value)

    def _configured(self, command: Command) -> str:
        """The threshold that the configuration gives, in words."""
        config = self._settings.rules_of(command.stream_id)[command.rule]
        return str(config.onset_threshold) if isinstance(config, Tunable) else ""

    def _obey(self, order: Command, topic: str) -> None:
        supervisor = self._supervisors[order.stream_id]
        match order.verb:
            case "listening":
                supervisor.listen(bool(order.value))
            case "snooze":
                for message in supervisor.line.reporter.snooze(order.rule, order.value):
                    self._put(message)
            case "threshold":
                self._tune(supervisor, order, topic)

    def _tune(self, supervisor: Supervisor, order: Command, topic: str) -> None:
        config = self._settings.rules_of(order.stream_id)[order.rule]
        if not isinstance(config, Tunable):
            raise CommandError(f"{topic}: rule '{order.rule}' watches other rules and has no threshold of its own")
        try:
            changed = config.with_onset(order.value)
        except ValueError as error:
            raise CommandError(f"{topic}: {error}; nothing was changed") from None
        line = supervisor.line
        rule = edges.build_rule(changed, order.rule, line.reporter.info, line.stream.utc)
        for message in line.reporter.replace(order.rule, rule):
            self._put(message)
        self._tuned[order.stream_id, order.rule] = order
        self._put(_threshold(order.stream_id, order.rule, order.value))
        if self._journal and self._settings.keep_thresholds:
            self._journal.keep(Order(topic, str(order.value), self._configured(order)))


def _threshold(stream: str, rule: str, value: float) -> Message:
    return Message(f"{stream}/{rule}/threshold/state", f"{value:g}", retain=True)


def parse(topic: str, text: str, rules: Mapping[str, Collection[str]]) -> Command:
    """The order that `text` on `topic` gives; `rules` are the names of each stream's rules.

    Topics: `<stream>/listening/set` (ON, OFF), `<stream>/<rule>/snooze/set` (seconds), `<stream>/<rule>/threshold/set`
    (a score).

    Raises:
        CommandError: there is no such order, stream or rule, or the text is no value for it.
    """
    match topic.split("/"):
        case [stream, "listening", "set"]:
            _known("stream", stream, rules, topic)
            if text.upper() not in ("ON", "OFF"):
                raise CommandError(f"{topic}: {_shown(text)} is neither ON nor OFF; nothing was changed")
            return Command("listening", stream, "", float(text.upper() == "ON"))
        case [stream, rule, "snooze", "set"]:
            _known("stream", stream, rules, topic)
            _known("rule", rule, rules[stream], topic)
            return Command("snooze", stream, rule, _number(topic, text, LONGEST_SNOOZE_S, "seconds"))
        case [stream, rule, "threshold", "set"]:
            _known("stream", stream, rules, topic)
            _known("rule", rule, rules[stream], topic)
            return Command("threshold", stream, rule, _number(topic, text, 1.0, "a score"))
        case _:
            known = "<stream>/listening/set, <stream>/<rule>/snooze/set, <stream>/<rule>/threshold/set"
            raise CommandError(f"{_shown(topic)} is no topic for orders; known: {known}")


def _known(kind: str, name: str, names: Collection[str], topic: str) -> None:
    if name not in names:
        raise CommandError(f"{topic}: no {kind} {_shown(name)}; known: {', '.join(sorted(names)) or 'none'}")


def _number(topic: str, text: str, most: float, meaning: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number) or not 0 <= number <= most:
        raise CommandError(f"{topic}: {_shown(text)} is not {meaning} from 0 to {most:g}; nothing was changed")
    return number


def _shown(text: str) -> str:
    """Somebody else's words, fit for one line of a log."""
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…")
