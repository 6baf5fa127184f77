"""Disks, folders and files in trouble: the exit code, the words, and nothing half written."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk

from carl_cli.io.image import write_image

from .judge import fingerprint
from .runner import REPOSITORY, Ended, Server, environment, process
from .samples import TRANSFORMS, dicom_folder, image, phantom_pair

NOBODY = 65534
ROOT = os.geteuid() == 0
SECONDS = 300.0


def refused(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended
    assert "Traceback" not in ended.err
    error, hint = ended.err.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    for word in words:
        assert word in error


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Path]:
    """A folder with an image, a transform and points; unchanged in the end."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    write_image(folder / "image.nii.gz", image())
    for name in ("h5 composite", "tfm affine"):
        TRANSFORMS[name](folder)
    (folder / "points.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    dicom_folder(folder / "series")
    before = fingerprint(folder)
    yield folder
    assert fingerprint(folder) == before


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB with nothing left on it."""
    if not ROOT:
        pytest.skip("only root can mount a small tmpfs")
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs can't be mounted here")
    (folder / "filler").write_bytes(bytes(64 * 1024))
    yield folder
    subprocess.run(["umount", folder], check=True)


WRITING = {
    "warp to nifti": ("warp", "image.nii.gz", "--size", 60, "-n", "bspline", "-o", "w.nii.gz"),
    "warp to plain nifti": ("warp", "image.nii.gz", "--size", 60, "-o", "w.nii"),
    "warp to nrrd": ("warp", "image.nii.gz", "--size", 60, "-n", "bspline", "-o", "w.nrrd"),
    "warp to mha": ("warp", "image.nii.gz", "--size", 60, "-n", "bspline", "-o", "w.mha"),
    "warp to dicom": ("warp", "image.nii.gz", "-o", "w.mha", "--dicom-out", "d"),
    "convert to h5": ("convert", "composite.h5", "-o", "t.h5"),
    "convert to double h5": ("convert", "composite.h5", "--precision", "double", "-o", "t.h5"),
    "convert to nifti": ("convert", "composite.h5", "-o", "t.nii.gz"),
    "convert to nrrd": ("convert", "composite.h5", "-o", "t.nrrd"),
    "convert to mha": ("convert", "composite.h5", "-o", "t.mha"),
    "jacobian": ("jacobian", "composite.h5", "-o", "j.nii"),
}


def command(words: tuple[object, ...], inputs: Path, out: Path) -> list[object]:
    """Inputs lie in one folder, outputs in another."""
    args = [inputs / str(word) if (inputs / str(word)).exists() else word for word in words]
    for option in ("-o", "--dicom-out"):
        if option in args:
            place = args.index(option) + 1
            args[place] = out / str(args[place])
    return [*args]


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("free", [0, 4096])
def test_a_full_disk(heavy: Server, inputs: Path, full: Path, name: str, free: int) -> None:
    if free and name == "jacobian":
        pytest.skip("it would fit")
    (full / "filler").write_bytes(bytes(64 * 1024 - free))
    ended = heavy.run(command(WRITING[name], inputs, full), inputs.parent, SECONDS)
    last = WRITING[name][-1]
    refused(ended, 7, str(full) if name == "warp to dicom" else str(full / str(last)))
    left = {p.name for p in full.iterdir()} - {"filler"}
    assert left <= ({"w.mha"} if name == "warp to dicom" else set())


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_registration(
    heavy: Server, weights: Path, sound_pair: tuple[Path, Path], full: Path
) -> None:
    """Each output in turn is the one that no longer fits; those before it are whole."""
    (full / "filler").unlink()
    before = fingerprint(sound_pair[0].parent)
    names = {
        "-o": "t.h5", "-O": "i.nii.gz", "-w": "w.nii.gz", "-W": "v.mha", "--jacobian": "j.nrrd",
        "--figure": "f.png", "--report": "p.html", "--json": "r.json",
    }  # fmt: skip
    for option, name in names.items():
        free = 4096 if option == "--json" else 12288
        (full / "filler").write_bytes(bytes(64 * 1024 - free))
        call = ["register", *sound_pair, "--weights", weights, option, full / name, "--threads", 1]
        ended = heavy.run(call, full.parent, SECONDS)
        left = {p.name for p in full.iterdir()} - {"filler"}
        if ended.code:
            refused(ended, 7, name)
            assert left == set()
        else:
            assert left == {name}
            (full / name).unlink()
        (full / "filler").unlink()
    assert fingerprint(sound_pair[0].parent) == before


def test_a_full_disk_for_the_log(heavy: Server, inputs: Path, full: Path) -> None:
    """The log is told to be incomplete, or the run fails; it never ends in a traceback."""
    out = inputs.parent / "w.nii.gz"
    call = ["warp", inputs / "image.nii.gz", "-o", out, "--log-file", full / "log.txt"]
    ended = heavy.run(call, inputs.parent, SECONDS)
    assert "Traceback" not in ended.err
    assert (ended.code, out.exists()) in ((0, True), (7, False))


def as_nobody(args: list[object], folder: Path) -> Ended:
    """`carl args` by a user with no rights on anything of ours but to read."""
    code = "import sys; from carl_cli.cli.app import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd="/",
        env=environment(HOME=str(folder), TMPDIR=str(folder)),
        capture_output=True,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        check=False,
    )
    return Ended(done.returncode, False, done.stdout, done.stderr)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach; pytest's own are private."""
    if not ROOT:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    try:
        able = as_nobody(["--version"], folder).code == 0
    except PermissionError:  # this Python itself lies in a private folder
        able = False
    if not able:
        shutil.rmtree(folder)
        pytest.skip(f"another user can't read {REPOSITORY} or this Python")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_no_permission(open_folder: Path) -> None:
    source, secret = open_folder / "image.nii.gz", open_folder / "secret.nii.gz"
    for path in (source, secret):
        write_image(path, image())
    source.chmod(0o644)
    secret.chmod(0o600)
    locked = open_folder / "locked"
    locked.mkdir(mode=0o755)
    table = open_folder / "secret.csv"
    table.write_text("x,y,z\n1,2,3\n")
    table.chmod(0o600)
    transform = open_folder / "secret.tfm"
    sitk.WriteTransform(sitk.AffineTransform(3), str(transform))
    transform.chmod(0o600)
    out = open_folder / "out.nii.gz"
    before = fingerprint(open_folder)
    refused(as_nobody(["warp", source, "-o", locked / "w.nii.gz"], open_folder), 7, str(locked))
    refused(as_nobody(["warp", secret, "-o", out], open_folder), 3, secret.name)
    refused(as_nobody(["info", secret], open_folder), 3, secret.name)
    refused(as_nobody(["warp", source, "-t", transform, "-o", out], open_folder), 3, transform.name)
    points = ["points", table, "-t", transform, "--from", "fixed", "-o", open_folder / "p.csv"]
    refused(as_nobody(points, open_folder), 3)
    register = ["register", secret, source, "-w", out, "--weights", open_folder / "none"]
    refused(as_nobody(register, open_folder), 4, "none")
    assert fingerprint(open_folder) == before


def test_output_is_input(heavy: Server, inputs: Path, weights: Path) -> None:
    path, out = inputs / "image.nii.gz", ["-n", "nearest", "-o"]
    folder = inputs.parent
    refused(heavy.run(["warp", path, *out, path], folder), 7, "exists already")
    again = heavy.run(["register", path, path, "-w", path, "--overwrite", "--weights", weights],
                      folder, SECONDS)  # fmt: skip
    refused(again, 2, "named twice")
    link = folder / "link.nii.gz"
    link.symlink_to(path)
    linked = ["register", path, path, "-w", link, "--overwrite", "--weights", weights]
    refused(heavy.run(linked, folder, SECONDS), 2, "named twice")


def test_pipes_are_no_files(heavy: Server, inputs: Path, weights: Path) -> None:
    """Nobody writes into these: to open one would be to wait for ever."""
    folder = inputs.parent
    pipes = {s: folder / f"pipe{s}" for s in (".nii.gz", ".nrrd", ".dcm", ".h5", ".tfm", ".csv")}
    for pipe in pipes.values():
        os.mkfifo(pipe)
    source, out = inputs / "image.nii.gz", folder / "out.nii.gz"
    for suffix in (".nii.gz", ".nrrd", ".dcm"):
        refused(heavy.run(["warp", pipes[suffix], "-o", out], folder), 3, pipes[suffix].name)
        refused(heavy.run(["info", pipes[suffix]], folder), 3, pipes[suffix].name)
    for suffix in (".h5", ".tfm"):
        call = ["warp", source, "-t", pipes[suffix], "-o", out]
        refused(heavy.run(call, folder), 3, pipes[suffix].name)
    points = ["points", pipes[".csv"], "-t", inputs / "affine.tfm", "--from", "fixed", "-o", out]
    refused(heavy.run(points, folder), 3, pipes[".csv"].name)
    call = ["register", pipes[".nii.gz"], source, "-w", out, "--weights", weights]
    refused(heavy.run(call, folder, SECONDS), 3, pipes[".nii.gz"].name)
    refused(heavy.run(["warp", source, "-o", pipes[".nii.gz"], "--overwrite"], folder), 7, "pipe")
    assert stat.S_ISFIFO(pipes[".nii.gz"].stat().st_mode)
    assert not out.exists()


def test_what_a_series_folder_may_also_hold(heavy: Server, inputs: Path, tmp_path: Path) -> None:
    """A pipe, a broken link and a loop among the slices are passed over."""
    folder = tmp_path / "series"
    shutil.copytree(inputs / "series", folder)
    os.mkfifo(folder / "pipe.dcm")
    (folder / "broken.dcm").symlink_to(folder / "absent.dcm")
    (folder / "loop").symlink_to(folder)
    ended = heavy.run(["warp", folder, "-o", tmp_path / "w.nii.gz"], tmp_path)
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_real_processes_end_the_same_way(inputs: Path, full: Path) -> None:
    refused(process(command(WRITING["warp to mha"], inputs, full), inputs.parent), 7, "w.mha")
    pipe = inputs.parent / "pipe.nii.gz"
    os.mkfifo(pipe)
    refused(process(["info", pipe], inputs.parent), 3, "pipe.nii.gz")


@pytest.mark.slow
def test_a_pair_of_real_images_on_a_full_disk(tmp_path: Path, weights: Path, full: Path) -> None:
    """By a process of its own, all outputs asked for: those that fitted are whole."""
    fixed, moving = phantom_pair(tmp_path)
    (full / "filler").unlink()
    call = ["register", fixed, moving, "--weights", weights, "-o", full / "t.h5", "-w",
            full / "w.nii.gz", "--report", full / "p.html", "--threads", 1]  # fmt: skip
    ended = process(call, tmp_path)
    assert ended.code in (0, 7), ended.err
    if ended.code == 7:
        refused(ended, 7, str(full))
    assert [p.name for p in full.iterdir() if p.name.startswith(".")] == []
