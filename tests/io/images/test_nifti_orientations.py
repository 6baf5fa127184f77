"""All 48 orientations, pairs of form codes and sizes: where nibabel and ITK place the image."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from carl_cli.geometry import apply_affine
from carl_cli.io.images.nifti import read_nifti_grid
from carl_cli.io.ras import voxel_to_ras
from carl_cli.io.sitk_bridge import grid_of
from tests.measured import assert_close

ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]
CODES = [pair for pair in itertools.product(range(3), repeat=2) if pair != (0, 0)]
SIZES = (16, 64, 256)
SPACING_MM = (1.0, 1.25, 0.8)


def affine_of(orientation: str, size: int) -> np.ndarray:
    """Voxel → RAS, the image's middle near the origin."""
    turn = inv_ornt_aff(axcodes2ornt(orientation), (size,) * 3)
    turned = np.diag([*SPACING_MM, 1.0]) @ np.linalg.inv(turn)
    turned[:3, 3] -= turned[:3, :3] @ np.full(3, size / 2) + turned[:3, 3] - [3.0, -5.0, 7.0]
    return turned


def write_header(path: Path, affine: np.ndarray, codes: tuple[int, int], size: int) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((size,) * 3)
    header.set_data_dtype(np.uint8)
    header.set_qform(affine, codes[0])
    header.set_sform(affine, codes[1])
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_place_is_that_of_nibabel_and_itk(
    orientation: str, size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    affine, path = affine_of(orientation, size), tmp_path / "a.nii"
    corners = np.array(list(itertools.product((0, size - 1), repeat=3)), float)
    expected = apply_affine(affine, corners)
    for codes in CODES:
        write_header(path, affine, codes, size)
        ours = apply_affine(voxel_to_ras(read_nifti_grid(path)), corners)
        stated = nibabel.Nifti1Header(path.read_bytes()[:348]).get_best_affine()
        theirs, file = apply_affine(stated, corners), "NIfTI headers, 48 orientations"
        assert_close(ours, theirs, 1e-3, file=file, way="read", referee="nibabel")
        np.testing.assert_allclose(ours, expected, atol=1e-3)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        itk = apply_affine(voxel_to_ras(grid_of(reader)), corners)
        assert_close(ours, itk, 1e-9, file=file, way="read", referee="SimpleITK")
    assert not caplog.text
