"""Downloads from a Hub on loopback, and each way in which they can fail."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import constants

from carl_cli.errors import WeightsError
from carl_cli.weights import bounded
from carl_cli.weights.hub import download
from carl_cli.weights.registry import HubName
from tests.conftest import REPOSITORY
from tests.weights.conftest import MODEL_BYTES, Carl, weights_files
from tests.weights.hub import Hub, Repository

COMMIT = "a" * 40
SNAPSHOT = f"hf/hub/models--org--net/snapshots/{COMMIT}"


def test_download_brings_the_files_of_weights_and_no_others(
    carl: Carl, hub: Hub, tmp_path: Path
) -> None:
    done = carl("weights", "download", "org/net")
    assert (done.returncode, done.stderr) == (0, "")
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / SNAPSHOT
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        name: content for name, content in weights_files().items() if name != "pytorch_model.bin"
    }


def test_what_is_cached_is_found_without_a_request_or_a_write(
    carl: Carl, hub: Hub, tmp_path: Path
) -> None:
    carl("weights", "download", "org/net")
    hub.asked.clear()
    stranger = tmp_path / "hf/hub/models--org--gpt/snapshots" / COMMIT
    stranger.mkdir(parents=True)
    (stranger / "model.safetensors").write_bytes(b"")
    (stranger / "config.json").write_text("not JSON")
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "hf").rglob("*")}
    for name in ("org/net", f"org/net@{COMMIT}"):
        done = carl("weights", "path", name)
        assert done.stdout.strip() == str(tmp_path / SNAPSHOT)
    listed = carl("weights", "list").stdout.splitlines()[-1]
    assert listed.split() == [
        *("org/net@aaaaaaaaaaaa", "carl", "0.3", "MB", "CC0-1.0", "verified"),
        str(tmp_path / SNAPSHOT),
    ]
    assert hub.asked == []
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "hf").rglob("*")} == before


def test_a_revision_is_asked_for_by_name(carl: Carl, hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/net"].revisions["v1"] = "b" * 40
    done = carl("weights", "download", "org/net@v1")
    assert Path(done.stdout.strip()).name == "b" * 40
    assert "GET /api/models/org/net/revision/v1" in hub.asked
    assert carl("weights", "path", "org/net").returncode == 4, "main was never downloaded"


def test_a_cut_transfer_goes_on_where_it_broke_off(carl: Carl, hub: Hub, tmp_path: Path) -> None:
    """huggingface_hub writes blocks of 10 MiB, so the file must be longer than two."""
    model = os.urandom(24 * 2**20)
    hub.repositories["org/net"].files.update(weights_files(model))
    hub.cuts = 1
    done = carl("weights", "download", "org/net")
    assert done.returncode == 0
    assert hub.ranges == [f"bytes={10 * 2**20}-"]
    assert (tmp_path / SNAPSHOT / "model.safetensors").read_bytes() == model


def test_a_connection_that_breaks_again_and_again(carl: Carl, hub: Hub, tmp_path: Path) -> None:
    hub.cuts = 1000
    done = carl("weights", "download", "org/net")
    assert done.returncode == 4
    assert "error: the connection broke off: http://127.0.0.1" in done.stderr
    assert not (tmp_path / SNAPSHOT / "model.safetensors").exists()


def test_a_terminal_shows_how_far_it_is(carl: Carl) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    done = carl("weights", "download", "org/net", terminal=os.ttyname(theirs))
    os.set_blocking(ours, False)
    shown = ""
    with suppress(BlockingIOError):  # a read brings 4 KiB at most, a slow machine redraws often
        while True:
            shown += os.read(ours, 2**16).decode(errors="replace")
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0
    assert "100%" in shown


def test_a_wrong_hash_is_refused_until_the_right_file_comes(
    carl: Carl, hub: Hub, tmp_path: Path
) -> None:
    hub.swapped = MODEL_BYTES[::-1]
    done = carl("weights", "download", "org/net")
    assert done.returncode == 4
    assert "model.safetensors is damaged: SHA-256" in done.stderr
    assert "DAMAGED" in carl("weights", "list").stdout
    hub.swapped = None
    assert carl("weights", "download", "org/net", "--force").returncode == 0
    assert (tmp_path / SNAPSHOT / "model.safetensors").read_bytes() == MODEL_BYTES


def test_a_token_opens_a_private_repository(carl: Carl, hub: Hub) -> None:
    hub.repositories["org/net"].private = True
    done = carl("weights", "download", "org/net")
    assert done.returncode == 4
    assert "no repository org/net" in done.stderr
    assert "set HF_TOKEN" in done.stderr
    done = carl("weights", "download", "org/net", HF_TOKEN="hf_bad")
    assert done.returncode == 4
    assert "that your token (HF_TOKEN) may read it" in done.stderr
    assert carl("weights", "download", "org/net", HF_TOKEN="hf_good").returncode == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/gone", "no repository org/gone on http://127.0.0.1"),
        ("org/gated", "org/gated is gated"),
        ("org/net@v9", "org/net has no revision 'v9'"),
        ("org/other", "org/other holds no weights of carl: it lacks config.json and model"),
        ("nosuch", "no weights 'nosuch' to download"),
    ],
)
def test_what_can_not_be_had_is_named(carl: Carl, hub: Hub, name: str, said: str) -> None:
    hub.repositories["org/gated"] = Repository(weights_files(), gated=True)
    hub.repositories["org/other"] = Repository({"pytorch_model.bin": b"1"})
    done = carl("weights", "download", name)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"error: {said}" in done.stderr


@pytest.mark.parametrize("files", [["model.safetensors"], {"../model.safetensors": "0"}])
def test_a_config_that_makes_no_sense(carl: Carl, hub: Hub, files: object) -> None:
    hub.repositories["org/net"].files["config.json"] = json.dumps({"files": files}).encode()
    done = carl("weights", "download", "org/net")
    assert done.returncode == 4
    assert "config.json" in done.stderr
    assert "this is a bug" not in done.stderr


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses access to org/net (401)"),
        (503, "does not work at the moment: it answered 503"),
    ],
)
def test_a_hub_that_refuses_or_fails(carl: Carl, hub: Hub, status: int, said: str) -> None:
    hub.status = status
    done = carl("weights", "download", "org/net")
    assert done.returncode == 4
    assert said in done.stderr


PORTAL = (200, b"<html>log in</html>", {"Content-Type": "text/html"})
NO_HUB = {
    "a portal's page": {"": PORTAL},
    "a portal's page for files": {"/resolve/": PORTAL},
    "a circle": {"": (302, b"", {"Location": "/api/models/org/net"})},
    "a circle for files": {"/resolve/": (302, b"", {"Location": "/org/net/resolve/main/x"})},
    "a circle for what lies elsewhere": {"/storage/": (302, b"", {"Location": "/storage/x"})},
    **{
        f"JSON: {text}": {"/api/": (200, text.encode(), {"Content-Type": "application/json"})}
        for text in ("{}", "[1]", "null", '{"id": "org/net", "sha": null}')
    },
}


@pytest.mark.parametrize("name", NO_HUB)
def test_what_is_no_hub_is_told_so(carl: Carl, hub: Hub, name: str) -> None:
    hub.answers = NO_HUB[name]
    done = carl("weights", "download", "org/net")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"error: {hub.url} does not answer as a Hub does" in done.stderr


@pytest.mark.parametrize("tag", ["{}/evil", "../../../../../evil", "a" * 5000, ""])
def test_a_tag_that_is_no_name_of_a_file(carl: Carl, hub: Hub, tmp_path: Path, tag: str) -> None:
    """huggingface_hub 2.4.0 made a file of that path, outside its cache."""
    hub.etag = f'"{tag.format(tmp_path)}"'
    done = carl("weights", "download", "org/net")
    assert done.returncode == 4
    assert "does not answer as a Hub does: its etag names no file" in done.stderr
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("part", ["/api/", "/resolve/", "/storage/"])
def test_a_hub_that_wants_no_request_for_an_hour(carl: Carl, hub: Hub, part: str) -> None:
    """huggingface_hub would sleep for it."""
    hub.answers = {part: (429, b"{}", {"Retry-After": "3600"})}
    started = time.monotonic()
    done = carl("weights", "download", "org/net")
    assert done.returncode == 4
    assert "wants no request for 3600 seconds (it answered 429)" in done.stderr
    assert time.monotonic() - started < 30


def test_a_hub_that_says_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of huggingface_hub itself the first request waits for ever."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(bounded, "SECONDS", 0.5)
    hub.silent = "/api/"
    with pytest.raises(WeightsError, match="no connection: http://127"):
        download(HubName("org/net", "main"))


def test_no_server_is_no_connection(carl: Carl) -> None:
    done = carl("weights", "download", "org/net", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 4
    assert "error: no connection: http://127.0.0.1:9" in done.stderr


@pytest.mark.parametrize("variables", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_offline_without_a_cache_says_what_to_run(
    carl: Carl, hub: Hub, variables: dict[str, str]
) -> None:
    asked = "download" if variables else "path"
    done = carl("weights", asked, "org/net@v1", **variables)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == (
        "hint: where there is one (a login node), with the same HF_HOME: "
        "carl weights download org/net@v1"
    )
    assert hub.asked == []


def test_no_space_left(carl: Carl, hub: Hub, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: both stop the write half way."""
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from carl_cli.cli.app import main\nmain(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "weights", "download", "org/net"],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4
    assert f"no space left for the weights in {tmp_path}/hf/hub" in done.stderr
    assert not (tmp_path / SNAPSHOT / "model.safetensors").exists()


def test_a_full_disk(carl: Carl, hub: Hub, small_disk: Path) -> None:
    done = carl("weights", "download", "org/net", HF_HOME=str(small_disk))
    assert done.returncode == 4
    assert f"no space left for the weights in {small_disk}/hub" in done.stderr
    assert "set HF_HOME to a folder with space" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_cache_of_another_user(carl: Carl, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    done = carl("weights", "download", "org/net", user=65534)
    assert done.returncode == 4
    assert f"weights can't be written to {tmp_path}/hf/hub: Permission denied" in done.stderr
    assert "set HF_HOME to a folder of yours" in done.stderr


def test_a_cache_that_can_not_be_written(carl: Carl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = carl("weights", "download", "org/net", HF_HOME=str(tmp_path / "file"))
    assert done.returncode == 4
    assert f"weights can't be written to {tmp_path}/file/hub" in done.stderr
