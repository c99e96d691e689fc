"""Contenders of `forward_cpu`, each a process of its own (`contender.py`), and what all of them are asked in turn."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
OURS = ("local_float32", "local_bfloat16", "openvino_float32", "openvino_bfloat16", "openvino_int8")
REFERENCE = "sdpa_float32"
PEERS = (REFERENCE, "sdpa_bfloat16", "eager_float32", "eager_bfloat16", "onnxruntime_float32", "onnxruntime_int8")
QUICK = ("local_float32", "local_bfloat16", "openvino_int8", REFERENCE)  # and the default
LEFT_OUT = "left out by --quick"
DTYPES = ("float32", "bfloat16", "int8")
CALM_S = 0.1  # between turns: threads of the one before stop spinning


class Contender:
    """A process with a model; `why` is set where there is none, or none any more."""

    def __init__(self, name, checkpoint, work):
        self.name, self._log = name, work / "stderr"
        began = time.monotonic()
        command = [sys.executable, str(ROOT / "bench" / "contender.py"), name, str(checkpoint), str(work / "x.npy")]
        env = os.environ | {"XDG_CACHE_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=ROOT
            )
        self.why = None
        first = self._answer() or {}
        self.started_s = time.monotonic() - began
        self.why = self.why or first.get("why")
        self.name, self.peak_mb = first.get("is", name), first.get("peak_mb")

    def ask(self, *question):
        if self.why is None:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return self._answer()
        return None

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            self.why = f"ended with {self._process.wait()}: {self._log.read_text().strip().splitlines()[-1:]}"
        return json.loads(line) if line else None


def scores(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


EXPORT = """
import sys, torch
sys.path.insert(0, ".")
import onnxruntime.quantization as quantization
from tests import reference
checkpoint, float32, int8 = sys.argv[1:]
kind = reference.ASTForAudioClassification
model = kind.from_pretrained(checkpoint, attn_implementation="sdpa", dtype=torch.float32).eval()
class Logits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, windows):
        return self.model(windows).logits
size = {0: torch.export.Dim("n")}
torch.onnx.export(Logits().eval(), (torch.randn(2, 1024, 128),), float32, input_names=["windows"],
                  dynamo=True, dynamic_shapes=(size,), external_data=False)
quantization.quantize_dynamic(float32, int8, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
"""


def export(checkpoint, work):
    """The reference model as ONNX files, float32 and int8; or why there are none."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript", "transformers") if find_spec(name) is None]
    if missing:
        return {}, f"not installed: {', '.join(missing)}; pip install -e '.[bench,test]'"
    files = {f"onnxruntime_{dtype}": work / f"{dtype}.onnx" for dtype in ("float32", "int8")}
    command = [sys.executable, "-c", EXPORT, str(checkpoint), *map(str, files.values())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {}, f"the export failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}"
    return files, None


def start(checkpoint, work, *, is_quick):
    """All contenders; which of them is the default; and the first starts of those that keep a graph."""
    first = {}
    for name in ("auto", "openvino_int8"):
        trial = Contender(name, checkpoint, work)
        trial.close()
        first[name] = trial
    default = first["auto"].name
    names = [name for name in (*OURS, *PEERS) if name != default]
    files, no_onnx = ({}, LEFT_OUT) if is_quick else export(checkpoint, work)
    started, why = {}, {}
    for name in ("auto", *names):
        if is_quick and name not in {*QUICK, "auto"}:
            why[name] = LEFT_OUT
        elif name.startswith("onnxruntime") and name not in files:
            why[name] = no_onnx
        else:
            one = Contender(name, files.get(name, checkpoint), work)
            started[one.name], why[one.name] = one, one.why
    return started, why, default, first


def go_round(contenders, machine, n_windows, n_rounds):
    """Seconds a window of each contender and GFLOP/s of the machine: each round's, in the order of rounds."""
    took, peaks = {name: [] for name in contenders}, {dtype: [] for dtype in DTYPES}
    for _ in range(n_rounds):
        for dtype in DTYPES:
            peaks[dtype].append(machine.ask("product", dtype))
        for name, contender in contenders.items():
            time.sleep(CALM_S)
            if (seconds := contender.ask("seconds", n_windows)) is not None:
                took[name].append(seconds)
    return {name: each for name, each in took.items() if each}, peaks


def differences(contenders, path, work, batch):
    """Scores of each contender on the windows in a file, and how far they are from ours in float32."""
    found = {}
    for name, contender in contenders.items():
        contender.ask("logits", str(path), batch, str(work / "logits.npy"))
        if contender.why is None:
            found[name] = scores(np.load(work / "logits.npy"))
    far = {name: float(np.abs(each - found["local_float32"]).max()) for name, each in found.items()}
    return found, far
