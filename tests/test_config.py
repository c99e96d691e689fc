"""Every sentence of `streamer.config`, and what a file without mistakes becomes."""

from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, model_validator

from models.spec import ModelSpec
from streamer.config import UnknownType, effective, load, parse, schema
from streamer.errors import ConfigError
from streamer.settings import ModelConfig, Settings, StreamConfig
from tests.fakes import spec_of


class Edge(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Microphone(Edge):
    type: Literal["microphone"] = "microphone"
    device: str = "default"
    channel: Literal["mix"] | Annotated[int, Field(ge=1)] = "mix"


class Stdin(Edge):
    type: Literal["stdin"] = "stdin"


class File(Edge):
    type: Literal["file"] = "file"
    path: str


class Threshold(Edge):
    type: Literal["threshold"] = "threshold"
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    onset_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    offset_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.3

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.offset_threshold > self.onset_threshold:
            raise ValueError(f"offset_threshold {self.offset_threshold} is over onset_threshold {self.onset_threshold}")
        return self


class Tls(Edge):
    ca: Annotated[FilePath, Field(strict=False)]


class Mqtt(Edge):
    type: Literal["mqtt"] = "mqtt"
    host: Annotated[str, Field(min_length=1)] = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    client_id: str | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: str | None = None
    tls: Tls | bool | None = None


class Sqlite(Edge):
    type: Literal["sqlite"] = "sqlite"
    path: str


class Jsonl(Edge):
    type: Literal["jsonl"] = "jsonl"
    path: str


EDGES: dict[str, dict[str, type[BaseModel]]] = {
    "source": {"file": File, "microphone": Microphone, "stdin": Stdin},
    "rule": {"threshold": Threshold},
    "sink": {"mqtt": Mqtt, "sqlite": Sqlite, "jsonl": Jsonl},
    "backend": {"auto": ModelConfig, "local": ModelConfig},
}


def edge_config(kind: str, type_name: str) -> type[BaseModel]:
    if type_name not in EDGES[kind]:
        raise UnknownType(EDGES[kind])
    return EDGES[kind][type_name]


def settings_of(text: str) -> Settings:
    return parse(text, "c.yaml", edge_config)


def mistakes_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings_of(text)
    return list(caught.value.mistakes)


TOP_KEYS = "known: keep_thresholds, model, node, outbox, rules, sinks, streams"
STREAM_KEYS = "known: gate_dbfs, hop_s, late, rules, scores, source"
SOURCES = "known: file, microphone, stdin"
RULE_KEYS = "known: labels, offset_threshold, onset_threshold, type"
SINK_KEYS = "known: client_id, host, password, password_file, port, tls, type, username"
HOPS = "must be a multiple of 0.01 seconds, and at least 0.01"
DTYPES = "must be 'auto', 'float32', 'bfloat16', 'float16' or 'int8'"
NAMES = "may hold only a-z, 0-9, _ and -"
LOOK = "look at the indentation, colons and quotes here and in the line above"
UNSET = "the environment variable UNSET is not set"
NO_REFERENCE = (
    "is not a reference to the environment; write ${NAME} or ${NAME:-default}, or $${ where ${ itself is meant"
)

# Files with one thing to get wrong. {} is on line 8:
STREAM = """\
node: garage
rules:
  alarm: {{type: threshold, labels: [Bark]}}
  beep: {{type: threshold, labels: [Beep], onset_threshold: 0.4}}
streams:
  mic:
    source: {{type: microphone}}
    {}
"""
SOURCE = "node: garage\nstreams:\n  mic:\n    source: {}\n"  # line 4
RULE = "node: garage\nstreams: {{mic: {{source: {{type: microphone}}}}}}\nrules:\n  {}\n"  # line 4
SINK = "node: garage\nstreams: {{mic: {{source: {{type: microphone}}}}}}\nsinks:\n  mqtt: {}\n"  # line 4
TOP = "node: garage\nstreams: {{mic: {{source: {{type: microphone}}}}}}\n{}\n"  # line 3


@pytest.mark.parametrize(
    ("template", "wrong", "sentence"),
    [
        # keys
        (TOP, "modle: {}", f"3: modle: unknown key 'modle'; {TOP_KEYS}. Did you mean 'model'?"),
        (TOP, "x: 1", f"3: x: unknown key 'x'; {TOP_KEYS}"),
        (TOP, "node: attic", "3: node: given twice, on lines 1 and 3; keep one"),
        (STREAM, "hopp_s: 1", f"8: streams.mic.hopp_s: unknown key 'hopp_s'; {STREAM_KEYS}. Did you mean 'hop_s'?"),
        (STREAM, "gate: -60", f"8: streams.mic.gate: unknown key 'gate'; {STREAM_KEYS}. Did you mean 'gate_dbfs'?"),
        (RULE, "a: {type: threshold, label: [Bark], labels: [Bark]}",
         f"4: rules.a.label: unknown key 'label'; {RULE_KEYS}. Did you mean 'labels'?"),
        (SINK, f"{{type: mqtt, tls: {{cb: x, ca: {__file__}}}}}", "4: sinks.mqtt.tls.cb: unknown key 'cb'; known: ca"),
        (SINK, "{type: mqtt, [a]: b}", "4: sinks.mqtt.?: a key must be a plain word; put text with brackets in quotes"),
        # names
        (RULE, "Smoke Alarm: {type: threshold, labels: [Bark]}",
         f"4: rules.Smoke Alarm: the name 'Smoke Alarm' {NAMES}. Did you mean 'smoke_alarm'?"),
        (RULE, "Türe: {type: threshold, labels: [Bark]}",
         f"4: rules.Türe: the name 'Türe' {NAMES}. Did you mean 'ture'?"),
        (RULE, '"": {type: threshold, labels: [Bark]}', f"4: rules.: the name '' {NAMES}"),
        (RULE, "listening: {type: threshold, labels: [Bark]}",
         "4: rules.listening: no name for a rule, as it stands in a topic of its stream"),
        # what outlives the process
        (TOP, "outbox: {path: null}\nkeep_thresholds: true",
         "4: keep_thresholds: needs a file to keep them in; set outbox.path, or false here"),
        (TOP, "outbox: {max_events: 0}", "3: outbox.max_events: must be at least 1, not 0"),
        (TOP, "outbox: {path: ~nobody-here/x}",
         "3: outbox.path: '~nobody-here/x' lies in a home folder that is not there; write the path in full"),
        (TOP, "outbox: {path: /usr}", "3: outbox.path: '/usr' is a folder; name a file in it"),
        (TOP, f"outbox: {{path: {__file__}/x/y}}",
         f"3: outbox.path: the parent of '{__file__}/x/y' is no folder; name a file in one"),
        (SINK, "{type: sqlite, path: ~nobody-here/x}",
         "4: sinks.mqtt.path: '~nobody-here/x' lies in a home folder that is not there; write the path in full"),
        (SINK, "{type: sqlite, path: /usr}", "4: sinks.mqtt.path: '/usr' is a folder; name a file in it"),
        (SINK, '{type: jsonl, path: "${FOLDER}"}',
         "4: sinks.mqtt.path: '${FOLDER}' is a folder; name a file in it"),
        (SINK, f"{{type: jsonl, path: {__file__}/x}}",
         f"4: sinks.mqtt.path: the parent of '{__file__}/x' is no folder; name a file in one"),
        (TOP, "outbox: {path: ev}\nsinks: {a: {type: sqlite, path: ./x/../ev}}",
         "4: sinks.a.path: the same file as outbox.path; give each a file of its own"),
        (TOP, "outbox: {path: ev}\nsinks: {a: {type: jsonl, path: ev}}",
         "4: sinks.a.path: the same file as outbox.path; give each a file of its own"),
        (SINK, "{type: sqlite, path: ev}\n  b: {type: sqlite, path: ev}",
         "5: sinks.b.path: the same file as sinks.mqtt.path; give each a file of its own"),
        (SINK, "{type: jsonl, path: ev}\n  b: {type: sqlite, path: ev}",
         "5: sinks.b.path: the same file as sinks.mqtt.path; give each a file of its own"),
        (SINK, "{type: sqlite, path: ~/.local/state/streamer/outbox-garage.sqlite}",
         "4: sinks.mqtt.path: the same file as outbox.path; give each a file of its own"),
        # types of edges
        (SOURCE, "{type: microfone}",
         f"4: streams.mic.source.type: unknown source 'microfone'; {SOURCES}. Did you mean 'microphone'?"),
        (SOURCE, "{device: default}", f"4: streams.mic.source.type: must name a source; {SOURCES}"),
        (SOURCE, "{}", f"4: streams.mic.source.type: must name a source; {SOURCES}"),
        (SOURCE, "microphone", "4: streams.mic.source: must be a mapping, not 'microphone'"),
        (RULE, "a: {type: thresold, labels: [Bark]}",
         "4: rules.a.type: unknown rule 'thresold'; known: threshold. Did you mean 'threshold'?"),
        (SINK, "{type: [mqtt]}",
         "4: sinks.mqtt.type: must name a sink; known: mqtt, sqlite, jsonl. Did you mean 'mqtt'?"),
        (TOP, "model: {backend: locl}",
         "3: model.backend: unknown backend 'locl'; known: auto, local. Did you mean 'local'?"),
        # values
        (SOURCE, "{type: file}", "4: streams.mic.source.path: required, but not given"),
        (STREAM, "hop_s: 0.005", f"8: streams.mic.hop_s: {HOPS}, not 0.005"),
        (STREAM, "hop_s: 0", f"8: streams.mic.hop_s: {HOPS}, not 0"),
        (STREAM, "hop_s: -1", f"8: streams.mic.hop_s: {HOPS}, not -1"),
        (STREAM, "hop_s: .nan", "8: streams.mic.hop_s: must be a finite number, not .nan"),
        (STREAM, 'hop_s: "0.5"', "8: streams.mic.hop_s: must be a number, not '0.5'; write 0.5 without quotes"),
        (STREAM, "hop_s: 1e-1", "8: streams.mic.hop_s: must be a number, not '1e-1'; write 0.1 without quotes"),
        (STREAM, "hop_s: 1s", "8: streams.mic.hop_s: must be a number, not '1s'"),
        (STREAM, "hop_s:", "8: streams.mic.hop_s: must be a number, not null"),
        (STREAM, "gate_dbfs: 3", "8: streams.mic.gate_dbfs: must be at most 0, not 3"),
        (STREAM, "late: lates",
         "8: streams.mic.late: must be 'auto', 'latest' or 'every', not 'lates'. Did you mean 'latest'?"),
        (SOURCE, "{type: microphone, channel: []}",
         "4: streams.mic.source.channel: must be 'mix' or a whole number, not a list"),
        (SOURCE, '{type: microphone, channel: "1"}',
         "4: streams.mic.source.channel: must be 'mix' or a whole number, not '1'; write 1 without quotes"),
        (RULE, "a: {type: threshold, labels: Bark}",
         """4: rules.a.labels: must be a list, not 'Bark'; write ["Bark"]"""),
        (RULE, "a: {type: threshold, labels: []}", "4: rules.a.labels: must not be empty"),
        (RULE, "a: {type: threshold, labels: [Bark, on]}",
         '4: rules.a.labels[1]: must be text, not on, which YAML reads as true; write "on"'),
        (RULE, "a: {type: threshold, labels: [1]}", '4: rules.a.labels[0]: must be text, not 1; write "1"'),
        (RULE, "a: {type: threshold, labels: [Bark], onset_threshold: 1}",
         "4: rules.a.onset_threshold: must be less than 1, not 1"),
        (RULE, "a: {type: threshold, labels: [Bark], onset_threshold: 0.2}",
         "4: rules.a: offset_threshold 0.3 is over onset_threshold 0.2"),
        (SINK, "{type: mqtt, port: 70000}", "4: sinks.mqtt.port: must be at most 65535, not 70000"),
        (SINK, "{type: mqtt, port: 18.5}", "4: sinks.mqtt.port: must be a whole number, not 18.5"),
        (SINK, '{type: mqtt, port: "1883"}',
         "4: sinks.mqtt.port: must be a whole number, not '1883'; write 1883 without quotes"),
        (SINK, '{type: mqtt, tls: "true"}',
         "4: sinks.mqtt.tls: must be a mapping or true or false, not 'true'; write true without quotes"),
        (SINK, "{type: mqtt, tls: {}}", "4: sinks.mqtt.tls.ca: required, but not given"),
        (SINK, "{type: mqtt, tls: {ca: nowhere.pem}}",
         "4: sinks.mqtt.tls.ca: must be an existing file, not 'nowhere.pem'"),
        (SINK, '{type: mqtt, host: ""}', "4: sinks.mqtt.host: must not be empty"),
        (SINK, "{type: mqtt, host: 127}", '4: sinks.mqtt.host: must be text, not 127; write "127"'),
        (SINK, "{type: mqtt, password: 12345}", "4: sinks.mqtt.password: must be text; write it in quotes"),
        (TOP, "model: {device: gpu}",
         "3: model.device: must be auto, cpu, cuda or cuda:N with the number of a GPU, not 'gpu'"),
        (TOP, "model: {dtype: bfloat}",
         f"3: model.dtype: {DTYPES}, not 'bfloat'. Did you mean 'bfloat16'?"),
        (TOP, "model: {dtype: int4}", f"3: model.dtype: {DTYPES}, not 'int4'. Did you mean 'int8'?"),
        (TOP, "model: {window_s: 0}", f"3: model.window_s: {HOPS}, not 0"),
        (TOP, "model: {window_s: -2.56}", f"3: model.window_s: {HOPS}, not -2.56"),
        (TOP, "model: {window_s: 2.555}", f"3: model.window_s: {HOPS}, not 2.555"),
        (TOP, "model: {window_s: 256}", "3: model.window_s: must be at most 60, not 256"),
        (TOP, "model: {window_s: auto}", "3: model.window_s: must be a number, not 'auto'"),
        (TOP, 'model: {window_s: "2.56"}',
         "3: model.window_s: must be a number, not '2.56'; write 2.56 without quotes"),
        (TOP, 'model: {checkpoint: ""}', "3: model.checkpoint: must not be empty"),
        (TOP, "model: {checkpoint: 2026-11-22, device: 1}", '3: model.device: must be text, not 1; write "1"'),
        (TOP, "rules: [a]", "3: rules: must be a mapping, not a list"),
        (TOP, "sinks: {a: null}", "3: sinks.a: must be a mapping, not null"),
        (TOP, "model: {checkpoint: !secret x}",
         "3: model.checkpoint: the YAML tag !secret has no meaning here; write ${NAME} for a secret"),
        (TOP, "model: !Model {}", "3: model: the YAML tag !Model has no meaning here; remove it"),
        (TOP, "model: &m {device: *m}", "3: model.device: an alias can't stand inside what it names"),
        (TOP, "model: {device: !!int x}", "3: model.device: 'x' can't be read as !!int"),
        # what only one can have
        (SOURCE, "{type: stdin}\n  b: {source: {type: stdin}}",
         "5: streams.b.source: stream 'mic' reads standard input; only one can"),
        (SINK, "{type: mqtt}\n  b: {type: mqtt, host: other}\n  c: {type: mqtt, port: 1883}",
         "6: sinks.c: the same client of the same broker as sink 'mqtt'; give one a client_id of its own"),
        # a stream's own options of rules
        (STREAM, "rules: {alrm: false}",
         "8: streams.mic.rules.alrm: unknown rule 'alrm'; known: alarm, beep. Did you mean 'alarm'?"),
        (STREAM, "rules: {alarm: {onset: 0.9}}",
         f"8: streams.mic.rules.alarm.onset: unknown key 'onset'; {RULE_KEYS}. Did you mean 'onset_threshold'?"),
        (STREAM, "rules: {beep: {offset_threshold: 0.45}}",
         "8: streams.mic.rules.beep: offset_threshold 0.45 is over onset_threshold 0.4"),
        (STREAM, "rules: {alarm: off_}", "8: streams.mic.rules.alarm: must be a mapping or true or false, not 'off_'"),
        # the environment
        (SINK, '{type: mqtt, host: "mq.${UNSET}"}',
         f"4: sinks.mqtt.host: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (SOURCE, '{type: file, path: "${UNSET}"}',
         f"4: streams.mic.source.path: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (RULE, 'a: {type: threshold, labels: ["${UNSET}"]}',
         f"4: rules.a.labels[0]: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (SINK, '"${UNSET}"', f"4: sinks.mqtt: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (SOURCE, '{type: microphone, device: "${UNSET}"}',  # and not the default microphone
         f"4: streams.mic.source.device: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (SINK, '{type: mqtt, host: "${UNSET}"}',
         f"4: sinks.mqtt.host: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (SINK, '{type: mqtt, tls: "${UNSET}"}', f"4: sinks.mqtt.tls: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (STREAM, 'rules: {alarm: {onset_threshold: "${UNSET}"}}',
         f"8: streams.mic.rules.alarm.onset_threshold: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (TOP, 'model: "${UNSET}"', f"3: model: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (RULE, 'password: "${UNSET}"', f"4: rules.password: {UNSET}; set it, or write ${{UNSET:-default}}"),
        (SINK, '{type: mqtt, username: me, password: "${UNSET}"}',
         f"4: sinks.mqtt.password: {UNSET}, but 'username' is given; set it, or remove 'username'"),
        (SINK, '{type: mqtt, port: "${WORD}"}', "4: sinks.mqtt.port: must be a whole number, not '${WORD}'"),
        (SINK, '{type: mqtt, port: "${BIG}"}', "4: sinks.mqtt.port: must be at most 65535, not '${BIG}'"),
        (RULE, 'a: {type: threshold, labels: [Bark], onset_threshold: "${LOW}"}',
         "4: rules.a: offset_threshold 0.3 is over onset_threshold 0.1"),
        (SINK, '{type: mqtt, host: "${a b}"}',
         f"4: sinks.mqtt.host: '${{a b}}' {NO_REFERENCE}"),
        (SINK, '{type: mqtt, host: "${WORD"}',
         f"4: sinks.mqtt.host: '${{WORD' {NO_REFERENCE}"),
    ],
)
def test_each_mistake_has_its_sentence(
    monkeypatch: pytest.MonkeyPatch, template: str, wrong: str, sentence: str
) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("WORD", "hush")
    monkeypatch.setenv("BIG", "70000")
    monkeypatch.setenv("LOW", "0.1")
    monkeypatch.setenv("FOLDER", "/usr")
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert mistakes_of(template.format(wrong)) == [f"c.yaml:{sentence}"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "1: the file is empty; it needs at least 'node' and 'streams'"),
        ("# nothing\n", "1: the file is empty; it needs at least 'node' and 'streams'"),
        ("- a\n", "1: must be a mapping with 'node' and 'streams', not a list"),
        ("hello\n", "1: must be a mapping with 'node' and 'streams', not text"),
        ("node: a\n\tstreams: b\n", "2: not valid YAML: a tab can't indent or start a value; use spaces"),
        ("node: a\nmodel: {\n", f"3: not valid YAML: expected the node content, but found '<stream end>'; {LOOK}"),
        ("node: a\n---\nnode: b\n",
         f"2: not valid YAML: expected a single document in the stream, but found another document; {LOOK}"),
        ("node: a\nmodel: b\x07\n", "2: character 0x07 is not allowed in YAML"),
        ("node: a\nstreams: {}\n", "2: streams: must not be empty"),
        ("streams: {mic: {source: {type: microphone}}}\n", "1: node: required, but not given"),
        ("node: a\n", "1: streams: required, but not given"),
        ("node: a\nstreams: {mic: {hop_s: 1}}\n", "2: streams.mic.source: required, but not given"),
    ],
)
def test_each_broken_file_has_its_sentence(text: str, sentence: str) -> None:
    assert mistakes_of(text) == [f"c.yaml:{sentence}"]


@pytest.mark.parametrize("sinks", [
    "{a: {type: jsonl, path: ev}, b: {type: jsonl, path: ev}}",
    "{a: {type: jsonl, path: '-'}, b: {type: jsonl, path: '-'}}",
    "{a: {type: sqlite, path: ev}, b: {type: sqlite, path: ev2}}",
])  # fmt: skip
def test_files_that_do_not_harm_each_other(sinks: str) -> None:
    assert settings_of(TOP.format(f"outbox: {{path: null}}\nsinks: {sinks}")).sinks.keys() == {"a", "b"}


def test_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    text = """\
node: Garage
streams:
  source:
    source: {type: Yeti}
    rules: {wrong: {onset_threshold: 2, labels: [Bark]}, alrm: false}
    hop: 1
rules:
  alarm: {type: threshold, labels: Bark}
  wrong: {type: threshold, offset_threshold: 7}
modle: {}
"""
    assert mistakes_of(text) == [
        f"c.yaml:1: node: the name 'Garage' {NAMES}. Did you mean 'garage'?",
        f"c.yaml:4: streams.source.source.type: unknown source 'Yeti'; {SOURCES}",
        "c.yaml:5: streams.source.rules.wrong.onset_threshold: must be less than 1, not 2",
        "c.yaml:5: streams.source.rules.alrm: unknown rule 'alrm'; known: alarm, wrong. Did you mean 'alarm'?",
        f"c.yaml:6: streams.source.hop: unknown key 'hop'; {STREAM_KEYS}. Did you mean 'hop_s'?",
        """c.yaml:8: rules.alarm.labels: must be a list, not 'Bark'; write ["Bark"]""",
        "c.yaml:9: rules.wrong.offset_threshold: must be less than 1, not 7",
        "c.yaml:9: rules.wrong.labels: required, but not given",
        f"c.yaml:10: modle: unknown key 'modle'; {TOP_KEYS}. Did you mean 'model'?",
    ]


def test_what_does_not_fit_the_model_is_said_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    text = """\
node: garage
model: {checkpoint: short}
streams:
  mic: {source: {type: microphone}, hop_s: 2, rules: {siren: {labels: [Sirens, Bark]}, bark: false}}
  yard: {source: {type: microphone}, hop_s: 0.5}
  shed: {source: {type: microphone}}
rules:
  siren: {type: threshold, labels: [Siren, Sirenn]}
  bark:
    type: threshold
    labels: [Barks,
             "${SECRET}"]
    onset_threshold: 7
sinks: {mqtt: {type: mqtt, port: 70000}}
"""
    asked = []

    def short(checkpoint: str) -> ModelSpec:
        asked.append(checkpoint)
        return spec_of("Siren", "Bark", window_frames=64)

    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", edge_config, short)
    hop, label = "must be at most 0.64 seconds, the model's window", "run 'streamer labels' for the list"
    deaf = "what lies between two windows would not be heard"
    assert list(caught.value.mistakes) == [
        f"c.yaml:4: streams.mic.hop_s: {hop}, not 2; {deaf}",
        f"c.yaml:4: streams.mic.rules.siren.labels[0]: unknown label 'Sirens'; {label}. Did you mean 'Siren'?",
        f"c.yaml:6: streams.shed.hop_s: {hop}, not 1; {deaf}",
        f"c.yaml:8: rules.siren.labels[1]: unknown label 'Sirenn'; {label}. Did you mean 'Siren'?",
        f"c.yaml:11: rules.bark.labels[0]: unknown label 'Barks'; {label}. Did you mean 'Bark'?",
        f"c.yaml:12: rules.bark.labels[1]: unknown label '${{SECRET}}'; {label}",
        "c.yaml:13: rules.bark.onset_threshold: must be less than 1, not 7",
        "c.yaml:14: sinks.mqtt.port: must be at most 65535, not 70000",
    ]
    assert asked == ["short"]


def mistakes_with_windows_of(window_s: str, hop_s: float) -> list[str]:
    text = f"node: a\nmodel: {{window_s: {window_s}}}\nstreams: {{mic: {{source: {{type: stdin}}, hop_s: {hop_s}}}}}\n"
    try:
        parse(text, "c.yaml", edge_config, lambda checkpoint: spec_of("Siren"))
    except ConfigError as error:
        return list(error.mistakes)
    return []


def test_a_window_holds_a_patch_and_a_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "1.5")
    deaf = "what lies between two windows would not be heard"
    least = "must be at least 0.16 seconds, one patch of the model, not 0.15; leave it out for the model's own 10.24"
    assert mistakes_with_windows_of("null", 10.24) == []
    assert mistakes_with_windows_of("2.56", 2.56) == []
    assert mistakes_with_windows_of("20.48", 20.48) == []
    assert mistakes_with_windows_of("0.16", 0.1) == []
    assert mistakes_with_windows_of("0.15", 0.1) == [f"c.yaml:2: model.window_s: {least}"]
    for window_s, shown in (("2.56", "2.56"), ("'${SHORT}'", "1.5")):
        assert mistakes_with_windows_of(window_s, 3) == [
            f"c.yaml:3: streams.mic.hop_s: must be at most {shown} seconds, the model's window, not 3; {deaf}"
        ]


def test_a_checkpoint_that_is_not_there_is_a_mistake_among_others() -> None:
    def none(checkpoint: str) -> ModelSpec:
        raise ConfigError(f"checkpoint '{checkpoint}' not found")

    with pytest.raises(ConfigError) as caught:
        parse(TOP.format("model: {checkpoint: nope}\nx: 1"), "c.yaml", edge_config, none)
    assert list(caught.value.mistakes) == [
        "c.yaml:3: model.checkpoint: checkpoint 'nope' not found",
        f"c.yaml:4: x: unknown key 'x'; {TOP_KEYS}",
    ]


@pytest.mark.parametrize("model", ["[]", '{checkpoint: ""}', "{checkpoint: [a]}"])
def test_no_model_is_asked_where_none_is_rightly_named(model: str) -> None:
    def never(checkpoint: str) -> ModelSpec:
        raise AssertionError(checkpoint)

    with pytest.raises(ConfigError):
        parse(TOP.format(f"model: {model}"), "c.yaml", edge_config, never)


def test_no_mistake_shows_a_value_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    sink = "{type: mqtt, port: '${SECRET}', username: ['${SECRET}'], tls: '${SECRET}', password: ['${SECRET}']}"
    said = mistakes_of(SINK.format(sink))
    assert len(said) == 4
    assert "hush" not in "\n".join(said)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml", edge_config)
    assert str(caught.value) == f"{tmp_path}/c.yaml: no such file; name an existing one with -c"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, edge_config)
    assert str(caught.value) == f"{tmp_path}: is a folder; name the YAML file in it"


def test_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"node: a\nstreams: {k\xfcche: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, edge_config)
    assert str(caught.value) == f"{path}:2: byte 0xfc is not UTF-8; save the file as UTF-8"


def test_a_file_becomes_settings(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("\ufeff" + STREAM.format("hop_s: 2\n    late: every"), encoding="utf-8")
    settings = load(path, edge_config)
    assert settings.node == "garage"
    assert settings.model == ModelConfig(checkpoint="starter", backend="auto", device="auto", dtype="auto")
    assert (settings.model.window_s, settings.model.window_frames) == (None, None)
    assert settings.streams == {"mic": StreamConfig(source=Microphone(), hop_s=2.0, late="every")}
    assert settings.rules["alarm"] == Threshold(labels=("Bark",))
    assert settings.sinks == {}


@pytest.mark.parametrize("hop_s", [0.01, 0.29, 0.57, 1.15, 10.24])
def test_every_whole_number_of_frames_is_a_hop_and_a_window(hop_s: float) -> None:
    assert settings_of(STREAM.format(f"hop_s: {hop_s}")).streams["mic"].hop_s == hop_s
    model = settings_of(TOP.format(f"model: {{window_s: {hop_s}}}")).model
    assert (model.window_s, model.window_frames) == (hop_s, round(100 * hop_s))


@pytest.mark.parametrize(
    ("changes", "onset_thresholds"),
    [
        ("{}", {"alarm": 0.5, "beep": 0.4}),
        ("", {"alarm": 0.5, "beep": 0.4}),
        ("{alarm: {onset_threshold: 0.9}}", {"alarm": 0.9, "beep": 0.4}),
        ("{alarm: true, beep: {}}", {"alarm": 0.5, "beep": 0.4}),
        ("{alarm: false}", {"beep": 0.4}),
        ("{alarm: null, beep: off}", {}),
    ],
)
def test_a_stream_changes_rules_for_itself(changes: str, onset_thresholds: dict[str, float]) -> None:
    settings = settings_of(STREAM.format(f"rules: {changes}") + "  other: {source: {type: microphone}}\n")
    found = {name: rule.model_dump()["onset_threshold"] for name, rule in settings.rules_of("mic").items()}
    assert found == onset_thresholds
    assert settings.rules_of("other") == settings.rules


def test_options_can_be_taken_over_with_a_merge() -> None:
    rules = "a: &a {type: threshold, labels: [Bark]}\n  on: {<<: *a, labels: ['off']}\n  1: *a"
    settings = settings_of(RULE.format(rules))
    assert settings.rules == {
        "a": Threshold(labels=("Bark",)),
        "on": Threshold(labels=("off",)),
        "1": Threshold(labels=("Bark",)),
    }


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ('"${HOST}"', "broker"),
        ('"mq.${HOST}.lan"', "mq.broker.lan"),
        ('"${UNSET:-localhost}"', "localhost"),
        ('"${EMPTY:-localhost}"', "localhost"),
        ('"${HOST:-localhost}"', "broker"),
        ('"$${HOST}"', "${HOST}"),
        ('"$HOST"', "$HOST"),
        ('"${DIGITS}"', "12"),
    ],
)
def test_references_are_filled_in(monkeypatch: pytest.MonkeyPatch, host: str, expected: str) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    for name, value in {"HOST": "broker", "EMPTY": "", "DIGITS": "12"}.items():
        monkeypatch.setenv(name, value)
    assert settings_of(SINK.format(f"{{type: mqtt, host: {host}}}")).sinks["mqtt"] == Mqtt(host=expected)


def test_a_reference_can_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "8883", "HOP": "0.5", "ONSET": "0.9", "YES": "true"}.items():
        monkeypatch.setenv(name, value)
    text = STREAM.format("hop_s: ${HOP}\n    rules: {alarm: {onset_threshold: '${ONSET}'}}")
    settings = settings_of(text + "sinks: {mqtt: {type: mqtt, port: '${PORT}', tls: '${YES}', username: '${PORT}'}}\n")
    assert settings.streams["mic"].hop_s == 0.5
    assert settings.rules_of("mic")["alarm"] == Threshold(labels=("Bark",), onset_threshold=0.9)
    assert settings.sinks["mqtt"] == Mqtt(port=8883, tls=True, username="8883")


def test_a_reference_in_a_rule_is_a_number_in_its_changes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONSET", "0.4")
    text = STREAM.format("rules: {beep: {offset_threshold: 0.45}}").replace("0.4}", "'${ONSET}'}")
    assert mistakes_of(text) == ["c.yaml:8: streams.mic.rules.beep: offset_threshold 0.45 is over onset_threshold 0.4"]


def test_a_reference_that_is_a_number_does_not_make_the_rest_lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8883")
    assert mistakes_of(SINK.format("{type: mqtt, port: '${PORT}', tls: 'true', hst: x}")) == [
        "c.yaml:4: sinks.mqtt.tls: must be a mapping or true or false, not 'true'; write true without quotes",
        f"c.yaml:4: sinks.mqtt.hst: unknown key 'hst'; {SINK_KEYS}. Did you mean 'host'?",
    ]


@pytest.mark.parametrize("beside", ["", ", username: me, password_file: pw"])
def test_an_unset_password_counts_as_not_given(monkeypatch: pytest.MonkeyPatch, beside: str) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    sink = settings_of(SINK.format(f"{{type: mqtt, password: '${{UNSET}}'{beside}}}")).sinks["mqtt"]
    assert isinstance(sink, Mqtt)
    assert sink.password is None


def test_locate_names_file_line_and_key() -> None:
    settings = settings_of(STREAM.format("rules:\n      alarm:\n        labels: [Beep]"))
    assert settings.locate("rules", "alarm", "labels", 0) == "c.yaml:3: rules.alarm.labels[0]"
    assert settings.locate("streams", "mic", "rules", "alarm", "labels") == "c.yaml:10: streams.mic.rules.alarm.labels"
    assert settings.locate("rules", "alarm", "onset_threshold") == "c.yaml:3: rules.alarm.onset_threshold"  # a default
    assert settings.locate() == "c.yaml:1"
    assert settings.model_copy(update={"node": "attic"}).locate("node") == "c.yaml:1: node"


def test_settings_made_in_code_have_keys_but_no_lines() -> None:
    settings = Settings(node="garage", streams={"mic": StreamConfig(source=File(path="a.wav"))})
    assert settings.streams["mic"].source == File(path="a.wav")
    assert settings.locate("streams", "mic") == "streams.mic"


def test_effective_shows_every_option_but_no_secret() -> None:
    text = effective(settings_of(SINK.format("{type: mqtt, password: hush}")))
    shown = yaml.safe_load(text)
    assert "hush" not in text
    assert shown["sinks"]["mqtt"] == {
        "type": "mqtt", "host": "localhost", "port": 1883, "client_id": None, "username": None,
        "password": "**********", "password_file": None, "tls": None,
    }
    assert shown["streams"]["mic"]["source"] == {"type": "microphone", "device": "default", "channel": "mix"}
    assert shown["model"] == {
        "checkpoint": "starter", "backend": "auto", "device": "auto", "dtype": "auto", "window_s": None
    }  # fmt: skip


def test_effective_is_a_configuration_itself() -> None:
    settings = settings_of(STREAM.format("rules: {alarm: {labels: [Beep]}, beep: null}"))
    assert effective(settings_of(effective(settings))) == effective(settings)


def test_schema_tells_the_edges_apart_by_type() -> None:
    document = schema({kind: list(EDGES[kind].values()) for kind in ("source", "rule", "sink")})
    stream = document["$defs"]["StreamConfig"]["properties"]
    sources = [option["$ref"] for option in stream["source"]["oneOf"]]
    assert sources == ["#/$defs/File", "#/$defs/Microphone", "#/$defs/Stdin"]
    assert stream["source"]["discriminator"]["propertyName"] == "type"
    assert set(document["properties"]) == {"node", "model", "streams", "rules", "sinks", "outbox", "keep_thresholds"}
    assert set(document["required"]) == {"node", "streams"}
    assert document["additionalProperties"] is False
    assert document["$defs"]["Threshold"]["required"] == ["labels"]
