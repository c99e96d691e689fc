"""What forward answers: outputs with the reference's manners, losses, and a sentence for what does not fit."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification, ASTModel
from models.audio_spectrogram_transformer.outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from tests import reference
from tests.models.small import SMALL, randomise, windows

ALL = {"output_hidden_states": True, "output_attentions": True}


@pytest.mark.parametrize("asked", [{}, ALL, ALL | {"labels": torch.tensor([0, 2])}])
def test_outputs_behave_as_the_reference_s(model: ASTForAudioClassification, asked: dict[str, Any]) -> None:
    theirs = reference.ASTForAudioClassification._from_config(
        reference.ASTConfig(**SMALL), attn_implementation="eager"
    ).eval()
    theirs.load_state_dict(model.state_dict())
    x = windows(model.config)
    mine, expected = model(x, **asked), theirs(x, **asked)
    assert list(mine) == list(mine.keys()) == list(expected.keys())
    assert len(mine) == len(expected)
    for name in expected:
        assert mine[name] is getattr(mine, name)
        torch.testing.assert_close(mine[name], expected[name], rtol=0, atol=1e-4)
    for position in range(len(expected)):
        assert mine[position] is mine.to_tuple()[position]
    assert mine[:1] == (mine[0],)
    assert mine[-1] is mine.to_tuple()[-1]
    assert ("loss" in mine) == ("loss" in expected) == ("labels" in asked)
    assert mine.get("attentions") is mine.attentions
    plain = model(x, return_dict=False, **asked)
    assert type(plain) is tuple
    torch.testing.assert_close(plain, mine.to_tuple(), rtol=0, atol=0)


def test_fields_that_are_none_are_there_by_attribute_only() -> None:
    output = SequenceClassifierOutput(loss=None, logits=torch.ones(1, 2))
    assert output.loss is None
    assert output[0] is output.logits
    with pytest.raises(KeyError, match="loss"):
        output["loss"]
    with pytest.raises(KeyError, match="scores"):
        output["scores"]
    with pytest.raises(IndexError):
        output[1]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (BaseModelOutputWithPooling, reference.transformers.modeling_outputs.BaseModelOutputWithPooling),
        (SequenceClassifierOutput, reference.transformers.modeling_outputs.SequenceClassifierOutput),
    ],
)
def test_fields_come_in_the_reference_s_order(ours: Any, theirs: Any) -> None:
    assert list(ours.__dataclass_fields__) == list(theirs.__dataclass_fields__)


def test_the_configuration_says_what_is_answered_and_arguments_outrank_it() -> None:
    model = ASTModel(ASTConfig(**SMALL, **ALL, return_dict=False)).eval()
    x = windows(model.config)
    assert [type(value) for value in model(x)] == [Tensor, Tensor, tuple, tuple]
    assert len(model(x, output_attentions=False, output_hidden_states=False)) == 2
    assert list(model(x, return_dict=True)) == ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    classifier = ASTForAudioClassification(model.config).eval()
    assert [type(value) for value in classifier(x)] == [Tensor, tuple, tuple]


def test_hidden_states_begin_at_the_embeddings_and_end_before_the_last_norm(model: ASTForAudioClassification) -> None:
    encoder = model.audio_spectrogram_transformer
    answer = encoder(windows(model.config), output_hidden_states=True)
    assert len(answer.hidden_states) == 3
    torch.testing.assert_close(answer.hidden_states[0], encoder.embeddings(windows(model.config)), rtol=0, atol=0)
    torch.testing.assert_close(encoder.layernorm(answer.hidden_states[-1]), answer.last_hidden_state, rtol=0, atol=0)
    torch.testing.assert_close(answer.pooler_output, answer[0][:, :2].mean(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("n_labels", "problem_type", "labels"),
    [
        (3, None, torch.tensor([2, 0])),
        (3, None, torch.tensor([2, -100])),
        (3, None, torch.tensor([[0.0, 1, 1], [0.2, 0, 0]])),
        (1, None, torch.tensor([0.3, -2])),
        (1, None, torch.tensor([[0.3], [-2]])),
        (1, "multi_label_classification", torch.tensor([[1.0], [0]])),
        (3, "regression", torch.tensor([[0.3, 2, 0], [-2, 0, 1]])),
        (3, "single_label_classification", torch.tensor([[1], [2]])),
        (3, "multi_label_classification", torch.tensor([[0.0, 1, 1], [0, 0, 0]])),
    ],
)
def test_losses_are_the_reference_s(n_labels: int, problem_type: str | None, labels: Tensor) -> None:
    settings = SMALL | {"id2label": {i: str(i) for i in range(n_labels)}, "problem_type": problem_type}
    ours = ASTForAudioClassification(ASTConfig(**settings)).eval()
    randomise(ours)
    theirs = reference.ASTForAudioClassification(reference.ASTConfig(**settings)).eval()
    theirs.load_state_dict(ours.state_dict())
    x = windows(ours.config)
    mine, expected = ours(x, labels).loss, theirs(x, labels).loss
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    assert ours.config.problem_type == problem_type  # the reference writes down what it guessed
    torch.testing.assert_close(ours(x, labels)[0], mine, rtol=0, atol=0)
    mine.backward()
    expected.backward()
    name = "audio_spectrogram_transformer.embeddings.position_embeddings"
    gradients = [model.get_parameter(name).grad for model in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4)
    assert gradients[0].abs().max() > 1e-3


def test_tags_may_be_truth_values_or_whole_numbers(model: ASTForAudioClassification) -> None:
    """Where the reference fails."""
    x, tags = windows(model.config), torch.tensor([[False, True, True], [True, False, False]])
    expected = model(x, tags.float()).loss
    torch.testing.assert_close(model(x, tags).loss, expected, rtol=0, atol=0)
    model.config = model.config.replace(problem_type="multi_label_classification")
    torch.testing.assert_close(model(x, tags.long()).loss, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.tensor([0, 1, 2]), "labels is (3,); (2,) is needed for single_label_classification"),
        (torch.eye(2), "labels is (2, 2); (2, 3) is needed for multi_label_classification"),
    ],
)
def test_labels_of_the_wrong_shape(model: ASTForAudioClassification, labels: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the sentence is below
        model(windows(model.config), labels)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("shape", [(2, 32, 64), (2, 63, 32), (64, 32), (2, 1, 64, 32), (2, 64, 128), ()])
def test_input_of_the_wrong_shape(model: ASTForAudioClassification, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the sentence is below
        model(torch.zeros(shape))
    assert str(caught.value) == (
        f"input_values is {shape}; (B, max_length 64, num_mel_bins 32) is needed; make it with the checkpoint's "
        "ASTFeatureExtractor, or load the model with that max_length"
    )


def test_a_mask_of_the_wrong_shape(model: ASTForAudioClassification) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the sentence is below
        model(windows(model.config), attention_mask=torch.ones(2, 10))
    assert str(caught.value) == (
        "attention_mask is (2, 10); (2, 12) is needed: a number for each window and token, the two class tokens first"
    )


def test_kept_patches_may_come_in_any_order(model: ASTForAudioClassification) -> None:
    x = windows(model.config)
    n_patches = math.prod(model.config.grid)
    with torch.inference_mode():
        shuffled = model(x, keep=torch.arange(n_patches).flip(0)).logits
        fewer = model(x, keep=torch.arange(n_patches // 2)).logits
        all_of_them = model(x).logits
    torch.testing.assert_close(shuffled, all_of_them, rtol=0, atol=1e-5)
    assert (fewer - shuffled).abs().max() > 0.01


def test_patches_nobody_looks_at_might_as_well_be_dropped(model: ASTForAudioClassification) -> None:
    n_patches = math.prod(model.config.grid)
    keep = torch.tensor([7, 1, 4])
    mask = torch.zeros(2, 2 + n_patches)
    mask[:, :2] = 1
    mask[:, 2 + keep] = 1
    x = windows(model.config)
    with torch.inference_mode():
        masked, dropped = model(x, attention_mask=mask).logits, model(x, keep=keep).logits
        mask[:, 2 + 1] = 0
        both = model(x, attention_mask=mask, keep=keep).logits
        expected = model(x, keep=torch.tensor([4, 7])).logits
    torch.testing.assert_close(masked, dropped, rtol=0, atol=1e-5)
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-5)
    assert (both - dropped).abs().max() > 1e-3
