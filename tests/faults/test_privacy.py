"""A marked name in every text element of a DICOM series is found in nothing that carl makes."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import DicomDictionary, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.faults.runner import Ended, Server, process
from tests.faults.samples import GRID, dicom_slice

MARK = "Zaphodius"
TEXT = {"PN": 60, "LO": 60, "SH": 16, "LT": 60, "ST": 60, "UT": 60, "UC": 60, "CS": 16, "AE": 16,
        "UR": 60}  # fmt: skip
"""Representations that hold free words, and how many letters go in."""
NEEDED = {
    "Modality", "PhotometricInterpretation", "SpecificCharacterSet", "ImageType", "SOPClassUID",
    "PatientOrientation", "Laterality", "PixelPresentation",
}  # fmt: skip
"""Without these as they are the file is no image."""
SECONDS = 300.0


def marked_series(folder: Path) -> Path:
    """Six slices whose every text element names the patient, nested and private ones too."""
    folder.mkdir()
    for number in range(GRID.size_xyz[2]):
        made = dicom_slice(number)
        fill(made)
        made.ReferencedPatientSequence = Sequence([filled_item()])
        block = made.private_block(0x0011, f"{MARK} MAKER", create=True)
        block.add_new(0x01, "LO", f"{MARK} private")
        made.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def fill(made: Dataset) -> None:
    for tag, entry in DicomDictionary.items():
        word, kind = entry[4], dictionary_VR(tag)
        group = tag >> 16
        if kind not in TEXT or word in NEEDED or group < 8 or group & 1 or group == 0x7FE0:
            continue
        if word and word not in made:
            value = f"http://x/{MARK}" if kind == "UR" else MARK.upper() if kind == "CS" else MARK
            setattr(made, word, value[: TEXT[kind]])


def filled_item() -> Dataset:
    item = Dataset()
    item.PatientName, item.PatientID, item.PatientComments = MARK, MARK, f"{MARK} was here"
    return item


def told(content: bytes) -> Iterator[bytes]:
    """The bytes, and what is packed or encoded in them."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    for match in re.finditer(rb"base64,([A-Za-z0-9+/=]{40,})", content):
        yield from told(base64.b64decode(match[1] + b"=" * (-len(match[1]) % 4)))
    for match in re.finditer(rb"(?:tEXt|zTXt|iTXt|eXIf)(.{0,2000})", content, re.DOTALL):
        yield match[1]
    for match in re.finditer(rb"\x78[\x01\x9c\xda]", content):
        try:
            yield zlib.decompressobj().decompress(content[match.start() :], 2**22)
        except zlib.error:
            continue


def betrayals(folder: Path, ended: list[Ended]) -> list[str]:
    needles = [text.encode(form) for text in (MARK.lower(),) for form in ("utf-8", "utf-16-le")]
    found = [
        path.name
        for path in folder.rglob("*")
        if path.is_file()
        for part in told(path.read_bytes())
        if any(needle in part.lower() for needle in needles)
    ]
    said = [e.out + e.err for e in ended]
    return found + [text for text in said if MARK.lower() in text.lower()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("patients")
    return marked_series(folder / "fixed"), marked_series(folder / "moving")


def test_the_series_is_marked_all_over(pair: tuple[Path, Path]) -> None:
    made = pydicom.dcmread(sorted(pair[0].iterdir())[0])
    marked = [e for e in made if MARK.lower() in str(e.value).lower()]
    assert len(marked) > 1000
    assert betrayals(pair[0], [])


def test_light_commands(heavy: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    fixed, moving = pair
    log = ("-v", "--log-file", tmp_path / "log.txt")
    commands: list[list[object]] = [
        ["warp", moving, "-r", fixed, "-o", tmp_path / f"w{suffix}", *log]
        for suffix in (".nii", ".nii.gz", ".nrrd", ".mha")
    ]
    commands += [
        ["warp", moving, "-r", fixed, "-o", tmp_path / "x.mha", "--dicom-out", tmp_path / "d"],
        ["info", fixed],
        ["info", fixed / "0.dcm", "--json"],
        ["warp", moving, "-o", tmp_path / "y.mha", "--series-uid", "1.2.3"],
    ]
    ended = [heavy.run(args, tmp_path, SECONDS) for args in commands]
    assert [e.code for e in ended] == [0, 0, 0, 0, 0, 0, 0, 3], [e.err for e in ended]
    assert betrayals(tmp_path, ended) == []


def test_register_convert_and_report(
    heavy: Server, weights: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = {name: tmp_path / name for name in ("t.h5", "i.nii.gz", "w.nii.gz", "v.nrrd", "j.mha",
           "f.png", "f.svg", "p.html", "r.json", "log.txt")}  # fmt: skip
    base = ["--weights", weights, "--threads", 1]
    commands: list[list[object]] = [
        ["register", *pair, *base, "-o", out["t.h5"], "-O", out["i.nii.gz"], "-w", out["w.nii.gz"],
         "-W", out["v.nrrd"], "--jacobian", out["j.mha"], "--figure", out["f.png"], "--report",
         out["p.html"], "--json", out["r.json"], "-v", "--log-file", out["log.txt"]],
        ["convert", out["t.h5"], "-r", pair[0], "-o", tmp_path / "t.nii.gz"],
        ["info", out["t.h5"]],
        ["report", out["r.json"], "-o", tmp_path / "again.html"],
    ]  # fmt: skip
    ended = [heavy.run(args, tmp_path, SECONDS) for args in commands]
    assert [e.code for e in ended] == [0] * len(commands), [e.err for e in ended]
    assert betrayals(tmp_path, ended) == []


@pytest.mark.slow
def test_batch(weights: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A process of its own that makes all it can: of one case that works, one whose series is
    damaged and one whose columns are wrong, so that errors go into tables, logs and pages."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in sorted(pair[0].iterdir()):
        content = path.read_bytes()
        (broken / path.name).write_bytes(content[: len(content) // 2])
    lines = (f"good,{pair[0]},{pair[1]},", f"bad,{broken},{pair[1]},",
             f"odd,{pair[0]},{pair[1]},{broken / '0.dcm'}")  # fmt: skip
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(("id,fixed,moving,fixed_mask", *lines)) + "\n")
    results = tmp_path / "results"
    call = ["batch", table, "--out-dir", results, "--weights", weights, "--report", "--thumbnails",
            "--inverse", "--inverse-warped", "--jacobian", "--match-spread", "--figure",
            "--threads", 1, "-v", "--log-file", results / "log.txt"]  # fmt: skip
    results.mkdir()
    ended = [process(call, tmp_path, SECONDS, CARL_DEBUG="1")]
    assert ended[0].code == 6, ended[0].err
    for command in (["batch", "status", results], ["report", *results.glob("*/*.json")]):
        more = ["-o", results / "again.html"] * (command[0] == "report")
        ended.append(process([*command, *more], tmp_path))
    assert [e.code for e in ended] == [6, 0, 0], [e.err for e in ended]
    made = {"".join(path.suffixes) for path in results.rglob("*.*")}
    assert made >= {".html", ".csv", ".json", ".h5", ".nii.gz", ".png", ".txt"}, made
    assert betrayals(results, ended) == []


@pytest.mark.slow
def test_a_process_of_its_own(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """With the traceback of a failure that was not foreseen, too."""
    ended = process(["info", pair[0]], tmp_path, CARL_DEBUG="1")
    assert ended.code == 0
    assert betrayals(tmp_path, [ended]) == []
