"""What is known of a checkpoint without building its model: labels, sizes, window, cost."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models import checkpoint, load_spec
from models.audio_spectrogram_transformer.configuration import ASTConfig
from models.errors import CheckpointError

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' → torch's names
N_SHOWN = 20  # labels in the table; AudioSet has 527


def info(name_or_path: str | Path) -> dict[str, Any]:
    """A checkpoint's facts, as JSON takes them: sizes in bytes, windows in seconds, `flops` of one window.

    Raises:
        CheckpointError: it is missing or broken.
    """
    folder = checkpoint.find(name_or_path)
    spec, config = load_spec(folder), ASTConfig.from_pretrained(folder)
    tensors = list(_tensors(folder))
    patches = config.grid[0] * config.grid[1]
    return {
        "name": checkpoint.title(name_or_path),
        "revision": spec.revision,
        "parameters": sum(math.prod(shape) for shape, _ in tensors),
        "bytes": sum(path.stat().st_size for path in checkpoint.weight_files(folder)),
        "dtype": ", ".join(sorted({dtype for _, dtype in tensors})),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "patch": list(config.patch),
        "strides": [config.frequency_stride, config.time_stride],
        "patches": patches,
        "tokens": patches + 2,
        "window_frames": spec.window_frames,
        "window_s": spec.window_s,
        "sample_rate": spec.fbank.sample_rate,
        "mel_bins": spec.fbank.n_mels,
        "mean": spec.fbank.mean,
        "std": spec.fbank.std,
        "activation": spec.activation,
        "flops": flops(config),
        "labels": [{"label": label, "id": i} for label, i in zip(spec.labels, spec.label_ids, strict=True)],
    }


def flops(config: ASTConfig) -> int:
    """Floating-point operations of one window: two for each multiplication and addition in a matrix product.

    Patch embedding 2·P·D·p; each layer 8·N·D² for q, k, v and the output, 4·N²·D for attention, 4·N·D·I for the MLP;
    head 2·D·C. P patches of p values, N = P + 2 tokens, D width, I width of the MLP, C labels. Norms, softmax and
    activations, below 1 %, are not counted.
    """
    patches, width = math.prod(config.grid), config.hidden_size
    tokens = patches + 2
    layer = 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * config.intermediate_size
    embedding = 2 * patches * width * math.prod(config.patch)
    return embedding + config.num_hidden_layers * layer + 2 * width * config.num_labels


def table(facts: dict[str, Any]) -> str:
    """`info`'s answer as a text for people."""
    named = [f"{entry['label']} ({entry['id']})" if entry["id"] else entry["label"] for entry in facts["labels"]]
    more = f"; and {len(named) - N_SHOWN} more" if len(named) > N_SHOWN else ""
    rows = {
        "checkpoint": f"{facts['name']}, {facts['revision']}",
        "weights": f"{facts['parameters'] / 1e6:.1f} M parameters, {facts['bytes'] / 1e6:.1f} MB, {facts['dtype']}",
        "encoder": f"{facts['layers']} layers, {facts['width']} wide, {facts['heads']} heads",
        "patches": f"{_by(facts['patch'])} every {_by(facts['strides'])} (mel bins x frames): "
        f"{facts['patches']}, and 2 class tokens",
        "window": f"{facts['window_s']:.2f} s at {facts['sample_rate']} Hz: "
        f"{facts['window_frames']} frames of {facts['mel_bins']} mel bins",
        "features": f"mean {facts['mean']:.4f}, standard deviation {facts['std']:.4f}",
        "scores": f"{facts['activation']} of {len(named)} logits",
        "cost": f"{facts['flops'] / 1e9:.1f} GFLOP a window",
        "labels": "; ".join(named[:N_SHOWN]) + more,
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())


def _by(pair: list[int]) -> str:
    return f"{pair[0]} x {pair[1]}"


def _tensors(folder: Path) -> Iterator[tuple[list[int], str]]:
    """Shape and dtype of each tensor: of safetensors files from their headers, a pickle is read whole."""
    from safetensors import SafetensorError, safe_open

    for path in checkpoint.weight_files(folder):
        if path.name == checkpoint.PICKLE:
            for value in checkpoint.read_pickle(path).values():
                yield list(value.shape), str(value.dtype).removeprefix("torch.")
            continue
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118  # no mapping, it has nothing else to go through
                    tensor = file.get_slice(name)
                    yield tensor.get_shape(), DTYPES.get(tensor.get_dtype(), tensor.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
