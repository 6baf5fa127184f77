"""Displacement fields as the Learn2Reg challenge of 2020 wants them (task 3, AbdomenCTCT).

Its evaluation warps moving labels with scipy's map_coordinates at identity + displacement, after
it has enlarged the field by zoom(2, order=2): values are voxels of the full image, along the
NIfTI file's axes; zoom keeps the first and the last sample in place.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.evaluation.cases import CaseFiles
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import read_grid
from carl_cli.io.transforms.chain import parse_chain
from carl_cli.transforms import Transform

_NUMBER = re.compile(r"\d{4}")


def half_resolution(transform: Transform, fixed: Grid, moving: Grid) -> NDArray[np.float16]:
    """(3, X/2, Y/2, Z/2) displacement, moving voxel minus fixed voxel, components i, j, k."""
    axes = [np.linspace(0, n - 1, n // 2) for n in fixed.size_xyz]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mapped = transform(apply_affine(fixed.index_to_lps, index))
    displacement = apply_affine(moving.lps_to_index, mapped) - index
    return np.moveaxis(displacement, -1, 0).astype(np.float16)


def submission_name(fixed: str, moving: str) -> str:
    """disp_FFFF_MMMM.npz from the first four digits in a row of each file name."""
    numbers = [_NUMBER.search(Path(name).name) for name in (fixed, moving)]
    if numbers[0] is None or numbers[1] is None:
        raise InputError(f"{fixed}, {moving}: no case number of four digits", "keep the names")
    return f"disp_{numbers[0][0]}_{numbers[1][0]}.npz"


def submit_case(case: CaseFiles, folder: Path) -> Path:
    """The file of one registered case; its path. Raises InputError, OutputError."""
    assert case.fixed is not None
    assert case.moving is not None
    path = folder / submission_name(case.fixed.name, case.moving.name)
    grids = (read_grid(case.fixed), read_grid(case.moving))
    write_submission(path, half_resolution(parse_chain(case.transform), *grids))
    return path


def write_submission(path: Path, displacement: NDArray[np.float16]) -> None:
    """Raises OutputError."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, displacement)
