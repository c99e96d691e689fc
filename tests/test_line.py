"""What a configuration makes of one stream's line."""

import numpy as np
import pytest

from streamer import config, edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Level, Scores
from streamer.errors import ConfigError
from streamer.line import Line, build_line
from streamer.stats import Stats
from tests.fakes import spec_of

TEXT = """\
node: garage
streams:
  mic: {source: {type: file, path: a.wav}, hop_s: 0.5}
  yard: {source: {type: file, path: b.wav}, rules: {siren: {labels: [Sirene]}, bark: false}}
rules:
  siren: {type: threshold, labels: [Siren]}
  bark: {type: threshold, labels: [Barks, Bark]}
  rain: {type: threshold, labels: [Bark, Rain, Reign]}
"""


def line(stream: str, *labels: str, is_replay: bool = False) -> Line:
    settings = config.parse(TEXT, "config.yaml", edges.edge_config)
    return build_line(settings, stream, spec_of(*labels), Stats(), is_replay=is_replay)


def test_labels_are_looked_at_even_where_the_configuration_was_not_checked() -> None:
    with pytest.raises(ConfigError) as caught:
        line("mic", "Siren", "Bark", "Rain")
    assert str(caught.value) == "the model does not know 'Barks'; run 'streamer labels' for the list"


def test_a_line_is_what_its_stream_says() -> None:
    labels = ("Siren", "Sirene", "Barks", "Bark", "Rain", "Reign")
    mic, yard = line("mic", *labels), line("yard", *labels)
    assert [message.topic for message in mic.reporter.idle()] == ["mic/siren/state", "mic/bark/state", "mic/rain/state"]
    assert [message.topic for message in yard.reporter.idle()] == ["yard/siren/state", "yard/rain/state"]
    info = mic.reporter.info
    assert (info.node, info.hop_s, info.window_s, info.sample_rate) == ("garage", 0.5, 10.24, 16000)
    assert (info.labels, info.model) == (labels, {"name": "fake", "revision": "sha256:0"})


@pytest.mark.parametrize(("captured", "is_replay", "latency_ms"), [
    (1000.0, False, 1750),
    (1000.0, True, None),
    (1004.0, False, None),  # faster than life: the sound at this position would be captured later than now
])  # fmt: skip
def test_latency(captured: float, *, is_replay: bool, latency_ms: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1002.0)
    one = line("mic", "Siren", "Barks", "Bark", "Rain", "Reign", is_replay=is_replay)
    ring, clock = Ring(16000, 1600), Clock(16000)
    clock.anchor(0, captured)
    one.stream.attach(ring, clock, "every")
    assert one.stream.poll() is None
    scores = Scores("mic", -160_080, 4000, 4000, np.array([0.9, 0, 0, 0, 0], np.float32), Level(-20, -10, 0))
    [payload] = [m.payload for m in one.reporter.report(scores) if m.topic == "mic/event"]
    assert not isinstance(payload, str)
    assert payload["latency_ms"] == latency_ms


def test_the_labels_of_rules_are_told_to_those_who_announce_them() -> None:
    text = """\
node: garage
streams: {mic: {source: {type: file, path: a.wav}}}
rules:
  intruder: {type: sequence, rules: [glass, many], within_s: 30}
  many: {type: count, rule: bark, n: 5, within_s: 600}
  silent: {type: absence, rule: anything, for_s: 60}
  glass: {type: threshold, labels: [Breaking], groups: {Breaking: [Glass, Shatter]}}
  bark: {type: threshold, labels: [Bark, Growling]}
  anything: {type: threshold, labels: any}
"""
    settings = config.parse(text, "config.yaml", edges.edge_config)
    one = build_line(settings, "mic", spec_of("Bark", "Growling", "Glass", "Shatter", "Breaking"), Stats())
    assert one.rules == {
        "intruder": ("Glass", "Shatter", "Breaking", "Bark", "Growling"),
        "many": ("Bark", "Growling"),
        "silent": (),
        "glass": ("Glass", "Shatter", "Breaking"),
        "bark": ("Bark", "Growling"),
        "anything": (),
    }
