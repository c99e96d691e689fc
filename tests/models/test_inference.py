"""The cut-down AST answers what the whole one does."""

import pytest
import torch

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.audio_spectrogram_transformer.inference import InferenceAST
from tests.models.small import SMALL, random_settings, randomise, windows


@pytest.mark.parametrize("seed", range(12))
def test_same_logits_in_every_shape(seed: int) -> None:
    model = ASTForAudioClassification(ASTConfig(**random_settings(seed))).eval()
    randomise(model, seed)
    x = windows(model.config, 3)
    with torch.inference_mode():
        torch.testing.assert_close(InferenceAST(model)(x), model(x).logits, atol=1e-5, rtol=1e-5)


def test_one_window_and_one_layer() -> None:
    for changes in ({}, {"num_hidden_layers": 1}):
        model = ASTForAudioClassification(ASTConfig(**SMALL | changes)).eval()
        randomise(model)
        x = windows(model.config, 1)
        with torch.inference_mode():
            torch.testing.assert_close(InferenceAST(model)(x), model(x).logits, atol=1e-5, rtol=1e-5)


def test_a_window_of_the_wrong_size_is_refused_as_by_the_whole_model() -> None:
    model = InferenceAST(ASTForAudioClassification(ASTConfig(**SMALL)).eval())
    with pytest.raises(ValueError, match=r"^input_values is \(1, 63, 32\)"):
        model(torch.zeros(1, 63, 32))
