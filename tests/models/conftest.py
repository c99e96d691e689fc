"""A small checkpoint of our own."""

from pathlib import Path

import pytest
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from tests.models.small import SMALL, randomise


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small models gain nothing from more, waste minutes on a busy machine, and round differently."""
    torch.set_num_threads(1)


@pytest.fixture
def model() -> ASTForAudioClassification:
    """A small model of ours with random weights."""
    model = ASTForAudioClassification(ASTConfig(**SMALL))
    randomise(model)
    return model.eval()


@pytest.fixture
def folder(model: ASTForAudioClassification, tmp_path: Path) -> Path:
    """A checkpoint folder of `model`."""
    folder = tmp_path / "small"
    model.save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(folder)
    return folder
