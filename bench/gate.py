"""What the silence gate saves, and which events it misses.

    python bench/gate.py [--quick]

Alarms made in code sound for 6 s, at several levels, in a room whose noise has -65 dBFS; the starter listens with the
rules of `config.yaml` at a hop of 1 s, without and with `gate_dbfs`. An event counts if it has the alarm's label and
begins with it. The level is the alarm's RMS while it sounds; in a hop of 1 s short beeps have less.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import figure, finish

from models.train.alarms import ALARMS
from streamer import cli_shared, edges
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason, Scores
from streamer.engine import Engine
from streamer.line import build_line
from streamer.stats import Stats

RATE = 16000
ROOM_DBFS = -65.0
QUIET_S, SOUND_S, AFTER_S = 14, 6, 4
LEVELS_DBFS = (-60, -50, -40, -30, -20)
GATES_DBFS = (None, -70, -60, -50, -40, -30)


class Memory:
    """A back end that looks at each window once, however many gates let it pass."""

    def __init__(self, backend):
        self.spec, self._backend, self._known = backend.spec, backend, {}

    def infer(self, batch):
        keys = [window.tobytes() for window in batch]
        for key, window in zip(keys, batch, strict=True):
            if key not in self._known:
                self._known[key] = self._backend.infer(window[None])[0]
        return np.stack([self._known[key] for key in keys])


def scenes(n_seeds):
    """(label, level, samples): a quiet room, then an alarm in it."""
    for seed in range(n_seeds):
        for label, make in ALARMS.items():
            for dbfs in LEVELS_DBFS:
                rng = np.random.default_rng(seed)
                sound = make(rng)[: SOUND_S * RATE]
                rms = np.sqrt(np.mean(np.square(sound[np.abs(sound) > 1e-3])))
                scene = rng.normal(0, 10 ** (ROOM_DBFS / 20), (QUIET_S + SOUND_S + AFTER_S) * RATE)
                at = QUIET_S * RATE
                scene[at : at + len(sound)] += sound / rms * 10 ** (dbfs / 20)
                yield label, dbfs, scene.astype(np.float32)


def hear(settings, backend, samples, gate_dbfs):
    """(label, onset) of every event, and the share of windows that the gate took before the alarm."""
    name = next(iter(settings.streams))
    options = settings.streams[name].model_copy(update={"gate_dbfs": gate_dbfs})
    line = build_line(settings.model_copy(update={"streams": {name: options}}), name, backend.spec, Stats())
    ring = Ring(len(samples) + 2 * RATE, RATE)
    line.stream.attach(ring, Clock(RATE), "every")
    outputs, stats = [], Stats()
    for start in range(0, len(samples), RATE):
        ring.write(samples[start : start + RATE])
    ring.close(Reason.SOURCE_END)
    engine = Engine(backend, [line.stream], outputs.append, stats)
    while engine.step():
        pass
    messages = [message for output in outputs for message in line.reporter.report(output)]
    events = [message.payload for message in messages if message.topic.endswith("/event")]
    early = [output for output in outputs if isinstance(output, Scores) and output.end <= QUIET_S * RATE]
    n_gated = sum(not output.scores.any() for output in early)
    return [(e["label"], e["onset_s"]) for e in events if e["event_type"] == "start"], n_gated / len(early)


def gate(settings, backend, *, quick):
    n_seeds, figures = 1 if quick else 5, []
    found = {(gate, dbfs): 0 for gate in GATES_DBFS for dbfs in LEVELS_DBFS}
    saved = dict.fromkeys(GATES_DBFS, 0.0)
    n_scenes = 0
    for label, dbfs, samples in scenes(n_seeds):
        n_scenes += 1
        memory = Memory(backend)
        for gate_dbfs in GATES_DBFS:
            events, share = hear(settings, memory, samples, gate_dbfs)
            found[gate_dbfs, dbfs] += any(said == label and abs(at - QUIET_S) < SOUND_S for said, at in events)
            saved[gate_dbfs] += share
    lost_near = sum(
        max(0, found[None, dbfs] - n) for (gate, dbfs), n in found.items() if gate is not None and dbfs >= gate + 10
    )
    n_each = n_scenes // len(LEVELS_DBFS)
    print(f"\nthe silence gate: events found of {n_each} alarms at each level, in a room of {ROOM_DBFS:g} dBFS")
    levels = "".join(f"{f'{dbfs} dBFS':>10}" for dbfs in LEVELS_DBFS)
    print(f"{'gate_dbfs':>10}{levels}{'quiet windows skipped':>24}")
    for gate_dbfs in GATES_DBFS:
        row = [found[gate_dbfs, dbfs] for dbfs in LEVELS_DBFS]
        print(f"{gate_dbfs or 'null':>10}" + "".join(f"{n:10d}" for n in row) + f"{saved[gate_dbfs] / n_scenes:24.0%}")
        if gate_dbfs is not None:
            lost = sum(max(0, found[None, dbfs] - found[gate_dbfs, dbfs]) for dbfs in LEVELS_DBFS)
            n_found = sum(found[None, dbfs] for dbfs in LEVELS_DBFS)
            figures.append(figure(f"gate_{-gate_dbfs}_missed", round(lost / max(1, n_found), 3), "share"))
            figures.append(figure(f"gate_{-gate_dbfs}_skipped", round(saved[gate_dbfs] / n_scenes, 3), "share"))
    return [*figures, figure("gate_missed_10_db_over_it", lost_near, "events", 0)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the alarms")
    settings = cli_shared.settings_of(argparse.Namespace(config=None, model=None))
    quick = parser.parse_args().quick
    finish("gate", gate(settings, edges.build_backend(settings), quick=quick))


if __name__ == "__main__":
    main()
