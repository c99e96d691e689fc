"""AST: values equal transformers', in training too, and checkpoints go both ways."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification, ASTModel
from models.audio_spectrogram_transformer.activations import ACTIVATIONS
from models.audio_spectrogram_transformer.modeling import Layer
from tests import reference
from tests.models.small import SMALL, random_settings, randomise, windows

ATOL = 1e-4  # of values of order 1: the two libraries sum float32 in different orders

SHAPES: dict[str, dict[str, Any]] = {
    "overlapping patches": {},
    "separate patches": {"frequency_stride": 16, "time_stride": 16},
    "another stride each way": {"frequency_stride": 16, "time_stride": 10, "max_length": 101},
    "no bias on q, k, v": {"qkv_bias": False},
    "one head, one layer, two labels": {
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "id2label": {0: "Bark", 1: "Meow"},
    },
    "a whole window": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_mel_bins": 128,
        "max_length": 1024,
        "frequency_stride": 16,
        "time_stride": 16,
    },
    "small patches, relu": {"patch_size": 8, "frequency_stride": 8, "time_stride": 4, "hidden_act": "relu"},
    "tanh gelu, coarse eps": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
}
REFERENCE_MODEL: Any = reference.ASTModel


def logits(model: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = model(x).logits
    return answer


def assert_same_logits(ours: Any, theirs: Any, x: Tensor) -> None:
    expected = logits(theirs, x)
    assert expected.std() > 0.1  # else agreeing would prove nothing
    assert (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(logits(ours, x), expected, rtol=0, atol=ATOL)


def both(settings: dict[str, Any], seed: int = 0) -> tuple[ASTForAudioClassification, Any]:
    """A model of ours and one of theirs with the same random weights; theirs computes attention step by step."""
    theirs = reference.ASTForAudioClassification._from_config(
        reference.ASTConfig(**settings), attn_implementation="eager"
    )
    randomise(theirs, seed)
    ours = ASTForAudioClassification(ASTConfig(**settings))
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_reference_s(tmp_path: Path, shape: str) -> None:
    config = reference.ASTConfig(**SMALL | SHAPES[shape])
    theirs = reference.ASTForAudioClassification(config).eval()
    randomise(theirs, seed=len(shape))
    theirs.save_pretrained(tmp_path)
    assert_same_logits(ASTForAudioClassification.from_pretrained(tmp_path), theirs, windows(config))


@pytest.mark.parametrize("seed", range(24))
def test_all_values_of_any_shape_equal_the_reference_s(seed: int) -> None:
    ours, theirs = both(random_settings(seed), seed)
    x = windows(ours.config)
    n_tokens = 2 + math.prod(ours.config.grid)
    mask = None
    if seed % 2:
        mask = (torch.rand(2, n_tokens, generator=torch.Generator().manual_seed(seed)) < 0.7).long()
        mask[:, 0] = 1
    wanted = {"attention_mask": mask, "output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        mine, expected = ours(x, **wanted), theirs(x, **wanted)
        mine_core, expected_core = (
            model.audio_spectrogram_transformer(x, mask) for model in (ours, theirs)
        )  # without attentions: through torch's fused kernel
    assert list(mine) == list(expected) == ["logits", "hidden_states", "attentions"]
    assert len(mine.hidden_states) == len(mine.attentions) + 1 == ours.config.num_hidden_layers + 1
    torch.testing.assert_close(mine.to_tuple(), expected.to_tuple(), rtol=ATOL, atol=ATOL)
    torch.testing.assert_close(mine_core.to_tuple(), expected_core.to_tuple(), rtol=ATOL, atol=ATOL)
    last = expected_core.last_hidden_state
    assert last.std() > 0.1
    assert (last[0] - last[1]).abs().max() > 0.1
    if mask is not None:
        assert mine.attentions[0].masked_select(mask[:, None, None] == 0).max() == 0


@pytest.mark.parametrize("patch", [(16, 8), (5, 12)])
def test_patches_that_are_no_squares(patch: tuple[int, int]) -> None:
    """The reference takes only squares: its convolution and positions are replaced by hand."""
    settings = SMALL | {"frequency_stride": 6, "time_stride": 11}
    ours = ASTForAudioClassification(ASTConfig(**settings, patch_size=patch)).eval()
    randomise(ours)
    theirs = reference.ASTForAudioClassification(reference.ASTConfig(**settings)).eval()
    embeddings = theirs.audio_spectrogram_transformer.embeddings
    n_patches = ((32 - patch[0]) // 6 + 1) * ((64 - patch[1]) // 11 + 1)
    embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 2 + n_patches, 48))
    embeddings.patch_embeddings.projection = nn.Conv2d(1, 48, patch, (6, 11))
    theirs.load_state_dict(ours.state_dict())
    assert_same_logits(ours, theirs, windows(ours.config))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_the_reference_s(name: str) -> None:
    """By themselves: tanh's gelu is too near to the other one, 5e-4, to show in logits."""
    x = torch.linspace(-8, 8, 129)
    torch.testing.assert_close(ACTIVATIONS[name](x), reference.ACTIVATIONS[name](x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_precision_is_near_float32(dtype: torch.dtype, atol: float) -> None:
    """Of logits of order 1, through two layers: float16 carries 11 bits, bfloat16 8."""
    ours, _ = both(SMALL)
    x = windows(ours.config)
    expected = logits(ours, x)
    ours.to(dtype)
    assert ours.dtype == dtype
    for given in (x, x.double(), x.to(dtype)):  # of whatever dtype: it is cast to the weights'
        answer = ours(given, output_attentions=True, labels=torch.tensor([0, 2]))
        assert {value.dtype for value in answer.attentions} == {answer.logits.dtype} == {dtype}
        assert answer.loss.dtype == torch.float32
        torch.testing.assert_close(answer.logits.float(), expected, rtol=0, atol=atol)
        torch.testing.assert_close(logits(ours, given).float(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("has_attentions", [True, False])
def test_dropout_in_training_is_the_reference_s(has_attentions: bool) -> None:
    """From one seed even the same values: it is drawn at the same places in the same order."""
    ours, theirs = both(SMALL | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3})
    if not has_attentions:
        theirs.set_attn_implementation("sdpa")
    x = windows(ours.config)
    answers = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        answers.append(model(x, output_attentions=has_attentions))
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=0, atol=ATOL)
    assert (answers[0].logits - logits(ours.eval(), x)).abs().max() > 0.05
    assert not has_attentions or (answers[0].attentions[0] == 0).float().mean() > 0.2


@contextmanager
def counted_layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    calls: list[int] = []
    forward = Layer.forward

    def counting(self: Layer, *args: Any) -> Any:
        calls.append(1)
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Layer, "forward", counting)
        yield calls


def test_gradient_checkpointing_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = both(SMALL | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3})
    ours.train()
    gradients, n_calls = [], []
    for switch in (ours.gradient_checkpointing_disable, ours.gradient_checkpointing_enable):
        switch()
        ours.zero_grad()
        torch.manual_seed(1)
        with counted_layers(monkeypatch) as calls:
            ours(windows(ours.config), torch.tensor([0, 2])).loss.backward()
        n_calls.append(len(calls))
        gradients.append([value.grad.clone() for value in ours.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    assert n_calls == [2, 4]  # each of two layers again for its gradients
    assert ours.is_gradient_checkpointing
    with counted_layers(monkeypatch) as calls:
        ours.eval()(windows(ours.config)).logits.sum().backward()
    assert len(calls) == 2
    ours.gradient_checkpointing_disable()
    assert not ours.is_gradient_checkpointing
    ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert ours.audio_spectrogram_transformer.is_gradient_checkpointing
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the sentence is below
        ours.gradient_checkpointing_enable({"use_reentrant": True})
    assert str(caught.value) == (
        "gradient_checkpointing_kwargs {'use_reentrant': True} is not possible; leave it out, which is "
        "{'use_reentrant': False}"
    )


def test_fresh_weights_are_drawn_as_the_reference_does() -> None:
    settings = SMALL | {"hidden_size": 192, "intermediate_size": 512, "initializer_range": 0.1}
    torch.manual_seed(0)
    ours = ASTForAudioClassification(ASTConfig(**settings))
    theirs = reference.ASTForAudioClassification(reference.ASTConfig(**settings)).state_dict()
    for name, value in ours.state_dict().items():
        assert float(value.std(correction=0)) == pytest.approx(float(theirs[name].std(correction=0)), rel=0.2), name
        assert float(value.mean()) == pytest.approx(float(theirs[name].mean()), abs=0.02), name
    assert ours.num_parameters() == sum(value.numel() for value in theirs.values())
    ours.classifier.requires_grad_(requires_grad=False)
    assert ours.num_parameters() - ours.num_parameters(only_trainable=True) == 2 * 192 + 192 * 3 + 3
    assert ours.device == torch.device("cpu")


@pytest.mark.parametrize("shape", ["another stride each way", "no bias on q, k, v", "small patches, relu"])
@pytest.mark.parametrize("theirs_class", [reference.ASTForAudioClassification, REFERENCE_MODEL])
def test_the_reference_reads_what_we_write(tmp_path: Path, shape: str, theirs_class: Any) -> None:
    is_encoder = theirs_class is REFERENCE_MODEL
    ours = (ASTModel if is_encoder else ASTForAudioClassification)(ASTConfig(**SMALL | SHAPES[shape])).eval()
    randomise(ours, seed=len(shape))
    ours.save_pretrained(tmp_path)
    theirs, report = theirs_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.id2label == dict(ours.config.id2label)
    assert theirs.config.architectures == [type(ours).__name__]
    x = windows(ours.config)
    with torch.inference_mode():
        mine, expected = ours(x), theirs.eval()(x)
    torch.testing.assert_close(mine.to_tuple(), expected.to_tuple(), rtol=0, atol=ATOL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_scores_on_a_gpu_in_bfloat16_are_those_of_the_cpu(folder: Path) -> None:
    on_cpu, _ = models.load(folder)
    on_gpu, _ = models.load(folder, device="cuda", dtype=torch.bfloat16)
    x = windows(on_cpu.config, 8)
    expected = logits(on_cpu, x).sigmoid()
    scores = logits(on_gpu, x.to("cuda", torch.bfloat16)).float().sigmoid().cpu()
    assert expected.std() > 0.05
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.01)  # bfloat16 carries 8 bits: 0.005 was measured
