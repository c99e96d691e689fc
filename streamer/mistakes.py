"""Says in plain words, with the keys and values of the file, what pydantic found wrong with it."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from streamer.document import Document, KeyPath, unset_sentence

ALLOWED = {
    "string_type": "text",
    "path_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
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
    close = get_close_matches(name, known, n=1)
    return (", ".join(known) or "none") + (f". Did you mean '{close[0]}'?" if close else "")


def explain(error: ValidationError, model: type[BaseModel], data: Any, document: Document, path: KeyPath) -> None:
    """Add a sentence to `document` for each thing that made `data`, which stands at `path`, no `model`."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False, include_input=False):
        found.setdefault(_in_file(details, data), []).append(details)
    for at, group in found.items():
        has_deeper = any(other[: len(at)] == at and other != at for other in found)
        if has_deeper and all(details["type"] in ALLOWED for details in group):
            continue  # a member of a union that the value was not meant for
        annotation = _annotation_at(model, at)
        place = (*path, *at)
        if document.locate(place) ... 
