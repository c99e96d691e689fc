"""A small checkpoint, and settings that name it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from streamer import config, edges
from streamer.settings import Settings
from tests.models.small import SMALL, randomise

Named = Callable[..., Settings]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with random weights."""
    folder = tmp_path_factory.mktemp("small")
    model = ASTForAudioClassification(ASTConfig(**SMALL))
    randomise(model)
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=SMALL["max_length"], num_mel_bins=SMALL["num_mel_bins"]).save_pretrained(folder)
    return folder


@pytest.fixture
def named(small: Path) -> Named:
    """Settings whose model has these options."""

    def settings(**options: object) -> Settings:
        model = "".join(f"  {name}: {value}\n" for name, value in ({"checkpoint": small} | options).items())
        text = f"node: garage\nmodel:\n{model}streams: {{mic: {{source: {{type: microphone}}}}}}\n"
        return config.parse(text, "c.yaml", edges.edge_config)

    return settings
