"""The outer edges: `type: x` in the configuration is the module `streamer/<kind>s/x.py`, found by its file name.

An edge module holds `Config`, a strict model with a `type`, and `build(config, …)`. Adding an edge is adding that file.
Modules are imported when a configuration names them, so a back end or a driver nobody uses is never loaded.
"""

import sys
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import BaseModel

from streamer.backends.base import Backend
from streamer.config import UnknownType
from streamer.core import Site, StreamInfo
from streamer.rules.base import Place, Rule
from streamer.settings import ModelConfig, Settings
from streamer.sinks.base import Sink
from streamer.sources.base import Source

KINDS = ("source", "rule", "sink")  # those with a `Config` of their own; back ends share `ModelConfig`


def known(kind: str) -> tuple[str, ...]:
    """The types of a kind ("source", "rule", "sink" or "backend"): its folder's modules."""
    folder = import_module(f"streamer.{kind}s")
    names = (module.name for module in iter_modules(folder.__path__))
    return tuple(sorted(name for name in names if name != "base" and not name.startswith("_")))


def edge_config(kind: str, type_name: str) -> type[BaseModel]:
    """The model that the options of an edge must fit.

    Raises:
        UnknownType: there is no such edge.
    """
    names = ("auto", *known(kind)) if kind == "backend" else known(kind)
    if type_name not in names:
        raise UnknownType(names)
    if kind == "backend":
        return ModelConfig
    config: type[BaseModel] = import_module(f"streamer.{kind}s.{type_name}").Config
    return config


def edge_configs() -> dict[str, list[type[BaseModel]]]:
    """Every edge's model by kind, for the schema of the whole file."""
    return {kind: [edge_config(kind, name) for name in known(kind)] for kind in KINDS}


def build_source(config: BaseModel) -> Source:
    """Make the source that `config` describes."""
    source: Source = _home(config).build(config)
    return source


def build_rule(config: BaseModel, name: str, info: StreamInfo, utc: Callable[[int], datetime]) -> Rule:
    """Make the rule called `name` for one stream; `utc` tells the capture time of a position."""
    rule: Rule = _home(config).build(config, Place(name, info, utc))
    return rule


def build_sink(config: BaseModel, site: Site) -> Sink:
    """Make the sink that `config` describes, to speak for `site`."""
    sink: Sink = _home(config).build(config, site)
    return sink


def build_backend(settings: Settings) -> Backend:
    """Load the model into the back end that `settings` name; `auto` is OpenVINO where it suits, else torch."""
    name = settings.model.backend
    if name == "auto":
        openvino: Any = import_module("streamer.backends.openvino")
        name = "openvino" if openvino.suits(settings.model) else "local"
    module: Any = import_module(f"streamer.backends.{name}")
    backend: Backend = module.build(settings)
    return backend


def _home(config: BaseModel) -> Any:
    """The module that a configuration's model came from: the one that also builds from it."""
    return sys.modules[type(config).__module__]
