"""What users of the reference ask of a model: loading in all ways, and the names of what it knows."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import models
from models import checkpoint
from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification, ASTModel
from models.errors import CheckpointError
from tests import reference
from tests.models.small import SMALL, randomise, windows


@pytest.mark.parametrize("is_encoder", [True, False])
def test_the_encoder_loads_from_encoders_and_from_classifiers(tmp_path: Path, is_encoder: bool) -> None:
    theirs = (reference.ASTModel if is_encoder else reference.ASTForAudioClassification)(reference.ASTConfig(**SMALL))
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    ours = ASTModel.from_pretrained(tmp_path)
    encoder = theirs if is_encoder else theirs.audio_spectrogram_transformer
    torch.testing.assert_close(ours.state_dict(), encoder.state_dict(), rtol=0, atol=0)


def test_files_under_the_reference_s_names_in_memory_load_too(folder: Path, model: ASTForAudioClassification) -> None:
    checkpoint.write_weights(folder, model.state_dict())
    assert "audio_spectrogram_transformer.layers.0.attention.q_proj.weight" in load_file(folder / "model.safetensors")
    again = ASTForAudioClassification.from_pretrained(folder)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("asked", "loaded"),
    [
        ({}, torch.float32),
        ({"dtype": "auto"}, torch.float16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": torch.float64}, torch.float64),
        ({"torch_dtype": torch.float16}, torch.float16),
        ({"torch_dtype": "auto", "dtype": "float32"}, torch.float32),
    ],
)
def test_weights_load_in_the_dtype_asked_for(
    folder: Path, model: ASTForAudioClassification, asked: dict[str, Any], loaded: torch.dtype
) -> None:
    model.save_pretrained(folder, dtype=torch.float16)
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float16}
    again = ASTForAudioClassification.from_pretrained(folder, **asked)
    expected = {name: value.half().to(loaded) for name, value in model.state_dict().items()}
    torch.testing.assert_close(again.state_dict(), expected, rtol=0, atol=0)
    assert not again.training


def test_an_unknown_dtype_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^dtype 'int8' is unknown; known: auto, float32, bfloat16, float16, f"):
        ASTModel.from_pretrained(folder, dtype="int8")


def test_names_the_reference_gives_to_what_it_knows(folder: Path) -> None:
    for ours_class, theirs_class in [
        (ASTModel, reference.ASTModel),
        (ASTForAudioClassification, reference.ASTForAudioClassification),
    ]:
        ours, theirs = ours_class.from_pretrained(folder), theirs_class.from_pretrained(folder)
        assert ours.main_input_name == theirs.main_input_name
        assert ours.num_labels == theirs.config.num_labels == 3
        for mine, expected in [
            (ours.base_model, theirs.base_model),
            (ours.get_input_embeddings(), theirs.get_input_embeddings()),
        ]:
            torch.testing.assert_close(mine.state_dict(), dict(expected.state_dict()), rtol=0, atol=0)
        assert (ours.base_model is ours) == (theirs.base_model is theirs) == (ours_class is ASTModel)
    assert theirs.num_labels == 3


def test_attention_is_computed_as_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: Any, **__: Any) -> Tensor:
        raise AssertionError

    eager = ASTForAudioClassification.from_pretrained(folder, attn_implementation="eager")
    fused = ASTForAudioClassification.from_pretrained(folder)
    x = windows(eager.config)
    expected = fused(x).logits
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", no_kernel)
        torch.testing.assert_close(eager(x).logits, expected, rtol=0, atol=1e-5)
        assert list(eager(x)) == ["logits"]
        assert len(eager(x, output_attentions=True).attentions) == 2
        eager.set_attn_implementation("sdpa")
        for model in (eager, fused):
            with pytest.raises(AssertionError):
                model(x)
    with pytest.raises(ValueError, match=r"^attn_implementation 'flash_attention_2' is unknown; known: sdpa, eager$"):
        ASTModel.from_pretrained(folder, attn_implementation="flash_attention_2")


def test_a_configuration_instead_of_the_checkpoint_s(folder: Path, model: ASTForAudioClassification) -> None:
    config = model.config.replace(max_length=48, id2label={0: "a", 1: "b", 2: "c"})
    loaded = ASTForAudioClassification.from_pretrained(folder, config=config)
    assert loaded.config == config
    changed = ASTForAudioClassification.from_pretrained(folder, max_length=48)
    torch.testing.assert_close(loaded.state_dict(), changed.state_dict(), rtol=0, atol=0)
    assert ASTModel.from_pretrained(folder, config=config, max_length=56).config == config.replace(max_length=56)
    with pytest.raises(TypeError, match=r"^config 'small' is no ASTConfig; give ASTConfig\.from_pretrained of it$"):
        ASTModel.from_pretrained(folder, config="small")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["use_safetensors", "device_map", "low_cpu_mem_usage", "max_lenght"])
def test_options_nobody_knows(folder: Path, name: str) -> None:
    hub = "revision, cache_dir, local_files_only, force_download, token"
    config = ", ".join(item.name for item in fields(ASTConfig))
    others = config.replace("max_length, ", "")
    own = "name_or_path, config, dtype, torch_dtype, attn_implementation, ignore_mismatched_sizes"
    for function, known in [
        (ASTModel.from_pretrained, f"{own}, {hub}, {config}"),
        (ASTConfig.from_pretrained, f"name_or_path, {hub}, {config}"),
        (models.load_spec, f"name_or_path, max_length, {hub}, {others}"),
        (models.load, f"name_or_path, device, dtype, ignore_mismatched_sizes, max_length, {hub}, {others}"),
    ]:
        with pytest.raises(TypeError) as caught:
            function(folder, **{name: True})
        assert str(caught.value) == f"{function.__qualname__} has no option {name!r}; known: {known}"


def test_a_pickle_is_not_written(folder: Path, model: ASTForAudioClassification) -> None:
    model.save_pretrained(folder, safe_serialization=True)
    with pytest.raises(ValueError, match=r"^safe_serialization=False asks for a pickle; only safetensors are written"):
        model.save_pretrained(folder, safe_serialization=False)
