"""The numbers of a motion, against SimpleITK and closed forms."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from carl_cli.evaluation.motion import (
    Steadiness,
    framewise_displacement_mm,
    motion_numbers,
    motion_table,
)
from carl_cli.transforms import AffineTransform
from carl_cli.transforms.linear import RigidTransform

CENTRE = np.array([12.0, -30.0, 45.0])


def by_itk(shift_mm: tuple[float, ...], degrees: tuple[float, ...]) -> RigidTransform:
    euler = sitk.Euler3DTransform(CENTRE.tolist(), *np.radians(degrees).tolist(), shift_mm)
    matrix = np.array(euler.GetMatrix()).reshape(3, 3)
    return RigidTransform(matrix, np.array(euler.TransformPoint((0.0, 0.0, 0.0))))


def test_numbers_are_those_of_itks_euler_transform() -> None:
    shift, angles = motion_numbers(by_itk((1.5, -2.0, 0.5), (10.0, -25.0, 40.0)), CENTRE)
    np.testing.assert_allclose(shift, (1.5, -2.0, 0.5), atol=1e-9)
    np.testing.assert_allclose(angles, (10.0, -25.0, 40.0), atol=1e-9)


def test_a_stretch_changes_no_angle() -> None:
    turned = by_itk((0.0, 0.0, 0.0), (3.0, 2.0, -4.0))
    _, angles = motion_numbers(AffineTransform(1.1 * turned.matrix, turned.translation), CENTRE)
    np.testing.assert_allclose(angles, (3.0, 2.0, -4.0), atol=1e-9)


def test_framewise_displacement_after_power() -> None:
    """Millimetres add up; a degree is an arc of 50 mm · π / 180."""
    shifts = np.array([[0, 0, 0], [1.0, -2, 0], [1, -2, 0.5]])
    angles = np.array([[0, 0, 0], [1.0, 0, -1], [1, 0, -1]])
    found = framewise_displacement_mm(shifts, angles)
    np.testing.assert_allclose(found, [0, 3 + 2 * 50 * np.pi / 180, 0.5])


def test_the_table_has_a_row_for_each_volume() -> None:
    rows = motion_table([by_itk((0, 0, 0), (0, 0, 0)), by_itk((0, 1.0, 0), (0, 0, 2.0))], CENTRE)
    assert rows[1]["volume"] == 1
    assert rows[1]["translation_y_mm"] == 1.0
    assert rows[1]["rotation_z_degrees"] == 2.0
    assert rows[1]["framewise_displacement_mm"] == round(1 + 100 * np.pi / 180, 6)


def test_tsnr_is_numpys() -> None:
    random = np.random.default_rng(0)
    volumes = random.normal(100, 5, (12, 4, 5, 6))
    inside = random.random((4, 5, 6)) > 0.5
    steady = Steadiness(inside)
    for volume in volumes:
        steady.add(volume)
    ratio = volumes.mean(0) / volumes.std(0, ddof=1)
    assert np.isclose(steady.tsnr, np.median(ratio[inside]), rtol=1e-12)
    still = Steadiness(inside)
    still.add(volumes[0])
    assert still.tsnr is None
