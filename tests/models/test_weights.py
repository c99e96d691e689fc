"""Names of parameters: every layout leads to ours, one to one, and to the logits of the reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification, ASTModel
from models.audio_spectrogram_transformer.weights import AUTHORS, ENCODER, HEAD, HUB, hub_name, to_hub, to_ours
from models.errors import CheckpointError
from tests import reference
from tests.models.authors import authors_state
from tests.models.small import SMALL, randomise


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def of_encoder(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The encoder's part of a classifier's, with another prefix."""
    return {prefix + name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}


@pytest.fixture(scope="module")
def theirs() -> Any:
    """A small reference classifier."""
    model = reference.ASTForAudioClassification(reference.ASTConfig(**SMALL)).eval()
    randomise(model, seed=5)
    return model


@pytest.fixture(scope="module")
def files(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The same weights in every layout: `classifier` and `encoder` files, as their makers name them."""
    folder = tmp_path_factory.mktemp("files")
    theirs.save_pretrained(folder / "classifier")
    theirs.audio_spectrogram_transformer.save_pretrained(folder / "encoder")
    authors = authors_state(theirs)
    return {
        "hub, classifier": load_file(folder / "classifier/model.safetensors"),
        "hub, encoder": load_file(folder / "encoder/model.safetensors"),
        "5.x, classifier": theirs.state_dict(),
        "5.x, encoder": theirs.audio_spectrogram_transformer.state_dict(),
        "authors, classifier": authors,
        "authors, not parallel": authors_state(theirs, prefix=""),
        "authors, encoder": {name: value for name, value in authors.items() if ".mlp_head." not in name},
    }


LAYOUTS = ["hub", "5.x", "authors"]
CLASSIFIERS = [*(f"{layout}, classifier" for layout in LAYOUTS), "authors, not parallel"]
ALL = [*CLASSIFIERS, *(f"{layout}, encoder" for layout in LAYOUTS)]


@pytest.mark.parametrize("table", [HUB, AUTHORS], ids=["hub", "authors"])
def test_tables_are_one_to_one(table: dict[str, str]) -> None:
    assert len(set(table.values())) == len(table)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_of_any_layout_has_the_reference_s_logits(
    theirs: Any, files: dict[str, dict[str, Tensor]], kind: str
) -> None:
    ours = ASTForAudioClassification(ASTConfig(**SMALL)).eval()
    ours.load_state_dict(to_ours(files[kind], shapes(ours)))
    x = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(1)) / 2
    with torch.inference_mode():
        expected = theirs(x).logits
        torch.testing.assert_close(ours(x).logits, expected, rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("prefix", ["", ENCODER])
def test_the_encoder_of_any_file(theirs: Any, files: dict[str, dict[str, Tensor]], kind: str, prefix: str) -> None:
    """By itself or as the part of a classifier that will get a fresh head."""
    needed = {prefix + name: shape for name, shape in shapes(ASTModel(ASTConfig(**SMALL))).items()}
    expected = of_encoder(theirs.state_dict(), prefix)
    torch.testing.assert_close(to_ours(files[kind], needed), expected, rtol=0, atol=0)


def test_files_are_named_as_the_reference_names_them(theirs: Any, files: dict[str, dict[str, Tensor]]) -> None:
    state = theirs.state_dict()
    torch.testing.assert_close(to_hub(state), files["hub, classifier"], rtol=0, atol=0)
    torch.testing.assert_close(to_hub(of_encoder(state)), files["hub, encoder"], rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(1, 13),
    heads=st.integers(1, 3),
    has_bias=st.booleans(),
    n_labels=st.integers(1, 4),
    is_bare=st.booleans(),
)
def test_names_go_to_the_hub_and_back(*, depth: int, heads: int, has_bias: bool, n_labels: int, is_bare: bool) -> None:
    config = ASTConfig(
        hidden_size=4 * heads,
        num_attention_heads=heads,
        num_hidden_layers=depth,
        intermediate_size=8,
        qkv_bias=has_bias,
        num_labels=n_labels,
        max_length=32,
        num_mel_bins=16,
    )
    with torch.device("meta"):
        state = (ASTModel if is_bare else ASTForAudioClassification)(config).state_dict()
    written = to_hub(state)
    assert len(written) == len(state)
    again = to_ours(written, {name: tuple(value.shape) for name, value in state.items()})
    assert all(again[name] is value for name, value in state.items())


def test_fused_tensors_are_parted_into_tensors_of_their_own(files: dict[str, dict[str, Tensor]]) -> None:
    ours = to_ours(files["authors, classifier"], shapes(ASTForAudioClassification(ASTConfig(**SMALL))))
    key = ours[f"{ENCODER}layers.0.attention.k_proj.weight"]
    assert key.untyped_storage().nbytes() == key.nbytes


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        # a file            what is done to it                                       what is said
        (
            "hub, encoder",
            lambda t: t.pop("encoder.layer.1.output.dense.bias"),
            "missing: encoder.layer.1.output.dense.bias",
        ),
        ("5.x, encoder", lambda t: t.pop("layers.1.mlp.fc2.bias"), "missing: layers.1.mlp.fc2.bias"),
        (
            "authors, classifier",
            lambda t: t.pop("module.v.blocks.0.attn.qkv.weight"),
            "missing: module.v.blocks.0.attn.qkv.weight",
        ),
        ("authors, not parallel", lambda t: t.pop("mlp_head.1.bias"), "missing: mlp_head.1.bias"),
        (
            "authors, classifier",
            lambda t: t.update({"module.v.blocks.0.attn.qkv.bias": torch.zeros(143)}),
            "wrong shape: module.v.blocks.0.attn.qkv.bias is (143,), the configuration needs (144,)",
        ),
        ("authors, classifier", lambda t: t.update({"module.v.extra": torch.zeros(1)}), "not known: module.v.extra"),
        (
            "5.x, classifier",
            lambda t: t.update(b=torch.zeros(1), a=t.pop(f"{HEAD}dense.bias")),
            f"missing: {HEAD}dense.bias; not known: a, b",
        ),
    ],
)
def test_what_does_not_fit_is_named_as_the_file_names_it(
    files: dict[str, dict[str, Tensor]], kind: str, change: Callable[[dict[str, Tensor]], object], sentence: str
) -> None:
    state = dict(files[kind])
    change(state)
    module = ASTModel if "encoder" in kind else ASTForAudioClassification
    with pytest.raises(CheckpointError) as caught:
        to_ours(state, shapes(module(ASTConfig(**SMALL))))
    assert str(caught.value) == "the weights do not fit the configuration; " + sentence


@pytest.mark.parametrize("kind", [f"{layout}, encoder" for layout in LAYOUTS])
def test_a_head_is_not_left_out_unasked(files: dict[str, dict[str, Tensor]], kind: str) -> None:
    head = "module.mlp_head.0.weight" if "authors" in kind else "classifier.layernorm.weight"
    with pytest.raises(CheckpointError, match=f"missing: {head}, .* and 1 more$"):
        to_ours(files[kind], shapes(ASTForAudioClassification(ASTConfig(**SMALL))))


def test_hub_names_of_both_kinds() -> None:
    assert hub_name("layers.11.mlp.fc1.bias") == "encoder.layer.11.intermediate.dense.bias"
    assert hub_name(f"{ENCODER}layernorm.weight") == f"{ENCODER}layernorm.weight"
    assert hub_name("classifier.dense.weight") == "classifier.dense.weight"


def test_a_folder_of_the_reference_s_encoder(theirs: Any, tmp_path: Path) -> None:
    theirs.audio_spectrogram_transformer.save_pretrained(tmp_path)
    ours = ASTModel.from_pretrained(tmp_path)
    torch.testing.assert_close(ours.state_dict(), of_encoder(theirs.state_dict()), rtol=0, atol=0)
