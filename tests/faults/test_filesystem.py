"""Disks, folders and files in trouble: the exit code, the words, and nothing half written."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from carl_cli.io.images.files import write_image
from tests.faults.judge import fingerprint
from tests.faults.runner import Ended, Server, environment, installed, process
from tests.faults.samples import TRANSFORMS, dicom_folder, image, phantom_pair

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
    "convert to tfm": ("convert", "affine.tfm", "-o", "t.tfm"),
    "convert to txt": ("convert", "affine.tfm", "-o", "t.txt"),
    "convert to mat": ("convert", "affine.tfm", "-o", "t.mat"),
    "convert to greedy": ("convert", "affine.tfm", "--to", "greedy", "-o", "t.mat"),
    "jacobian": ("jacobian", "composite.h5", "-o", "j.nii"),
}
SMALL = {"jacobian", *(f"convert to {name}" for name in ("tfm", "txt", "mat", "greedy"))}


def command(words: tuple[object, ...], inputs: Path, out: Path) -> list[object]:
    """Inputs lie in one folder, outputs in another."""
    args = [inputs / str(word) if (inputs / str(word)).exists() else word for word in words]
    for option in ("-o", "--dicom-out"):
        if option in args:
            place = args.index(option) + 1
            args[place] = out / str(args[place])
    return [*args]


@pytest.mark.parametrize(
    ("name", "free"),
    [(name, free) for name in WRITING for free in (0, 4096) if not (free and name in SMALL)],
)
def test_a_full_disk(heavy: Server, inputs: Path, full: Path, name: str, free: int) -> None:
    (full / "filler").write_bytes(bytes(64 * 1024 - free))
    ended = heavy.run(command(WRITING[name], inputs, full), inputs.parent, SECONDS)
    last = WRITING[name][-1]
    refused(ended, 7, str(full) if name == "warp to dicom" else str(full / str(last)))
    spoken = [line for line in ended.err.splitlines() if not line.startswith(("error: ", "hint: "))]
    assert not [line for line in spoken if "ERROR" in line or "MetaImage" in line], spoken
    left = {p.name for p in full.iterdir()} - {"filler"}
    assert left <= ({"w.mha"} if name == "warp to dicom" else set())


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat"])
def test_a_full_disk_keeps_the_affine_that_was_to_be_replaced(
    heavy: Server, inputs: Path, full: Path, suffix: str
) -> None:
    """Issue 19: exit code 0, and an empty file in its place."""
    (full / "filler").unlink()
    target = full / f"old{suffix}"
    call = ["convert", inputs / "affine.tfm", "-o", target]
    assert heavy.run(call, inputs.parent, SECONDS).code == 0
    before = target.read_bytes()
    with suppress(OSError), (full / "filler").open("wb") as stream:
        stream.write(bytes(64 * 1024))
    refused(heavy.run([*call, "--overwrite"], inputs.parent, SECONDS), 7, str(target))
    assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["convert to h5", "convert to double h5"])
def test_an_h5_on_a_full_disk_ends_with_its_code(inputs: Path, full: Path, name: str) -> None:
    """Issue 19: the right message, then HDF5 broke down as the process ended (139)."""
    refused(process(command(WRITING[name], inputs, full), inputs.parent), 7, "t.h5")


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


def as_owner(args: list[object], folder: Path) -> Ended:
    """`carl args` by a user who owns the files and whom their permissions bind; root's own
    privilege to pass them over is taken away."""
    if ROOT and shutil.which("setpriv") is None:
        pytest.skip("root without setpriv can't give up its privileges")
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if ROOT else []
    done = subprocess.run(
        [*bound, *installed(), *map(str, args)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, False, done.stdout, done.stderr)


@pytest.fixture
def forbidden(inputs: Path) -> Iterator[Path]:
    """A folder whose files nobody may read, and in which nobody may write."""
    folder = inputs.parent / "forbidden"
    shutil.copytree(inputs, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    for path in files:
        path.chmod(0o644)


UNREADABLE: dict[str, tuple[object, ...]] = {
    "image.nii.gz": ("warp", "image.nii.gz", "-o", "w.nii.gz"),
    "image.nii.gz info": ("info", "image.nii.gz"),
    "series": ("warp", "series", "-o", "w.nii.gz"),
    "composite.h5": ("convert", "composite.h5", "-o", "t.nii.gz"),
    "affine.tfm": ("convert", "affine.tfm", "-o", "t.h5"),
    "points.csv": ("points", "points.csv", "-t", "affine.tfm", "--from", "fixed", "-o", "p.csv"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNREADABLE)
def test_no_permission_to_read(inputs: Path, forbidden: Path, tmp_path: Path, name: str) -> None:
    (forbidden / "affine.tfm").chmod(0o444 if name == "points.csv" else 0)
    out = tmp_path / "out"
    out.mkdir()
    refused(as_owner(command(UNREADABLE[name], forbidden, out), tmp_path), 3, name.split()[0])
    assert list(out.iterdir()) == []


@pytest.mark.slow
def test_no_permission_to_read_in_a_registration(
    inputs: Path, forbidden: Path, weights: Path, tmp_path: Path
) -> None:
    image, secret, out = inputs / "image.nii.gz", forbidden / "image.nii.gz", tmp_path / "w.nii.gz"
    ends = ["--weights", weights, "-w", out]
    refused(as_owner(["register", image, secret, *ends], tmp_path), 3, str(secret))
    closed = tmp_path / "closed"
    shutil.copytree(weights, closed)
    (closed / "model.safetensors").chmod(0)
    ends = ["--weights", closed, "-w", out]
    refused(as_owner(["register", image, image, *ends], tmp_path), 4, str(closed))
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_a_folder_that_is_read_only(
    inputs: Path, forbidden: Path, tmp_path: Path, name: str
) -> None:
    """By its permissions."""
    words = command(WRITING[name], inputs, tmp_path)
    words[words.index("-o") + 1] = forbidden / str(WRITING[name][WRITING[name].index("-o") + 1])
    before = sorted(forbidden.iterdir())
    refused(as_owner(words, tmp_path), 7, str(forbidden))
    assert sorted(forbidden.iterdir()) == before


@pytest.mark.parametrize("name", WRITING)
def test_a_disk_that_is_read_only(heavy: Server, inputs: Path, full: Path, name: str) -> None:
    """By its mount: nothing is worked out that could not be written."""
    (full / "filler").unlink()
    remount = ["mount", "-o", "remount,ro", str(full)]
    subprocess.run(remount, check=True)
    ended = heavy.run(command(WRITING[name], inputs, full), inputs.parent, SECONDS)
    refused(ended, 7, str(full))
    assert list(full.iterdir()) == []


LONG = "x" * 300
TOO_LONG = {
    "ants prefix": ("register", "image.nii.gz", "image.nii.gz", "--ants-prefix", LONG),
    "warp": ("warp", "image.nii.gz", "-o", f"{LONG}.nii.gz"),
    "convert": ("convert", "affine.tfm", "-o", f"{LONG}.h5"),
    "template": ("template", "image.nii.gz", "series", "-o", f"{LONG}.nii.gz"),
    "batch": ("batch", "pairs.csv", "-o", LONG),
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_names_that_no_file_can_have(heavy: Server, inputs: Path, weights: Path, name: str) -> None:
    """Of outputs: they counted as inputs that can't be read."""
    table = inputs.parent / "pairs.csv"
    table.write_text("fixed,moving\ninputs/image.nii.gz,inputs/image.nii.gz\n")
    call = [str(table) if word == "pairs.csv" else word for word in TOO_LONG[name]]
    more = ["--weights", weights] if name in ("ants prefix", "template", "batch") else []
    refused(heavy.run([*call, *more], inputs, SECONDS), 7, LONG, "File name too long")


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
