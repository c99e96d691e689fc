"""The AST as an OpenVINO graph, made operation by operation from a model's weights.

In: configuration and weights of an `ASTForAudioClassification`. Out: windows (B, T, M) to logits (B, C), for any B. As
in `models.audio_spectrogram_transformer.inference`, query, key and value are one product and the last layer computes
the two class tokens only. With `ranges`, every product of the layers takes 8-bit weights, one scale for each output,
and 8-bit inputs, one scale for all of them. What is small and sensitive stays as it is: the patches, attention itself,
norms, sums and the classifier.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from models.audio_spectrogram_transformer.configuration import ASTConfig

Floats = npt.NDArray[np.float32]
Range = tuple[float, float]  # lowest and highest input of a product
Node = Any  # OpenVINO's nodes and their outputs, which its functions take alike

N_CLASSES = 2  # tokens that are read: class and distillation
ENCODER = "audio_spectrogram_transformer."
ACTIVATIONS: dict[str, Callable[[Node], Node]] = {
    **dict.fromkeys(("gelu", "gelu_python"), lambda x: ops.gelu(x, "erf")),
    **dict.fromkeys(
        ("gelu_accurate", "gelu_fast", "gelu_new", "gelu_python_tanh", "gelu_pytorch_tanh"),
        lambda x: ops.gelu(x, "tanh"),
    ),
    "hardswish": ops.hswish,
    "leaky_relu": lambda x: ops.prelu(x, ops.constant(np.float32(0.01))),
    "linear": lambda x: x,
    "mish": ops.mish,
    "quick_gelu": lambda x: ops.multiply(x, ops.sigmoid(ops.multiply(x, ops.constant(np.float32(1.702))))),
    "relu": ops.relu,
    "relu2": lambda x: ops.multiply(ops.relu(x), ops.relu(x)),
    "relu6": lambda x: ops.clamp(x, 0.0, 6.0),
    "sigmoid": ops.sigmoid,
    **dict.fromkeys(("silu", "swish"), ops.swish),
    "tanh": ops.tanh,
}


class Graph:
    """A graph in the making.

    Args:
        config: of the model.
        weights: its state, in float32.
        ranges: what goes into each product, by its name: these are computed in 8 bits.
    """

    def __init__(
        self, config: ASTConfig, weights: Mapping[str, Floats], ranges: Mapping[str, Range] | None = None
    ) -> None:
        self.config = config
        self.inputs: dict[str, Node] = {}  # of every product in the layers, by name
        self._weights = weights
        self._ranges = ranges or {}

    def build(self, *, watch: bool = False) -> ov.Model:
        """The finished graph; to `watch` adds the extremes (2,) of each product's input, in the order of `inputs`."""
        windows = ops.parameter([-1, self.config.max_length, self.config.num_mel_bins], np.float32, name="windows")
        x = self._tokens(windows)
        for i in range(self.config.num_hidden_layers):
            x = self._layer(x, i)
        x = self._norm(x, f"{ENCODER}layernorm")
        x = ops.reduce_mean(x, _ints(1), keep_dims=True)  # B 1 D
        x = self._linear(self._norm(x, "classifier.layernorm"), "classifier.dense")
        outputs = [ops.squeeze(x, _ints(1))]  # B C
        if watch:
            for x in self.inputs.values():
                extremes = [reduce(x, _ints(0, 1, 2)) for reduce in (ops.reduce_min, ops.reduce_max)]
                outputs.append(ops.concat([ops.unsqueeze(each, _ints(0)) for each in extremes], 0))
        return ov.Model(outputs, [windows], "ast")

    def _tokens(self, windows: Node) -> Node:
        """(B, T, M) to (B, 2 + N, D)."""
        name = f"{ENCODER}embeddings."
        strides = [self.config.frequency_stride, self.config.time_stride]
        image = ops.unsqueeze(ops.transpose(windows, _ints(0, 2, 1)), _ints(1))  # B 1 M T
        kernel = _floats(self._weights[f"{name}patch_embeddings.projection.weight"])
        x = ops.convolution(image, kernel, strides, [0, 0], [0, 0], [1, 1])  # B D F S
        x = ops.transpose(ops.reshape(x, _ints(0, self.config.hidden_size, -1), special_zero=True), _ints(0, 2, 1))
        positions = self._weights[f"{name}position_embeddings"]
        bias = self._weights[f"{name}patch_embeddings.projection.bias"]
        x = ops.add(x, _floats(positions[:, N_CLASSES:] + bias))  # B N D
        tokens = [self._weights[f"{name}{token}"] for token in ("cls_token", "distillation_token")]
        classes = _floats(np.concatenate(tokens, 1) + positions[:, :N_CLASSES])
        n_windows = ops.gather(ops.shape_of(windows), _ints(0), ops.constant(0))
        shape = ops.concat([n_windows, _ints(N_CLASSES, self.config.hidden_size)], 0)
        return ops.concat([ops.broadcast(classes, shape), x], 1)

    def _layer(self, x: Node, i: int) -> Node:
        """(B, N, D) to the same, but of the last layer the class tokens only."""
        layer = f"{ENCODER}layers.{i}."
        is_last = i == self.config.num_hidden_layers - 1
        of_layer = self._norm(x, f"{layer}layernorm_before")
        attention = f"{layer}attention."
        if is_last:
            x = _classes(x)
            q = self._product(_classes(of_layer), attention, "q_proj")
            k, v = ops.split(self._product(of_layer, attention, "k_proj", "v_proj"), ops.constant(2), 2).outputs()
        else:
            qkv = self._product(of_layer, attention, "q_proj", "k_proj", "v_proj")
            q, k, v = ops.split(qkv, ops.constant(2), 3).outputs()
        mixed = ops.scaled_dot_product_attention(*map(self._heads, (q, k, v)))
        mixed = ops.transpose(mixed, _ints(0, 2, 1, 3))
        mixed = ops.reshape(mixed, _ints(0, 0, self.config.hidden_size), special_zero=True)  # B N D
        x = ops.add(x, self._product(mixed, attention, "o_proj"))
        hidden = self._product(self._norm(x, f"{layer}layernorm_after"), f"{layer}mlp.", "fc1")
        return ops.add(x, self._product(ACTIVATIONS[self.config.hidden_act](hidden), f"{layer}mlp.", "fc2"))

    def _heads(self, x: Node) -> Node:
        shape = _ints(0, 0, self.config.num_attention_heads, -1)
        return ops.transpose(ops.reshape(x, shape, special_zero=True), _ints(0, 2, 1, 3))  # B H N D/H

    def _product(self, x: Node, prefix: str, *names: str) -> Node:
        """Linear layers side by side: (B, N, K) to (B, N, all their outputs), in 8 bits where the range is known."""
        name = prefix + "+".join(names)
        weight = np.concatenate([self._weights[f"{prefix}{each}.weight"] for each in names])
        self.inputs[name] = x
        if name in self._ranges:
            x, matrix = _eight_bits(x, weight, self._ranges[name])
        else:
            matrix = _floats(weight)
        return self._biased(ops.matmul(x, matrix, transpose_a=False, transpose_b=True), prefix, *names)

    def _linear(self, x: Node, name: str) -> Node:
        product = ops.matmul(x, _floats(self._weights[f"{name}.weight"]), transpose_a=False, transpose_b=True)
        return self._biased(product, "", name)

    def _biased(self, x: Node, prefix: str, *names: str) -> Node:
        biases = [self._weights[name] for each in names if (name := f"{prefix}{each}.bias") in self._weights]
        return ops.add(x, _floats(np.concatenate(biases)[None, None])) if biases else x

    def _norm(self, x: Node, name: str) -> Node:
        x = ops.mvn(x, _ints(-1), True, self.config.layer_norm_eps, "inside_sqrt")
        weight, bias = (_floats(self._weights[f"{name}.{part}"][None, None]) for part in ("weight", "bias"))
        return ops.add(ops.multiply(x, weight), bias)


def _eight_bits(x: Node, weight: Floats, reach: Range) -> tuple[Node, Node]:
    """Inputs in steps of 1/255 of their range, and weights in steps of 1/127 of each output's largest one."""
    low, high = (_floats(np.full((1, 1, 1), value)) for value in (min(reach[0], 0), max(reach[1], 0)))
    x = ops.fake_quantize(x, low, high, low, high, 256)
    step = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
    whole = ops.constant(np.round(weight / step).astype(np.int8))
    return x, ops.multiply(ops.convert(whole, "f32"), _floats(step))


def _classes(x: Node) -> Node:
    return ops.slice(x, _ints(0), _ints(N_CLASSES), _ints(1), _ints(1))


def _floats(values: npt.NDArray[Any]) -> Node:
    return ops.constant(np.ascontiguousarray(values, np.float32), shared_memory=True)


def _ints(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))
