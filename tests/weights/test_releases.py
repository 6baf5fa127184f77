"""Authors' releases over https, from a server on loopback with a certificate of its own."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from shutil import which

import pytest
import torch

from carl_cli.errors import WeightsError
from carl_cli.model.network import ModelConfig, UNetConfig, build_network
from carl_cli.model.published import _translate
from carl_cli.weights import checkpoints, registry
from carl_cli.weights.files import digest_of, stored_config
from carl_cli.weights.folder import load_weights
from carl_cli.weights.locate import imported_folder, locate
from carl_cli.weights.registry import Release
from carl_cli.weights.releases import downloaded, install
from tests.weights.conftest import Carl
from tests.weights.test_import import drawn_file


class _Site(BaseHTTPRequestHandler):
    """/net: the checkpoint. /moved: leads to it. /plain: leads to http. /cut: half of it."""

    content = b""

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        host = self.headers["Host"]
        if self.path in ("/moved", "/plain"):
            self.send_response(302)
            scheme = "https" if self.path == "/moved" else "http"
            self.send_header("Location", f"{scheme}://{host}/net")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        half = len(self.content) // 2 if self.path == "/cut" else None
        with suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(self.content[:half])


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Silent: a client that refuses the certificate ends the connection as it should."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is absent")
    order = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(
        [*order.split(), "subjectAltName=DNS:localhost", *files], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = _Server(("127.0.0.1", 0), _Site)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("CARL_HOME", str(tmp_path / "home"))
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> bytes:
    some = bytes(range(256)) * 4000
    monkeypatch.setattr(_Site, "content", some)
    return some


def test_an_https_address_can_be_imported(
    site: str,
    carl_here: Carl,
    parity_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = drawn_file("carl2d", parity_dir, tmp_path)
    monkeypatch.setattr(_Site, "content", file.read_bytes())
    order = ("weights", "import", f"{site}/moved", "--family", "carl", "--shape", "96,80")
    assert carl_here(*order, "-o", tmp_path / "own").returncode == 0
    assert stored_config(tmp_path / "own")["provenance"] == {
        "imported_from": f"{site}/moved",
        "sha256": digest_of(file),
    }


def test_a_release_of_another_network_is_refused(
    site: str,
    carl_here: Carl,
    parity_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the site sends is looked at before anything is put in place."""
    file = drawn_file("carl2d", parity_dir, tmp_path)
    monkeypatch.setattr(_Site, "content", file.read_bytes())
    entry = Release("unigradicon", "unigradicon", "MIT", f"{site}/net", "a paper")
    monkeypatch.setattr(registry, "RELEASES", (entry,))
    done = carl_here("weights", "download", "unigradicon")
    assert done.returncode == 4
    assert "choose the family" in done.stderr
    assert not imported_folder("unigradicon").exists()


def test_content_arrives_whole(site: str, content: bytes) -> None:
    seen: list[float] = []
    with downloaded(f"{site}/moved", lambda _stage, part, _detail="", /: seen.append(part)) as file:
        assert file.read_bytes() == content
    assert not file.exists()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("/plain", "only https is followed"),
        ("/cut", "512000 of 1024000 bytes arrived"),
        ("/gone", "the server answered 404"),
    ],
)
def test_what_arrives_otherwise_is_refused(
    page: str, said: str, site: str, content: bytes, tmp_path: Path
) -> None:
    entry = Release("net", "unigradicon", "MIT", site + page, "a paper")
    with pytest.raises(WeightsError, match=said):
        install(entry, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_full_disk_under_a_release(
    site: str, content: bytes, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(WeightsError, match="no space left in") as refusal:
        downloaded(f"{site}/net").__enter__()
    assert "TMPDIR" in refusal.value.hint


def test_a_release_that_can_not_be_kept(
    site: str, parity_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = drawn_file("carl2d", parity_dir, tmp_path)
    monkeypatch.setattr(_Site, "content", file.read_bytes())
    model = next(m for m in checkpoints.FAMILIES["carl"].models if m.dimension == 2)
    family = replace(checkpoints.FAMILIES["carl"], models=(model,), shape_zyx=(96, 80))
    monkeypatch.setitem(checkpoints.FAMILIES, "carl", family)
    (tmp_path / "taken").write_text("no folder")
    entry = Release("net", "carl", "MIT", f"{site}/net", "a paper")
    with pytest.raises(WeightsError, match="can't be made") as refusal:
        install(entry, tmp_path / "taken" / "net")
    assert "CARL_HOME" in refusal.value.hint


def test_an_unknown_certificate_is_refused(
    site: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(WeightsError, match=r"(?i)certificate"), downloaded(f"{site}/net"):
        pass


def test_a_release_becomes_weights_by_name(
    site: str, carl_here: Carl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thin network in place of the authors': the same keys, a thousandth of the numbers."""
    model = ModelConfig(
        coarse="unet", refine_scales=(2, 1, 1), unet=UNetConfig(down=(2, 4), up=(2, 4))
    )
    family = replace(checkpoints.FAMILIES["unigradicon"], models=(model,))
    monkeypatch.setitem(checkpoints.FAMILIES, "unigradicon", family)
    entry = Release("unigradicon", "unigradicon", "MIT", f"{site}/net", "a paper")
    monkeypatch.setattr(registry, "RELEASES", (entry,))
    network = build_network(model)
    ours = network.state_dict()
    buffer = BytesIO()
    torch.save({theirs: ours[key] for theirs, key in _translate(network)}, buffer)
    monkeypatch.setattr(_Site, "content", buffer.getvalue())
    with pytest.raises(WeightsError, match="unigradicon is not in"):
        locate("unigradicon", offline=True)
    done = carl_here("weights", "download", "unigradicon")
    assert (done.returncode, done.stdout.strip()) == (0, str(imported_folder("unigradicon")))
    digest = sha256(buffer.getvalue()).hexdigest()
    assert f"{len(buffer.getvalue())} bytes, SHA-256 {digest}" in done.stderr
    assert "please cite: a paper" in done.stderr
    loaded = load_weights(locate("unigradicon")).network.state_dict()
    assert loaded.keys() == ours.keys()
    assert all(torch.equal(loaded[key], ours[key]) for key in ours)
    shutil.rmtree(imported_folder("unigradicon"))
    assert locate("unigradicon") == imported_folder("unigradicon"), "brought here when asked for"
    assert carl_here("weights", "verify", "unigradicon").returncode == 0
