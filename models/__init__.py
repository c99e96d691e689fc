"""Sound classifiers: pure torch and numpy; no streams, no threads.

`model, spec = load("starter")` gives a module in evaluation mode and what its caller must know.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from models.spec import FbankSpec, ModelSpec

if TYPE_CHECKING:
    import torch

    from models.audio_spectrogram_transformer import ASTForAudioClassification

__all__ = ["FbankSpec", "ModelSpec", "load", "load_spec"]


def load_spec(name_or_path: str | Path) -> ModelSpec:
    """What a checkpoint needs and says, without loading its weights.

    Raises:
        CheckpointError: it is missing or broken.
    """
    from models import checkpoint
    from models.audio_spectrogram_transformer.configuration import ASTConfig
    from models.audio_spectrogram_transformer.feature_extraction import ASTFeatureExtractor

    folder = checkpoint.find(name_or_path)
    config = ASTConfig.from_pretrained(folder)
    fbank = ASTFeatureExtractor.from_pretrained(folder).spec
    if fbank.n_mels != config.num_mel_bins:
        raise checkpoint.CheckpointError(
            f"{folder}: preprocessor_config.json makes {fbank.n_mels} mel bins, config.json needs {config.num_mel_bins}"
        )
    return ModelSpec(
        name=folder.name,
        revision=checkpoint.revision(folder),
        labels=tuple(config.id2label[i] for i in range(config.num_labels)),
        label_ids=config.label_ids or ("",) * config.num_labels,
        fbank=fbank,
        window_frames=config.max_length,
        activation="softmax" if config.problem_type == "single_label_classification" else "sigmoid",
    )


def load(
    name_or_path: str | Path, *, device: str = "cpu", dtype: "torch.dtype | None" = None
) -> "tuple[ASTForAudioClassification, ModelSpec]":
    """A model in evaluation mode, and what its caller must know.

    Args:
        name_or_path: a bundled name (`starter`) or a checkpoint folder.
        device: torch's name of it.
        dtype: of the weights, float32 by default.

    Raises:
        CheckpointError: the checkpoint is missing, broken or does not fit.
    """
    import torch

    from models import checkpoint
    from models.audio_spectrogram_transformer import ASTForAudioClassification

    spec = load_spec(name_or_path)
    model = ASTForAudioClassification.from_pretrained(checkpoint.find(name_or_path), dtype=dtype or torch.float32)
    return model.to(device), spec
