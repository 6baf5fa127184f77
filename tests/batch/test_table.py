"""Tables of pairs: what is read, and what each kind of bad line is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from carl_cli.batching.folders import pair_folders
from carl_cli.batching.naming import case_outputs, labels
from carl_cli.batching.table import read_table
from carl_cli.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii.gz", "b.nii.gz", "points.csv", "mask.nii"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder: Path, text: str, name: str = "pairs.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(text, encoding=encoding, newline="")
    return path


@pytest.mark.parametrize(
    ("name", "mark", "end"), [("p.csv", ",", "\n"), ("p.tsv", "\t", "\r\n"), ("p.txt", ";", "\n")]
)
def test_separators_of_spreadsheets(folder: Path, name: str, mark: str, end: str) -> None:
    """With the mark that Excel puts before UTF-8 text, capitals and blank lines."""
    lines = [["ID", "Fixed", "Moving"], ["one", " a.nii.gz ", "b.nii.gz"]]
    text = end.join([*(mark.join(line) for line in lines), "", ""])
    entries = read_table(write(folder, text, name, "utf-8-sig"))
    assert [(e.name, e.line, e.error) for e in entries] == [("one", 2, "")]
    row = entries[0].row
    assert row is not None
    assert (row.fixed, row.moving) == (folder / "a.nii.gz", folder / "b.nii.gz")


def test_every_kind_of_bad_line_is_told_with_its_number(folder: Path) -> None:
    header = "id,fixed,moving,fixed_seg,moving_seg,fixed_modality,time_index"
    bad = {
        "x1,gone.nii.gz,b.nii.gz,,,,": f"fixed: no such file: {folder / 'gone.nii.gz'}",
        "x2,,b.nii.gz,,,,": "fixed: the cell is empty",
        "x3,a.nii.gz,,,,,": "moving: the cell is empty",
        "x4,a.nii.gz,b.nii.gz": "3 cells, the header has 7",
        "../x5,a.nii.gz,b.nii.gz,,,,": "id: '../x5' can't name a folder: use letters, digits "
        "and . _ -",
        "good,a.nii.gz,b.nii.gz,,,,": "line 2 is called 'good' too: give an id",
        "GOOD,a.nii.gz,b.nii.gz,,,,": "line 2 is called 'GOOD' too: give an id",
        "x6,a.nii.gz,b.nii.gz,mask.nii,,,": "fixed_seg is given but moving_seg is not",
        "x7,a.nii.gz,b.nii.gz,,,pet,": "fixed_modality: input should be 'auto', 'ct' or 'mr'",
        "x8,a.nii.gz,b.nii.gz,,,,-1": "time_index: input should be greater than or equal to 0",
        "shards,a.nii.gz,b.nii.gz,,,,": "id: 'shards' can't name a folder: use letters, digits "
        "and . _ -",
        "x9,no.nii,none.nii,,,,": f"fixed: no such file: {folder / 'no.nii'}; "
        f"moving: no such file: {folder / 'none.nii'}",
    }
    text = "\n".join([header, "good,a.nii.gz,b.nii.gz,,,,", *bad]) + "\n"
    entries = read_table(write(folder, text))
    assert entries[0].row is not None
    assert [e.line for e in entries] == list(range(2, 15))
    assert [e.error for e in entries[1:]] == list(bad.values())
    assert all(e.row is None and e.name == f"(line {e.line})" for e in entries[1:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("fixed,moving\n", "no pairs"),
        ("fixed,movign\na,b\n", "unknown column 'movign'"),
        ("fixed,id\na,b\n", "no column 'moving'"),
        ("fixed,moving,fixed\na,b,c\n", "'fixed' occurs twice"),
    ],
)
def test_what_is_no_table(folder: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_table(write(folder, text))


def test_a_table_in_another_encoding(folder: Path) -> None:
    with pytest.raises(InputError, match="not UTF-8"):
        read_table(write(folder, "fixed,moving\né.nii,b.nii\n", encoding="latin-1"))


def test_options_fill_empty_cells_only(folder: Path) -> None:
    text = "id,fixed,moving,fixed_mask\np,a.nii.gz,b.nii.gz,\nq,a.nii.gz,b.nii.gz,b.nii.gz\n"
    entries = read_table(write(folder, text), {"fixed_mask": folder / "mask.nii"})
    masks = [e.row.fixed_mask for e in entries if e.row]
    assert masks == [folder / "mask.nii", folder / "b.nii.gz"]


def test_names_follow_bids(tmp_path: Path) -> None:
    """from-…_to-… tells how images move: the moving one comes from its own space."""
    fixed, moving = Path("x/sub-02_T1w.nii.gz"), Path("y/sub-01_T1w.nii.gz")
    outputs = case_outputs(tmp_path, fixed, moving, ("inverse", "warped"))
    assert {role: path.name for role, path in outputs.paths().items()} == {
        "forward": "from-sub01T1w_to-sub02T1w_mode-image_xfm.h5",
        "inverse": "from-sub02T1w_to-sub01T1w_mode-image_xfm.h5",
        "warped": "sub01T1w_space-sub02T1w_warped.nii.gz",
        "json": "from-sub01T1w_to-sub02T1w_mode-image_xfm.json",
    }
    assert labels(Path("s1/T1.nii"), Path("s2/t1.nrrd")) == ("fixed", "moving")
    assert labels(Path("s1/é.nii"), Path("s2/t1.nrrd")) == ("fixed", "moving")


def test_folders_pair_files_of_one_name(tmp_path: Path) -> None:
    sides = tmp_path / "fixed", tmp_path / "moving"
    for side in sides:
        side.mkdir()
        for name in ("two.nii.gz", "one.nii.gz", "note.txt"):
            (side / name).touch()
    entries = pair_folders(*sides, "*.nii.gz")
    assert [e.name for e in entries] == ["one", "two"]
    rows = [e.row for e in entries if e.row]
    assert [(r.fixed, r.moving) for r in rows] == [
        (sides[0] / n, sides[1] / n) for n in ("one.nii.gz", "two.nii.gz")
    ]
    (sides[1] / "three.nii.gz").touch()
    with pytest.raises(InputError, match=r"1 files .*moving/three\.nii\.gz"):
        pair_folders(*sides, "*.nii.gz")
