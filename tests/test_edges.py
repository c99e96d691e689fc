"""Edges are found by their file names."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from streamer import config, edges
from streamer.core import Site, StreamInfo
from streamer.errors import ConfigError
from streamer.rules.base import Place
from streamer.settings import ModelConfig

ROOT = Path(__file__).parent.parent
INFO = StreamInfo("mic", "garage", 1.0, 10.24, 16000, ("Bark",), ("/m/05tny_",))
SITE = Site("garage")


def utc(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


@pytest.mark.parametrize("kind", ["source", "rule", "sink", "backend"])
def test_each_module_of_the_folder_is_a_type(kind: str) -> None:
    files = {path.stem for path in (ROOT / "streamer" / f"{kind}s").glob("*.py")}
    assert set(edges.known(kind)) == {name for name in files if name != "base" and not name.startswith("_")}


@pytest.mark.parametrize("kind", edges.KINDS)
def test_each_edge_has_a_strict_frozen_model_of_its_type(kind: str) -> None:
    for name in edges.known(kind):
        model = edges.edge_config(kind, name)
        assert model.model_config.get("extra") == "forbid", name
        assert model.model_config.get("strict") is True, name
        assert model.model_config.get("frozen") is True, name
        assert model.model_json_schema()["properties"]["type"]["const"] == name


def test_options_of_rules_are_finite_numbers() -> None:
    for name in edges.known("rule"):
        assert edges.edge_config("rule", name).model_config.get("allow_inf_nan") is False, name


def test_back_ends_share_one_model() -> None:
    assert edges.edge_config("backend", "local") is ModelConfig


@pytest.mark.parametrize("name", ["nowhere", "base", "__init__", "../sinks/mqtt", ""])
def test_an_unknown_type_answers_with_the_known_ones(name: str) -> None:
    with pytest.raises(config.UnknownType) as caught:
        edges.edge_config("sink", name)
    assert caught.value.known == edges.known("sink")
    assert {"jsonl", "mqtt"} <= set(caught.value.known)


class Stub(BaseModel):
    """Stands in for an edge's `Config`: this module is then the edge."""


def build(*given: object) -> Any:
    return given


def test_the_module_of_a_model_builds_from_it() -> None:
    stub = Stub()
    source: Any = edges.build_source(stub)
    rule: Any = edges.build_rule(stub, "bark", INFO, utc)
    sink: Any = edges.build_sink(stub, SITE)
    assert (source, rule, sink) == ((stub,), (stub, Place("bark", INFO, utc)), (stub, SITE))


def test_a_back_end_is_built_by_the_module_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("streamer.backends.pretend")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = "node: garage\nstreams: {mic: {source: {type: microphone}}}\n"
    parsed = config.parse(text, "c.yaml", edges.edge_config)
    settings = parsed.model_copy(update={"model": ModelConfig(backend="pretend")})
    built: Any = edges.build_backend(settings)
    assert built == (settings,)


@pytest.mark.parametrize("n_gpus", [0, 1])
def test_a_gpu_that_is_not_there_is_a_mistake_with_its_line(n_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: n_gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    text = "node: garage\nmodel:\n  device: cuda:1\nstreams: {mic: {source: {type: microphone}}}\n"
    with pytest.raises(ConfigError) as caught:
        edges.build_backend(config.parse(text, "c.yaml", edges.edge_config))
    assert list(caught.value.mistakes) == [
        f"c.yaml:3: model.device: 'cuda:1' is not there: CUDA devices that torch finds: {n_gpus}; write 'cpu' or 'auto'"
    ]


def test_the_default_configuration_has_a_rule_for_each_starter_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MQTT_PASSWORD", raising=False)
    settings = config.load(ROOT / "config.yaml", edges.edge_config)
    assert settings.model == ModelConfig(window_s=2.56)
    assert list(settings.streams) == ["mic"]
    assert list(settings.sinks) == ["mqtt"]
    assert {name: rule.model_dump()["labels"] for name, rule in settings.rules_of("mic").items()} == {
        "smoke_alarm": ["Smoke detector, smoke alarm"],
        "siren": ["Siren"],
        "beep": ["Beep, bleep"],
        "dog_bark": ["Bark"],
        "rain": ["Rain"],
        "sea_waves": ["Waves, surf"],
        "baby_cry": ["Baby cry, infant cry"],
        "clock_tick": ["Tick-tock"],
        "person_sneeze": ["Sneeze"],
        "helicopter": ["Helicopter"],
        "chainsaw": ["Chainsaw"],
        "rooster": ["Crowing, cock-a-doodle-doo"],
        "fire_crackling": ["Crackle"],
    }


def test_the_schema_of_all_edges_accepts_the_default_configurations_keys() -> None:
    document = config.schema(edges.edge_configs())
    assert set(document["properties"]) == set(yaml.safe_load((ROOT / "config.yaml").read_text()))


@pytest.mark.parametrize(("options", "secret", "sentence"), [
    ("{type: mqtt, host: '${SECRET}'}", "mqtt://me:hunter2@broker",
     "sinks.one.host: '${SECRET}' is no host; give its name or address alone, and its port as port"),
    ("{type: mqtt, host: 'mqtt://me:${SECRET}@broker'}", "hunter2",
     "sinks.one.host: 'mqtt://me:${SECRET}@broker' is no host; give its name or address alone, and its port as port"),
    ("{type: mqtt, base_topic: '${SECRET}'}", "hunter2/#",
     "sinks.one.base_topic: '${SECRET}' is no topic; allowed: levels joined by '/', none empty, no '+' or '#'"),
    ("{type: '${SECRET}'}", "hunter2",
     "sinks.one.type: unknown sink '${SECRET}'; known: jsonl, mqtt, sqlite, webhook"),
])  # fmt: skip
def test_a_mistake_shows_a_secret_from_the_environment_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, options: str, secret: str, sentence: str
) -> None:
    monkeypatch.setenv("SECRET", secret)
    text = f"node: garage\nstreams: {{mic: {{source: {{type: microphone}}}}}}\nsinks:\n  one: {options}\n"
    with pytest.raises(ConfigError) as error:
        config.parse(text, "c.yaml", edges.edge_config)
    assert str(error.value) == f"c.yaml:4: {sentence}"


def test_a_mistake_about_a_whole_rule_shows_it_as_it_is_written_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    rule = "{type: sequence, rules: ['${SECRET}', '${SECRET}'], within_s: 9}"
    text = f"node: garage\nstreams: {{mic: {{source: {{type: microphone}}}}}}\nrules:\n  one: {rule}\n"
    with pytest.raises(ConfigError, match=r"'[$]{SECRET}' stands in it twice") as error:
        config.parse(text, "c.yaml", edges.edge_config)
    assert "hunter2" not in str(error.value)


def test_a_webhook_that_would_go_out_unsigned_for_want_of_its_secret_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    text = (
        "node: garage\nstreams: {mic: {source: {type: microphone}}}\n"
        "sinks:\n  hook: {type: webhook, url: 'https://example.org', secret: '${UNSET}'}\n"
    )
    with pytest.raises(ConfigError) as error:
        config.parse(text, "c.yaml", edges.edge_config)
    sentence = "c.yaml:4: sinks.hook.secret: the environment variable UNSET is not set; set it, or remove 'secret'"
    assert str(error.value) == sentence
