"""Numbers on a command line, within bounds: types for `argparse`, which says what is wrong with them."""

import argparse
import math
from collections.abc import Callable


def number(over: float, most: float = math.inf) -> Callable[[str], float]:
    """A type for numbers over `over`, up to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not over < value <= most or math.isinf(value):
            bounds = f"over {over:g}" + (f" and up to {most:g}" if most < math.inf else "")
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return value

    return parse


def whole(text: str) -> int:
    """A type for whole numbers from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
