"""Tagging: windows side by side, the last one padded as the reference extractor pads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.fbank import clip_features
from streamer.core import Samples
from streamer.errors import SourceError
from streamer.tag import tag
from tests.fakes import FakeBackend, spec_of
from tests.sources import sounds

RATE = 16000
SIZE = 163_840  # samples, 10.24 s
NOISE = np.random.default_rng(5).normal(0, 0.1, 2 * SIZE + 16000).astype(np.float32)


class Listener(FakeBackend):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(spec_of("Siren", "Bark", "Rain"), self._keep)
        self.windows: list[Samples] = []

    def _keep(self, window: Samples) -> Sequence[float]:
        self.windows.append(window)
        return 0.0, 2.0, -2.0


def spans(records: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(record["start_s"], record["end_s"]) for record in records]


@pytest.mark.parametrize(("n", "expected"), [
    (16000, [(0, 1)]),
    (SIZE - 1, [(0, 10.24)]),
    (SIZE, [(0, 10.24)]),
    (SIZE + 1600, [(0, 10.24), (10.24, 10.34)]),
    (2 * SIZE + 16000, [(0, 10.24), (10.24, 20.48), (20.48, 21.48)]),
])  # fmt: skip
def test_windows_lie_side_by_side(tmp_path: Path, n: int, expected: list[tuple[float, float]]) -> None:
    listener = Listener()
    path = sounds.write(tmp_path / "noise.wav", NOISE[:n], RATE)
    assert spans(list(tag(path, listener, 1))) == expected
    assert len(listener.windows) == len(expected)
    for i, window in enumerate(listener.windows):
        clip = NOISE[:n][i * SIZE : (i + 1) * SIZE]
        np.testing.assert_allclose(window, clip_features(clip, listener.spec.fbank, 1024), atol=1e-6)


def test_a_second_is_padded_as_the_reference_pads(tmp_path: Path) -> None:
    listener = Listener()
    list(tag(sounds.write(tmp_path / "second.wav", NOISE[:RATE], RATE), listener, 1))
    [window] = listener.windows
    np.testing.assert_allclose(window[98:], 0.467, atol=1e-3)
    assert np.ptp(window[:98]) > 0.1


def test_a_stereo_file_at_44100_hz(tmp_path: Path) -> None:
    listener = Listener()
    n = 12 * 44100
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(n) / 44100)
    path = sounds.write(tmp_path / "stereo.wav", np.stack((tone, tone), axis=1).astype(np.float32), 44100)
    assert spans(list(tag(path, listener, 1))) == [(0, 10.24), (10.24, 12)]
    same = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(SIZE) / RATE)).astype(np.float32)
    loud = clip_features(same, listener.spec.fbank, 1024)[:1022].mean(axis=0)
    heard = listener.windows[0][:1022].mean(axis=0)
    assert heard.argmax() == loud.argmax()
    assert heard.max() == pytest.approx(loud.max(), abs=0.01)


def test_a_record(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "noise.wav", NOISE[:RATE], RATE)
    assert list(tag(path, Listener(), 2)) == [{
        "file": str(path), "start_s": 0.0, "end_s": 1.0,
        "scores": [{"label": "Bark", "score": 0.8808}, {"label": "Siren", "score": 0.5}],
    }]  # fmt: skip


def test_more_labels_than_there_are(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "noise.wav", NOISE[:RATE], RATE)
    [record] = tag(path, Listener(), 10)
    scores: Any = record["scores"]
    assert [entry["label"] for entry in scores] == ["Bark", "Siren", "Rain"]


def test_a_truncated_file_gives_its_whole_windows_first(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "cut.wav", NOISE, RATE, "PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 2 * 12 * RATE])
    records: list[dict[str, Any]] = []
    with pytest.raises(SourceError, match=r"cut\.wav: truncated: the header promises 21\.48 s of sound"):
        records.extend(tag(path, Listener(), 1))
    assert spans(records) == [(0, 10.24)]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.wav: no such file; check the path"):
        list(tag(tmp_path / "nowhere.wav", Listener(), 1))
