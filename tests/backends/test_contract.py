"""What holds for every back end in every number format that runs here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import load
from streamer import edges
from streamer.backends.base import Backend, activate
from streamer.errors import BackendError
from tests.backends.conftest import Named
from tests.models.small import windows

FORMS = [
    ("local", "float32", 1e-5), ("local", "bfloat16", 0.02), ("openvino", "float32", 1e-5), ("openvino", "int8", 0.05),
    ("auto", "auto", 0.02),
]  # fmt: skip


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(form[:2]))
def form(request: pytest.FixtureRequest, named: Named) -> tuple[Backend, float]:
    """A back end, and how far its scores may be from float32's: weights are random, so more than for a real model."""
    backend, dtype, tolerance = request.param
    return edges.build_backend(named(backend=backend, dtype=dtype)), tolerance


def test_scores_are_those_of_the_model(form: tuple[Backend, float], small: Path) -> None:
    backend, tolerance = form
    model, spec = load(small)
    x = windows(model.config, 5)
    with torch.inference_mode():
        wanted = activate(model(x).logits.numpy(), spec.activation)
    logits = backend.infer(x.numpy())
    assert logits.dtype == np.float32
    assert logits.shape == (5, len(spec.labels))
    assert np.abs(activate(logits, spec.activation) - wanted).max() < tolerance
    assert backend.spec == spec


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), FORMS)
def test_a_shorter_window_is_that_of_the_model_cut_short(
    backend: str, dtype: str, tolerance: float, small: Path, named: Named
) -> None:
    model, spec = load(small, max_length=32)
    assert spec != load(small)[1]
    x = windows(model.config, 3)
    with torch.inference_mode():
        wanted = activate(model(x).logits.numpy(), spec.activation)
    loaded = edges.build_backend(named(backend=backend, dtype=dtype, window_s=0.32))
    loaded.warmup()
    assert loaded.spec == spec
    assert np.abs(activate(loaded.infer(x.numpy()), spec.activation) - wanted).max() < tolerance


@pytest.mark.parametrize("backend", ["local", "openvino"])
def test_the_starter_in_windows_of_2_56_seconds(backend: str, named: Named) -> None:
    model, spec = load("starter", max_length=256)
    x = windows(model.config, 2)
    with torch.inference_mode():
        wanted = model(x).logits.numpy()
    loaded = edges.build_backend(named(checkpoint="starter", backend=backend, dtype="float32", window_s=2.56))
    assert (loaded.spec, loaded.spec.window_s) == (spec, 2.56)
    np.testing.assert_allclose(loaded.infer(x.numpy()), wanted, atol=1e-4)


def test_an_answer_does_not_depend_on_the_batch(form: tuple[Backend, float]) -> None:
    backend, tolerance = form
    backend.warmup()
    x = windows(type("Shape", (), {"max_length": 64, "num_mel_bins": 32}), 7).numpy()
    whole = backend.infer(x)
    for n in (1, 2, 3):
        parts = np.concatenate([backend.infer(part) for part in np.split(x, range(n, len(x), n))])
        assert np.abs(activate(parts, "sigmoid") - activate(whole, "sigmoid")).max() < tolerance


def test_an_answer_is_the_caller_s_to_keep(form: tuple[Backend, float]) -> None:
    backend, _ = form
    x = windows(type("Shape", (), {"max_length": 64, "num_mel_bins": 32}), 2).numpy()
    first = backend.infer(x[:1])
    kept = first.copy()
    backend.infer(x[1:])
    assert (first == kept).all()


def test_what_is_no_number_is_a_fault(form: tuple[Backend, float]) -> None:
    backend, _ = form
    with pytest.raises(BackendError, match=r"NaN or infinity in .*; try model\.dtype: float32$"):
        backend.infer(np.full((1, 64, 32), np.nan, np.float32))
    backend.close()
