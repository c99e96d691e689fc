"""Audio Spectrogram Transformer (Gong, Chung, Glass 2021), under the reference library's names."""

from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.audio_spectrogram_transformer.feature_extraction import ASTFeatureExtractor
from models.audio_spectrogram_transformer.modeling import ASTForAudioClassification, ASTModel

__all__ = ["ASTConfig", "ASTFeatureExtractor", "ASTForAudioClassification", "ASTModel"]
