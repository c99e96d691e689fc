"""Any checkpoint → a folder that the daemon and the reference library load."""

import csv
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import checkpoint
from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.audio_spectrogram_transformer.feature_extraction import ASTFeatureExtractor
from models.errors import CheckpointError

if TYPE_CHECKING:
    from models.audio_spectrogram_transformer import ASTForAudioClassification

FILES = {".pth", ".pt"}  # what the authors' files are called
STRIDES = (10, 12, 14, 16)  # of the authors' AudioSet models, both ways
HEAD_WIDTH = 64  # of DeiT's heads, tiny to base
LAYER_NORM_EPS = 1e-6  # timm's, in the encoder; the authors' head has torch's 1e-5, which makes no difference there


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    labels: str | Path | None = None,
    max_length: int | None = None,
    strides: int | tuple[int, int] | None = None,
    mean: float | None = None,
    std: float | None = None,
    dtype: str | None = None,
) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors` of a classifier.

    Of an authors' `.pth` file the sizes are told from the tensors, and heads are 64 wide. `max_length` and `strides`
    say there what its position embeddings stand for (told from their number where it is one of the AudioSet models');
    of other checkpoints they are changed, and the position embeddings with them.

    Args:
        source: a bundled name, a folder, a hub id, or an authors' `.pth` file.
        folder: where to; new or empty. It appears when it is complete.
        labels: their file: the authors' CSV (index, mid, display_name) or a text with one a line; by default the
            source's, or `LABEL_0` ….
        max_length: frames of a window.
        strides: between patches, mel bins and frames; one number for both.
        mean: of the features the model was trained on; by default the source's, or AudioSet's.
        std: of the same.
        dtype: of the weights in the file, one of `models.checkpoint.DTYPES`; as they are by default.

    Raises:
        CheckpointError: the source is not to be had or does not fit what is said of it, or the folder can't be written.
    """
    folder, path = Path(folder), Path(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is there already; give a new or an empty folder to write to")
    changes = _changes(labels, max_length, strides)
    if path.is_file() or path.suffix in FILES:
        model, extractor = _from_authors(path, changes)
    else:
        model, extractor = _from_checkpoint(source, changes)
    extractor.max_length = model.config.max_length
    extractor.mean = extractor.mean if mean is None else mean
    extractor.std = extractor.std if std is None else std
    _write(folder, model.to(checkpoint.to_dtype(dtype or "auto", auto=model.dtype)), extractor)


def _changes(
    labels: str | Path | None, max_length: int | None, strides: int | tuple[int, int] | None
) -> dict[str, Any]:
    """What is said of the configuration, in its own terms."""
    changes: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
    if strides is not None:
        pair = strides if isinstance(strides, tuple | list) else (strides, strides)
        if len(pair) != 2:
            raise CheckpointError(f"strides {strides!r} are not two whole numbers: mel bins and frames between patches")
        changes |= {"frequency_stride": pair[0], "time_stride": pair[1]}
    if labels is not None:
        names, ids = _read_labels(Path(labels))
        changes |= {"id2label": dict(enumerate(names)), "label_ids": ids}
    return changes


def _read_labels(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Names and ontology ids of a CSV with a column `display_name`, or names, one a line, and no ids."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read as labels: {error}") from None
    if not lines:
        raise CheckpointError(f"{path} holds no labels")
    if "display_name" not in lines[0].split(","):
        return [line.strip() for line in lines], ()
    rows = list(csv.DictReader(lines))
    if [row.get("index") for row in rows] != [str(i) for i in range(len(rows))]:
        raise CheckpointError(f"{path}: its column index must count 0 to {len(rows) - 1}")
    ids = tuple(row.get("mid") or "" for row in rows)
    return [row["display_name"] for row in rows], ids if any(ids) else ()


def _check_labels(known: int, source: str | Path, changes: dict[str, Any]) -> None:
    given = len(changes.get("id2label", ())) or known
    if given != known:
        raise CheckpointError(
            f"{given} labels are given, {source} has {known}; fine-tune it for others: streamer train"
        )


def _from_checkpoint(
    source: str | Path, changes: dict[str, Any]
) -> "tuple[ASTForAudioClassification, ASTFeatureExtractor]":
    from models.audio_spectrogram_transformer import ASTForAudioClassification

    folder = checkpoint.find(source)
    _check_labels(ASTConfig.from_pretrained(folder).num_labels, source, changes)
    model = ASTForAudioClassification.from_pretrained(folder, dtype="auto", **changes)
    return model, ASTFeatureExtractor.from_pretrained(folder)


def _from_authors(path: Path, changes: dict[str, Any]) -> "tuple[ASTForAudioClassification, ASTFeatureExtractor]":
    import torch

    from models.audio_spectrogram_transformer import ASTForAudioClassification
    from models.audio_spectrogram_transformer.weights import PARALLEL, is_authors, to_ours

    state = checkpoint.read_pickle(path)
    if not is_authors(state):
        raise CheckpointError(
            f"{path} is not one of the authors' files, whose names begin with v. or module.v.; "
            "give the folder that holds it beside a config.json"
        )
    shapes = {name.removeprefix(PARALLEL): tuple(value.shape) for name, value in state.items()}
    config, n_patches = _measure(path, shapes, changes)
    with torch.device("meta"):
        model = ASTForAudioClassification(_with_grid(path, config, n_patches, changes))
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(to_ours(state, needed), assign=True)
    return model, ASTFeatureExtractor()


def _measure(path: Path, shapes: dict[str, tuple[int, ...]], changes: dict[str, Any]) -> tuple[ASTConfig, int]:
    """A configuration from the shapes of an authors' file, strides and length unsettled; and its number of patches."""
    try:
        _, n_positions, width = shapes["v.pos_embed"]
        _, _, *patch = shapes["v.patch_embed.proj.weight"]
        n_labels, _ = shapes["mlp_head.1.weight"]
        hidden, _ = shapes["v.blocks.0.mlp.fc1.weight"]
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error.args[0]}; it is not whole") from None
    except ValueError:
        raise CheckpointError(f"{path}: its tensors do not have the shapes of an AST's") from None
    _check_labels(n_labels, path, changes)
    config = ASTConfig(
        hidden_size=width,
        num_hidden_layers=len({name.split(".")[2] for name in shapes if name.startswith("v.blocks.")}),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        intermediate_size=hidden,
        layer_norm_eps=LAYER_NORM_EPS,
        patch_size=patch,
        qkv_bias="v.blocks.0.attn.qkv.bias" in shapes,
        **{"num_labels": n_labels, **changes},
    )
    return config, n_positions - 2


def _with_grid(path: Path, config: ASTConfig, n_patches: int, changes: dict[str, Any]) -> ASTConfig:
    """`config` with the strides that make `n_patches`: those said, or those of the authors' models."""
    guesses = [config]
    if "time_stride" not in changes:
        guesses = [config.replace(frequency_stride=stride, time_stride=stride) for stride in STRIDES]
    fitting = [guess for guess in guesses if math.prod(guess.grid) == n_patches]
    if len(fitting) == 1:
        return fitting[0]
    made = ", ".join(f"{math.prod(guess.grid)} at strides {_strides(guess)}" for guess in guesses)
    lengths = [
        f"strides {_strides(guess)} and {first} to {first + guess.time_stride - 1} frames"
        for guess in guesses
        if n_patches % guess.grid[0] == 0
        for first in [(n_patches // guess.grid[0] - 1) * guess.time_stride + guess.patch[1]]
    ]
    raise CheckpointError(
        f"{path} has positions for {n_patches} patches, {config.max_length} frames make {made}; "
        f"give max_length and strides as it was trained with: {' or '.join(lengths) or 'other strides'}"
    )


def _strides(config: ASTConfig) -> str:
    return f"{config.frequency_stride} x {config.time_stride}"


def _write(folder: Path, model: "ASTForAudioClassification", extractor: ASTFeatureExtractor) -> None:
    """Write beside `folder`, then rename: it is whole or not there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as partial:
            whole = Path(partial) / folder.name
            model.save_pretrained(whole)
            extractor.save_pretrained(whole)
            whole.replace(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} can't be written: {error.strerror or error}; give another place or make room"
        ) from None
