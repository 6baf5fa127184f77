"""A Hugging Face Hub on loopback: the calls that huggingface_hub makes, and its failures.

What it asks for, seen in the log of `Hub.asked`:
  GET  /api/models/{repo}/revision/{rev}          the commit that a branch or tag stands for
  GET  /api/models/{repo}/tree/{commit}?recursive… sizes and hashes of the files
  HEAD /{repo}/resolve/{commit}/{file}            ETag, X-Repo-Commit, X-Linked-*, redirect
  GET  the redirect's target, with Range after a cut
and to push:
  POST /api/repos/create                          409 if it is there
  POST /api/models/{repo}/branch/{branch}         409 if it is there
  POST /api/validate-yaml                         the front matter of README.md
  POST /api/models/{repo}/preupload/{rev}         which files are large
  POST /{repo}.git/info/lfs/objects/batch         where to put these
  PUT, then POST                                  the large file, and its size to verify
  POST /api/models/{repo}/commit/{rev}            the commit, one JSON object per line
"""

from __future__ import annotations

import base64
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
    """files: of every commit but those that were pushed. revisions: branch or tag → commit.
    pushed: commit → its files. messages: of the commits that were pushed."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    private: bool = False
    gated: bool = False
    pushed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def tree(self, commit: str) -> dict[str, bytes]:
        return self.pushed.get(commit, self.files)


@dataclass
class Hub:
    """State of the server. cuts: how many transfers of large files break off half way.
    status: what every request is answered with, if it is not 200. swapped: bytes that are
    sent in place of a large file's. refused: part of a path → status that it is answered with.
    answers: part of a path → status, body and headers in the place of its own. etag: of every file.
    silent: part of a path that is never answered, until `ended`.
    owners: who may push, with the good token. received: SHA-256 → large file that was put."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_good"
    cuts: int = 0
    status: int = 200
    swapped: bytes | None = None
    refused: dict[str, int] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    etag: str | None = None
    silent: str | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    owners: tuple[str, ...] = ("org",)
    received: dict[str, bytes] = field(default_factory=dict)
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
        hub.ended.set()
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

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refused = (status for part, status in self.hub.refused.items() if part in path)
        status = next(refused, self.hub.status)
        if status != 200:
            return self._error(status, "")
        if self.hub.silent and self.hub.silent in path:
            self.hub.ended.wait()
            return None
        if odd := next((a for part, a in self.hub.answers.items() if part in path), None):
            return self._send(*odd)
        parts = path.strip("/").split("/")
        if self.command in ("POST", "PUT"):
            return self._written(parts)
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), *parts[4:])
        if parts[0] == "storage":
            return self._storage("/".join(parts[1:3]), *parts[3:])
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
            return self._json([_entry(*item) for item in repository.tree(commit).items()])
        files = [{"rfilename": file} for file in repository.tree(commit)]
        return self._json(
            {"id": name, "modelId": name, "sha": commit, "siblings": files, "tags": []}
        )

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (repository := self._allowed(name)) is None:
            return None
        if (commit := self._commit(repository, revision)) is None:
            return None
        if file not in repository.tree(commit):
            return self._error(404, "EntryNotFound")
        content = repository.tree(commit)[file]
        headers = {"X-Repo-Commit": commit, "ETag": self.hub.etag or f'"{_etag(file, content)}"'}
        if not file.endswith(LARGE):
            return self._send(200, content, headers)
        headers["X-Linked-ETag"] = headers["ETag"]
        headers["X-Linked-Size"] = str(len(content))
        # Another host, as on the Hub: a redirect to the same one would be followed by HEAD.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        headers["Location"] = f"{elsewhere}/storage/{name}/{commit}/{file}"
        return self._send(302, b"", headers)

    def _storage(self, name: str, commit: str, file: str) -> None:
        content = self.hub.swapped or self.hub.repositories[name].tree(commit)[file]
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

    def _written(self, parts: list[str]) -> None:
        """Whatever changes the hub needs the good token, and an owner's repository."""
        if parts[0] == "put":
            return self._put(parts[1])
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._error(401, "")
        if parts == ["api", "validate-yaml"]:
            good = json.loads(self.body)["content"].startswith("---\nlicense: ")
            errors = [] if good else [{"message": "license: expected"}]
            answer = json.dumps({"errors": errors, "warnings": []}).encode()
            return self._send(200 if good else 400, answer, {"Content-Type": "application/json"})
        if parts == ["api", "repos", "create"]:
            return self._create(**json.loads(self.body))
        if parts[2:5] == ["info", "lfs", "objects"]:
            return self._places() if parts[5:] == ["batch"] else self._verify()
        name = "/".join(parts[2:4])
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._error(404, "RepoNotFound")
        if parts[4] == "branch":
            return self._branch(repository, parts[5])
        if parts[5] not in repository.revisions:
            return self._error(404, "RevisionNotFound")
        if parts[4] == "preupload":
            return self._modes()
        return self._commit_files(name, repository, parts[5])

    def _create(self, name: str, organization: str, visibility: str = "public") -> None:
        full = f"{organization}/{name}"
        if organization not in self.hub.owners:
            return self._error(403, "")
        url = {"url": f"{self.hub.url}/{full}"}
        if full in self.hub.repositories:
            return self._send(409, json.dumps(url).encode(), {})
        self.hub.repositories[full] = Repository({}, private=visibility == "private")
        return self._json(url)

    def _branch(self, repository: Repository, branch: str) -> None:
        if branch in repository.revisions:
            return self._error(409, "")
        repository.revisions[branch] = repository.revisions["main"]
        return self._json({})

    def _modes(self) -> None:
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]
        self._json({"files": files})

    def _places(self) -> None:
        objects = json.loads(self.body)["objects"]
        verify = {"href": f"{self.hub.url}{self.path.removesuffix('batch')}verify"}
        for each in objects:
            place = {"href": f"{self.hub.url}/put/{each['oid']}"}
            each["actions"] = {"upload": place, "verify": verify}
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, digest: str) -> None:
        self.hub.received[digest] = self.body
        self._json({})

    def _verify(self) -> None:
        told = json.loads(self.body)
        content = self.hub.received.get(told["oid"], b"")
        whole = (_sha256(content), len(content)) == (told["oid"], told["size"])
        return self._json({}) if whole else self._error(422, "")

    def _commit_files(self, name: str, repository: Repository, branch: str) -> None:
        files = dict(repository.tree(repository.revisions[branch]))
        for line in self.body.splitlines():
            key, value = (json.loads(line)[part] for part in ("key", "value"))
            if key == "header":
                repository.messages.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.received[value["oid"]]
        commit = hashlib.sha1(self.body).hexdigest()
        repository.pushed[commit], repository.revisions[branch] = files, commit
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

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
