"""Sound to model input, as the reference library's `ASTFeatureExtractor` makes it, also from tensors on their device.

torch is imported only where tensors come in or are asked for: reading a checkpoint's settings need not wait for it.
"""

import json
import logging
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from models import checkpoint
from models.audio_spectrogram_transformer.raw_speech import batches, is_tensor
from models.errors import CheckpointError
from models.fbank import clip_features
from models.spec import FbankSpec

if TYPE_CHECKING:
    import torch

SETTINGS = "preprocessor_config.json"

log = logging.getLogger(__name__)


class BatchFeature(dict[str, Any]):
    """What an extractor gives: a dict whose values are attributes too; `model(**features)` takes it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} among these features; there are: {', '.join(self)}") from None

    def to(
        self,
        device: "str | int | torch.device | torch.dtype | None" = None,
        dtype: "torch.dtype | None" = None,
        *,
        non_blocking: bool = False,
    ) -> Self:
        """Move the tensors to `device` and cast those of floats to `dtype`, which may stand alone; give back self."""
        import torch

        if isinstance(device, torch.dtype):
            device, dtype = None, device

        def moved(value: Any) -> Any:
            if isinstance(value, list):
                return [moved(item) for item in value]
            if not isinstance(value, torch.Tensor):
                return value
            cast = dtype if value.is_floating_point() else None
            return value.to(device=device, dtype=cast, non_blocking=non_blocking)

        self.update({name: moved(value) for name, value in self.items()})
        return self


def _count(value: Any) -> int:
    if isinstance(value, bool) or (number := operator.index(value)) < 1:
        raise ValueError
    return number


def _rate(value: Any) -> int:
    if _count(value) % 100:
        raise ValueError
    return _count(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _positive(value: Any) -> float:
    if (number := _number(value)) <= 0:
        raise ValueError
    return number


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _side(value: Any) -> str:
    return {"right": "right", "left": "left"}[value]


RULES: dict[str, tuple[Callable[[Any], object], str]] = {
    "feature_size": (_count, "a whole number of at least 1"),
    "sampling_rate": (_rate, "a positive multiple of 100 Hz, which makes 10 ms a whole number of samples"),
    "num_mel_bins": (_count, "a whole number of at least 1"),
    "max_length": (_count, "a whole number of at least 1"),
    "padding_value": (_number, "a finite number"),
    "do_normalize": (_truth, "true or false"),
    "mean": (_number, "a finite number"),
    "std": (_positive, "a finite number above 0"),
    "return_attention_mask": (_truth, "true or false"),
    "padding_side": (_side, "'right' or 'left'"),
}


def _handed_out(features: "npt.NDArray[Any] | torch.Tensor", return_tensors: str | None) -> Any:
    if return_tensors is None:
        return list(features)
    if return_tensors == "np":
        return features.cpu().numpy() if is_tensor(features) else features
    import torch

    return features if is_tensor(features) else torch.from_numpy(features)


@dataclass(slots=True)
class ASTFeatureExtractor:
    """Clips to log-mel windows (B, max_length, num_mel_bins) float32, equal to the reference's within 5e-4.

    `models.fbank.clip_features` says how clips are cut and padded. Attributes may be set later, as those who measure
    `mean` and `std` of their own recordings do; each is checked whenever it is set.

    Args:
        feature_size: kept for the file, without effect here and in the reference.
        sampling_rate: of the clips, Hz.
        num_mel_bins: M.
        max_length: T, frames in a window.
        padding_value: kept, without effect: the reference pads log-mel with 0, whatever this says.
        do_normalize: make features `(x - mean) / (2 * std)`; else they are log-mel itself.
        mean: of the log-mel features the model was trained on.
        std: of the same.
        return_attention_mask: kept, without effect: the reference never returns a mask either.
        padding_side: kept, without effect: padding stands on the right.

    Raises:
        CheckpointError: a value that can't be; the sentence says which are allowed.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask"]  # as the reference says, mask or not

    feature_size: int = 1
    sampling_rate: int = 16000
    num_mel_bins: int = 128
    max_length: int = 1024
    padding_value: float = 0.0
    do_normalize: bool = True
    mean: float = -4.2677393
    std: float = 4.5689974
    return_attention_mask: bool = False
    padding_side: str = field(default="right", kw_only=True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in RULES:
            convert, allowed = RULES[name]
            try:
                value = convert(value)
            except (TypeError, ValueError, KeyError, OverflowError):
                raise CheckpointError(f"{name} {value!r} is not {allowed}") from None
        object.__setattr__(self, name, value)

    @property
    def spec(self) -> FbankSpec:
        """The filterbank with its normalisation."""
        mean, std = (self.mean, self.std) if self.do_normalize else (0.0, 0.5)  # (x - mean) / (2 * std) is x
        rate = self.sampling_rate
        return FbankSpec(rate, rate // 40, rate // 100, self.num_mel_bins, mean, std)

    def __call__(
        self, raw_speech: Any, sampling_rate: int | None = None, return_tensors: str | None = None
    ) -> BatchFeature:
        """Features of one clip or several, samples in [-1, 1].

        Args:
            raw_speech: a clip (n,) as array, tensor or list of floats; or several, as array or tensor (B, n), or as a
                list of clips, which may differ in length. Integers are taken as they are, and warned about.
            sampling_rate: of the clips, Hz; when it is not given, a warning says what is assumed.
            return_tensors: `"pt"`, `"np"`, or None for a list of (T, M), as arrays or, of tensors, as tensors.

        Returns:
            `{"input_values": (B, T, M)}` float32; tensors stay on the (first) clip's device.

        Raises:
            ValueError: the wrong rate, samples that are not numbers, NaN or infinite, a clip that is not mono or is
                shorter than a frame, an unknown `return_tensors`.
        """
        if sampling_rate is None:
            log.warning(
                "no sampling_rate given, %d Hz assumed: at any other rate the features are wrong", self.sampling_rate
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate {sampling_rate}: this extractor was made for {self.sampling_rate} Hz; resample first"
            )
        if return_tensors not in {None, "np", "pt"}:
            raise ValueError(f"return_tensors {return_tensors!r} is unknown; known: 'pt', 'np' and None")
        features = self._features(batches(raw_speech, self.spec.frame_length))
        return BatchFeature(input_values=_handed_out(features, return_tensors))

    def _features(self, clips: "list[npt.NDArray[Any] | torch.Tensor]") -> "npt.NDArray[Any] | torch.Tensor":
        """(B, T, M) of all (b, n); in torch, on the CPU too, as soon as one is a tensor: one rule for all devices."""
        first = next(filter(is_tensor, clips), None)
        if first is None:
            return np.stack([clip_features(row, self.spec, self.max_length) for batch in clips for row in batch])
        import torch

        from models import fbank_tensor

        tensors = [torch.as_tensor(batch, device=first.device) for batch in clips]
        return torch.cat([fbank_tensor.clip_features(batch, self.spec, self.max_length) for batch in tensors])

    def normalize(self, input_values: Any) -> Any:
        """`(input_values - mean) / (2 * std)` of log-mel, an array or a tensor, whatever `do_normalize` says."""
        return (input_values - self.mean) / (2 * self.std)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from a parsed `preprocessor_config.json`; keys it does not know are ignored."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Self:
        """Read `preprocessor_config.json` of a checkpoint; where there is none, AST-base's settings hold.

        Args:
            name_or_path: as `models.checkpoint.find` takes it.
            options: of the hub, as `models.checkpoint.HubOptions` says; and settings to use instead of the file's, such
                as `max_length=512`.

        Raises:
            CheckpointError: no such checkpoint, or a value that can't be; the sentence names the file.
            TypeError: an option is unknown.
        """
        hub, changes = checkpoint.split(options, cls.from_pretrained, cls)
        folder = checkpoint.find(name_or_path, **hub)
        path = folder / SETTINGS
        values = checkpoint.read_json(path) if path.exists() else {}
        try:
            extractor = cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        return replace(extractor, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`, as the reference library reads it."""
        return {"feature_extractor_type": "ASTFeatureExtractor", **asdict(self)}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` into `folder`, which is made where needed."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (Path(folder) / SETTINGS).write_text(text, encoding="utf-8")
