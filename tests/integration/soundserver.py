"""A private sound server with one virtual microphone: what is played is what is captured. No hardware, no D-Bus."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

READY_S = 10.0  # it takes 0.2 s on an idle machine
SERVER = "pulseaudio"
ASOUND = """\
</usr/share/alsa/alsa.conf>
pcm.!default { type pulse hint { show on description "pulse" } }
ctl.!default { type pulse }
pcm.pulse { type pulse }
"""


class VirtualMic:
    """PulseAudio with a null sink whose monitor is the default microphone.

    A process sees it when `env` is in its environment: `monkeypatch.setenv` each pair of it.

    Args:
        sample_rate: of the microphone, Hz.
    """

    def __init__(self, sample_rate: int = 16000) -> None:
        self._sample_rate = sample_rate
        self._server: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="vmic-"))
        (self._folder / "rt").mkdir(mode=0o700)
        (self._folder / "asound.conf").write_text(ASOUND)
        self.env = {
            "PULSE_SERVER": f"unix:{self._folder}/native",
            "PULSE_RUNTIME_PATH": f"{self._folder}/rt",
            "PULSE_STATE_PATH": f"{self._folder}/state",
            "PULSE_CONFIG_PATH": f"{self._folder}/cfg",
            "PULSE_COOKIE": f"{self._folder}/cookie",
            "ALSA_CONFIG_PATH": f"{self._folder}/asound.conf",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        # norewinds: without it the start of a sound is lost now and then.
        sink = f"module-null-sink sink_name=vmic rate={self._sample_rate} channels=1 norewinds=1"
        socket = f"module-native-protocol-unix socket={self._folder}/native auth-anonymous=1"
        quiet = ["--realtime=no", "--high-priority=no", "--exit-idle-time=-1", "--disallow-exit", "--use-pid-file=no"]
        with (self._folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [SERVER, "-n", "--daemonize=no", *quiet, "-L", socket, "-L", sink], env=self._environment(), stderr=log
            )
        deadline = time.monotonic() + READY_S
        while not self._control("set-default-source", "vmic.monitor"):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{SERVER} did not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.05)
        self._control("set-default-sink", "vmic")

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
            (self._folder / "native").unlink(missing_ok=True)

    def hang(self) -> None:
        """Stop the server from answering."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `hang`."""
        self._signal(signal.SIGCONT)

    def play(self, path: Path) -> None:
        """Play a sound file into the microphone, to its end."""
        subprocess.run(["paplay", str(path)], env=self._environment(), check=True, timeout=60)

    def _signal(self, number: signal.Signals) -> None:
        if self._server is None:
            raise RuntimeError("start() the sound server first")
        self._server.send_signal(number)

    def _control(self, *command: str) -> bool:
        done = subprocess.run(
            ["pactl", *command], env=self._environment(), capture_output=True, check=False, timeout=READY_S
        )
        return done.returncode == 0

    def _environment(self) -> dict[str, str]:
        return os.environ | self.env
