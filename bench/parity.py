"""How far our AST library is from the reference library, on random checkpoints and sounds made here.

    python bench/parity.py [--quick]

The peer is transformers' ASTForAudioClassification and ASTFeatureExtractor (with torchaudio's filterbank), in this
run. Differences are the largest over all values; outputs of the models have a spread of about 1. Beside loud pure tones
the reference's float32 filterbank is farther from float64 than the goal: there its own rounding is what differs.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import figure, finish

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from tests import reference
from tests.models.small import random_settings, randomise, windows
from tests.models.test_fbank import exact

RATE = 16000


def model_differences(seed):
    """Largest differences of each output for one random configuration."""
    settings = random_settings(seed)
    ours = ASTForAudioClassification(ASTConfig(**settings)).eval()
    theirs = reference.ASTForAudioClassification(reference.ASTConfig(**settings, attn_implementation="eager")).eval()
    randomise(ours, seed)
    theirs.load_state_dict(ours.state_dict())
    x = windows(ours.config, 2)
    with torch.inference_mode():
        one = ours(x, output_hidden_states=True, output_attentions=True)
        other = theirs(x, output_hidden_states=True, output_attentions=True)
        fused = ours(x).logits
    far = {
        "logits": torch.stack((one.logits, fused)) - other.logits,
        "hidden_states": torch.stack(one.hidden_states) - torch.stack(other.hidden_states),
        "attentions": torch.stack(one.attentions) - torch.stack(other.attentions),
    }
    return {name: float(value.abs().max()) for name, value in far.items()}


def sounds(n):
    rng = np.random.default_rng(0)
    for i in range(n):
        samples = rng.normal(0, 10 ** rng.uniform(-4, -0.5), int(rng.integers(RATE // 2, 12 * RATE)))
        if i % 2:
            samples += 0.3 * np.sin(2 * np.pi * rng.uniform(100, 4000) * np.arange(len(samples)) / RATE)
        yield samples.astype(np.float32)


def feature_differences(n):
    """Largest differences of normalised features: ours to the reference's, ours to float64, the reference's to it."""
    ours, theirs = ASTFeatureExtractor(), reference.ASTFeatureExtractor()
    far = []
    for x in sounds(n):
        one, other = (
            extract(x, sampling_rate=RATE, return_tensors="np")["input_values"][0] for extract in (ours, theirs)
        )
        true = (exact(x)[:1024] + 4.2677393) / (2 * 4.5689974)
        real = len(true)  # the rest is padding
        far.append([np.abs(a - b).max() for a, b in ((one, other), (one[:real], true), (other[:real], true))])
    return np.max(far, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of the cases")
    n = 5 if parser.parse_args().quick else 40
    found = [model_differences(seed) for seed in range(n)]
    rows = [(name, max(each[name] for each in found), 1e-4) for name in found[0]]
    to_theirs, ours_to_float64, theirs_to_float64 = map(float, feature_differences(n))
    rows += [("features", to_theirs, 5e-4)]
    defaults, theirs = ASTConfig(), reference.ASTConfig()
    same = sum(
        getattr(defaults, field.name) == getattr(theirs, field.name)
        for field in fields(defaults) if hasattr(theirs, field.name)
    )  # fmt: skip
    print(f"{n} random configurations, {n} sounds; {same} configuration fields with equal defaults")
    print(f"features to float64: ours {ours_to_float64:.1e}, the reference's {theirs_to_float64:.1e}")
    figures = [figure("features_to_float64_ours_over_reference", ours_to_float64 / theirs_to_float64, "ratio", 1.0)]
    for name, value, goal in rows:
        print(f"{name:<16} largest difference {value:.1e}  (goal {goal:.0e})")
        figures.append(figure(f"{name}_vs_reference", value, "difference", goal))
    finish("parity", figures)


if __name__ == "__main__":
    main()
