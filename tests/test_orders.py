"""Orders from outside: what is understood, and what is said of the rest."""

from types import SimpleNamespace

import pytest

from streamer import config, edges
from streamer.errors import CommandError
from streamer.journal_file import Order
from streamer.line import build_line
from streamer.orders import Command, Orders, parse
from streamer.stats import Stats
from tests.fakes import spec_of

RULES = {"mic": {"smoke_alarm": (), "dog_bark": ()}, "hall": {}}


@pytest.mark.parametrize(("topic", "text", "command"), [
    ("mic/listening/set", "OFF", Command("listening", "mic", "", 0.0)),
    ("hall/listening/set", "on", Command("listening", "hall", "", 1.0)),
    ("mic/dog_bark/snooze/set", "600", Command("snooze", "mic", "dog_bark", 600.0)),
    ("mic/dog_bark/snooze/set", "0", Command("snooze", "mic", "dog_bark", 0.0)),
    ("mic/smoke_alarm/threshold/set", " 0.35 ", Command("threshold", "mic", "smoke_alarm", 0.35)),
])  # fmt: skip
def test_orders_that_are_understood(topic, text, command):
    assert parse(topic, text, RULES) == command


@pytest.mark.parametrize(("topic", "text", "sentence"), [
    ("mic/listening/set", "0", "mic/listening/set: '0' is neither ON nor OFF; nothing was changed"),
    ("mic/listening/set", "", "mic/listening/set: '' is neither ON nor OFF; nothing was changed"),
    ("attic/listening/set", "ON", "attic/listening/set: no stream 'attic'; known: hall, mic"),
    ("mic/siren/snooze/set", "9", "mic/siren/snooze/set: no rule 'siren'; known: dog_bark, smoke_alarm"),
    ("hall/siren/snooze/set", "9", "hall/siren/snooze/set: no rule 'siren'; known: none"),
    ("mic/dog_bark/snooze/set", "a while",
     "mic/dog_bark/snooze/set: 'a while' is not seconds from 0 to 604800; nothing was changed"),
    ("mic/dog_bark/snooze/set", "-1",
     "mic/dog_bark/snooze/set: '-1' is not seconds from 0 to 604800; nothing was changed"),
    ("mic/dog_bark/snooze/set", "inf",
     "mic/dog_bark/snooze/set: 'inf' is not seconds from 0 to 604800; nothing was changed"),
    ("mic/dog_bark/threshold/set", "nan",
     "mic/dog_bark/threshold/set: 'nan' is not a score from 0 to 1; nothing was changed"),
    ("mic/dog_bark/threshold/set", "x" * 5000,
     f"mic/dog_bark/threshold/set: '{'x' * 40}…' is not a score from 0 to 1; nothing was changed"),
    ("mic/volume/set", "1",
     ("'mic/volume/set' is no topic for orders; known: "
     "<stream>/listening/set, <stream>/<rule>/snooze/set, <stream>/<rule>/threshold/set")),
])  # fmt: skip
def test_orders_that_are_not(topic, text, sentence):
    with pytest.raises(CommandError) as error:
        parse(topic, text, RULES)
    assert str(error.value) == sentence


TEXT = """\
node: garage
streams: {mic: {source: {type: microphone}}}
rules:
  many: {type: count, rule: bark, n: 2, within_s: 60}
  bark: {type: threshold, labels: [Bark, Siren], thresholds: {Siren: {onset: 0.9, offset: 0.8}}, offset_threshold: 0.3}
"""


def orders(put, text=TEXT, journal=None):
    """Of one stream, whose source plays no part."""
    settings = config.parse(text, "c.yaml", edges.edge_config)
    line = build_line(settings, "mic", spec_of("Bark", "Siren"), Stats())
    return Orders(settings, {"mic": SimpleNamespace(line=line, is_paused=True)}, put, journal), line


def test_a_rule_that_watches_others_has_no_threshold():
    one, _ = orders(print)
    with pytest.raises(CommandError) as error:
        one.take("mic/many/threshold/set", "0.5")
    assert str(error.value) == (
        "mic/many/threshold/set: rule 'many' watches other rules and has no threshold of its own"
    )


def test_another_threshold_is_that_of_the_labels_without_one_of_their_own():
    put = []
    one, line = orders(put.append)
    one.take("mic/bark/threshold/set", "0.2")
    assert [(message.topic, message.payload) for message in put] == [("mic/bark/threshold/state", "0.2")]
    rule = line.reporter.rules["bark"].config
    assert (rule.thresholds_of("Bark"), rule.thresholds_of("Siren")) == ((0.2, 0.2), (0.9, 0.8))


PAUSED = Command("listening", "mic", "", 0.0)
ASLEEP = Command("snooze", "mic", "many", 600.0)
TUNED = Command("threshold", "mic", "bark", 0.2)


@pytest.mark.parametrize(("old", "new", "standing"), [
    ("", "", [PAUSED, TUNED, ASLEEP]),
    ("node: garage", "node: attic", [PAUSED, TUNED, ASLEEP]),
    ("offset_threshold: 0.3", "offset_threshold: 0.4", [PAUSED, ASLEEP]),
    ("[Bark, Siren]", "[Siren]", [PAUSED, ASLEEP]),
    ("within_s: 60", "within_s: 90", [PAUSED, TUNED, ASLEEP]),
    ("microphone}}", "microphone}, rules: {bark: {onset_threshold: 0.7}}}", [PAUSED, ASLEEP]),
    ("microphone}}", "microphone}, rules: {many: off}}", [PAUSED, TUNED]),
    ("{mic: ", "{yard: ", []),
])  # fmt: skip
def test_what_was_ordered_holds_on_but_what_another_configuration_changed(old, new, standing):
    one, _ = orders([].append)
    one.take("mic/bark/threshold/set", "0.3")
    one.take("mic/bark/threshold/set", "0.2")
    one.take("mic/many/snooze/set", "600")
    assert one.standing(config.parse(TEXT.replace(old, new), "c.yaml", edges.edge_config)) == standing


def test_what_holds_on_is_obeyed_and_holds_on_again():
    put = []
    one, _ = orders(put.append)
    one.go_on([TUNED, ASLEEP])
    assert [message.topic for message in put] == ["mic/bark/threshold/state", "mic/many/state"]
    assert one.standing(config.parse(TEXT, "c.yaml", edges.edge_config)) == [PAUSED, TUNED, ASLEEP]


@pytest.mark.parametrize("instead_of", ["0.5", "0.6"])
def test_a_disk_that_is_late_does_not_undo_a_newer_order(instead_of):
    put, kept = [], []
    journal = SimpleNamespace(keep=lambda order: kept.append(order.text), drop=lambda order: kept.append(None))
    one, _ = orders(put.append, f"keep_thresholds: true\n{TEXT}", journal)
    one.take("mic/bark/threshold/set", "0.2")
    one.obey_again([Order("mic/bark/threshold/set", "0.9", instead_of)])
    assert [message.payload for message in put] == ["0.2"]
    assert kept == ["0.2"]


def test_an_order_knows_its_topic():
    assert [order.topic for order in (PAUSED, ASLEEP)] == ["mic/listening/set", "mic/many/snooze/set"]
