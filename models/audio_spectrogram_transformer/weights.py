"""Parameter names: ours (the reference library's 5.x in memory) ↔ hub files (its 4.x layout, still written by 5.x)."""

from collections.abc import Mapping

from torch import Tensor

from models.checkpoint import CheckpointError

ENCODER = "audio_spectrogram_transformer."
LAYER = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Modules of one layer: ours → hub."""


def hub_name(name: str) -> str:
    """The hub's name of our parameter `name`."""
    prefix = ENCODER + "layers."
    if not name.startswith(prefix):
        return name
    layer, rest = name.removeprefix(prefix).split(".", 1)
    module, parameter = rest.rsplit(".", 1)
    return f"{ENCODER}encoder.layer.{layer}.{LAYER[module]}.{parameter}"


def to_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under hub names."""
    return {hub_name(name): value for name, value in state.items()}


def from_hub(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A hub file's tensors under our names.

    Args:
        state: tensors as the file names them, in the 4.x or the 5.x layout.
        shapes: what our module needs, by our names.

    Raises:
        CheckpointError: names are missing or left over, or a shape differs; the sentence lists them.
    """
    sources = {name: name if name in state else hub_name(name) for name in shapes}
    missing = [sources[name] for name in shapes if sources[name] not in state]
    unknown = sorted(set(state) - set(sources.values()))
    wrong = [
        f"{source} is {tuple(state[source].shape)}, the configuration needs {shapes[name]}"
        for name, source in sources.items()
        if source in state and tuple(state[source].shape) != shapes[name]
    ]
    problems = [f"{what}: {_some(names)}" for what, names in (("missing", missing), ("not known", unknown)) if names]
    problems += [f"wrong shape: {_some(wrong)}"] if wrong else []
    if problems:
        raise CheckpointError("the weights do not fit the configuration; " + "; ".join(problems))
    return {name: state[source] for name, source in sources.items()}


def _some(names: list[str], limit: int = 3) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
