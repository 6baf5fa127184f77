"""What attacks found where damaged bytes don't reach: each kind by a generator of its own."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from safetensors.numpy import load_file, save_file

from carl_cli.cli.options import shared as outputs
from carl_cli.io.images.files import write_image
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)
from tests.cli.weights_folder import untrained_weights
from tests.faults.runner import Ended, Server, environment, process
from tests.faults.samples import TRANSFORMS, dicom_folder, dicom_slice, image

MHD = "NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {}\n"
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {}\n\n"
ENTRY = [sys.executable, "-m", "carl_cli.cli.entry"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """An image, an affine and points."""
    write_image(tmp_path / "image.nii.gz", image())
    TRANSFORMS["tfm affine"](tmp_path)
    (tmp_path / "points.csv").write_text("x,y,z,label\n1,2,3,a\n4,5,6,b\n")
    return tmp_path


def refused(ended: Ended, code: int, *words: str) -> None:
    """That code, one error line with these words; no bug, no traceback, no endless wait."""
    assert (ended.code, ended.late) == (code, False), ended
    assert "Traceback" not in ended.err
    assert "this is a bug" not in ended.err
    error = next(line for line in ended.err.splitlines() if line.startswith("error: "))
    for word in words:
        assert word in error


# Headers that name other files

REFERENCES = {
    "words of printf": MHD.format("%s%s%s 1 4 1"),
    "printf that writes": MHD.format("%n%n 1 4 1"),
    "printf of a wide number": MHD.format("%99999999d 1 4 1"),
    "pipe of MetaImage": MHD.format("pipe"),
    "device of MetaImage": MHD.format("/dev/zero"),
    "list with a pipe": MHD.format("LIST") + "pipe\n" * 4,
    "pattern with a pipe": MHD.format("p%dpe 1 4 1"),
    "99 axes": MHD.format("absent").replace("NDims = 3", "NDims = 99"),
    "an axis of 2,000 digits": MHD.format("absent").replace("= 4 4 4", f"= {'9' * 2000} 4 4"),
    "pipe of NRRD": NRRD.format("pipe"),
    "device of NRRD": NRRD.format("/dev/zero"),
    "list of NRRD with a pipe": NRRD.format("LIST").rstrip() + "\npipe\n",
    "NRRD axis of 2,000 digits": NRRD.format("absent").replace(": 4 4 4", f": {'9' * 2000} 4 4"),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("command", ["info", "warp"])
def test_headers_that_name_other_files(
    server: Server, tmp_path: Path, name: str, command: str
) -> None:
    text = REFERENCES[name]
    path = tmp_path / ("h.nhdr" if text.startswith("NRRD") else "h.mhd")
    path.write_text(text)
    os.mkfifo(tmp_path / "pipe")
    more = ["-o", tmp_path / "w.nii.gz"] if command == "warp" else []
    refused(server.run([command, path, *more], tmp_path), 3, path.name)


@pytest.mark.parametrize("name", ["%d.raw 1 4 1", "s%02d.raw 1 4 1", "LIST"])
def test_slices_in_files_of_their_own_are_still_read(
    server: Server, tmp_path: Path, name: str
) -> None:
    (tmp_path / "h.mhd").write_text(MHD.format(name) + "1.raw\n2.raw\n3.raw\n4.raw\n")
    for number in range(1, 5):
        for file in (f"{number}.raw", f"s{number:02}.raw"):
            (tmp_path / file).write_bytes(bytes([number]) * 16)
    ended = server.run(["info", tmp_path / "h.mhd"], tmp_path)
    assert ended.code == 0, ended.err
    assert "largest value: 4" in ended.out


@pytest.mark.parametrize("name", ["%s%s%s 1 4 1", "%d", "nothing.raw", ""])
def test_a_name_that_leads_nowhere(server: Server, tmp_path: Path, name: str) -> None:
    """Also where the header is the only file of its folder: one file there passed for the data."""
    path = tmp_path / "h.mha"
    path.write_bytes(MHD.format(name).encode() + bytes(64))
    refused(server.run(["info", path], tmp_path), 3, path.name, "ElementDataFile")


@pytest.mark.parametrize("there", [0, 3])
@pytest.mark.parametrize("name", ["LIST", "LIST 2D"])
def test_slices_that_are_missing(server: Server, tmp_path: Path, name: str, there: int) -> None:
    """MetaIO handed on whatever the memory held, and all seemed well."""
    path = tmp_path / "h.mhd"
    path.write_text(MHD.format(name) + "1.raw\n2.raw\n3.raw\n4.raw\n")
    for number in range(1, there + 1):
        (tmp_path / f"{number}.raw").write_bytes(bytes(16))
    refused(server.run(["info", path], tmp_path), 3, path.name, f"{there} of 4 listed")


def test_a_field_of_metaimage_given_twice(server: Server, tmp_path: Path) -> None:
    """MetaIO took the first one, whose missing numbers were not looked at."""
    path = tmp_path / "h.mha"
    twice = MHD.format("LOCAL").replace("NDims = 3", "NDims = 3\nOffset = 7\nOffset = 1 2 3")
    path.write_bytes(twice.encode() + bytes(64))
    refused(server.run(["info", path], tmp_path), 3, path.name, "Offset twice")


@pytest.mark.parametrize("size", ["-5", "-1", str(2**70)])
def test_sizes_of_packed_voxels(server: Server, tmp_path: Path, size: str) -> None:
    text = MHD.format("LOCAL").replace("ElementType", f"CompressedData = True\n"
                                       f"CompressedDataSize = {size}\nElementType")  # fmt: skip
    path = tmp_path / "h.mha"
    path.write_bytes(text.encode() + gzip.compress(bytes(64)))
    refused(server.run(["warp", path, "-o", tmp_path / "w.nii.gz"], tmp_path), 3, "h.mha")


@pytest.mark.parametrize("length", [-1, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("command", ["info", "convert"])
def test_lengths_of_names_in_matlab_files(
    server: Server, tmp_path: Path, length: int, command: str
) -> None:
    """ITK wrote beyond its memory for the name of a matrix of length -1."""
    path = TRANSFORMS["mat affine"](tmp_path).path
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 16, length)
    path.write_bytes(content)
    more = ["-o", tmp_path / "t.h5"] if command == "convert" else []
    refused(server.run([command, path, *more], tmp_path), 3, path.name)


# HDF5


def hollow(file: h5py.File, path: Path) -> None:
    """Numbers that were never written take no space in the file, and are read as zeros."""
    parameters = h5py.h5d.create(
        file["TransformGroup/1"].id,
        b"TransformParameters",
        h5py.h5t.IEEE_F64LE,
        h5py.h5s.create_simple((2 * 10**8,)),
    )
    parameters.close()


def external_link(file: h5py.File, path: Path) -> None:
    file["TransformGroup/1/TransformParameters"] = h5py.ExternalLink(str(path), "x")


def soft_link(file: h5py.File, path: Path) -> None:
    file["TransformGroup/1/TransformParameters"] = h5py.SoftLink("/TransformGroup/1")


def external_storage(file: h5py.File, path: Path) -> None:
    group = file["TransformGroup/1"]
    group.create_dataset("TransformParameters", (12,), "f8", external=[(str(path), 0, 96)])


def virtual(file: h5py.File, path: Path) -> None:
    layout = h5py.VirtualLayout((12,), "f8")
    layout[:] = h5py.VirtualSource(str(path), "x", (12,))
    file["TransformGroup/1"].create_virtual_dataset("TransformParameters", layout)


HDF5 = (hollow, external_link, soft_link, external_storage, virtual)


@pytest.mark.parametrize("change", HDF5, ids=lambda change: change.__name__)
@pytest.mark.parametrize("pipe", [True, False])
def test_parameters_that_lie_elsewhere_or_nowhere(
    server: Server, inputs: Path, change: Callable[[h5py.File, Path], None], pipe: bool
) -> None:
    path, other = inputs / "t.h5", inputs / "other"
    assert server.run(["convert", inputs / "affine.tfm", "-o", path], inputs).code == 0
    with h5py.File(path, "r+") as file:
        del file["TransformGroup/1/TransformParameters"]
        change(file, other)
    os.mkfifo(other) if pipe else other.write_bytes(bytes(96))
    ended = server.run(["info", path], inputs)
    refused(ended, 3, "t.h5")
    assert ended.grown_bytes < 2**30


# DICOM


def test_files_of_macos_are_passed_over(server: Server, tmp_path: Path) -> None:
    folder = dicom_folder(tmp_path / "series")
    sound = server.run(["info", folder], tmp_path)
    assert sound.code == 0, sound.err
    for path in list(folder.iterdir()):
        (folder / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02" + bytes(4000))
    again = server.run(["info", folder], tmp_path)
    assert (again.code, again.out) == (0, sound.out), again.err


@pytest.mark.parametrize("frames", ["999999999", "0", "-1", "1e9", "nan"])
def test_numbers_of_frames(server: Server, tmp_path: Path, frames: str) -> None:
    made = dicom_slice(0)
    made.add_new(0x00280008, "LO", frames)  # IS would not take them
    path = tmp_path / "a.dcm"
    made.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x28\x00\x08\x00LO", b"\x28\x00\x08\x00IS"))
    refused(server.run(["info", path], tmp_path), 3, "a.dcm")


def test_deflated_elements_are_bounded(server: Server, tmp_path: Path) -> None:
    made = dicom_slice(0)
    made.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    made.Rows = made.Columns = 16_000
    made.PixelData = bytes(2 * 16_000**2)
    path = tmp_path / "a.dcm"
    made.save_as(path, enforce_file_format=True)
    ended = server.run(["info", path], tmp_path)
    refused(ended, 3, "a.dcm")
    assert ended.grown_bytes < 2**28


def test_a_locked_zip_names_no_patient(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("DOE^JOHN.dcm", b"x" * 100)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # in the member's own header
    content[content.index(b"PK\1\2") + 8] |= 1  # and in the directory
    locked = bytes(content)
    broken = path.read_bytes().replace(b"x" * 100, b"y" * 100)
    for content in (locked, broken):
        path.write_bytes(content)
        ended = server.run(["info", path], tmp_path)
        refused(ended, 3, "can't be unpacked")
        assert "DOE" not in ended.err


SECRET = "DOE^JOHN"
TOLD = {
    "field.mhd": MHD.format("x").replace("NDims", f"{SECRET}\nNDims"),
    "value.mhd": MHD.format("x").replace("4 4 4", SECRET),
    "name.mhd": MHD.format(SECRET),
    "sizes.nhdr": NRRD.format("x").replace("4 4 4", SECRET),
    "cell.csv": f"x,y,z\n{SECRET},2,3\n",
    "line.txt": f"1 2 3\n{SECRET}\n",
    "frame.fcsv": f"# CoordinateSystem = {SECRET}\n1,1,2,3\n",
    "cell.fcsv": f"# CoordinateSystem = LPS\n1,{SECRET},2,3\n",
}


@pytest.mark.parametrize("name", TOLD)
def test_damaged_files_do_not_tell_what_they_hold(server: Server, inputs: Path, name: str) -> None:
    (inputs / name).write_text(TOLD[name])
    call = ["info", inputs / name, "--log-file", inputs / "log.txt"]
    ended = server.run(call, inputs)
    refused(ended, 3, name)
    assert SECRET not in ended.err + ended.out + (inputs / "log.txt").read_text()


# Numbers on the command line

NUMBERS = {
    **{f"size {n}": ("warp", "image.nii.gz", "--size", n) for n in ("nan", "inf", "1e400", "1e18")},
    **{f"size {n}": ("warp", "image.nii.gz", "--size", n) for n in ("0", "-3", "2.5", "1,nan,3")},
    **{
        f"spacing {n}": ("warp", "image.nii.gz", "--spacing", n)
        for n in ("nan", "inf", "1e-9", "1e-320", "0", "-1", "1e300")
    },
    **{
        f"field spacing {n}": ("convert", "affine.tfm", "-r", "image.nii.gz", "--field-spacing", n)
        for n in ("nan", "1e-6", "1e-300", "1e300", "0", "-1")
    },
    **{
        f"threads {n}": ("warp", "image.nii.gz", "--threads", n)
        for n in ("0", "-1", "1" + "0" * 30)
    },
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_nobody_means(server: Server, inputs: Path, name: str) -> None:
    words = [inputs / w if (inputs / w).exists() else w for w in NUMBERS[name]]
    out = inputs / ("t.nii.gz" if words[0] == "convert" else "w.nii.gz")
    refused(server.run([*words, "-o", out], inputs), 2)
    assert not out.exists()


@pytest.mark.parametrize(
    "words", [("warp", "--size", "999999"), ("convert", "--field-spacing", "0.002")]
)
def test_what_can_not_fit_is_refused_before_any_work(
    server: Server, inputs: Path, words: tuple[str, ...]
) -> None:
    command, *options = words
    files = ["image.nii.gz"] if command == "warp" else ["affine.tfm", "-r", "image.nii.gz"]
    out = inputs / "o.nii.gz"
    ended = server.run([command, *files, *options, "-o", out], inputs)
    refused(ended, 5, "takes at least", "GiB")


# Points


def mrk(label: str, position: str = "[1, 2, 3]") -> str:
    point = f'{{"label": {json.dumps(label)}, "position": {position}}}'
    return f'{{"markups": [{{"coordinateSystem": "LPS", "controlPoints": [{point}]}}]}}'


BAD_POINTS = {
    "long cell.csv": f"x,y,z,label\n1,2,3,{'a' * 140_000}\n",
    "long cell.fcsv": f"# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,{'a' * 140_000},,\n",
    "400 digits.mrk.json": mrk("a", f"[{'9' * 400}, 2, 3]"),
    "5000 digits.mrk.json": mrk("a", f"[{'9' * 5000}, 2, 3]"),
    "400 digits.csv": f"x,y,z\n{'9' * 400},2,3\n",
    "count.txt": f"point\n{'9' * 5000}\n1 2 3\n",
    "square.txt": "point\n\u00b2\n1 2 3\n",
    "deep.mrk.json": "[" * 100_000,
}


@pytest.mark.parametrize("name", BAD_POINTS)
def test_points_in_numbers_and_cells_without_end(server: Server, inputs: Path, name: str) -> None:
    (inputs / name).write_text(BAD_POINTS[name], encoding="utf-8")
    call = ["points", inputs / name, "-t", inputs / "affine.tfm", "--from", "fixed"]
    refused(server.run([*call, "-o", inputs / f"out{Path(name).suffix}"], inputs), 3, name)


LABELS = ("a\nb", "a\r\nb", "\ud800", "=cmd|' /C calc'!A0", "@x", "-1+1", "a,b", 'a"b', " ", "")


@pytest.mark.parametrize("label", LABELS, ids=ascii)
@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_labels_are_written_so_that_they_can_be_read_back(
    server: Server, inputs: Path, label: str, suffix: str
) -> None:
    source, out = inputs / "l.mrk.json", inputs / f"out{suffix}"
    source.write_text(mrk(label))
    call = ["points", "-t", inputs / "affine.tfm", "--from", "fixed"]
    ended = server.run([*call, source, "-o", out], inputs)
    assert ended.code == 0, ended.err
    again = server.run([*call, out, "-o", inputs / f"again{suffix}"], inputs)
    assert again.code == 0, again.err
    if suffix == ".csv":
        cells = list(csv.DictReader(out.read_text().splitlines()))
        assert len(cells) == 1
        assert not cells[0]["label"].startswith(("=", "+", "-", "@"))


# Outputs that appear while a command works

COMMANDS = {
    "warp": (["warp", "image.nii.gz"], "w.nii.gz"),
    "convert": (["convert", "affine.tfm"], "t.h5"),
    "convert to field": (["convert", "affine.tfm", "-r", "image.nii.gz"], "t.nii.gz"),
    "convert to text": (["convert", "affine.tfm"], "t.txt"),
    "compose": (["compose", "-t", "affine.tfm", "-t", "affine.tfm"], "t.h5"),
    "average": (["average", "affine.tfm", "affine.tfm"], "t.tfm"),
    "invert": (["invert", "affine.tfm"], "t.tfm"),
    "jacobian": (["jacobian", "affine.tfm", "-r", "image.nii.gz"], "j.nii.gz"),
    "points": (["points", "points.csv", "-t", "affine.tfm", "--from", "fixed"], "p.csv"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    carl: Carl,  # noqa: F811
    inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    links: bool,
) -> None:
    """Both that another process made it, and on file systems without hard links."""
    words, target = COMMANDS[name]
    monkeypatch.chdir(inputs)

    def appear(paths: list[Path], overwrite: bool) -> None:
        for path in paths:
            path.write_text("x")

    # This one first: imported later, the module would keep what stands in for the function.
    monkeypatch.setattr("carl_cli.cli.transforms.check_outputs", appear)
    monkeypatch.setattr(outputs, "check_outputs", appear)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    before = set(inputs.iterdir())
    told = carl(*words, "-o", target)
    assert (told.code, f"{target} exists already" in told.err) == (7, True), told.err
    assert (inputs / target).read_text() == "x"
    assert set(inputs.iterdir()) - before == {inputs / target}
    assert carl(*words, "-o", target, "--overwrite").code == 0
    assert (inputs / target).read_bytes() != b"x"


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.slow
def test_of_two_registrations_with_one_output_one_is_refused(
    weights: Path, sound_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    call = ["register", *sound_pair, "--weights", weights, "--threads", 1, "-o", tmp_path / "t.h5"]
    both = [
        subprocess.Popen([*ENTRY, *map(str, call)], env=environment(), stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [child.communicate()[1].decode() for child in both]
    assert sorted(child.returncode for child in both) == [0, 7], errors
    assert [path.name for path in tmp_path.iterdir()] == ["t.h5"]


# Logs


def test_a_log_is_added_to_logs_only(server: Server, inputs: Path) -> None:
    call = ["warp", inputs / "image.nii.gz", "--overwrite", "-o", inputs / "w.nii.gz", "--log-file"]
    before = (inputs / "image.nii.gz").read_bytes()
    refused(server.run([*call, inputs / "image.nii.gz"], inputs), 7, "is not a log of carl")
    assert (inputs / "image.nii.gz").read_bytes() == before
    os.mkfifo(inputs / "pipe")
    refused(server.run([*call, inputs / "pipe"], inputs), 7, "is no file")
    refused(server.run([*call, inputs], inputs), 7, "is no file")
    log = inputs / "log.txt"
    log.write_bytes(b"")
    assert server.run([*call, "/dev/null"], inputs).code == 0
    verbose = [*call, log, "-t", inputs / "affine.tfm", "-v"]
    sizes = []
    for _ in range(2):
        assert server.run(verbose, inputs).code == 0
        sizes.append(log.stat().st_size)
    assert sizes[0] <= sizes[1]


# The process around it


def test_closed_streams_take_no_file_in_their_place(inputs: Path) -> None:
    """A file that got number 2 was given the warnings of libraries."""
    for closed in ("2>&-", ">&-", "<&-", "<&- >&- 2>&-"):
        out = inputs / "w.nii.gz"
        words = f"warp image.nii.gz --overwrite -o {out} {closed}"
        done = subprocess.run(
            f'exec "{ENTRY[0]}" -m carl_cli.cli.entry {words}',
            shell=True, cwd=inputs, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert process(["info", out], inputs).code == 0
        absent = f'exec "{ENTRY[0]}" -m carl_cli.cli.entry info absent.nii {closed}'
        done = subprocess.run(
            absent, shell=True, cwd=inputs, env=environment(), capture_output=True
        )
        assert done.returncode == 3
        assert done.stdout == b""


def test_names_that_are_no_text(inputs: Path) -> None:
    name = os.fsencode(inputs) + b"/\xff\xe9.nii.gz"
    os.rename(inputs / "image.nii.gz", name)
    log = inputs / "log.txt"
    for words in ([b"info", name], [b"warp", name, b"-o", os.fsencode(inputs) + b"/\xfe.nii.gz"]):
        done = subprocess.run(
            [*ENTRY, *words, *([b"--log-file", os.fsencode(log)] if words[0] == b"warp" else [])],
            env=environment(), capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = subprocess.run([*ENTRY, b"info", name + b"x"], env=environment(), capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (3, False)


@pytest.mark.parametrize("value", ["\u00b2", "\u0664", "9" * 5000, "1e3", "-4", ""])
def test_numbers_of_schedulers(inputs: Path, value: str) -> None:
    names = ("SLURM_CPUS_PER_TASK", "NSLOTS", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU")
    done = process(["info", "image.nii.gz"], inputs, **dict.fromkeys(names, value))
    assert done.code == 0, done.err


@pytest.mark.slow
def test_an_early_interruption_is_told_in_words(inputs: Path) -> None:
    """At moments from the very start; before Python has begun it ends without a word."""
    for tenth in range(1, 8):
        child = subprocess.Popen(
            [*ENTRY, "info", "image.nii.gz"], cwd=inputs, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(0.15 * tenth)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()
        if "carl_cli" in err or "error" in err:
            assert "Traceback" not in err
            assert child.returncode == 130


# Tables and patterns


@pytest.mark.parametrize("pattern", ["/abs/*", "", "a**b", "**", "[", "{id}", "{id}{id}"])
def test_patterns_of_a_batch(heavy: Server, inputs: Path, weights: Path, pattern: str) -> None:
    folder = inputs / "images"
    folder.mkdir()
    call = ["batch", "--fixed-dir", folder, "--moving-dir", folder, "--pattern", pattern]
    ended = heavy.run([*call, "-o", inputs / "out", "--weights", weights], inputs, 60)
    assert ended.code in (2, 3), ended
    refused(ended, ended.code)


CELLS = (
    "~nosuchuser/x",
    "~/no/such",
    "\0",
    "a" * 5000,
    "/dev/zero",
    "pipe",
    "",
    "." * 300,
    "\ud7ff",
)


@pytest.mark.parametrize("cell", CELLS, ids=ascii)
def test_cells_of_a_table_of_pairs(heavy: Server, inputs: Path, weights: Path, cell: str) -> None:
    os.mkfifo(inputs / "pipe")
    table = inputs / "pairs.csv"
    table.write_text(f"fixed,moving\nimage.nii.gz,{cell}\n", encoding="utf-8")
    call = ["batch", table, "-o", inputs / "out", "--weights", weights, "--dry-run"]
    ended = heavy.run(call, inputs, 60)
    assert ended.code in (3, 6), ended
    refused(ended, ended.code)
    refused(heavy.run(["batch", inputs / "pipe", *call[2:]], inputs, 60), 3, "is not a file")


# Weights

WEIGHTS = {
    "deep": lambda folder: (folder / "config.json").write_text("[" * 200_000),
    "nul": lambda folder: changed(folder, files={"a\0b": "0" * 64}),
    "outside": lambda folder: changed(folder, files={"../x": "0" * 64}),
    "not finite": lambda folder: undefined(folder),
    "spacing": lambda folder: changed(folder, preprocess={"min_spacing_mm": 1e300}),
    "pipe": lambda folder: piped(folder / "model.safetensors"),
    "config pipe": lambda folder: piped(folder / "config.json"),
}


def changed(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def undefined(folder: Path) -> None:
    """A number that is none, its hash in order."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(key for key, value in tensors.items() if value.dtype.kind == "f" and value.size)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path)
    changed(folder, files={path.name: hashlib.sha256(path.read_bytes()).hexdigest()})


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_none(heavy: Server, inputs: Path, tmp_path: Path, name: str) -> None:
    folder = untrained_weights(tmp_path / "weights")
    WEIGHTS[name](folder)
    call = ["register", inputs / "image.nii.gz", inputs / "image.nii.gz", "-o", inputs / "t.h5"]
    refused(heavy.run([*call, "--weights", folder], inputs, 60), 4)
