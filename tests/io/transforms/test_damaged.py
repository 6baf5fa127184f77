"""Files that break the library that reads them end in one error, not in a dead process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.sitk_bridge import try_out
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.transforms import DisplacementField

REGRESSIONS = Path(__file__).parents[2] / "faults" / "regressions"


def test_a_file_that_crashes_hdf5() -> None:
    path = REGRESSIONS / "crash_in_hdf5.h5"
    with pytest.raises(InputError, match=r"crash_in_hdf5.h5: .*breaks down"):
        try_out(path, lambda: sitk.ReadTransform(str(path)))
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


def test_a_crash_and_a_hunger_stay_in_the_child(tmp_path: Path) -> None:
    path = tmp_path / "small.h5"
    path.write_bytes(b"0" * 100)
    here = os.getpid()

    def crash() -> None:
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(InputError, match="breaks down"):
        try_out(path, crash)
    with pytest.raises(InputError, match="claims more"):
        try_out(path, lambda: bytearray(3 * 2**30))


def test_work_without_end_stays_in_the_child(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("carl_cli.io.sitk_bridge.SECONDS", 1)
    path = tmp_path / "small.h5"
    path.write_bytes(b"0" * 100)

    def run() -> None:
        while True:
            pass

    with pytest.raises(InputError, match="breaks down"):
        try_out(path, run)


def test_other_failures_are_left_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "small.h5"
    path.write_bytes(b"0" * 100)

    def refuse() -> None:
        raise ValueError("not this one")

    try_out(path, refuse)
    try_out(path, lambda: None)
