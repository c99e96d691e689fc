"""Converted checkpoints: the reference's logits, the labels asked for, and a whole folder or none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import models
from models import FbankSpec
from models.audio_spectrogram_transformer import ASTForAudioClassification
from models.convert import convert
from models.errors import CheckpointError
from tests import reference
from tests.models.authors import authors_state
from tests.models.small import randomise

AUDIOSET_HEAD = "index,mid,display_name\n"


def theirs_of(**changes: Any) -> Any:
    """A reference classifier like the authors' models, but narrow and flat."""
    settings = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    strides = {"frequency_stride": 16, "time_stride": 16}
    labels = {"id2label": {i: f"LABEL_{i}" for i in range(3)}, "layer_norm_eps": 1e-6}
    model = reference.ASTForAudioClassification(reference.ASTConfig(**settings | strides | labels | changes)).eval()
    randomise(model, seed=3)
    return model


def save(model: Any, path: Path) -> Path:
    torch.save(authors_state(model), path)
    return path


@pytest.fixture(scope="module")
def theirs() -> Any:
    return theirs_of()


@pytest.fixture
def pth(theirs: Any, tmp_path: Path) -> Path:
    """That model as the authors' file."""
    return save(theirs, tmp_path / "audioset_16_16.pth")


def test_an_authors_file_has_the_reference_s_logits(theirs: Any, pth: Path, tmp_path: Path) -> None:
    convert(pth, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors",
    }  # fmt: skip
    ours, spec = models.load(tmp_path / "out")
    again, report = reference.ASTForAudioClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    x = torch.randn(2, 1024, 128, generator=torch.Generator().manual_seed(2)) / 2
    with torch.inference_mode():
        expected = theirs(x).logits
        torch.testing.assert_close(ours(x).logits, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(again.eval()(x).logits, expected, rtol=0, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    assert spec.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert (spec.fbank, spec.window_frames) == (FbankSpec(), 1024)
    assert reference.ASTFeatureExtractor.from_pretrained(tmp_path / "out").max_length == 1024


@pytest.mark.parametrize("stride", [10, 12, 14, 16])
def test_strides_of_the_authors_audioset_models_are_told_from_their_positions(tmp_path: Path, stride: int) -> None:
    model = theirs_of(num_hidden_layers=1, hidden_size=64, frequency_stride=stride, time_stride=stride)
    convert(save(model, tmp_path / "a.pth"), tmp_path / "out")
    config = ASTForAudioClassification.from_pretrained(tmp_path / "out").config
    assert (config.frequency_stride, config.time_stride, config.max_length) == (stride, stride, 1024)
    assert (config.num_attention_heads, config.num_hidden_layers) == (1, 1)


@pytest.mark.parametrize("said", [{"max_length": 128}, {"max_length": 128, "strides": 10}, {"strides": (10, 10)}])
def test_positions_of_other_lengths_are_to_be_explained(tmp_path: Path, said: dict[str, Any]) -> None:
    """Speech Commands: 1 s."""
    model = theirs_of(frequency_stride=10, time_stride=10, max_length=128)
    path = save(model, tmp_path / "a.pth")
    if "max_length" not in said:
        with pytest.raises(CheckpointError, match="1024 frames make 1212 at strides 10 x 10; give max_length"):
            convert(path, tmp_path / "out", **said)
        return
    convert(path, tmp_path / "out", **said)
    assert models.load_spec(tmp_path / "out").window_frames == 128


def test_lengths_that_would_fit_are_named(tmp_path: Path) -> None:
    path = save(theirs_of(frequency_stride=10, time_stride=10, max_length=128), tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "out")
    assert str(caught.value) == (
        f"{path} has positions for 144 patches, 1024 frames make 1212 at strides 10 x 10, 850 at strides 12 x 12, "
        "657 at strides 14 x 14, 512 at strides 16 x 16; give max_length and strides as it was trained with: "
        "strides 10 x 10 and 126 to 135 frames or strides 14 x 14 and 226 to 239 frames "
        "or strides 16 x 16 and 288 to 303 frames"
    )


@pytest.mark.parametrize(
    ("text", "labels", "ids"),
    [
        # a file's content                                     labels               ids
        (AUDIOSET_HEAD + '0,/m/1,"Waves, surf"\n1,/m/2,Bark\n2,/m/3,Rain\n', ("Waves, surf", "Bark", "Rain"), "/m/"),
        ("index,display_name\n0,a\n1,b\n2,c\n", ("a", "b", "c"), ""),
        ("\ufeffWaves, surf\n\n Bark \nRain\n", ("Waves, surf", "Bark", "Rain"), ""),
    ],
    ids=["the authors' CSV", "a CSV without ids", "one a line"],
)
def test_labels_from_a_file(pth: Path, tmp_path: Path, text: str, labels: tuple[str, ...], ids: str) -> None:
    (tmp_path / "labels").write_text(text, encoding="utf-8")
    convert(pth, tmp_path / "out", labels=tmp_path / "labels", mean=-5.0, std=3.5)
    spec = models.load_spec(tmp_path / "out")
    assert spec.labels == labels
    assert spec.label_ids == (tuple(f"{ids}{i}" for i in (1, 2, 3)) if ids else ("", "", ""))
    assert (spec.fbank.mean, spec.fbank.std) == (-5.0, 3.5)


def test_a_folder_at_another_length(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "out", max_length=48, strides=(16, 8), dtype="bfloat16")
    _, spec = models.load(tmp_path / "out")
    expected = ASTForAudioClassification.from_pretrained(
        folder, max_length=48, frequency_stride=16, time_stride=8, dtype="bfloat16"
    ).state_dict()
    written = ASTForAudioClassification.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    torch.testing.assert_close(written, expected, rtol=0, atol=0)
    assert spec.window_frames == 48
    assert spec.labels == models.load_spec(folder).labels


def test_a_folder_as_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(folder, tmp_path / "out")
    for name in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "out" / name).read_text() == (folder / name).read_text()
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_bundled_checkpoint_keeps_its_number_format(tmp_path: Path) -> None:
    convert("starter", tmp_path / "out")
    assert models.load_spec(tmp_path / "out").revision == models.load_spec("starter").revision


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"labels": "two"}, "2 labels are given, {source} has 3; fine-tune it for others: streamer train"),
        ({"labels": "none"}, "{here}/none holds no labels"),
        ({"labels": "gap"}, "{here}/gap: its column index must count 0 to 2"),
        ({"labels": "gone"}, "{here}/gone can't be read as labels: [Errno 2] No such file or directory: '{here}/gone'"),
        ({"max_length": 0}, "max_length 0 is not a whole number of at least 1"),
        ({"max_length": 51.2}, "max_length 51.2 is not a whole number of at least 1"),
        ({"strides": (10,)}, "strides (10,) are not two whole numbers: mel bins and frames between patches"),
        ({"strides": (10, 0)}, "time_stride 0 is not a whole number of at least 1"),
        ({"std": 0}, "std 0 is not a finite number above 0"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown; known: auto, float32, bfloat16, float16, float64"),
    ],
)
@pytest.mark.parametrize("kind", ["pth", "folder"])
def test_what_can_not_be(pth: Path, folder: Path, kind: str, said: dict[str, Any], sentence: str) -> None:
    source, here = {"pth": pth, "folder": folder}[kind], pth.parent
    for name, text in {"two": "a\nb\n", "none": "\n", "gap": "index,display_name\n0,a\n2,b\n3,c\n"}.items():
        (here / name).write_text(text)
    if "labels" in said:
        said = {"labels": here / said["labels"]}
    with pytest.raises(CheckpointError) as caught:
        convert(source, here / "out", **said)
    assert str(caught.value) == sentence.format(source=source, here=here)
    assert not (here / "out").exists()


def test_files_that_are_no_authors_checkpoint(pth: Path, folder: Path, tmp_path: Path) -> None:
    state = torch.load(pth)
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "ours.pth")
    torch.save({name: state[name] for name in state if ".mlp_head." not in name}, tmp_path / "headless.pth")
    torch.save(state | {"module.v.pos_embed": torch.zeros(3)}, tmp_path / "flat.pth")
    torch.save(state | {"module.v.norm.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    for name, sentence in {
        "ours.pth": "is not one of the authors' files, whose names begin with v. or module.v.; give the folder",
        "headless.pth": "lacks mlp_head.1.weight; it is not whole",
        "flat.pth": "its tensors do not have the shapes of an AST's",
        "odd.pth": r"wrong shape: module.v.norm.weight is \(3,\), the configuration needs \(128,\)",
        "gone.pth": "gone.pth is missing",
    }.items():
        with pytest.raises(CheckpointError, match=sentence):
            convert(tmp_path / name, tmp_path / "out")


def test_a_place_that_is_taken(folder: Path, tmp_path: Path) -> None:
    for place in (folder, folder / "config.json"):
        before = sorted(path.stat().st_mtime_ns for path in folder.iterdir())
        with pytest.raises(CheckpointError) as caught:
            convert("starter", place)
        assert str(caught.value) == f"{place} is there already; give a new or an empty folder to write to"
        assert sorted(path.stat().st_mtime_ns for path in folder.iterdir()) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_broken_off_conversion_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("models.checkpoint.write_weights", stop)
    before = set(tmp_path.rglob("*"))
    with pytest.raises((CheckpointError, KeyboardInterrupt)) as caught:
        convert(folder, tmp_path / "out")
    if isinstance(error, OSError):
        assert str(caught.value) == (
            f"{tmp_path}/out can't be written: No space left on device; give another place or make room"
        )
    assert set(tmp_path.rglob("*")) == before
