"""The configuration: a YAML file becomes frozen `Settings`, or every mistake in it at once.

A mistake is one sentence with its line:
`config.yaml:14: streams.mic.source.type: unknown source 'microfone'; known: file, microphone, stdin. Did you mean …?`
The edges (sources, rules, sinks) bring their own models; who reads a file passes in where to find them.
"""

import os.path
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, create_model

from models.spec import ModelSpec
from streamer.document import Document, KeyPath, dotted, read, unset_sentence
from streamer.errors import ConfigError
from streamer.mistakes import did_you_mean, number_in, validated
from streamer.paths import default_outbox, expanded, misplaced
from streamer.references import misfits, unwatchable
from streamer.settings import FRAME_S, ModelConfig, Name, Settings, StreamConfig

EdgeConfig = Callable[[str, str], type[BaseModel]]
SpecOf = Callable[[str], ModelSpec]


class UnknownType(LookupError):
    """There is no edge of that type; `known` are the ones there are."""

    def __init__(self, known: Iterable[str]) -> None:
        self.known = tuple(known)
        super().__init__(f"known: {', '.join(self.known)}")


def load(path: str | Path, edge_config: EdgeConfig, spec_of: SpecOf | None = None) -> Settings:
    """Read the file at `path`.

    Args:
        edge_config: kind ("source", "rule", "sink" or "backend") and type name -> that edge's model.
            Raises `UnknownType` where there is none.
        spec_of: checkpoint -> what its model says of itself; raises `ConfigError` where there is none.
            Without it, labels and the lengths of hops are not checked.

    Raises:
        ConfigError: the file can't be read or has mistakes: all of them, in the order of the file.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name an existing one with -c") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name the YAML file in it") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigError(f"{path}:{line}: byte {byte:#04x} is not UTF-8; save the file as UTF-8") from None
    return parse(text, str(path), edge_config, spec_of)


def parse(text: str, name: str, edge_config: EdgeConfig, spec_of: SpecOf | None = None) -> Settings:
    """As `load`, of text that came from a file called `name`."""
    check = _Check(read(text, name), edge_config)
    shape = validated(Settings, check.document.data, check.document, ())
    check.backend()
    check.unset()
    check.keeping()
    check.topics()
    rules = {path[-1]: check.edge("rule", path) for path in check.entries("rules")}
    sinks = {path[-1]: check.edge("sink", path) for path in check.entries("sinks")}
    sources = {path[-1]: check.edge("source", (*path, "source")) for path in check.entries("streams")}
    for path in check.entries("streams"):
        check.changes(rules, path)
    check.sharing(sources, sinks)
    check.files()
    unwatchable(check.document)
    if spec_of and (spec := check.spec(spec_of)):
        misfits(spec, check.document, default_hop_s=StreamConfig.model_fields["hop_s"].default)
    if shape is None or check.document.mistakes:
        raise check.document.error()
    streams = {name: stream.model_copy(update={"source": sources[name]}) for name, stream in shape.streams.items()}
    return shape.model_copy(update={"streams": streams, "rules": rules, "sinks": sinks})


class _Check:
    """Looks at one document from all sides and leaves what is wrong in its `mistakes`."""

    def __init__(self, document: Document, edge_config: EdgeConfig) -> None:
        self.document = document
        self.edge_config = edge_config

    def entries(self, section: str) -> list[KeyPath]:
        """Paths of the named mappings in a section."""
        return [(section, name) for name, entry in self.document.at((section,)).items() if isinstance(entry, dict)]

    def edge(self, kind: str, path: KeyPath) -> BaseModel | None:
        """The edge at `path`, by its own model."""
        options = self.document.at(path[:-1]).get(path[-1])
        if not isinstance(options, dict):
            return None  # the shape of the file is wrong there, and said so
        model = self.known(kind, options.get("type"), (*path, "type"))
        return validated(model, options, self.document, path) if model else None

    def known(self, kind: str, type_name: Any, path: KeyPath) -> type[BaseModel] | None:
        """The model of a type of edge, named at `path`."""
        try:
            return self.edge_config(kind, str(type_name))
        except UnknownType as error:
            said = f"unknown {kind} '{type_name}'" if isinstance(type_name, str) else f"must name a {kind}"
            self.document.add(path, f"{said}; known: {did_you_mean(str(type_name), error.known)}")
            return None

    def backend(self) -> None:
        """Back ends share `ModelConfig`; only the name has to be known."""
        if isinstance(name := self.document.at(("model",)).get("backend"), str):
            self.known("backend", name, ("model", "backend"))

    def unset(self) -> None:
        """A default in place of what was meant goes unseen: another microphone. Only a password may be left out.

        Not beside a user name, which would be sent alone.
        """
        for path, variable in self.document.unset.items():
            beside = self.document.at(path[:-1])
            said = f"the environment variable {variable} is not set"
            match path:
                case ("sinks", _, "password" | "secret") if f"{path[-1]}_file" in beside:
                    continue
                case ("sinks", _, "secret"):  # what isn't signed can't be told from forgeries
                    said = f"{said}; set it, or remove 'secret'"
                case ("sinks", _, "password") if beside.get("username") is None:
                    continue
                case ("sinks", _, "password"):
                    said = f"{said}, but 'username' is given; set it, or remove 'username'"
                case _:
                    said = unset_sentence(variable)
            self.document.add(path, said)

    def topics(self) -> None:
        """Names stand in topics: a rule of that name would speak where its stream says whether it listens."""
        if "listening" in self.document.at(("rules",)):
            self.document.add(("rules", "listening"), "no name for a rule, as it stands in a topic of its stream")

    def files(self) -> None:
        """What is written needs a place, and an SQLite file one of its own: its own words for either are no help."""
        taken: dict[str, KeyPath] = {}
        for at in (("outbox", "path"), *(("sinks", name, "path") for name in self.document.at(("sinks",)))):
            if (path := self._place(at)) is None:
                continue
            first = taken.setdefault(os.path.realpath(path), at)
            if first != at and not self._type_of(first) == self._type_of(at) == "jsonl":
                self.document.add(at, f"the same file as {dotted(first)}; give each a file of its own")

    def _type_of(self, at: KeyPath) -> Any:
        return self.document.at(at[:-1]).get("type")

    def _place(self, at: KeyPath) -> Path | None:
        """Where the file named at `at` lies; None where none is, or it can't lie there, which is noted."""
        is_outbox = at[0] == "outbox"
        text = self.document.at(at[:-1]).get("path", "auto" if is_outbox else None)
        if not isinstance(text, str) or (text == "-" and not is_outbox):
            return None
        if is_outbox and text == "auto":
            with suppress(ConfigError):  # only who runs needs it
                return default_outbox(str(self.document.data.get("node")))
            return None
        shown = self.document.written.get(at, text)
        try:
            path = expanded(text, shown)
        except ConfigError as error:
            self.document.add(at, str(error))
            return None
        if said := misplaced(path, shown):
            self.document.add(at, said)
        return None if said else path

    def keeping(self) -> None:
        """What outlives the process needs a file."""
        if self.document.data.get("keep_thresholds") is True and self.document.at(("outbox",)).get("path", "") is None:
            self.document.add(("keep_thresholds",), "needs a file to keep them in; set outbox.path, or false here")

    def changes(self, rules: Mapping[Any, BaseModel | None], stream: KeyPath) -> None:
        """A stream's own options of rules must be valid together with the rest of the rule."""
        for name, options in self.document.at((*stream, "rules")).items():
            path = (*stream, "rules", name)
            if name not in rules:
                self.document.add(path, f"unknown rule '{name}'; known: {did_you_mean(str(name), sorted(rules))}")
            elif isinstance(options, dict):
                raw = self.document.at(("rules", name))
                rest = rule.model_dump(mode="json", exclude_unset=True) if (rule := rules[name]) else raw
                if model := self.known("rule", raw.get("type"), ("rules", name, "type")):
                    validated(model, rest | options, self.document, path, about=options)

    def sharing(self, sources: Mapping[Any, BaseModel | None], sinks: Mapping[Any, BaseModel | None]) -> None:
        """Standard input has one reader, and a broker keeps one client of an id: a second one throws out the first."""
        readers = [name for name, source in sources.items() if getattr(source, "type", None) == "stdin"]
        for name in readers[1:]:
            self.document.add(("streams", name, "source"), f"stream '{readers[0]}' reads standard input; only one can")
        clients: dict[object, str] = {}
        for name, sink in sinks.items():
            client = tuple(getattr(sink, key, None) for key in ("type", "host", "port", "client_id"))
            if client[0] == "mqtt" and (first := clients.setdefault(client, name)) != name:
                said = f"the same client of the same broker as sink '{first}'; give one a client_id of its own"
                self.document.add(("sinks", name), said)

    def spec(self, spec_of: SpecOf) -> ModelSpec | None:
        """What the model says of itself; None where its checkpoint is not rightly named."""
        path = ("model", "checkpoint")
        if path in self.document.mistakes or path[:1] in self.document.mistakes:
            return None
        try:
            spec = spec_of(self.document.at(("model",)).get("checkpoint", ModelConfig().checkpoint))
        except ConfigError as error:
            self.document.add(path, str(error))
            return None
        return self.windowed(spec)

    def windowed(self, spec: ModelSpec) -> ModelSpec:
        """The same model with the window that is asked for, which must hold a patch."""
        path = ("model", "window_s")
        seconds = number_in(str(self.document.at(path[:1]).get(path[1])))  # text from the environment may be a number
        if seconds is None or path in self.document.mistakes:
            return spec
        if (frames := round(seconds / FRAME_S)) < spec.patch_frames:
            said = f"must be at least {spec.patch_frames * FRAME_S:g} seconds, one patch of the model, not {seconds:g}"
            self.document.add(path, f"{said}; leave it out for the model's own {spec.window_s:g}")
            return spec
        return replace(spec, window_frames=frames)


def effective(settings: Settings) -> str:
    """YAML of every option with its value, secrets masked."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def schema(edge_configs: Mapping[str, Sequence[type[BaseModel]]]) -> dict[str, Any]:
    """JSON Schema of the file, for editors. `edge_configs`: kind -> the models of that kind's types."""

    def one_of(kind: str) -> Any:
        models = edge_configs[kind]
        return Annotated[reduce(or_, models), Field(discriminator="type")] if len(models) > 1 else models[0]

    stream = create_model("StreamConfig", __base__=StreamConfig, source=(one_of("source"), ...))
    streams: Any = dict[Name, stream]  # type: ignore[valid-type]
    rules: Any = dict[Name, one_of("rule")]  # type: ignore[misc]
    sinks: Any = dict[Name, one_of("sink")]  # type: ignore[misc]
    whole = create_model(
        "Settings", __base__=Settings, streams=(streams, Field(min_length=1)), rules=(rules, {}), sinks=(sinks, {})
    )
    return whole.model_json_schema()
