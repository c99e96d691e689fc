"""Says in plain words, with the keys and values of the file, what pydantic finds wrong with it."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from streamer.document import Document, KeyPath, unset_sentence

M = TypeVar("M", bound=BaseModel)

ALLOWED = {
    "string_type": "text",
    "path_type": "text",
    "path_not_file": "an existing file",
    "path_not_directory": "an existing folder",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "string_too_short": "at least {min_length} long",
    "string_too_long": "at most {max_length} long",
    "string_pattern_mismatch": "text that matches {pattern}",
}
SHOWN_CHARS = 60  # of a value, in a sentence


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`a, b, c`, and the one that `name` was probably meant to be."""
    return (", ".join(known) or "none") + closest(name, known)


def closest(name: str, known: Sequence[str]) -> str:
    """The one of `known` that `name` was probably meant to be, as the end of a sentence; else nothing."""
    close = [key for key in known if name and key.startswith(name)] or get_close_matches(name, known, n=1)
    return f". Did you mean '{close[0]}'?" if close else ""


def validated(
    model: type[M], data: Mapping[Any, Any], document: Document, path: KeyPath, about: Collection[Any] | None = None
) -> M | None:
    """`data`, which stands at `path` of `document`, as a `model`; None, and its mistakes noted there, if it is none.

    With `about`, no mistakes are noted in other keys than those. It goes through JSON because strict models take a
    list for a tuple, and text for a path, only there. What came from the environment is text: it may also be read as
    a number.
    """
    text = json.dumps(data)
    lenient = None
    try:
        return model.model_validate_json(text, context=document)
    except ValidationError as error:
        said = explain(error, model, data, document, path)
    if filled := {at for at in said if (*path, *at) in document.filled}:
        said = {at: sentence for at, sentence in said.items() if at not in filled}
        try:
            lenient = model.model_validate_json(text, strict=False, context=document)
        except ValidationError as error:
            said = explain(error, model, data, document, path) | said
    for at, sentence in said.items():
        if about is None or not at or at[0] in about:
            document.add((*path, *at), sentence)
    return None if said else lenient


def explain(
    error: ValidationError, model: type[BaseModel], data: Any, document: Document, path: KeyPath
) -> dict[KeyPath, str]:
    """Why `data`, which stands at `path` of `document`, is no `model`: sentences by the path below `path`."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False, include_input=False):
        found.setdefault(_in_file(details, data), []).append(details)
    sentences = {}
    for at, group in found.items():
        place = (*path, *at)
        has_deeper = any(other[: len(at)] == at and other != at for other in found)
        if has_deeper and all(details["type"] in ALLOWED for details in group):
            continue  # the value was meant for another member of the union, and what is wrong with it is said there
        if place in document.unset:
            sentences[at] = unset_sentence(document.unset[place])
        else:
            sentences[at] = _sentence(group, model, at, _at(data, at), document.written.get(place))
    return sentences


def _in_file(details: ErrorDetails, data: Any) -> KeyPath:
    """Where the error is, without what pydantic puts between the keys: names of union members, '[key]'."""
    path: list[str | int] = []
    keys: tuple[Any, ...] = details["loc"]
    for key in keys:
        if (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int)):
            data = data[key]
            path.append(key)
    return (*path, keys[-1]) if details["type"] == "missing" else tuple(path)


def _at(data: Any, path: Iterable[Any]) -> Any:
    """What stands at `path` of `data`; None where nothing does."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else data[key]
    return data


def _sentence(group: list[ErrorDetails], model: type[BaseModel], at: KeyPath, value: Any, written: str | None) -> str:
    """One sentence about one value, for all the types it was refused as."""
    details = next((details for details in group if details["type"] not in ALLOWED), group[0])
    context = details.get("ctx", {})
    match details["type"]:
        case "value_error" | "assertion_error":
            return str(context["error"])  # the model's own words
        case "missing":
            return "required, but not given"
        case "extra_forbidden":
            return f"unknown key '{at[-1]}'; known: {did_you_mean(str(at[-1]), _known_keys(model, at))}"
        case "too_short" | "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case kind if kind not in ALLOWED:
            return details["msg"].replace("Input should be", "must be")
    allowed = dict.fromkeys(ALLOWED[details["type"]].format(**details.get("ctx", {})) for details in group)
    is_secret = any("Secret" in str(annotation) for annotation in _annotations(model, at))
    is_length = isinstance(value, list) and details["type"] in {"too_short", "too_long"}
    given = "" if is_secret else f", not {len(value) if is_length else _given(value, written)}"
    return f"must be {' or '.join(allowed)}{given}{_hint(allowed, value, written or str(value), is_secret)}"


def _given(value: Any, written: str | None) -> str:
    """A value as it stands in the file."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = str(value) if written is None else written
    if isinstance(value, str):
        return f"'{text}'" if len(text) <= SHOWN_CHARS else f"'{text[:SHOWN_CHARS]}…'"
    is_other_word = isinstance(value, bool) and text.lower() != str(value).lower()
    return f"{text}, which YAML reads as {str(value).lower()}" if is_other_word else text


def _hint(allowed: Collection[str], value: Any, written: str, is_secret: bool) -> str:
    """How to write the value so that YAML reads it as it was meant."""
    if meant := closest(str(value), re.findall(r"'([^']*)'", " ".join(allowed))):
        return meant
    if "text" in allowed and isinstance(value, bool | int | float):
        return f"; write {'it in quotes' if is_secret else json.dumps(written)}"
    if "a list" in allowed and "a mapping" not in allowed and isinstance(value, str):
        return f"; write [{json.dumps(written, ensure_ascii=False)}]"
    if "true or false" in allowed and written in ("true", "false"):
        return f"; write {written} without quotes"
    if isinstance(value, str) and not {"a number", "a whole number"}.isdisjoint(allowed):
        number = number_in(written)
        return "" if number is None else f"; write {number} without quotes"
    return ""


def number_in(text: str) -> float | None:
    """The finite number that `text` says, if it says one."""
    try:
        number = float(text)
    except ValueError:
        return None
    if not isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def _annotations(model: type[BaseModel], path: KeyPath) -> list[Any]:
    """The types that a model, or the models inside it, give to what stands at `path`."""
    found: list[Any] = [model]
    for key in path:
        found = [inner for annotation in found for inner in _below(annotation, key)]
    return found


def _below(annotation: Any, key: str | int) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation.model_fields[key].annotation] if key in annotation.model_fields else []
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return [arguments[1]]
    if get_origin(annotation) in (list, tuple):
        return [arguments[0]]
    return [inner for member in arguments for inner in _below(member, key)]  # unions, Annotated


def _known_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that may stand beside the last one of `path`."""
    members = [inner for annotation in _annotations(model, path[:-1]) for inner in (annotation, *get_args(annotation))]
    models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    return sorted({key for member in models for key in member.model_fields})
