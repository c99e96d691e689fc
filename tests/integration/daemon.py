"""The daemon as its user runs it, and a subscriber that is not ours: processes of their own, with a log."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 30.0  # start-up loads torch; a busy machine takes its time


class Subscriber:
    """`mosquitto_sub -v`: every message as (topic, payload text), in order, across restarts of the broker."""

    def __init__(self, port: int, topic: str = "streamer/#") -> None:
        self.messages: list[tuple[str, str]] = []
        self._process = subprocess.Popen(
            ["mosquitto_sub", "-p", str(port), "-q", "1", "-t", topic, "-v"], stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            topic, _, payload = line.rstrip("\n").partition(" ")
            self.messages.append((topic, payload))

    def wait(self, what: str, matches: Callable[[str, str], bool], *, after: int = 0) -> int:
        """The index of the first message from `after` on that matches."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for i, message in enumerate(self.messages[after:], after):
                if matches(*message):
                    return i
            time.sleep(0.02)
        raise AssertionError(f"no {what} after message {after}; got {self.messages[after:]}")

    def wait_for(self, topic: str, payload: str, *, after: int = 0) -> int:
        """The index of the first such message from `after` on."""
        return self.wait(f"{topic} {payload}", lambda t, p: t == topic and p == payload, after=after)

    def wait_for_event(self, phase: str, *, after: int = 0) -> tuple[int, dict[str, Any]]:
        """Index and content of the first event of that phase from `after` on."""

        def matches(topic: str, payload: str) -> bool:
            return topic.endswith("/event") and json.loads(payload)["event_type"] == phase

        i = self.wait(f"{phase} event", matches, after=after)
        return i, json.loads(self.messages[i][1])


class Daemon:
    """`streamer run -c CONFIG`; its log is in `log` once it has ended."""

    def __init__(self, config: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        path, self._log = folder / "config.yaml", folder / "daemon.log"
        path.write_text(config)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamer.cli", "run", "-c", str(path)],
                env=os.environ | {"XDG_STATE_HOME": str(folder)} | (env or {}),
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        if error is not None:
            print(self.log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        """Return once the log holds these words."""
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.log:
            assert time.monotonic() < deadline, f"no {words!r} in the log: {self.log}"
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Signal it; return its exit code and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(20)
        return code, time.monotonic() - began
