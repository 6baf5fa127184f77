"""A Hugging Face Hub on loopback: the calls that huggingface_hub makes, and its failures.

What it asks for, seen in the log of `Hub.asked`:
  GET  /api/models/{repo}/revision/{rev}          the commit that a branch or tag stands for
  GET  /api/models/{repo}/tree/{commit}?recursive… sizes and hashes of the files
  HEAD /{repo}/resolve/{commit}/{file}            ETag, X-Repo-Commit, X-Linked-*, redirect
  GET  the redirect's target, with Range after a cut
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = ".safetensors"  # kept apart as LFS files are, and fetched through a redirect


@dataclass
class Repository:
    """files: of every revision alike. revisions: branch or tag → commit."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    private: bool = False
    gated: bool = False


@dataclass
class Hub:
    """State of the server. cuts: how many transfers of large files break off half way.
    status: what every request is answered with, if it is not 200. swapped: bytes that are
    sent in place of a large file's."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_good"
    cuts: int = 0
    status: int = 200
    swapped: bytes | None = None
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def count(self, method: str) -> int:
        return Counter(line.split()[0] for line in self.asked)[method]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of loopback; its `url` is what HF_ENDPOINT takes."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Silent: `asked` is the log."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.status != 200:
            return self._error(self.hub.status, "")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), *parts[4:])
        if parts[0] == "storage":
            return self._storage("/".join(parts[1:3]), parts[3])
        if parts[2:3] == ["resolve"]:
            return self._resolve("/".join(parts[:2]), parts[3], parts[4])
        return self._error(404, "")

    def _allowed(self, name: str) -> Repository | None:
        """The repository, or None after an error has been sent, as the Hub words it."""
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repository is None or (repository.private and not known):
            self._error(404 if known else 401, "RepoNotFound")
            return None
        if repository.gated and "resolve" in self.path:
            self._error(403, "GatedRepo")
            return None
        return repository

    def _commit(self, repository: Repository, revision: str) -> str | None:
        if revision in repository.revisions.values():
            return revision
        commit = repository.revisions.get(revision)
        if commit is None:
            self._error(404, "RevisionNotFound")
        return commit

    def _api(self, name: str, what: str, revision: str) -> None:
        if (repository := self._allowed(name)) is None:
            return None
        if (commit := self._commit(repository, revision)) is None:
            return None
        if what == "tree":
            return self._json([_entry(*item) for item in repository.files.items()])
        files = [{"rfilename": file} for file in repository.files]
        return self._json(
            {"id": name, "modelId": name, "sha": commit, "siblings": files, "tags": []}
        )

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (repository := self._allowed(name)) is None:
            return None
        if (commit := self._commit(repository, revision)) is None:
            return None
        if file not in repository.files:
            return self._error(404, "EntryNotFound")
        content = repository.files[file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(file, content)}"'}
        if not file.endswith(LARGE):
            return self._send(200, content, headers)
        headers["X-Linked-ETag"] = headers["ETag"]
        headers["X-Linked-Size"] = str(len(content))
        # Another host, as on the Hub: a redirect to the same one would be followed by HEAD.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        headers["Location"] = f"{elsewhere}/storage/{name}/{file}"
        return self._send(302, b"", headers)

    def _storage(self, name: str, file: str) -> None:
        content = self.hub.swapped or self.hub.repositories[name].files[file]
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if wanted:
            self.hub.ranges.append(wanted)
        status = 206 if wanted else 200
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        rest = content[start:]
        if self.command == "GET" and self.hub.cuts:
            self.hub.cuts -= 1
            return self._send(status, rest, headers if wanted else {}, cut=len(rest) // 2)
        return self._send(status, rest, headers if wanted else {})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        words = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(status, b"{}", words)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def _etag(file: str, content: bytes) -> str:
    return _sha256(content) if file.endswith(LARGE) else _git_id(content)


def _entry(file: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "path": file,
        "size": len(content),
        "oid": _git_id(content),
    }
    if file.endswith(LARGE):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
