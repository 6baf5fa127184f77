"""The images of a template, read from a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from carl_cli.batch.rounds import members_of_table
from carl_cli.errors import InputError


def test_images_are_named_by_their_id_or_else_by_their_file(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz", "labels.nii.gz"):
        (tmp_path / name).touch()
    table = tmp_path / "study.csv"
    table.write_text("image,id,labels\na.nii.gz,anna,labels.nii.gz\nb.nii.gz,,labels.nii.gz\n")
    members = members_of_table(table)
    assert [member.name for member in members] == ["anna", "b"]
    assert [member.image.name for member in members] == ["a.nii.gz", "b.nii.gz"]
    assert [member.labels for member in members] == [tmp_path / "labels.nii.gz"] * 2


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").touch()
    table = tmp_path / "study.csv"
    table.write_text("image\none/a.nii.gz\ntwo/a.nii.gz\n")
    with pytest.raises(InputError, match="image 2"):
        members_of_table(table)
