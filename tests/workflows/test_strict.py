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
