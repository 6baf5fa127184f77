"""Outputs appear whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carl_cli.errors import OutputError, UsageError
from carl_cli.io.atomic import atomic_path, full_suffix


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.b.nii.gz", ".nii.gz"),
        ("A.NII.GZ", ".NII.GZ"),
        ("p.mrk.json", ".mrk.json"),
        ("a.b.h5", ".h5"),
    ],
)
def test_full_suffix_picks_the_format(name: str, suffix: str) -> None:
    assert full_suffix(Path("sub.01") / name) == suffix


def test_success_renames_within_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "out.mrk.json"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".mrk.json")
        temporary.write_text("new")
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mrk.json"]
    assert target.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), UsageError("x")])
def test_failure_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, failure: BaseException
) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write_half()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("out.txt", "old")]


def test_os_errors_become_one_line_with_path_and_cause(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with pytest.raises(OutputError, match=r"out\.txt.*No space left"), atomic_path(target):
        raise OSError(28, "No space left on device")
    with pytest.raises(OutputError, match="does not exist"), atomic_path(tmp_path / "no" / "x"):
        pass
    with pytest.raises(OutputError, match="is a folder"), atomic_path(tmp_path):
        pass


FULL_DISK = """
import resource, signal, sys
import numpy as np
from carl_cli.cli.boundary import exit_code_of
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
grid = Grid((60, 60, 60), (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
noise = np.random.default_rng(0).integers(0, 60000, grid.shape_zyx).astype("u2")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.exit(exit_code_of(lambda: write_image(sys.argv[1], Image(noise, grid))))
"""


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("room", [0, 100, 10**5, 10**7])
def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path: Path, suffix: str, room: int) -> None:
    target = tmp_path / f"out{suffix}"
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(target), str(room)], capture_output=True, text=True
    )
    fits = room == 10**7
    assert run.returncode == (0 if fits else 7), run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ([target.name] if fits else [])
    assert fits or f"error: {target}" in run.stderr


def test_a_link_whose_answer_was_lost_is_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may ask its server twice: the name is taken, by the link itself."""
    link = os.link

    def asked_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", asked_twice)
    with atomic_path(tmp_path / "new.txt", replace=False) as temporary:
        temporary.write_text("ours")
    assert (tmp_path / "new.txt").read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]
    refused = pytest.raises(OutputError, match="exists already")
    with refused, atomic_path(tmp_path / "new.txt", replace=False) as temporary:
        temporary.write_text("another's")
    assert (tmp_path / "new.txt").read_text() == "ours"
