"""Outputs appear whole or not at all."""

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
    target = tmp_path / "out.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]
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
