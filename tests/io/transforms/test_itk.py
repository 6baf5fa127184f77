"""itk in memory: the same maps both ways, without loading all of ITK."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.transforms.files import from_sitk_transform, to_sitk_transform
from carl_cli.io.transforms.itk import Real, from_itk, to_itk
from carl_cli.transforms import AffineTransform, Transform
from tests.conftest import GRIDS
from tests.fields import constant_field, field_on, inner_points

LIGHT = """
import sys, numpy as np
from carl_cli.io.transforms.itk import to_itk
from carl_cli.transforms import identity
to_itk(identity(3) @ identity(3))
print("torch" in sys.modules)
"""


@pytest.mark.parametrize(("real", "tolerance"), [("D", 1e-5), ("F", 1e-4)])
def test_same_points_both_ways(
    real: Real, tolerance: float, any_grid: Grid, affine: AffineTransform
) -> None:
    chain = affine @ field_on(any_grid)
    theirs = to_itk(chain, real)
    points = inner_points(any_grid, 30)
    mapped = np.array([list(theirs.TransformPoint(p.tolist())) for p in points])
    np.testing.assert_allclose(mapped, chain(points), atol=tolerance)
    np.testing.assert_allclose(from_itk(theirs)(points), chain(points), atol=tolerance)


def test_in_2d() -> None:
    grid = Grid((20, 15), (1.0, 2.0), (3.0, 4.0), (0.0, 1.0, -1.0, 0.0))
    turn = AffineTransform(np.array([[0.9, 0.1], [-0.2, 1.1]]), np.array([3.0, -2.0]))
    chain = turn @ constant_field(grid, (6.0, -4.0))
    points = inner_points(grid, 10, 2.0)
    mapped = np.array([list(to_itk(chain).TransformPoint(p.tolist())) for p in points])
    np.testing.assert_allclose(mapped, chain(points), atol=1e-6)


def test_simpleitk_round_trip(any_grid: Grid, affine: AffineTransform) -> None:
    chain = affine @ field_on(any_grid) @ affine.inverse()
    again = from_sitk_transform(to_sitk_transform(chain))
    points = inner_points(any_grid)
    np.testing.assert_allclose(again(points), chain(points), atol=1e-9)


def test_a_pointwise_inverse_has_no_itk_form() -> None:
    inverse: Transform = field_on(GRIDS["plain"]).inverse()
    with pytest.raises(InputError, match="InverseField"):
        to_itk(inverse)


def test_the_bridge_loads_no_torch() -> None:
    """itk's public names import torch where it is installed; the wrapping modules don't."""
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "itk.itkDisplacementFieldTransformPython", None)
    with pytest.raises(InputError, match="itk, or a part of it, is not installed") as refusal:
        to_itk(field_on(GRIDS["plain"]))
    assert "carl-registration[itk]" in refusal.value.hint


@pytest.mark.slow
def test_itk_by_its_public_names_takes_our_transforms(affine: AffineTransform) -> None:
    import itk

    grid = GRIDS["oblique"]
    ours = to_itk(affine @ field_on(grid))
    assert isinstance(ours, itk.CompositeTransform[itk.D, 3])
    theirs = itk.DisplacementFieldTransform[itk.D, 3].New()
    assert type(theirs) is type(to_itk(field_on(grid)))
