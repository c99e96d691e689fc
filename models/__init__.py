"""Sound classifiers: pure torch and numpy; no streams, no threads.

`model, spec = load("starter")` gives a module in evaluation mode and what its caller must know.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import CheckpointError
from models.spec import FbankSpec, ModelSpec

if TYPE_CHECKING:
    import torch

    from models.audio_spectrogram_transformer import ASTForAudioClassification

__all__ = ["FbankSpec", "ModelSpec", "load", "load_spec"]


def load_spec(name_or_path: str | Path, *, max_length: int | None = None, **options: Any) -> ModelSpec:
    """What a checkpoint needs and says, without loading its weights.

    Args:
        name_or_path: as in `load`.
        max_length: as in `load`.
        options: as in `load`.

    Raises:
        CheckpointError: it is missing or broken.
        TypeError: an option is unknown.
    """
    from models import checkpoint
    from models.audio_spectrogram_transformer.configuration import ASTConfig

    hub, changes = checkpoint.split(options, load_spec, ASTConfig)
    changes |= {} if max_length is None else {"max_length": max_length}
    folder = checkpoint.find(name_or_path, **hub)
    return _spec(folder, checkpoint.title(name_or_path), changes)


def load(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: "torch.dtype | str" = "float32",
    ignore_mismatched_sizes: bool = False,
    max_length: int | None = None,
    **options: Any,
) -> "tuple[ASTForAudioClassification, ModelSpec]":
    """A model in evaluation mode, and what its caller must know.

    Args:
        name_or_path: a bundled name (`starter`), a checkpoint folder or a hub id.
        device: torch's name of it.
        dtype: of the weights.
        ignore_mismatched_sizes: for other labels than the checkpoint's make a fresh head, to be trained.
        max_length: T, frames in a window, instead of the checkpoint's own: 256 are 2.56 s. Its position embeddings
            are cut to fit, or interpolated for more.
        options: of the hub, as `models.checkpoint.HubOptions` says; and fields of `ASTConfig` to change.

    Raises:
        CheckpointError: the checkpoint is missing, broken or does not fit.
        TypeError: an option is unknown.
    """
    from models import checkpoint
    from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification

    hub, changes = checkpoint.split(options, load, ASTConfig)
    changes |= {} if max_length is None else {"max_length": max_length}
    folder = checkpoint.find(name_or_path, **hub)
    spec = _spec(folder, checkpoint.title(name_or_path), changes)
    model = ASTForAudioClassification.from_pretrained(
        folder, dtype=dtype, ignore_mismatched_sizes=ignore_mismatched_sizes, **changes
    )
    return model.to(device), spec


def _spec(folder: Path, name: str, changes: dict[str, Any]) -> ModelSpec:
    from models import checkpoint
    from models.audio_spectrogram_transformer.configuration import ASTConfig
    from models.audio_spectrogram_transformer.feature_extraction import ASTFeatureExtractor

    config = ASTConfig.from_pretrained(folder, **changes)
    fbank = ASTFeatureExtractor.from_pretrained(folder).spec
    if "num_mel_bins" in changes:
        fbank = replace(fbank, n_mels=config.num_mel_bins)
    if fbank.n_mels != config.num_mel_bins:
        raise CheckpointError(
            f"{folder}: preprocessor_config.json makes {fbank.n_mels} mel bins, config.json needs {config.num_mel_bins}"
        )
    return ModelSpec(
        name=name,
        revision=checkpoint.revision(folder),
        labels=tuple(config.id2label.values()),
        label_ids=config.label_ids or ("",) * config.num_labels,
        fbank=fbank,
        window_frames=config.max_length,
        activation="softmax" if config.problem_type == "single_label_classification" else "sigmoid",
        patch_frames=config.patch[1],
    )
