"""Stands in for sounddevice in a capture child whose PYTHONPATH holds this folder. FAKE_PORTAUDIO names what happens.

Two devices: `Built-in` (the default; 2 channels: a ramp, and 0.5) and `Yeti` (1 channel: 0.25), 8000 Hz; with the plot
"twins" another `Yeti`.
"""

import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

PLOT = os.environ["FAKE_PORTAUDIO"]
N_BLOCKS = 5
STEP = 2**-12  # of the ramp, per sample

if PLOT == "missing":
    raise OSError("PortAudio library not found")


class PortAudioError(Exception):
    """As sounddevice's."""


def query_hostapis() -> tuple[dict[str, str], ...]:
    return ({"name": "ALSA"},)


def query_devices(kind: str | None = None) -> Any:
    if PLOT == "hang":
        time.sleep(3600)
    if kind == "input":
        if PLOT == "no device":
            raise PortAudioError("Error querying device -1")
        return {"index": 1}
    names = [] if PLOT == "no device" else [("Speaker", 0), ("Built-in", 2), ("Yeti", 1)]
    if PLOT == "twins":
        names.append(("Yeti", 1))
    return [
        {"name": name, "hostapi": 0, "max_input_channels": n, "default_samplerate": 8000.0} for name, n in names
    ]


class InputStream:
    """Calls back `N_BLOCKS` times, then plays out the plot."""

    def __init__(
        self,
        device: int,
        samplerate: int,
        blocksize: int,
        channels: int,
        dtype: str,
        callback: Callable[..., None],
        finished_callback: Callable[[], None],
    ) -> None:
        if samplerate != 8000:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        columns = [np.arange(N_BLOCKS * blocksize) * STEP, np.full(N_BLOCKS * blocksize, 0.5)]
        if device == 2:
            columns = [np.full(N_BLOCKS * blocksize, 0.25)]
        if PLOT == "broken":
            columns[0][3 * blocksize :] = np.nan
        self._samples = np.stack(columns[:channels], axis=1).astype(dtype).reshape(N_BLOCKS, blocksize, channels)
        self._callback = callback
        self._finished_callback = finished_callback

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        if PLOT == "print":
            os.write(1, b"ALSA lib pcm.c: unknown PCM\n")
        for i, block in enumerate(self._samples):
            times = SimpleNamespace(currentTime=1000.0, inputBufferAdcTime=1000.0 - 0.2)
            status = SimpleNamespace(input_overflow=PLOT == "overflow" and i in {1, 3})
            self._callback(block, len(block), times, status)
        if PLOT == "vanish":
            os.write(2, b"Expression 'poll' failed\n")
            self._finished_callback()
        while PLOT == "flood":
            os.write(2, b"Expression 'poll' failed\n" * 1000)
