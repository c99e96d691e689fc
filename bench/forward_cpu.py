"""What the model costs on a CPU: ours in each back end and number format, beside transformers and onnxruntime.

    python bench/forward_cpu.py [--quick] [--data FOLDER]

AST-base (random weights, 527 labels, windows of 10.24 s) and the starter, one window and four at once, on all cores.
Each contender is a process of its own (`contender.py`) that holds its model and waits for its turn; turns go round, and
times are medians over rounds. In each round the machine multiplies large matrices too, in float32, bfloat16 and int8:
its best is the peak. The fraction of that is of the arithmetic a contender really does, each part at the peak of its
number format; ours does less than the reference (`models.audio_spectrogram_transformer.inference`). Differences are of
scores, to ours in float32. FOLDER holds ESC-10 as a folder per class: what int8 costs there is measured too.

Peers that are not installed are left out: `pip install -e '.[bench,test]'`.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import soxr
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from contenders import DTYPES, LEFT_OUT, OURS, REFERENCE, ROOT, Contender, differences, go_round, start
from figures import figure, finish

from models.audio_spectrogram_transformer import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from models.fbank import clip_features
from models.spec import FbankSpec
from models.train.starter import LABELS

BATCHES = (1, 4)
ROUNDS = {("base", 1): 6, ("base", 4): 3, ("starter", 1): 6, ("starter", 4): 6}


def operations(config, *, is_cut):
    """Floating-point operations of a window: those of the layers' products with weights, and all others."""
    rows, columns = (
        (size - config.patch_size) // stride + 1
        for size, stride in (
            (config.num_mel_bins, config.frequency_stride),
            (config.max_length, config.time_stride),
        )
    )
    d, inner, n = config.hidden_size, config.intermediate_size, rows * columns + 2

    def layer(read):
        """Query, output and MLP of the tokens that are `read`; key and value of all; then attention."""
        return 2 * np.array((read * (2 * d * d + 2 * d * inner) + n * 2 * d * d, 2 * read * n * d))

    weights, attention = layer(n) * (config.num_hidden_layers - 1) + layer(2 if is_cut else n)
    patches, classifier = rows * columns * config.patch_size**2 * d, d * config.num_labels
    return float(weights), float(attention + 2 * (patches + classifier))


def floor_s(name, config, peaks, default):
    """Seconds that a window would take if all of its arithmetic ran at the machine's peak."""
    library, _, dtype = name.partition("_")
    weights, rest = operations(config, is_cut=library in {"local", "openvino"})
    beside_int8 = default.partition("_")[2] if library == "openvino" else "float32"
    return (weights / peaks[dtype] + rest / peaks[beside_int8 if dtype == "int8" else dtype]) / 1e9


def base(folder):
    """Write AST-base as a checkpoint, its weights as they are before any training."""
    torch.manual_seed(0)
    config = ASTConfig(num_labels=527, problem_type="multi_label_classification")
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor().save_pretrained(folder)
    return folder


def windows():
    """Four that differ, none of which int8 was calibrated with: noise, beeps, clicks, a short sweep before silence."""
    rng, n = np.random.default_rng(1), 1023 * 160 + 400
    t, noise = np.arange(n) / 16000, rng.normal(0, 0.02, n)
    beeps = 0.1 * noise + 0.3 * np.sin(2 * np.pi * 3100 * t) * (t % 1 < 0.5)
    clicks = 0.1 * noise + 0.5 * (np.arange(n) % 16000 < 40)
    sweep = (0.1 * noise + 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t))[: 4 * 16000]
    sounds = (noise, beeps, clicks, sweep)
    return np.stack([clip_features(sound.astype(np.float32), FbankSpec(), 1024) for sound in sounds])


def recordings(data, work, *, is_quick):
    """Write the windows of all recordings to a file; it, and each one's class."""
    files = sorted(path for folder in LABELS for path in (data / folder).glob("*.ogg"))[:: 8 if is_quick else 1]
    if not files:
        return None, []
    heard = []
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        samples = soxr.resample(samples.mean(1), rate, 16000) if rate != 16000 else samples.mean(1)
        heard.append(clip_features(samples.astype(np.float32), FbankSpec(), 1024))
    np.save(work / "clips.npy", np.stack(heard))
    return work / "clips.npy", [list(LABELS).index(file.parent.name) for file in files]


def on_recordings(found, data, work, *, is_quick):
    """What int8 and the default cost on real sounds: accuracy lost, and the largest difference of a score."""
    path, classes = recordings(data, work, is_quick=is_quick)
    asked = {"int8": "openvino_int8", "default": found.default, "local_bfloat16": "local_bfloat16"}
    lost, far = {}, {}
    if classes:
        wanted = {"local_float32", *asked.values()} & set(found.contenders)
        heard, far = differences({name: found.contenders[name] for name in wanted}, path, work, 4)
        right = {name: np.mean(each[:, : len(LABELS)].argmax(1) == classes) for name, each in heard.items()}
        lost = {name: float(right["local_float32"] - each) for name, each in right.items()}
        print(f"{len(classes)} recordings, the starter's labels:")
        for name in sorted(right):
            print(f"  {name:<20} right {right[name]:.4f}, largest difference {far[name]:.4f}")
    figures = []
    for title, name in asked.items():
        why = found.why.get(name) or f"no recordings in {data}"
        goals = (0.02, 0.005) if title == "int8" else (None, None)
        figures += [
            figure(f"{title}_score_difference_starter", rounded(far.get(name)), "difference", goals[0], why=why),
            figure(f"{title}_accuracy_lost", rounded(lost.get(name)), "share", goals[1], why=why),
        ]
    return figures, far.get(found.default)


@dataclass
class Found:
    """What one model's contenders did, by name; `took` by batch size and name, `why` of those that are missing."""

    contenders: dict
    why: dict
    default: str
    first: dict
    far: dict
    took: dict
    peaks: dict
    config: ASTConfig

    @property
    def middle(self):
        return {n: {name: median(each) for name, each in took.items()} for n, took in self.took.items()}

    def spread(self):
        """The reference's slowest round over its fastest."""
        values = self.took[1].get(REFERENCE)
        return max(values) / min(values) if values else None


def measure(model, checkpoint, machine, work, *, is_quick):
    """Start all contenders on one model and let them take turns."""
    np.save(work / "x.npy", windows())
    contenders, why, default, first = start(checkpoint, work, is_quick=is_quick)
    batches = (1,) if is_quick and model == "base" else BATCHES
    _, far = differences(contenders, work / "x.npy", work, max(batches))  # which warms that batch up, too
    took, peaks = {}, dict.fromkeys(DTYPES, 0.0)
    for n in batches:
        took[n], seen = go_round(contenders, machine, n, 2 if is_quick else ROUNDS[model, n])
        peaks = {dtype: max(peaks[dtype], *seen[dtype]) for dtype in DTYPES}
    why |= {name: each.why for name, each in contenders.items()}
    return Found(contenders, why, default, first, far, took, peaks, ASTConfig.from_pretrained(checkpoint))


def figures_of(model, found):
    """What was measured of each contender, without goals."""
    figures, middle = [], found.middle
    for n, name in product(BATCHES, found.why):
        value = middle.get(n, {}).get(name)
        figures.append(figure(f"{model}_b{n}_{name}_s", rounded(value), "s", why=found.why[name] or LEFT_OUT))
    for name, why in found.why.items():
        peak_mb = found.contenders[name].peak_mb if name in found.contenders else None
        figures += [
            figure(f"{model}_{name}_difference", rounded(found.far.get(name)), "difference", why=why),
            figure(f"{model}_{name}_peak_memory", peak_mb, "MB", why=why),
        ]
    for name, one in found.first.items():
        title = f"{model}_{'default' if name == 'auto' else name}_first_start"
        figures += [
            figure(f"{title}_s", None if one.why else rounded(one.started_s), "s", why=one.why),
            figure(f"{title}_peak_memory", one.peak_mb, "MB", why=one.why),
        ]
    peaks = found.peaks.items()
    return figures + [
        figure(f"{model}_peak_{dtype}", round(each, 1), "GFLOP/s", better="higher") for dtype, each in peaks
    ]


def rounded(value):
    return None if value is None else float(f"{value:.4g}")


def show(model, found):
    """The table that people read."""
    peaks = ", ".join(f"{dtype} {each:.0f}" for dtype, each in found.peaks.items())
    print(f"\n{model}; the machine at its best: {peaks} GFLOP/s")
    print(f"{'':22}{'seconds a window':>17}{'ratio':>14}{'of peak':>14}{'difference':>12}{'peak MB':>9}")
    print(f"{'':22}{'1':>10}{'4':>7}" + f"{'1':>7}{'4':>7}" * 2)
    middle = found.middle
    for name, contender in found.contenders.items():
        took = [middle.get(n, {}).get(name) for n in BATCHES]
        reference = [middle.get(n, {}).get(REFERENCE) for n in BATCHES]
        floor = floor_s(name, found.config, found.peaks, found.default)
        cells = [f"{s or np.nan:>{width}.4f}" for s, width in zip(took, (10, 7), strict=True)]
        cells += [f"{(b or np.nan) / (s or np.nan):>7.2f}" for s, b in zip(took, reference, strict=True)]
        cells += [f"{floor / (s or np.nan):>7.2f}" for s in took]
        cells += [f"{found.far.get(name, np.nan):>12.1e}", f"{contender.peak_mb or '-':>9}"]
        print(f"{name:<22}" + "".join(cells) + (f"   {contender.why}" if contender.why else ""))
    ours, whole = (sum(operations(found.config, is_cut=is_cut)) / 1e9 for is_cut in (True, False))
    print(f"{ours:.1f} GFLOP a window, {whole:.1f} in the peers; the default is {found.default}")
    for name, one in found.first.items():
        print(f"first start of {name}: {one.started_s:.0f} s, {one.peak_mb} MB" + (f"; {one.why}" if one.why else ""))


def summary(base, starter, heard):
    """The figures that have goals, and the local back end beside them; `heard`: the default's on recordings."""
    took, default = base.middle[1], base.default
    why = base.why.get(REFERENCE) or base.why.get(default) or base.why.get("openvino_int8")
    ratios = {name: took[REFERENCE] / took[name] if {REFERENCE, name} <= set(took) else None for name in OURS}
    largest = [each for each in (base.far.get(default), starter.far.get(default), heard) if each is not None]
    peak_mb = base.contenders[default].peak_mb if default in base.contenders else None
    return [
        figure("default_vs_reference", rounded(ratios.get(default)), "ratio", 2.2, "higher", why=why),
        figure("default_score_difference", rounded(max(largest, default=None)), "difference", 0.01, why=why),
        figure("default_peak_memory", peak_mb, "MB", 700, why=why),
        figure("int8_vs_reference", rounded(ratios["openvino_int8"]), "ratio", 3.5, "higher", why=why),
        figure("local_bfloat16_vs_reference", rounded(ratios["local_bfloat16"]), "ratio", better="higher", why=why),
        figure("reference_slowest_over_fastest_round", rounded(base.spread()), "ratio", why=why),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of fewer contenders, an eighth of the clips")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "esc10")
    args = parser.parse_args()
    figures, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        machine = Contender("machine", "-", work)
        for model in ("base", "starter"):
            (work / model).mkdir()
            checkpoint = base(work / "checkpoint") if model == "base" else ROOT / "models" / "starter"
            found = measure(model, checkpoint, machine, work / model, is_quick=args.quick)
            show(model, found)
            figures += figures_of(model, found)
            results.append(found)
            if model == "starter":
                of_clips, heard = on_recordings(found, args.data, work, is_quick=args.quick)
            for contender in found.contenders.values():
                contender.close()
        machine.close()
    finish("forward_cpu", [*summary(*results, heard), *of_clips, *figures])


if __name__ == "__main__":
    main()
