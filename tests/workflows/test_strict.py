"""`--strict` refuses what would be resampled before it is used."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.cli.conftest import Carl, carl  # noqa: F401


@pytest.fixture
def sheared(tmp_path: Path) -> Path:
    affine = np.diag([2.0, 2, 3, 1])
    affine[1, 2] = 0.8
    image = nibabel.Nifti1Image(np.ones((20, 20, 12), np.int16), None)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "sheared.nii")
    return tmp_path / "sheared.nii"


def test_warp(carl: Carl, sheared: Path) -> None:  # noqa: F811
    out = sheared.with_name("out.nii")
    told = carl("warp", str(sheared), "-o", str(out))
    assert told.code == 0
    assert "resampled onto an orthogonal grid" in told.err
    assert nibabel.load(out).shape[2] == 12
    refused = carl("warp", str(sheared), "-o", str(out), "--overwrite", "--strict")
    assert refused.code == 3
    assert "the sform is sheared" in refused.err


def test_register(carl: Carl, sheared: Path) -> None:  # noqa: F811
    common = (
        "register",
        str(sheared),
        str(sheared),
        "-o",
        str(sheared.with_name("t.h5")),
        "--dry-run",
    )
    assert carl(*common, "--strict").code == 3


def test_labels_stay_labels(carl: Carl, sheared: Path) -> None:  # noqa: F811
    """By nibabel's affine: each voxel takes the label at the nearest place of the sheared file."""
    stored = nibabel.load(sheared)
    labels = np.zeros(stored.shape, np.uint8)
    labels[3:11, 4:16, 2:9], labels[11:17, 4:16, 2:9] = 7, 90
    named = sheared.with_name("labels.nii")
    nibabel.save(nibabel.Nifti1Image(labels, stored.affine), named)
    out = sheared.with_name("out.nii")
    assert carl("warp", str(named), "-o", str(out), "-n", "nearest").code == 0
    made = nibabel.load(out)
    index = np.stack(np.meshgrid(*map(np.arange, made.shape), indexing="ij"), -1)
    to_stored = np.linalg.inv(stored.affine) @ made.affine
    place = nibabel.affines.apply_affine(to_stored, index)
    nearest = np.rint(place).astype(int)
    clear = (np.abs(place - nearest) < 0.45).all(axis=-1)  # not halfway between two voxels
    inside = ((nearest >= 0) & (nearest < stored.shape)).all(axis=-1) & clear
    np.testing.assert_array_equal(
        np.asarray(made.dataobj)[inside], labels[tuple(nearest[inside].T)]
    )
    assert set(np.unique(made.dataobj)) == {0, 7, 90}
