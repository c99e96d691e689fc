"""Scores of a file's windows, offline, padded as the reference extractor pads: what `streamer tag` does.

Windows lie side by side; the last one is padded. For events with an onset and an end, see `streamer.replay`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.fbank import clip_features
from streamer.audio.resample import Resampler
from streamer.backends.base import Backend, activate
from streamer.sources.file import Config, FileSource


def tag(path: Path, backend: Backend, top: int) -> Iterator[dict[str, object]]:
    """One record a window: `{"file", "start_s", "end_s", "scores": [{"label", "score"}, … best first]}`.

    Raises:
        SourceError: the file can't be read.
    """
    spec = backend.spec
    rate, size = spec.fbank.sample_rate, spec.window_frames * spec.fbank.frame_hop
    start = 0
    for clip in _clips(path, rate, size):
        if start and len(clip) < spec.fbank.frame_length:  # the file ends a few samples after a window: nothing to see
            break
        frames = clip_features(clip, spec.fbank, spec.window_frames)
        scores = activate(backend.infer(frames[None]), spec.activation)[0]
        best = np.argsort(-scores)[:top]
        yield {
            "file": str(path),
            "start_s": round(start / rate, 3),
            "end_s": round((start + len(clip)) / rate, 3),
            "scores": [{"label": spec.labels[i], "score": round(float(scores[i]), 4)} for i in best],
        }
        start += len(clip)


def _clips(path: Path, rate: int, size: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """The file at `rate` Hz in clips of `size` samples; the last one is shorter."""
    source = FileSource(Config(path=path, realtime=False))
    resampler = Resampler(source.open().sample_rate, rate)
    waiting = np.empty(0, np.float32)
    try:
        for block in source.blocks():
            waiting = np.concatenate((waiting, resampler.accept(block)))
            while len(waiting) > size:  # a file of exactly one window is one clip
                yield waiting[:size]
                waiting = waiting[size:]
        waiting = np.concatenate((waiting, resampler.finish()))
        for start in range(0, len(waiting), size):
            yield waiting[start : start + size]
    finally:
        source.close()
