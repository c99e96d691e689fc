"""How close the model on a GPU comes to what the GPU can do, beside the reference library; how many streams it bears.

    python bench/forward_gpu.py [--quick | --cpu]

AST-base with random weights, as the daemon runs it: `Local.infer`, windows in the host's memory in, logits there out.
The peer is transformers' ASTForAudioClassification with sdpa in bfloat16, as it is and compiled (`torch.compile`,
"reduce-overhead", which brings CUDA graphs too); it is spared the way in, its windows lie on the device. In turn in one
run, medians of CUDA events. `ours compiled` is our module compiled in the same way: what the daemon, which would start
minutes later, does without.

The floor is the arithmetic of what ours computes, counted from the configuration (a multiplication with an addition is
two), at the speed of a large matrix product on this GPU. `patches` is the time for the patches of a batch alone: a
convolution of one channel, which tensor cores like least.

Streams hear noise in real time, at a hop of 1 s; see `bench/listening.py`.

Without a CUDA device all figures are empty. `--cpu` runs every line of this on a tiny model on the CPU; what it prints
then says nothing but that the script runs.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import figure, finish
from listening import most_streams

from models import load_spec
from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from streamer.backends.base import activate
from streamer.backends.local import Local
from tests import reference

GOALS = (  # name, unit, goal, better; at the best batch, where not said otherwise
    ("peak_bfloat16", "TFLOP/s", None, "higher"),
    ("share_of_peak", "ratio", 0.65, "higher"),
    ("best_batch", "windows", None, "higher"),
    ("windows_per_s", "windows/s", None, "higher"),
    ("vs_reference", "ratio", None, "higher"),
    ("vs_reference_compiled", "ratio", 1.5, "higher"),
    ("ours_compiled", "times ours", None, "lower"),
    ("patches", "times ours", None, "lower"),
    ("batch_1", "ms", 2.0, "lower"),
    ("score_difference_bfloat16", "score", 0.01, "lower"),
    ("score_difference_float16", "score", 0.01, "lower"),
    ("streams_at_1s_hop", "streams", None, "higher"),
    ("latency_p50", "ms", None, "lower"),
    ("latency_p99", "ms", None, "lower"),
)


@dataclass(frozen=True)
class Plan:
    """What is measured, and where."""

    device: str
    config: dict
    batches: tuple[int, ...]
    rounds: int
    matrix: int  # side of the product that shows the peak
    n_scored: int
    streams: tuple[int, ...]
    listen_s: float


def plan_of(args):
    labels = list(load_spec("starter").labels)  # those that the rules of config.yaml name, then any
    names = dict(enumerate(labels + [f"label {i}" for i in range(len(labels), 527)]))
    if args.cpu:
        tiny = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
        return Plan("cpu", {"id2label": names, "max_length": 128, **tiny}, (1, 3), 2, 256, 4, (1, 2), 2.0)
    batches = (1, 8, 64) if args.quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
    streams = (64, 256, 1024) if args.quick else (32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048)
    rounds, listen_s = (7, 10.0) if args.quick else (25, 30.0)
    return Plan("cuda", {"id2label": names}, batches, rounds, 8192, 32, streams, listen_s)


def flop(config):
    """Operations for one window, of what `InferenceAST` computes: the last layer answers for two tokens only."""
    patches, width, inner = math.prod(config.grid), config.hidden_size, config.intermediate_size
    tokens = patches + 2

    def layer(n):
        """One that computes `n` tokens and looks at all."""
        products = 2 * n * width * (2 * width + 2 * inner) + 2 * tokens * width * 2 * width  # q, out, MLP; k and v
        return products + 4 * n * tokens * width

    embed = 2 * patches * math.prod(config.patch) * width
    return embed + (config.num_hidden_layers - 1) * layer(tokens) + layer(2) + 2 * width * config.num_labels


# -- forward ---------------------------------------------------------------------------------------------------------


def timed_ms(function, device):
    """Milliseconds until `function` and what it put on the device are done."""
    if device == "cpu":
        began = time.perf_counter()
        function()
        return (time.perf_counter() - began) * 1e3
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    function()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended)


def medians_ms(ways, plan):
    """Each way's median over rounds in which all have a turn; the first turns are for warming up."""
    took = {name: [] for name in ways}
    for i in range(plan.rounds + 2):
        for name, way in ways.items():
            ms = timed_ms(way, plan.device)
            if i >= 2:
                took[name].append(ms)
    return {name: statistics.median(values) for name, values in took.items()}


def peak(plan):
    """Operations a second of a large product in bfloat16."""
    a, b = (torch.randn(plan.matrix, plan.matrix, device=plan.device, dtype=torch.bfloat16) for _ in range(2))
    ms = medians_ms({"product": lambda: a @ b}, plan)["product"]
    return 2 * plan.matrix**3 / (ms / 1e3)


def windows(n, config):
    shape = (n, config.max_length, config.num_mel_bins)
    return np.random.default_rng(n).normal(0, 0.5, shape).astype(np.float32)


def local(folder, plan, dtype, n_windows):
    one = Local(folder, plan.device, dtype, n_windows=n_windows)
    one.warmup()
    return one


def answering(model, there):
    """A pass of a torch module, as a function: windows on the device to logits in the host's memory."""

    @torch.inference_mode()
    def run():
        answer = model(there)
        return getattr(answer, "logits", answer).float().cpu()

    return run


def compiled(models, there):
    """Each model compiled for the shape of `there`, and run once."""
    torch.compiler.reset()
    runs = {
        f"{name} compiled": answering(torch.compile(model, mode="reduce-overhead", dynamic=False), there)
        for name, model in models.items()
    }
    for run in runs.values():
        run()
    return runs


def forward(folder, config, plan):
    """Milliseconds by batch and way, and why there is nothing compiled, if so."""
    ours = {dtype: local(folder, plan, dtype, max(plan.batches)) for dtype in ("bfloat16", "float16")}
    read = reference.ASTForAudioClassification.from_pretrained
    theirs = read(folder, dtype=torch.bfloat16, attn_implementation="sdpa").eval().to(plan.device)
    module = ours["bfloat16"]._model  # noqa: SLF001  there is no other use for it alone
    table, why = {}, None
    for n in plan.batches:
        batch = windows(n, config)
        there = torch.from_numpy(batch).to(plan.device, torch.bfloat16)
        ways = {dtype: partial(one.infer, batch) for dtype, one in ours.items()}
        ways["reference"] = answering(theirs, there)
        ways["patches"] = torch.inference_mode()(partial(module.patches, there))
        try:
            ways |= compiled({"reference": theirs, "ours": module}, there)
        except Exception as error:  # noqa: BLE001  a compiler that is missing, or its bug, is no reason to stop
            why = f"torch.compile: {str(error).partition(chr(10))[0]}"
        table[n] = medians_ms(ways, plan)
        print(f"{n:5d}" + "".join(f"   {name} {ms:.2f}" for name, ms in table[n].items()))
    for one in ours.values():
        one.close()
    torch.compiler.reset()
    return table, why


def score_differences(folder, config, plan):
    """Largest difference of scores to those in float32 on the same device."""
    batch = windows(plan.n_scored, config)
    scores = {}
    for dtype in ("float32", "bfloat16", "float16"):
        one = Local(folder, plan.device, dtype, n_windows=8)
        scores[dtype] = activate(one.infer(batch), "sigmoid")
        one.close()
    print(f"scores: spread {scores['float32'].std():.3f}")
    halves = ("bfloat16", "float16")
    return {f"score_difference_{half}": float(np.abs(scores[half] - scores["float32"]).max()) for half in halves}


# -- what it comes to ------------------------------------------------------------------------------------------------


def measure(plan):
    """Values by name; None where there is none; and why there is nothing compiled, if so."""
    config = ASTConfig(**plan.config)
    work = flop(config)
    print(f"one window: {work / 1e9:.1f} GFLOP")
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        ASTForAudioClassification(config).save_pretrained(folder)
        ASTFeatureExtractor(max_length=config.max_length).save_pretrained(folder)
        speed = peak(plan)
        print(f"peak, {plan.matrix} cubed in bfloat16: {speed / 1e12:.1f} TFLOP/s\nmilliseconds by batch")
        table, why = forward(folder, config, plan)
        differences = score_differences(folder, config, plan)
        backend = local(folder, plan, "auto", max(plan.streams))
        streams, p50, p99 = most_streams(backend, plan.streams, plan.listen_s) or (0, None, None)
    best = max(table, key=lambda n: n / table[n]["bfloat16"])
    ms = table[best]
    times = {name: value / ms["bfloat16"] for name, value in ms.items()}
    return {
        "peak_bfloat16": speed / 1e12,
        "share_of_peak": best * work / (ms["bfloat16"] / 1e3) / speed,
        "best_batch": best,
        "windows_per_s": best / ms["bfloat16"] * 1e3,
        "vs_reference": times["reference"],
        "vs_reference_compiled": times.get("reference compiled"),
        "ours_compiled": times.get("ours compiled"),
        "patches": times["patches"],
        "batch_1": table[1]["bfloat16"],
        **differences,
        "streams_at_1s_hop": streams,
        "latency_p50": p50,
        "latency_p99": p99,
    }, why


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="fewer batches, rounds and streams")
    which.add_argument("--cpu", action="store_true", help="a tiny model on the CPU, to see that this script runs")
    args = parser.parse_args()
    if args.cpu:
        print("a tiny model on the CPU: numbers that mean nothing")
        measure(plan_of(args))
        values, why = {}, "--cpu measures nothing"
    elif torch.cuda.is_available():
        print(torch.cuda.get_device_name())
        values, why = measure(plan_of(args))
    else:
        print("There is no CUDA device here, so there is nothing to measure.")
        values, why = {}, "no CUDA device"
    why = why or "not even the smallest number of streams was borne"
    rounded = {name: None if value is None else round(value, 4) for name, value in values.items()}
    finish("forward_gpu", [figure(name, rounded.get(name), *goal, why=why) for name, *goal in GOALS])


if __name__ == "__main__":
    main()
