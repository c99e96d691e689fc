"""A contender of `forward_cpu`: one model in one library and number format, in a process that runs nothing else.

    python bench/contender.py NAME CHECKPOINT WINDOWS

NAME is `auto`, `local_float32`, `openvino_int8`, `sdpa_bfloat16`, … or `machine`, which multiplies matrices; for
onnxruntime, CHECKPOINT is an ONNX file. WINDOWS is a file of normalised windows (N, T, M). Each line on stdin is a
question in JSON, `["seconds", 4]`, and each on stdout its answer; the first says what was loaded. Libraries are loaded
by those that use them only, so that the memory is that of a process which runs just this.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

TURN_S = 0.3  # of calls, one at least, in each turn
PRODUCT = 2048  # rows and columns of a matrix product: 17 GFLOP


def backend(name, checkpoint):
    """One of ours, built as the daemon builds it; `auto` is what a user gets who configures nothing."""
    from streamer import cli_shared, edges
    from streamer.settings import ModelConfig

    kind, _, dtype = name.partition("_")
    settings = cli_shared.settings_of(argparse.Namespace(config=None, model=None), for_model=False)
    model = ModelConfig(checkpoint=checkpoint, backend=kind, dtype=dtype or "auto", device="cpu")
    built = edges.build_backend(settings.model_copy(update={"model": model}))
    found = type(built).__name__.lower(), str(built.dtype).removeprefix("torch.")
    return built.infer, "_".join(found)


def transformers(name, checkpoint):
    """The reference library, as its users call it."""
    import torch

    from tests import reference

    attention, _, dtype = name.partition("_")
    dtype = getattr(torch, dtype)
    kind = reference.ASTForAudioClassification
    model = kind.from_pretrained(checkpoint, attn_implementation=attention, dtype=dtype).eval()

    def infer(batch):
        with torch.inference_mode():
            return model(torch.from_numpy(batch).to(dtype)).logits.float().numpy()

    return infer, name


def onnx_runtime(name, checkpoint):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(checkpoint, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"windows": batch})[0], name


def load(name, checkpoint):
    kind = name.partition("_")[0]
    makers = {"sdpa": transformers, "eager": transformers, "onnxruntime": onnx_runtime}
    return makers.get(kind, backend)(name, checkpoint)


def peak_mb():
    """The most memory that this process ever held, in MB, with the files it has mapped."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return round(int(kib) * 1024 / 1e6)


def median_s(call):
    took = []
    while not took or sum(took) < TURN_S:
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def product(dtype):
    """GFLOP/s of a large matrix product."""
    import torch

    shape = (PRODUCT, PRODUCT)
    if dtype == "int8":
        a, b = (torch.randint(-127, 128, shape, dtype=torch.int8) for _ in range(2))
    else:
        a, b = (torch.randn(shape).to(getattr(torch, dtype)) for _ in range(2))
    multiply = torch._int_mm if dtype == "int8" else torch.mm  # noqa: SLF001  there is no public 8-bit product
    multiply(a, b)
    return 2 * PRODUCT**3 / median_s(lambda: multiply(a, b)) / 1e9


def model(name, checkpoint, path):
    """Load, run once; what it is, and the answers it can give."""
    windows = np.load(path)
    infer, what = load(name, checkpoint)
    infer(windows[:1])

    def seconds(n):
        """Seconds a window, in batches of `n`."""
        return median_s(lambda: infer(windows[:n])) / n

    def logits(path, n, out):
        """Write the logits of all windows in a file, run in batches of `n`."""
        every = np.load(path, mmap_mode="r")
        np.save(out, np.concatenate([infer(np.array(every[i : i + n])) for i in range(0, len(every), n)]))

    return {"is": what, "peak_mb": peak_mb()}, {"seconds": seconds, "logits": logits}


def main():
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(what):
        print(json.dumps(what), file=answer, flush=True)

    name, checkpoint, path = sys.argv[1:]
    try:
        first, able = ({}, {"product": product}) if name == "machine" else model(name, checkpoint, path)
    except Exception as error:  # noqa: BLE001  whatever it is, the others go on
        say({"why": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    say(first)
    for line in sys.stdin:
        question, *arguments = json.loads(line)
        say(able[question](*arguments))


if __name__ == "__main__":
    main()
