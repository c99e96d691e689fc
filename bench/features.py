"""What the features of one hop cost, beside what others would have to compute for it.

    python bench/features.py [--quick]

A stream already holds a window of 10.24 s; a hop of new sound comes. Ours computes the frames it completes. The peers,
in turn with ours in this run: the reference extractor (transformers), which knows whole windows only; torchaudio's
filterbank on the hop's new frames; kaldi-native-fbank's OnlineFbank (C++), if it is installed: `pip install
'kaldi-native-fbank==1.22.5'` (later ones refuse 128 bins). One thread each; times are medians over rounds.

The floor under ours is numpy's real FFT of the hop's frames, in float64 and in place: `fft_alone`.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import figure, finish

from models.fbank import OnlineFbank
from models.spec import FbankSpec
from tests import reference

RATE = 16000
WINDOW = 1023 * 160 + 400
HOPS_S = (0.1, 0.25, 0.5, 1.0)
GOALS = {"reference": 30.0, "torchaudio": 3.0, "kaldi_native": 5.0}


def ours(sound):
    online = OnlineFbank(FbankSpec(), 1024)
    online.accept(sound[:WINDOW])
    return online.accept


def whole_window(sound):
    extractor = reference.ASTFeatureExtractor()
    window = sound[:WINDOW]
    return lambda hop: extractor(window, sampling_rate=RATE, return_tensors="np")


def new_frames(sound):
    """The hop's frames need 240 samples more than the hop has: what the window before it ended with."""
    before = sound[:240]
    return lambda hop: reference.kaldi_fbank(np.concatenate((before, hop)))


def native(sound):
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 128
    online = kaldi_native_fbank.OnlineFbank(options)
    online.accept_waveform(RATE, sound[:WINDOW])

    def accept(hop):
        taken = online.num_frames_ready
        online.accept_waveform(RATE, hop)
        return [online.get_frame(i) for i in range(taken, online.num_frames_ready)]

    return accept


def milliseconds(function, hop, n):
    took = []
    for _ in range(n):
        began = time.perf_counter()
        function(hop)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 25
    torch.set_num_threads(1)
    sound = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    ways, why = {"ours": ours(sound), "reference": whole_window(sound), "torchaudio": new_frames(sound)}, None
    try:
        ways["kaldi_native"] = native(sound)
    except ImportError as error:
        why = f"{error}; pip install 'kaldi-native-fbank==1.22.5'"
    frames = np.zeros((100, 512))
    out = np.empty((100, 257), np.complex128)
    floor_ms = milliseconds(lambda frames: np.fft.rfft(frames, out=out), frames, 500)
    figures = [figure("fft_alone_1s", round(floor_ms, 4), "ms")]
    print(f"the FFT of a hop of 1 s alone: {floor_ms:.3f} ms")
    print(f"{'hop':>6}" + "".join(f"{name:>14}" for name in ways) + "   ms, then how many times ours")
    for hop_s in HOPS_S:
        hop = sound[-round(hop_s * RATE) :]
        took = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                took[name].append(milliseconds(way, hop, 5 if name == "reference" else 20))
        ms = {name: statistics.median(values) for name, values in took.items()}
        print(f"{hop_s:4.2f} s" + "".join(f"{value:14.3f}" for value in ms.values()))
        print(f"{'':6}" + "".join(f"{value / ms['ours']:14.1f}" for value in ms.values()))
        for peer, wanted in GOALS.items():
            ratio = round(ms[peer] / ms["ours"], 2) if peer in ms else None
            goal = wanted if hop_s == 1.0 else None
            figures.append(figure(f"hop_{hop_s:g}s_vs_{peer}", ratio, "ratio", goal, "higher", why=why))
        figures.append(figure(f"hop_{hop_s:g}s", round(ms["ours"], 4), "ms"))
    finish("features", figures)


if __name__ == "__main__":
    main()
