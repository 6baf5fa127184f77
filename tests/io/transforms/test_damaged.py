"""Files that break the library that reads them end in one error, not in a dead process."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io import trial
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.transforms import DisplacementField

REGRESSIONS = Path(__file__).parents[2] / "faults" / "regressions"


def test_a_file_that_crashes_hdf5() -> None:
    path = REGRESSIONS / "crash_in_hdf5.h5"
    with pytest.raises(InputError, match=r"crash_in_hdf5.h5: .*breaks down"):
        trial.try_out(path, trying("__import__('SimpleITK').ReadTransform(str(path))"))
    with pytest.raises(InputError, match=r"crash_in_hdf5.h5: damaged"):
        read_transform(path)


@pytest.mark.parametrize("place", [2**56 + 1, 9 * 8 * 7 * 3])
def test_a_lost_piece_of_a_field_is_no_zero_displacement(tmp_path: Path, place: int) -> None:
    """ITK reads zeros there, and says nothing."""
    grid = Grid((9, 8, 7), (1.5, 2.0, 2.5), (1.0, 2.0, 3.0), tuple(np.eye(3).ravel()))
    path = tmp_path / "field.h5"
    write_transform(path, DisplacementField(grid, np.full((7, 8, 9, 3), 2.0)))
    moved = read_transform(path)(grid.centre_mm[None])
    np.testing.assert_allclose(moved, grid.centre_mm[None] + 2)
    with h5py.File(path) as file:
        numbers = file["TransformGroup/1/TransformParameters"]
        start = numbers.id.get_chunk_info(0).byte_offset
        assert numbers.id.get_num_chunks() == 1
    whole = path.read_bytes()
    at = whole.index(start.to_bytes(8, "little")) - 16  # where the piece belongs
    path.write_bytes(whole[:at] + place.to_bytes(8, "little") + whole[at + 8 :])
    assert not np.any(sitk.ReadTransform(str(path)).GetParameters())
    with pytest.raises(InputError, match=r"field.h5: damaged"):
        read_transform(path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.h5"
    path.write_bytes(b"0" * 100)
    return path


def trying(program: str) -> str:
    """A reader for the child that forgets the file and does this."""
    return f"from carl_cli.io.trial import limited; limited(lambda path: {program})"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("__import__('os').kill(__import__('os').getpid(), 11)", "breaks down"),
        ("bytearray(3 * 2**30)", "claims more"),
    ],
)
def test_a_crash_and_a_hunger_stay_in_the_child(small: Path, program: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        trial.try_out(small, trying(program))


@pytest.mark.parametrize("program", ["sum(iter(int, 1))", "__import__('time').sleep(100)"])
def test_work_and_waiting_without_end(
    small: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 1)
    monkeypatch.setattr(trial, "PATIENCE", 3)
    with pytest.raises(InputError, match="breaks down"):
        trial.try_out(small, trying(program))


@pytest.mark.parametrize("program", ["int('not this one')", "None"])
def test_other_failures_are_left_to_the_caller(small: Path, program: str) -> None:
    trial.try_out(small, trying(program))
