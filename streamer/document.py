"""A YAML file as plain data that remembers where each key stands, with `${NAME}` references filled in.

In: text. Out: a `Document` of dicts, lists, text, numbers, booleans and None. A path is the keys from the top:
`("rules", "siren", "labels", 0)`. Keys are taken as written, so that a rule may be called `on` or `1`.
"""

import os
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from streamer.errors import ConfigError

KeyPath = tuple[str | int, ...]

YAML_TAG = "tag:yaml.org,2002:"
READ_TAGS = {YAML_TAG + kind for kind in ("null", "bool", "int", "float")}  # any other scalar stays text, dates too

REFERENCE = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)\}?")
BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>.*))?", re.DOTALL)


@dataclass(slots=True)
class Document:
    """What a file says, where, and what is wrong with it so far: one sentence a path.

    `written` holds each scalar as it stands in the file: safe to show, since references are not filled in.
    `filled` holds the text of places that came from the environment: a number may have been meant, or it is a secret.
    `unset` holds the keys left out of `data` because their whole value was one reference to an unset variable.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=lambda: {(): 1})
    written: dict[KeyPath, str] = field(default_factory=dict)
    filled: dict[KeyPath, str] = field(default_factory=dict)
    unset: dict[KeyPath, str] = field(default_factory=dict)
    mistakes: dict[KeyPath, str] = field(default_factory=dict)

    def at(self, path: KeyPath) -> dict[Any, Any]:
        """The mapping at `path`; an empty one where there is none."""
        data: Any = self.data
        for key in path:
            data = data.get(key) if isinstance(data, dict) else None
        return data if isinstance(data, dict) else {}

    def line(self, path: KeyPath) -> int:
        """The line of the key at `path`, or of the nearest key around it that is in the file."""
        return next(self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines)

    def locate(self, path: KeyPath) -> str:
        """`config.yaml:14: rules.siren.labels`, or just file and line for the whole file."""
        place = f"{self.name}:{self.line(path)}"
        return f"{place}: {dotted(path)}" if path else place

    def add(self, path: KeyPath, sentence: str) -> None:
        """Note a mistake; the first one at a path stands, the others follow from it.

        A text from the environment that the sentence quotes is shown as it is written in the file.
        """
        for at, text in self.filled.items():
            if text and at[: len(path)] == path:
                sentence = sentence.replace(f"'{text}'", f"'{self.written[at]}'")
        self.mistakes.setdefault(path, sentence)

    def error(self) -> ConfigError:
        """All mistakes, in the order of the file."""
        places = {path: place for place, path in enumerate(self.lines)}
        ordered = sorted(self.mistakes, key=lambda path: (self.line(path), places.get(path, len(places))))
        return ConfigError(*(f"{self.locate(path)}: {self.mistakes[path]}" for path in ordered))


def dotted(path: KeyPath) -> str:
    """A path as a person writes it: `rules.siren.labels[0]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def unset_sentence(variable: str) -> str:
    """What to say of a reference that can't be filled in."""
    return f"the environment variable {variable} is not set; set it, or write ${{{variable}:-default}}"


def read(text: str, name: str) -> Document:
    """Read YAML text that came from a file called `name`.

    Raises:
        ConfigError: it isn't YAML, or not a mapping. Lesser mistakes are left in the document's `mistakes`.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise ConfigError(f"{name}:1: the file is empty; it needs at least 'node' and 'streams'")
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "text"
            raise ConfigError(f"{name}:1: must be a mapping with 'node' and 'streams', not {kind}")
        return _Walk(loader, Document(name)).document_of(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {_plain(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: character {ord(text[error.position]):#04x} is not allowed in YAML") from None


def _plain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or str(error.context)
    if problem.startswith("but "):
        problem = f"{error.context}, {problem}"
    if "'\\t'" in problem:
        return "a tab can't indent or start a value; use spaces"
    return f"{problem}; look at the indentation, colons and quotes here and in the line above"


class _Walk:
    """One pass over the nodes of a file."""

    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self.loader = loader
        self.document = document
        self.flat: set[int] = set()

    def document_of(self, root: yaml.MappingNode) -> Document:
        self.document.data = self.mapping(root, (), ())
        return self.document

    def value(self, node: yaml.Node, path: KeyPath, around: tuple[yaml.Node, ...]) -> Any:
        if node in around:
            self.document.add(path, "an alias can't stand inside what it names")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.refuse_tag(node, path)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, (*around, node))
        return self.sequence(node, path, (*around, node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath, around: tuple[yaml.Node, ...]) -> dict[str, Any]:
        if id(node) not in self.flat:  # an aliased node comes by again, and merging has put both keys into it
            self.flat.add(id(node))
            self.refuse_bad_keys(node, path)
            self.loader.flatten_mapping(node)
        pairs = {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
        data = {}
        for name, (key, child) in pairs.items():
            at = (*path, name)
            self.document.lines[at] = key.start_mark.line + 1
            data[name] = self.value(child, at, around)
        return {name: value for name, value in data.items() if (*path, name) not in self.document.unset}

    def sequence(self, node: yaml.Node, path: KeyPath, around: tuple[yaml.Node, ...]) -> list[Any]:
        values = []
        for index, child in enumerate(node.value):
            at = (*path, index)
            self.document.lines[at] = child.start_mark.line + 1
            values.append(self.value(child, at, around))
            if variable := self.document.unset.pop(at, None):
                self.document.add(at, unset_sentence(variable))
        return values

    def refuse_bad_keys(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.document.lines[(*path, "?")] = line
                self.document.add((*path, "?"), "a key must be a plain word; put text with brackets in quotes")
            elif key.value in first:
                self.document.add((*path, key.value), f"given twice, on lines {first[key.value]} and {line}; keep one")
            else:
                first[key.value] = line

    def refuse_tag(self, node: yaml.Node, path: KeyPath) -> None:
        if node.tag not in (YAML_TAG + "map", YAML_TAG + "seq"):
            self.document.add(path, f"the YAML tag {_short(node.tag)} has no meaning here; remove it")

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        """The value; None also where there is a mistake or where the whole value is one unset reference."""
        self.document.written[path] = node.value
        tag, text = node.tag, node.value
        if not tag.startswith(YAML_TAG):
            self.document.add(path, f"the YAML tag {_short(tag)} has no meaning here; write ${{NAME}} for a secret")
            return None
        if tag == YAML_TAG + "str" and "${" in text:
            text = self.fill(text, path)
        if path in self.document.unset:
            return None
        if tag not in READ_TAGS:
            return text
        try:
            return self.loader.construct_object(yaml.ScalarNode(tag, text, node.start_mark, node.end_mark))
        except (ValueError, KeyError):
            self.document.add(path, f"'{node.value}' can't be read as {_short(tag)}")
            return None

    def fill(self, text: str, path: KeyPath) -> str:
        """`text` with its references filled in from the environment, as a shell does it; notes the unset ones."""

        def value_of(match: re.Match[str]) -> str:
            if match["body"] is None:
                return "${"
            body = BODY.fullmatch(match["body"])
            if body is None or not match[0].endswith("}"):
                wanted = "write ${NAME} or ${NAME:-default}, or $${ where ${ itself is meant"
                self.document.add(path, f"'{match[0]}' is not a reference to the environment; {wanted}")
                return ""
            value = os.environ.get(body["name"])
            if body["default"] is not None:
                return value or body["default"]
            if value is None and match[0] == text:
                self.document.unset[path] = body["name"]
            elif value is None:
                self.document.add(path, unset_sentence(body["name"]))
            return value or ""

        self.document.filled[path] = REFERENCE.sub(value_of, text)
        return self.document.filled[path]


def _short(tag: str) -> str:
    return tag.replace(YAML_TAG, "!!")
