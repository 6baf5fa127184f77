"""Tables of pairs: what is read, and what each kind of bad line is told."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import get_args

import pytest

from carl_cli.batch.folders import pair_atlas, pair_folders
from carl_cli.batch.naming import case_outputs, labels
from carl_cli.batch.table import read_table
from carl_cli.cli.options.method import MethodArguments
from carl_cli.errors import InputError, UsageError
from carl_cli.weights.options import Scope


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
        "x7,a.nii.gz,b.nii.gz,,,pet,": "fixed_modality 'pet': choose auto, ct or mr",
        "x8,a.nii.gz,b.nii.gz,,,,-1": "time_index '-1': expected at least 0",
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


def test_numbered_columns_are_one_list_by_their_numbers(folder: Path) -> None:
    """Whatever their order in the table; relative paths start at its folder."""
    columns = [f"{side}_channel{k}" for k in (10, *range(1, 10)) for side in ("fixed", "moving")]
    names = [column.replace("channel", "") + ".nii" for column in columns]
    for name in names:
        (folder / name).touch()
    text = f"fixed,moving,{','.join(columns)}\na.nii.gz,b.nii.gz,{','.join(names)}\n"
    row = read_table(write(folder, text))[0].row
    assert row is not None
    found = MethodArguments().but(row.options).inputs(row.fixed, row.moving).channels
    for side, paths in zip(("fixed", "moving"), found, strict=True):
        assert paths == [folder / f"{side}_{k}.nii" for k in range(1, 11)]


@pytest.mark.parametrize(
    ("columns", "cells", "told"),
    [
        ("fixed_channel,moving_channel", "no.nii,mask.nii", "fixed_channel1: no such file"),
        ("fixed_channel1,moving_channel1", "mask.nii,", "1 further contrasts of the fixed image"),
        ("fixed_channel2,moving_channel2", "mask.nii,mask.nii", "fixed_channel1 is missing"),
        ("fixed_channel,fixed_channel1", "mask.nii,mask.nii", "keep one of them"),
    ],
)
def test_contrasts_without_their_counterpart_are_refused(
    folder: Path, columns: str, cells: str, told: str
) -> None:
    text = f"fixed,moving,{columns}\na.nii.gz,b.nii.gz,{cells}\n"
    (entry,) = read_table(write(folder, text))
    assert entry.row is None
    assert told in entry.error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("fixed,moving,fixed_channel0\na,b,c\n", "unknown column 'fixed_channel0'"),
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
    masks = [e.row.options["fixed_mask"] for e in entries if e.row]
    assert masks == [folder / "mask.nii", folder / "b.nii.gz"]


def test_scopes_of_a_row_are_those_of_the_command_line(folder: Path) -> None:
    offered = get_args(Scope)
    lines = [f"{scope},a.nii.gz,b.nii.gz,{scope},1.5" for scope in offered]
    text = "\n".join(["id,fixed,moving,io_scope,io_smoothing", *lines]) + "\n"
    entries = read_table(write(folder, text))
    assert [e.row.options for e in entries if e.row] == [
        {"io_scope": scope, "io_smoothing": 1.5} for scope in ("all", "refine", "field")
    ]


def test_options_of_a_row(folder: Path) -> None:
    """Numbers, choices and yes or no, by the names that they have on the command line."""
    header = "id,fixed,moving,window,percentiles,init,affine_only,io,io_steps,io_lr,io_metric"
    text = "\n".join(
        [
            header,
            "p,a.nii.gz,b.nii.gz,-160 240,,moments,no,yes,12,0.001,mind",
            "q,a.nii.gz,b.nii.gz,,0.5 99.5,,yes,,,,",
            "r,a.nii.gz,b.nii.gz,-160,,,,,,,",
            "s,a.nii.gz,b.nii.gz,,,centre,,,,,",
            "t,a.nii.gz,b.nii.gz,,,,maybe,,,,",
            "u,a.nii.gz,b.nii.gz,,,,,yes,many,,",
            "v,a.nii.gz,b.nii.gz,low high,,,,,,,",
        ]
    )
    entries = read_table(write(folder, text + "\n"))
    assert [e.row.options for e in entries if e.row] == [
        {
            "window": (-160.0, 240.0),
            "init": "moments",
            "affine_only": False,
            "io": True,
            "io_steps": 12,
            "io_lr": 0.001,
            "io_metric": "mind",
        },
        {"percentiles": (0.5, 99.5), "affine_only": True},
    ]
    assert [re.split(r"\W", e.error)[0] for e in entries[2:]] == [
        "window",
        "init",
        "affine_only",
        "io_steps",
        "window",
    ]


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
    for linear, count in ((False, 3), (True, 1)):
        parts = case_outputs(tmp_path, fixed, moving, ("split",), linear).paths()
        assert len(parts) == 2 + count
        name = "from-sub01T1w_to-sub02T1w_mode-image_xfm_0GenericAffine.mat"
        assert parts["split_affine"].name == name
    assert labels(Path("s1/T1.nii"), Path("s2/t1.nrrd")) == ("fixed", "moving")
    assert labels(Path("s1/é.nii"), Path("s2/t1.nrrd")) == ("fixed", "moving")


def test_folders_pair_files_of_one_name(tmp_path: Path) -> None:
    sides = tmp_path / "fixed", tmp_path / "moving"
    for side in sides:
        side.mkdir()
        for name in ("two.nii.gz", "one.nii.gz", "note.txt"):
            (side / name).touch()
    entries = pair_folders(*sides, ("*.nii.gz", "*.nii.gz"))
    assert [e.name for e in entries] == ["one", "two"]
    rows = [e.row for e in entries if e.row]
    assert [(r.fixed, r.moving) for r in rows] == [
        (sides[0] / n, sides[1] / n) for n in ("one.nii.gz", "two.nii.gz")
    ]
    (sides[1] / "three.nii.gz").touch()
    with pytest.raises(InputError, match=r"1 files .*moving/three\.nii\.gz"):
        pair_folders(*sides, ("*.nii.gz", "*.nii.gz"))


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_pair_files_by_what_stands_at_the_mark(tmp_path: Path) -> None:
    """Also in subfolders; the mark must stand for the same wherever it occurs."""
    ct = touched(tmp_path / "ct", "s1/s1_ct.nii.gz", "s2/s2_ct.nii.gz", "s3/s4_ct.nii.gz", "x.txt")
    mr = touched(tmp_path / "mr", "s1.mr.nrrd", "s2.mr.nrrd")
    entries = pair_folders(ct, mr, ("{id}/{id}_ct.nii.gz", "{id}.mr.nrrd"))
    assert [e.name for e in entries] == ["s1", "s2"]
    rows = [e.row for e in entries if e.row]
    assert [(r.fixed, r.moving) for r in rows] == [
        (ct / f"{n}/{n}_ct.nii.gz", mr / f"{n}.mr.nrrd") for n in ("s1", "s2")
    ]
    (mr / "s2.mr.nrrd").unlink()
    with pytest.raises(InputError, match=r"s2_ct\.nii\.gz") as refusal:
        pair_folders(ct, mr, ("{id}/{id}_ct.nii.gz", "{id}.mr.nrrd"))
    assert str(mr / "s2.mr.nrrd") in refusal.value.hint


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("{id}.nii", "*.nii"), "one pattern only"),
        (("*.nii", "*.nrrd"), "different patterns"),
    ],
)
def test_patterns_that_pair_nothing(tmp_path: Path, patterns: tuple[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pair_folders(tmp_path, tmp_path, patterns)


def test_two_files_of_one_name_are_no_pair(tmp_path: Path) -> None:
    folder = touched(tmp_path, "p_1.nii", "p_2.nii")
    with pytest.raises(InputError, match=r"p_1\.nii and .*p_2\.nii are both called p"):
        pair_folders(folder, folder, ("{id}_*.nii", "{id}_*.nii"))


def test_an_atlas_is_the_fixed_image_of_all(tmp_path: Path) -> None:
    folder = touched(tmp_path / "heads", "b.nii.gz", "a.nii.gz", "c.mha")
    atlas = touched(tmp_path, "atlas.nii.gz") / "atlas.nii.gz"
    entries = pair_atlas(atlas, folder, "*.nii.gz")
    assert [(e.name, e.row.fixed, e.row.moving) for e in entries if e.row] == [
        (name, atlas, folder / f"{name}.nii.gz") for name in "ab"
    ]


@pytest.mark.slow
def test_fifty_thousand_lines_are_checked_in_seconds(folder: Path) -> None:
    """Of the processor; each line has two files to look for and two cells to read."""
    body = "".join(
        f"c{k},a.nii.gz,b.nii.gz,0 100,{'no' if k else 'maybe'}\n" for k in range(50_000)
    )
    table = write(folder, "id,fixed,moving,window,io\n" + body)
    start = time.process_time()
    entries = read_table(table)
    assert time.process_time() - start < 10
    assert [(e.line, e.error) for e in entries if e.error] == [
        (2, "io 'maybe': expected a valid boolean")
    ]
    assert len(entries) == 50_000
