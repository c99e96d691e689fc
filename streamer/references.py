"""Says where a file names what is not there, or does not fit: labels of the model, its window, other rules."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from models.spec import ModelSpec
from streamer.document import Document, KeyPath
from streamer.mistakes import closest, did_you_mean, number_in

Options = Mapping[Any, Any]
BARS = ("refractory_s", "unless", "min_level_dbfs", "schedule")  # options that keep a sound from being told
NOTHING_LEFT = "unless names every label of the model, and nothing is left to listen for; remove some"


def misfits(spec: ModelSpec, document: Document, default_hop_s: float) -> None:
    """Note the labels that the model does not know, in rules and in streams' own options, and hops over its window."""
    streams: list[KeyPath] = [("streams", name) for name in document.at(("streams",))]
    homes: list[KeyPath] = [("rules",), *((*stream, "rules") for stream in streams)]
    for path in ((*home, name) for home in homes for name in document.at(home)):
        options = document.at(("rules", path[-1])) | document.at(path)
        groups = options.get("groups")
        known = {*spec.labels, *(groups if isinstance(groups, dict) else ())}
        for at, label in _labels(document.at(path)):
            if label not in known:  # the model may know hundreds
                is_any = (label, at[0]) == ("any", "labels")
                listed = f"run 'streamer labels' for the list{closest(label, spec.labels)}"
                hint = "write labels: any, without brackets" if is_any else listed
                document.add((*path, *at), f"unknown label '{document.written.get((*path, *at), label)}'; {hint}")
        if options.get("labels") == "any":
            _leftovers(spec, document, path, options)
    for path in streams:
        hop_s = document.at(path).get("hop_s", default_hop_s)
        seconds = number_in(str(hop_s))  # text from the environment may be a number
        if seconds is not None and seconds > spec.window_s:
            said = f"must be at most {spec.window_s:g} seconds, the model's window, not {seconds:g}"
            document.add((*path, "hop_s"), f"{said}; what lies between two windows would not be heard")


def _leftovers(spec: ModelSpec, document: Document, path: KeyPath, options: Options) -> None:
    """Note, of a rule for any label, the groups at `path` that change nothing, and an `unless` that leaves nothing."""
    named = list(_labels(options))
    for group in document.at((*path, "groups")):
        if group not in spec.labels and group not in {name for _, name in named}:
            said = f"'{group}' is used nowhere: any label is listened for without it; remove it, or give it thresholds"
            document.add((*path, "groups", group), said)
    groups: dict[str, list[str]] = {}
    for at, name in named:
        if at[0] == "groups":
            groups.setdefault(str(at[1]), []).append(name)
    barred = within((name for at, name in named if at[0] == "unless"), groups)
    if set(spec.labels) <= set(barred):
        document.add((*path, "unless"), NOTHING_LEFT)


def _labels(options: Options) -> Iterator[tuple[KeyPath, str]]:
    """Every label and group that a rule's options name, and where."""
    groups = options.get("groups")
    lists: dict[KeyPath, Any] = {(key,): options.get(key) for key in ("labels", "instant", "unless")}
    lists |= {("groups", name): names for name, names in (groups.items() if isinstance(groups, dict) else ())}
    for path, names in lists.items():
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str):
                yield (*path, index), name
    thresholds = options.get("thresholds")
    yield from ((("thresholds", name), name) for name in (thresholds if isinstance(thresholds, dict) else ()))


def unwatchable(document: Document) -> None:
    """Note the rules that watch what they can't: rules that are not there, or off, on a stream; or in a circle.

    And the absence of what may be there, and not be told.
    """
    rules = document.at(("rules",))
    everywhere = {name: document.at(("rules", name)) for name in rules}
    circles = _watching(document, ("rules",), everywhere, everywhere)
    barred = _barring(document, ("rules",), everywhere)
    for stream in document.at(("streams",)):
        path = ("streams", stream, "rules")
        changes = document.at(path)
        own = {name: document.at((*path, name)) for name in changes}
        here = {name: options | own.get(name, {}) for name, options in everywhere.items()}
        off = [name for name in here if changes.get(name, True) in (None, False)]
        for name, options in here.items():
            for watched in set(_watched(options).values()).intersection(off) if name not in off else ():
                said = f"rule '{name}' watches it, and is on here; switch that off too, or leave this on"
                document.add((*path, watched), said)
        if not circles:
            _watching(document, path, own, here)
        if not barred:
            _barring(document, path, {name: options for name, options in here.items() if name not in off})


def _watching(document: Document, path: KeyPath, own: Mapping[str, Options], here: Mapping[str, Options]) -> bool:
    """Note what is wrong with the names in rules' `own` options, at `path`; whether the rules `here` go in a circle."""
    for name, options in own.items():
        for key, watched in _watched(options).items():
            at = (*path, name, *key)
            if watched == name:
                document.add(at, "a rule can't watch itself; name another one")
            elif watched not in here:
                known = did_you_mean(watched, sorted(set(here) - {name}))
                document.add(at, f"unknown rule '{document.written.get(at, watched)}'; known: {known}")
    graph = {name: [other for other in _watched(options).values() if other != name] for name, options in here.items()}
    if names := circle(graph):
        chain = ", which watches ".join(f"'{name}'" for name in names[1:])
        document.add((*path, names[0]), f"watches {chain}; rules can't watch each other in a circle")
    return bool(names)


def _barring(document: Document, path: KeyPath, rules: Mapping[str, Options]) -> bool:
    """Note the absences among `rules` that would take it for silence that a rule may not start; whether there are any.

    Also where other rules stand between the two.
    """
    graph = {name: list(_watched(options).values()) for name, options in rules.items()}
    bars = {name: [option for option in BARS if _bars(options, option)] for name, options in rules.items()}
    found = [
        (name, watched) for name, options in rules.items() if options.get("type") == "absence"
        for watched in within(graph[name], graph) if bars.get(watched)
    ]  # fmt: skip
    for name, watched in found:
        said = f"what '{watched}' may not start for its {' and '.join(bars[watched])} would be taken for silence"
        document.add((*path, name, "rule"), f"{said}; watch a rule without")
    return bool(found)


def _bars(options: Options, option: str) -> bool:
    """Whether one of `BARS` is given and keeps something from being told; a level of 0 dBFS keeps all."""
    given = options.get(option)
    return given is not None if option == "min_level_dbfs" else bool(given)


def _watched(options: Options) -> dict[KeyPath, str]:
    """The rules that a rule watches, by where its options name them."""
    names = options.get("rules")
    found: dict[KeyPath, Any] = {("rule",): options.get("rule")}
    found |= {("rules", index): name for index, name in enumerate(names if isinstance(names, list) else ())}
    return {path: name for path, name in found.items() if isinstance(name, str)}


def within(names: Iterable[str], groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """`names` and all that lies in them, each once, what lies in a group before the group."""
    seen: set[str] = set()
    found: list[str] = []

    def visit(name: str) -> None:
        if name not in seen:
            seen.add(name)
            for part in groups.get(name, ()):
                visit(part)
            found.append(name)

    for name in names:
        visit(name)
    return tuple(found)


def circle(graph: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names that lead to each other, the first one again at the end; none where all is well."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return tuple(reversed(error.args[1]))
    return ()
