"""`carl weights list | path | info`, and --weights by every spelling."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carl_cli.errors import WeightsError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.weights.locate import embedded_folder, locate
from carl_cli.weights.registry import DEFAULT, hub_name
from tests.weights.conftest import Carl
from tests.weights.hub import Hub

LIMIT_S = 0.5


def test_list_says_what_there_is(carl: Carl, tmp_path: Path) -> None:
    done = carl("weights", "list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    size = (embedded_folder(DEFAULT) / "model.safetensors").stat().st_size
    assert lines[DEFAULT][1:4] == ["carl", f"{size / 1e6:.1f}", "MB"]
    assert lines[DEFAULT][-2:] == ["verified", str(embedded_folder(DEFAULT))]
    assert "not here" in " ".join(lines["unigradicon"])
    assert lines["unigradicon"][-1].startswith("https://github.com/uncbiag/uniGradICON/")


def test_list_is_quick_and_without_torch() -> None:
    """Processor time, best of three: what else the machine does only adds to it."""
    script = (
        "import sys\nfrom carl_cli.cli.app import main\n"
        "try: main(['weights', 'list'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )

    def seconds() -> float:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    assert min(seconds() for _ in range(3)) < LIMIT_S


def test_info_is_config_json_and_where_it_lies(carl: Carl) -> None:
    told = json.loads(carl("weights", "info", DEFAULT).stdout)
    assert told.pop("folder") == str(embedded_folder(DEFAULT))
    assert told == json.loads((embedded_folder(DEFAULT) / "config.json").read_text())


def test_a_release_that_is_not_here_says_what_to_run(carl: Carl, tmp_path: Path) -> None:
    done = carl("weights", "path", "unigradicon")
    assert done.returncode == 4
    assert f"unigradicon is not in {tmp_path}/carl/weights/unigradicon" in done.stderr
    assert done.stderr.strip().endswith("carl weights download unigradicon")


def test_register_takes_no_network_when_offline(
    carl_here: Carl, make_image: Callable[..., Image], grids: dict[str, Grid], tmp_path: Path
) -> None:
    image = tmp_path / "a.nii"
    write_image(image, make_image(grids["plain"]))
    order = ("register", image, image, "-o", tmp_path / "t.h5", "--weights", "no-such/net")
    done = carl_here(*order, "--offline")
    assert done.returncode == 4
    assert "carl weights download no-such/net" in done.stderr


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/net", ("org/net", "main")),
        ("org/net@v1.0", ("org/net", "v1.0")),
        ("my-org/net_2.b@refs/pr/3", ("my-org/net_2.b", "refs/pr/3")),
        ("net", None),
        ("../net", None),
        ("a/b/c", None),
        ("/a/b", None),
        ("org/net@", None),
        ("org/net.git", None),
        ("org/net.git@main", None),
        ("org--x/net", None),
        ("org/a..b", None),
        ("org/nét", None),
        (f"org/{'a' * 97}", None),
    ],
)
def test_the_spelling_of_a_repository(text: str, parts: tuple[str, str] | None) -> None:
    found = hub_name(text)
    assert (tuple(found) if found else None) == parts


def test_a_folder_or_its_model_file_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "org" / "net"
    shutil.copytree(embedded_folder(DEFAULT), folder)
    monkeypatch.chdir(tmp_path)
    assert locate("org/net") == Path("org/net"), "a folder here goes before the Hub"
    assert locate(str(folder / "model.safetensors")) == folder
    with pytest.raises(WeightsError, match=r"model.safetensors was expected"):
        locate(str(folder / "README.md"))


def test_no_plain_http(carl: Carl, hub: Hub, tmp_path: Path) -> None:
    order = ("weights", "import", f"{hub.url}/x.trch", "--family", "unigradicon")
    done = carl(*order, "-o", tmp_path / "own")
    assert done.returncode == 4
    assert "only https is followed" in done.stderr
    assert hub.asked == []
