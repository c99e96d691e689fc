"""Any source rate to the model's rate, block by block, with the output of resampling everything at once."""

import numpy as np
import soxr

from streamer.core import Samples


class Resampler:
    """Streaming soxr, high quality; output sample k is at the time of input sample `k * source_rate / model_rate`.

    Holds back about 30 ms of sound, which `finish` hands out. Equal rates pass through untouched.

    Args:
        source_rate: of what goes in, Hz.
        model_rate: of what comes out, Hz.
    """

    def __init__(self, source_rate: int, model_rate: int) -> None:
        self.source_rate = source_rate
        self.model_rate = model_rate
        self._accepted = 0
        self._returned = 0
        self._stream = None
        if source_rate != model_rate:
            self._stream = soxr.ResampleStream(source_rate, model_rate, 1, dtype="float32", quality="HQ")

    def accept(self, samples: Samples) -> Samples:
        """The next (n,) samples in; as many (m,) samples out as are final by now, often none for a short block."""
        if self._stream is None:
            return samples
        self._accepted += len(samples)
        out: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32))
        self._returned += len(out)
        return out

    def finish(self) -> Samples:
        """The rest, so that n samples in gave `round(n * model_rate / source_rate)` out; call once, at the end."""
        if self._stream is None:
            return np.empty(0, np.float32)
        tail: Samples = self._stream.resample_chunk(np.empty(0, np.float32), last=True)
        n = round(self._accepted * self.model_rate / self.source_rate) - self._returned
        return np.pad(tail[:n], (0, n - len(tail[:n])))
