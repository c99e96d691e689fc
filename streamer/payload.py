"""Payloads as they are written and sent."""

import json
from collections.abc import Mapping
from typing import Any


def to_json(payload: Mapping[str, Any] | str) -> bytes:
    """One line of compact UTF-8 JSON.

    Raises:
        ValueError: something in it is nothing JSON can say, as a number that isn't finite.
    """
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise ValueError(str(error)) from error
