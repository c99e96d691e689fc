"""How many short recordings `streamer detect` names rightly with its default configuration, and what noise sets off.

    python bench/clips.py [--quick] [--data FOLDER] [--fold N] [--config FILE] [--model M]

FOLDER holds a sub-folder per ESC-10 class with `<fold>-….ogg` files. The noises are made in code: silence, white and
pink noise at several levels, mains hum. There is no peer here: no other project answers these labels.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from figures import figure, finish

from models.train.starter import LABELS
from streamer import cli_shared, edges
from streamer.replay import replay

RATE = 16000
NOISE_S = 120


def noises(seconds):
    """Name → samples: what must not be an event."""
    rng = np.random.default_rng(0)
    n = seconds * RATE
    white = rng.normal(0, 1, n)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), n)
    t = np.arange(n) / RATE
    yield "silence", np.zeros(n)
    for db in (-60, -40, -20):
        yield f"white {db} dBFS", white * 10 ** (db / 20)
        yield f"pink {db} dBFS", pink / pink.std() * 10 ** (db / 20)
        for mains in (50, 60):
            hum = sum(np.sin(2 * np.pi * mains * k * t) / k for k in range(1, 8))
            yield f"hum {mains} Hz {db} dBFS", hum / hum.std() * 10 ** (db / 20)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of the clips, half a minute of noise")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/esc10"))
    parser.add_argument("--fold", type=int, help="only clips of this fold")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model")
    args = parser.parse_args()
    settings = cli_shared.settings_of(args)
    backend = edges.build_backend(settings)
    stream = next(iter(settings.streams))

    def labels(path):
        steps = replay(path, settings, stream, lambda: backend)
        events = [m.payload for step in steps for m in step.messages if m.topic.endswith("/event")]
        return [event["label"] for event in events if event["event_type"] == "start"]

    files = sorted(path for folder in LABELS for path in (args.data / folder).glob(f"{args.fold or ''}*.ogg"))
    files = files[:: 8 if args.quick else 1]
    right, extra = Counter(), Counter()
    for path in files:
        wanted, heard = LABELS[path.parent.name][0], labels(path)
        right[path.parent.name] += wanted in heard
        extra.update(f"{label} in {wanted}" for label in set(heard) - {wanted})
    total = Counter(path.parent.name for path in files)
    for folder in total:
        print(f"{folder:<16} {right[folder]:3d} of {total[folder]:3d}")
    print("other labels:", ", ".join(f"{pair} {n}" for pair, n in extra.most_common(12)) or "none")
    false = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, samples in noises(30 if args.quick else NOISE_S):
            path = Path(folder) / "noise.wav"
            soundfile.write(path, samples, RATE, subtype="FLOAT")
            heard = labels(path)
            false += len(heard)
            print(f"{name:<20} {', '.join(heard) or 'nothing'}")
    n_right, why = sum(right.values()), None if files else f"no recordings in {args.data}"
    share = round(n_right / len(files), 4) if files else None
    figures = [
        figure("clips_named", share, "share", 0.65, "higher", why=why),
        figure("events_on_noise", false, "events", 0),
    ]
    finish("clips", figures)


if __name__ == "__main__":
    main()
