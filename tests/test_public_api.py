"""The names of `import carl_cli`: each is there, does what it says, and loads late."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import carl_cli as carl
from tests.public_api import document


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, carl_cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"numpy", "torch", "SimpleITK", "itk"} & set(loaded.stdout.split())


def test_every_public_name_is_there() -> None:
    for name in carl._PUBLIC:
        assert callable(getattr(carl, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        carl.nothing  # noqa: B018


def test_names_and_signatures_are_those_that_were_promised() -> None:
    promised = Path(__file__).with_name("public_api.txt").read_text(encoding="utf-8")
    how = "if this is meant: python -m tests.public_api > tests/public_api.txt, and a fragment"
    assert document() == promised, (
        f"{how} in changelog.d/ (docs/project/stability.md says what is promised)"
    )


def test_a_shift_from_file_to_file(tmp_path: Path) -> None:
    """T(x) = x + (6, -4, 3): the warped image at x is the moving one at x + (6, -4, 3)."""
    array = np.random.default_rng(0).normal(size=(14, 16, 18)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "moving.nii.gz"))
    moving = carl.read_image(tmp_path / "moving.nii.gz")
    shift = carl.AffineTransform(np.eye(3), np.array([6.0, -4.0, 3.0]))
    carl.write_transform(tmp_path / "t.h5", carl.CompositeTransform((shift,)))
    transform = carl.read_transform(tmp_path / "t.h5")
    warped = carl.warp(moving, moving.grid, transform)
    np.testing.assert_allclose(warped.array[:-3, 4:, :-6], array[3:, :-4, 6:], atol=1e-5)
    around = transform @ transform.inverse()
    np.testing.assert_allclose(around(np.array([[1.0, 2.0, 3.0]])), [[1.0, 2.0, 3.0]], atol=1e-9)


def test_images_and_transforms_pass_to_simpleitk_and_back() -> None:
    image = sitk.Image(5, 6, 7, sitk.sitkInt16)
    image.SetSpacing((1.0, 2.0, 3.0))
    back = carl.to_sitk(carl.from_sitk(image))
    assert back.GetSpacing() == image.GetSpacing()
    assert back.GetPixelID() == image.GetPixelID()
    turn = sitk.Euler3DTransform((1, 2, 3), 0.1, -0.2, 0.3, (4, 5, 6))
    ours = carl.from_sitk_transform(turn)
    point = np.array([[7.0, -8.0, 9.0]])
    np.testing.assert_allclose(ours(point)[0], turn.TransformPoint(point[0]), atol=1e-9)
    theirs = carl.to_sitk_transform(ours)
    np.testing.assert_allclose(theirs.TransformPoint(point[0]), turn.TransformPoint(point[0]))
