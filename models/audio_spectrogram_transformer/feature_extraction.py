"""Sound to model input, as the reference library's `ASTFeatureExtractor` does it, on `models.fbank`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from models.checkpoint import CheckpointError, read_json
from models.fbank import clip_features
from models.spec import FbankSpec


class ASTFeatureExtractor:
    """Clips to (B, max_length, num_mel_bins) float32; `models.fbank.clip_features` says how they are padded."""

    def __init__(
        self,
        sampling_rate: int = 16000,
        num_mel_bins: int = 128,
        max_length: int = 1024,
        *,
        do_normalize: bool = True,
        mean: float = -4.2677393,
        std: float = 4.5689974,
    ) -> None:
        if sampling_rate % 100:
            raise CheckpointError(f"sampling_rate {sampling_rate}: 10 ms must be a whole number of samples")
        self.max_length = max_length
        self.do_normalize = do_normalize
        if not do_normalize:
            mean, std = 0.0, 0.5  # (x - mean) / (2 * std) is x
        self.spec = FbankSpec(sampling_rate, sampling_rate // 40, sampling_rate // 100, num_mel_bins, mean, std)

    def __call__(
        self, raw_speech: npt.NDArray[Any] | Sequence[npt.NDArray[Any]], sampling_rate: int | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Features of one clip (n,) or several, samples in [-1, 1]: `{"input_values": (B, T, M)}`.

        Raises:
            ValueError: the wrong rate, or a clip that is not mono or is shorter than a frame.
        """
        if sampling_rate is not None and sampling_rate != self.spec.sample_rate:
            raise ValueError(f"sampling_rate {sampling_rate}: this extractor was made for {self.spec.sample_rate} Hz")
        clips = [raw_speech] if isinstance(raw_speech, np.ndarray) and raw_speech.ndim == 1 else list(raw_speech)
        return {"input_values": np.stack([self._extract(np.asarray(clip, np.float32)) for clip in clips])}

    def _extract(self, clip: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if clip.ndim != 1 or len(clip) < self.spec.frame_length:
            raise ValueError(
                f"a clip of shape {clip.shape}: one channel is needed, (n,) with n at least {self.spec.frame_length}"
            )
        return clip_features(clip, self.spec, self.max_length)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read `preprocessor_config.json`; a folder without one gets the defaults, as in the reference."""
        path = Path(folder) / "preprocessor_config.json"
        names = ("sampling_rate", "num_mel_bins", "max_length", "do_normalize", "mean", "std")
        values = read_json(path) if path.exists() else {}
        return cls(**{name: values[name] for name in names if name in values})

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`, as the reference library reads it."""
        return {
            "feature_extractor_type": "ASTFeatureExtractor",
            "feature_size": 1,
            "sampling_rate": self.spec.sample_rate,
            "num_mel_bins": self.spec.n_mels,
            "max_length": self.max_length,
            "do_normalize": self.do_normalize,
            "mean": self.spec.mean,
            "std": self.spec.std,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`."""
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n")
