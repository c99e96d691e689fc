"""A real mosquitto on a loopback port, to be started, stopped, killed and started again on the same port."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 5.0       # mosquitto listens after 20 ms; a busy machine takes its time


class Broker:
    """One mosquitto, keeping nothing on disk. `folder` holds its files.

    Args:
        login: the user and password it insists on; None admits everybody.
        tls: speak TLS only, with a certificate for 127.0.0.1 signed by `ca`, a CA made for this broker.
        asks: also insist on a client's certificate signed by `ca`, as `client` is, with its key in the same file.
        may_write: the only topics it lets anybody publish to; None: all.
    """

    def __init__(
        self,
        folder: Path,
        login: tuple[str, str] | None = None,
        *,
        tls: bool = False,
        asks: bool = False,
        may_write: tuple[str, ...] | None = None,
    ) -> None:
        self.port = free_port()
        self.ca, self.client = folder / "ca.pem", folder / "client.pem"
        self._config, self._rules = folder / "mosquitto.conf", folder / "rules"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listener {self.port} 127.0.0.1", "user root", "persistence false", "log_dest stderr"]
        if login is None:
            lines.append("allow_anonymous true")
        else:
            run("mosquitto_passwd", "-b", "-c", str(folder / "passwords"), *login)
            lines.append(f"password_file {folder / 'passwords'}")
        if tls or asks:
            make_certificates(folder)
            lines += [f"certfile {folder / 'server.pem'}", f"keyfile {folder / 'server.pem'}"]
        if asks:
            lines += [f"cafile {self.ca}", "require_certificate true"]
        if may_write is not None:
            self._allow(may_write)
            lines.append(f"acl_file {self._rules}")
        self._config.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Return once it listens."""
        self._process = subprocess.Popen([tool("mosquitto"), "-c", str(self._config)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto isn't on port {self.port}; `mosquitto -c {self._config}` says why")
            time.sleep(0.01)

    def allow(self, *topics: str) -> None:
        """Change `may_write` while it runs."""
        assert self._process is not None
        self._allow(topics)
        self._process.send_signal(signal.SIGHUP)

    def _allow(self, topics: tuple[str, ...]) -> None:
        self._rules.write_text("\n".join(["topic read #", *(f"topic write {topic}" for topic in topics), ""]))

    def stop(self) -> None:
        """End it as a service manager would; nothing if it isn't running."""
        if self._process is not None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # should it be frozen
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it answer nobody, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill -9: it says goodbye to nobody and loses all it knew."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def make_certificates(folder: Path) -> None:
    """Write `ca.pem`, and signed by it `server.pem`, for 127.0.0.1, and `client.pem`, each with its key in it."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    ca, ca_key = str(folder / "ca.pem"), str(folder / "ca.key")
    run("openssl", "req", "-x509", *key, "-subj", "/CN=test CA", "-keyout", ca_key, "-out", ca)
    for name, alternative in (("server", "IP:127.0.0.1"), ("client", "DNS:garage")):
        both = str(folder / f"{name}.pem")
        subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}")
        signed = ("-addext", "basicConstraints=CA:FALSE", "-CA", ca, "-CAkey", ca_key)
        run("openssl", "req", "-x509", *key, *subject, *signed, "-keyout", both, "-out", both)


def free_port() -> int:
    """Find a loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tool(name: str) -> str:
    """Find a program these tests need; Debian keeps the broker where an ordinary user's PATH doesn't look."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")
    if path is None:
        raise RuntimeError(f"'{name}' isn't installed; the tests need it: run 'make setup'")
    return path


def run(name: str, *arguments: str) -> None:
    """Run a program that must succeed."""
    subprocess.run([tool(name), *arguments], check=True, capture_output=True)
