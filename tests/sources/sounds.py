"""Sound files for tests."""

from pathlib import Path

import soundfile

from streamer.core import Samples


def write(path: Path, samples: Samples, sample_rate: int, subtype: str | None = "FLOAT") -> Path:
    """Write (n,) or (n, channels) float32; the format follows the name."""
    soundfile.write(path, samples, sample_rate, subtype=subtype)
    return path
