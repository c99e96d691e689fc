"""Audio Spectrogram Transformer (Gong, Chung, Glass 2021), under the reference library's names.

The names are looked up when used: reading a checkpoint's labels need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.audio_spectrogram_transformer.configuration import ASTConfig
    from models.audio_spectrogram_transformer.feature_extraction import ASTFeatureExtractor
    from models.audio_spectrogram_transformer.modeling import ASTForAudioClassification, ASTModel
    from models.audio_spectrogram_transformer.pretrained import ASTPreTrainedModel

__all__ = ["ASTConfig", "ASTFeatureExtractor", "ASTForAudioClassification", "ASTModel", "ASTPreTrainedModel"]

_HOMES = {
    "ASTConfig": "configuration",
    "ASTFeatureExtractor": "feature_extraction",
    "ASTForAudioClassification": "modeling",
    "ASTModel": "modeling",
    "ASTPreTrainedModel": "pretrained",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
