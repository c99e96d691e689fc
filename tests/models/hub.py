"""A hub on loopback: the few addresses that the real client asks for when it fetches a model."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """One model's commits, and what was asked.

    `refusal`: a status and an `X-Error-Code` with which everything is answered instead. `drops`: every connection is
    closed unanswered. `opens`: nothing is answered before it is set.
    """

    name: str
    branches: dict[str, dict[str, bytes]]
    refusal: tuple[int, str] | None = None
    drops: bool = False
    opens: threading.Event | None = None
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, branch: str) -> str:
        """The commit of a branch: a hash of its files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for file, content in sorted(self.branches[branch].items()):
            digest.update(f"{file} {len(content)} ".encode() + content)
        return digest.hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Of a branch or a commit."""
        return next(
            (files for branch, files in self.branches.items() if revision in {branch, self.commit(branch)}), None
        )

    def fetched(self) -> set[str]:
        """Files whose content was asked for."""
        return {line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.opens:
            self.hub.opens.wait(5)
        if self.hub.drops:
            self.close_connection = True
            return
        if self.hub.refusal:
            self.answer(self.hub.refusal[0], b"", {"X-Error-Code": self.hub.refusal[1]})
            return
        api, page = f"/api/models/{self.hub.name}", f"/{self.hub.name}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            self.describe(path.removeprefix(api).removeprefix("/revision/") or "main")
        elif path.startswith(f"{api}/tree/"):
            self.list_files(path.removeprefix(f"{api}/tree/"))
        elif path.startswith(page):
            revision, _, file = path.removeprefix(page).partition("/")
            self.give(revision, file)
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def describe(self, revision: str) -> None:
        files = self.hub.files(revision)
        if files is None:
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        sha = next(self.hub.commit(branch) for branch, content in self.hub.branches.items() if content is files)
        self.json({"id": self.hub.name, "sha": sha, "siblings": [{"rfilename": file} for file in files]})

    def list_files(self, revision: str) -> None:
        self.json([
            {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha256(content).hexdigest()}
            for file, content in (self.hub.files(revision) or {}).items()
        ])  # fmt: skip

    def give(self, revision: str, file: str) -> None:
        content = (self.hub.files(revision) or {}).get(file)
        if content is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        self.answer(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": revision})

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[None]:
    """`hub` answers at `hub.url` inside the block and is gone after it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="hub")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
