"""The images of a template, read from a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from carl_cli.batch.rounds import begin_round, members_of_table
from carl_cli.batch.table import read_table
from carl_cli.errors import InputError
from carl_cli.io.images.files import Image, read_image
from tests.conftest import make_grid


def test_images_are_named_by_their_id_or_else_by_their_file(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz", "labels.nii.gz"):
        (tmp_path / name).touch()
    table = tmp_path / "study.csv"
    table.write_text("image,id,labels\na.nii.gz,anna,labels.nii.gz\nb.nii.gz,,labels.nii.gz\n")
    members = members_of_table(table)
    assert [member.name for member in members] == ["anna", "b"]
    assert [member.image.name for member in members] == ["a.nii.gz", "b.nii.gz"]
    assert [member.labels for member in members] == [tmp_path / "labels.nii.gz"] * 2


def test_each_image_meets_the_template_of_its_contrast(tmp_path: Path) -> None:
    """The table of a round, from that of the study: columns count, whatever their order."""
    for name in "abcdef":
        (tmp_path / f"{name}.nii.gz").touch()
    study = tmp_path / "study.csv"
    study.write_text(
        "channel2,image,channel1\nc.nii.gz,a.nii.gz,b.nii.gz\nf.nii.gz,d.nii.gz,e.nii.gz\n"
    )
    members = members_of_table(study)
    templates = [
        Image(np.full((3, 3, 3), k, np.float32), make_grid((3,) * 3, (1.0,) * 3)) for k in range(3)
    ]
    round_ = tmp_path / "round-01"
    rows = [entry.row for entry in read_table(begin_round(round_, templates, members))]
    assert [row and row.moving.name for row in rows] == ["a.nii.gz", "d.nii.gz"]
    for row, expected in zip(rows, ("bc", "ef"), strict=True):
        assert row is not None
        moving = [Path(name).name for name in row.options["moving_channel"]]
        assert moving == [f"{name}.nii.gz" for name in expected]
        fixed = [row.fixed, *map(Path, row.options["fixed_channel"])]
        assert [float(read_image(path).array.mean()) for path in fixed] == [0, 1, 2]


def test_no_person_may_be_called_like_a_round_s_own_file(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).touch()
    study = tmp_path / "study.csv"
    rows = "template_channel1.nii.gz,a.nii.gz,a.nii.gz\nb,b.nii.gz,b.nii.gz\n"
    study.write_text(f"id,image,channel1\n{rows}")
    with pytest.raises(InputError, match="image 1: template_channel1"):
        members_of_table(study)
    study.write_text("id,image\ntemplate_channel1.nii.gz,a.nii.gz\nb,b.nii.gz\n")
    assert members_of_table(study)[0].name == "template_channel1.nii.gz"


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").touch()
    table = tmp_path / "study.csv"
    table.write_text("image\none/a.nii.gz\ntwo/a.nii.gz\n")
    with pytest.raises(InputError, match="image 2"):
        members_of_table(table)
