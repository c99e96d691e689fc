"""What sources share: broken samples become silence, and are told."""

import numpy as np
import pytest

from streamer.sources import base
from streamer.sources.base import Mender


def test_broken_samples_are_told_of_rarely(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    monkeypatch.setattr(base.time, "monotonic", lambda: now)
    mender = Mender("microphone 'x'")
    block = np.array([0.5, np.nan, np.inf, -0.5], np.float32)
    for _ in range(121):  # a second each: told at 0, 60 and 120 s
        np.testing.assert_array_equal(mender.mend(block), np.array([0.5, 0, 0, -0.5], np.float32))
        now += 1
    mender.mend(block)
    for _ in range(2):
        mender.tell()
    assert caplog.messages == [
        f"microphone 'x': {n} broken samples (NaN, infinite or huge) count as silence" for n in (2, 120, 120, 2)
    ]
    assert mender.n_broken == 244


def test_whole_samples_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    mender = Mender("microphone 'x'")
    block = np.array([0.5, -0.5], np.float32)
    assert mender.mend(block) is block
    mender.tell()
    assert not caplog.messages
