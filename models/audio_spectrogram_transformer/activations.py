"""What `hidden_act` may name, computed in plain torch: of the reference's table, all that has no parameters of its own.

Several names stand for one function there too, written in other operations.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional


def quick_gelu(x: Tensor) -> Tensor:
    """A sigmoid's approximation of gelu (Hendrycks and Gimpel 2016, §2)."""
    return x * torch.sigmoid(1.702 * x)


def relu2(x: Tensor) -> Tensor:
    """Squared relu (So et al. 2021, "Primer", §4)."""
    return functional.relu(x).square()


tanh_gelu = partial(functional.gelu, approximate="tanh")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_accurate": tanh_gelu,
    "gelu_fast": tanh_gelu,
    "gelu_new": tanh_gelu,
    "gelu_python": functional.gelu,
    "gelu_python_tanh": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "hardswish": functional.hardswish,
    "leaky_relu": functional.leaky_relu,
    "linear": torch.positive,
    "mish": functional.mish,
    "quick_gelu": quick_gelu,
    "relu": functional.relu,
    "relu2": relu2,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}
