"""Parameter names: ours (the reference library's 5.x in memory) ↔ what files of three layouts call them.

A layout is recognised from the names in a file: hub files (the reference's 4.x, still written by 5.x), its 5.x names as
they are in memory, and the authors' own `.pth` files (github.com/YuanGongND/ast on timm 0.4.5, q, k and v fused). Each
may hold a classifier or a bare encoder.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Self

from torch import Tensor

from models.errors import CheckpointError

ENCODER = "audio_spectrogram_transformer."
"""What precedes the names of an encoder that is part of a classifier."""
HEAD = "classifier."
PARALLEL = "module."  # torch's DataParallel puts it before every name

HUB = {
    "layers.{i}.attention.q_proj": "encoder.layer.{i}.attention.attention.query",
    "layers.{i}.attention.k_proj": "encoder.layer.{i}.attention.attention.key",
    "layers.{i}.attention.v_proj": "encoder.layer.{i}.attention.attention.value",
    "layers.{i}.attention.o_proj": "encoder.layer.{i}.attention.output.dense",
    "layers.{i}.layernorm_before": "encoder.layer.{i}.layernorm_before",
    "layers.{i}.layernorm_after": "encoder.layer.{i}.layernorm_after",
    "layers.{i}.mlp.fc1": "encoder.layer.{i}.intermediate.dense",
    "layers.{i}.mlp.fc2": "encoder.layer.{i}.output.dense",
}
"""Modules, ours → a hub file's; all others carry the same name in both."""

AUTHORS = {
    "embeddings.cls_token": "v.cls_token",
    "embeddings.distillation_token": "v.dist_token",
    "embeddings.position_embeddings": "v.pos_embed",
    "embeddings.patch_embeddings.projection": "v.patch_embed.proj",
    "layers.{i}.attention.q_proj": "v.blocks.{i}.attn.qkv[0]",
    "layers.{i}.attention.k_proj": "v.blocks.{i}.attn.qkv[1]",
    "layers.{i}.attention.v_proj": "v.blocks.{i}.attn.qkv[2]",
    "layers.{i}.attention.o_proj": "v.blocks.{i}.attn.proj",
    "layers.{i}.layernorm_before": "v.blocks.{i}.norm1",
    "layers.{i}.layernorm_after": "v.blocks.{i}.norm2",
    "layers.{i}.mlp.fc1": "v.blocks.{i}.mlp.fc1",
    "layers.{i}.mlp.fc2": "v.blocks.{i}.mlp.fc2",
    "layernorm": "v.norm",
    "classifier.layernorm": "mlp_head.0",
    "classifier.dense": "mlp_head.1",
}
"""Modules and parameters, ours → the authors'; `[0]` is the first third of a fused tensor's rows."""

IMAGE_HEADS = ("v.head.", "v.head_dist.")
"""Heads of the image model that the authors started from: in their files, never used."""

_NAME = re.compile(r"(?:layers\.(?P<layer>\d+)\.)?(?P<module>.+?)(?P<parameter>\.weight|\.bias)?")


class _Source(NamedTuple):
    """Where one of our parameters lies in a file: a tensor, or one third of a fused one's rows."""

    name: str
    shape: tuple[int, ...]
    third: int | None

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...]) -> Self:
        """Of a file's name, `[0]` to `[2]` behind it where it is fused, and our shape."""
        name, bracket, third = name.rstrip("]").partition("[")
        return cls(name, (3 * shape[0], *shape[1:]), int(third)) if bracket else cls(name, shape, None)

    def take(self, state: Mapping[str, Tensor]) -> Tensor:
        """Our tensor."""
        value = state[self.name]
        return value if self.third is None else value.chunk(3)[self.third].clone()


def hub_name(name: str) -> str:
    """The hub's name of our parameter `name`, which may or may not begin with `ENCODER`."""
    prefix = ENCODER if name.startswith(ENCODER) else ""
    return prefix + _translate(name.removeprefix(ENCODER), HUB)


def to_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under hub names."""
    return {hub_name(name): value for name, value in state.items()}


def is_authors(names: Iterable[str]) -> bool:
    """Whether a file's names are those of the authors' own checkpoints."""
    return any(name.removeprefix(PARALLEL).startswith("v.") for name in names)


def has_head(names: Iterable[str]) -> bool:
    """Whether a file's names, of any layout, include a classifier's."""
    return any(name.removeprefix(PARALLEL).startswith((HEAD, "mlp_head.")) for name in names)


def to_ours(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A file's tensors under our names.

    Args:
        state: tensors as the file names them, in any layout.
        shapes: what our module needs, by our names: a classifier's, or an encoder's with or without `ENCODER` before
            them. Where no head is among them, the file's head may be left over.

    Raises:
        CheckpointError: names are missing or left over, or a shape differs; the sentence lists the file's names.
    """
    file_name, spare = _layout(state)
    if not any(name.startswith(HEAD) for name in shapes):
        spare += (file_name(HEAD + "layernorm"), file_name(HEAD + "dense"))
    sources = {name: _Source.of(file_name(name), shape) for name, shape in shapes.items()}
    used = {source.name: source.shape for source in sources.values()}
    if problems := _problems(state, used, spare):
        raise CheckpointError("the weights do not fit the configuration; " + "; ".join(problems))
    return {name: source.take(state) for name, source in sources.items()}


def _problems(state: Mapping[str, Tensor], used: Mapping[str, tuple[int, ...]], spare: tuple[str, ...]) -> list[str]:
    """What is wrong with a file of which `used` is needed; names that begin with one of `spare` may be left over."""
    lists = {
        "missing": [name for name in used if name not in state],
        "not known": sorted(name for name in state if name not in used and not name.startswith(spare)),
        "wrong shape": [
            f"{name} is {tuple(state[name].shape)}, the configuration needs {shape}"
            for name, shape in used.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    return [f"{what}: {_some(names)}" for what, names in lists.items() if names]


def _layout(names: Iterable[str]) -> tuple[Callable[[str], str], tuple[str, ...]]:
    """How a file with such names calls our parameters, and beginnings of names that may be left over."""
    names = list(names)
    if is_authors(names):
        parallel = PARALLEL if any(name.startswith(PARALLEL) for name in names) else ""
        spare = tuple(parallel + head for head in IMAGE_HEADS)
        return lambda name: parallel + _translate(name.removeprefix(ENCODER), AUTHORS), spare
    is_hub = any("encoder.layer." in name for name in names) or not any("layers." in name for name in names)
    table = HUB if is_hub else {}
    prefix = ENCODER if any(name.startswith(ENCODER) for name in names) else ""

    def file_name(name: str) -> str:
        return name if name.startswith(HEAD) else prefix + _translate(name.removeprefix(ENCODER), table)

    return file_name, ()


def _translate(name: str, table: Mapping[str, str]) -> str:
    """One of our names without `ENCODER`, by `table`; the mark of a third goes to the end."""
    parts = _NAME.fullmatch(name)
    assert parts is not None, name
    layer, module, parameter = parts["layer"] or "", parts["module"], parts["parameter"] or ""
    module = f"layers.{{i}}.{module}" if layer else module
    target, bracket, third = table.get(module, module).replace("{i}", layer).partition("[")
    return f"{target}{parameter}{bracket}{third}"


def _some(names: list[str], limit: int = 3) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
