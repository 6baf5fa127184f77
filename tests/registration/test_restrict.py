"""--restrict: a phantom that is bent along one index axis alone, as EPI is.

moving(y) = fixed(y + b(y) e) with e the direction of index axis 1 and b smooth, so that the true
map x → y solves y = x - b(y) e. Displacements are taken from the file by SimpleITK.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.registration.options import StartOptions
from tests.cli.conftest import Carl
from tests.conftest import rotation
from tests.registration.test_linear import Floats, blobs
from tests.registration.test_regularity import aligning_weights  # noqa: F401 (a fixture)
from tests.workflows.conftest import Register

AXIS = 1
DIRECTIONS = {
    "upright": np.eye(3),
    "permuted and oblique": rotation((12, -20, 33)) @ np.eye(3)[[1, 2, 0]] * [1.0, -1.0, -1.0],
}
IO = ("--io", "--io-scope", "field", "--io-steps", 10)


class Bent(NamedTuple):
    """Files of a pair, points in the fixed foreground, their true images, and the axes (3, 3)."""

    fixed: Path
    moving: Path
    points: Floats
    true: Floats
    axes: Floats

    def displacements(self, path: Path) -> Floats:
        """(N, 3) mm along the fixed image's index axes."""
        transform = sitk.ReadTransform(str(path))
        mapped = np.array([transform.TransformPoint(point) for point in self.points.tolist()])
        return np.asarray((mapped - self.points) @ self.axes)

    def error(self, path: Path) -> float:
        wanted = (self.true - self.points) @ self.axes
        return float(np.linalg.norm(self.displacements(path) - wanted, axis=1).mean())


def bend(points: Floats, middle: Floats) -> Floats:
    """b in mm, up to 6."""
    x, y, z = ((points - middle) / 22).T
    return np.asarray(4 * np.sin(x + 0.4) * np.cos(z) + 2 * np.cos(1.3 * y))


@pytest.fixture
def bent(request: pytest.FixtureRequest, tmp_path: Path) -> Bent:
    image, axes = blobs(), DIRECTIONS[request.param]
    image.SetDirection(axes.ravel().tolist())
    index = np.indices(image.GetSize()).reshape(3, -1).T
    lps = index * image.GetSpacing() @ axes.T + image.GetOrigin()
    middle, e = lps.mean(0), axes[:, AXIS]
    # (x, y, z) order of the index → an image of vectors in LPS.
    shift = (bend(lps, middle)[:, None] * e).reshape(*image.GetSize(), 3).transpose(2, 1, 0, 3)
    field = sitk.GetImageFromArray(np.ascontiguousarray(shift), isVector=True)
    field.CopyInformation(image)
    moving = sitk.Resample(image, sitk.DisplacementFieldTransform(field), sitk.sitkBSpline)
    for held, name in ((image, "fixed"), (sitk.Clamp(moving, sitk.sitkFloat32, 0, 1e9), "moving")):
        sitk.WriteImage(held, str(tmp_path / f"{name}.nii.gz"))
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0).ravel()
    points = lps[np.random.default_rng(0).choice(np.flatnonzero(values > 150), 300)]
    true = points
    for _ in range(60):
        true = points - bend(true, middle)[:, None] * e
    return Bent(tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", points, true, axes)


def registered(carl: Carl, bent: Bent, weights: Path, *options: object) -> Path:
    out = bent.fixed.with_name("t.h5")
    line = ("register", bent.fixed, bent.moving, "-o", out, "--weights", weights, "--threads", 1)
    said = carl(*line, "--overwrite", "-q", *options)
    assert said.code == 0, said.err
    return out


def assert_held(bent: Bent, out: Path, limit_mm: float) -> None:
    along = bent.displacements(out)
    other = [axis for axis in range(3) if axis != AXIS]
    assert np.abs(along[:, other]).max() <= limit_mm
    assert np.abs(along[:, AXIS]).max() > 2


@pytest.mark.parametrize("bent", ["upright"], indirect=True)
def test_a_fit_moves_along_one_axis_alone(carl: Carl, bent: Bent, identity_weights: Path) -> None:
    """By no bit along the others, and with half the error of a fit that may move along all."""
    before = float(np.linalg.norm(bent.true - bent.points, axis=1).mean())
    free = bent.error(registered(carl, bent, identity_weights, *IO))
    out = registered(carl, bent, identity_weights, *IO, "--restrict", "0,1,0")
    assert_held(bent, out, 0.0)
    print(f"mean error {before:.2f} mm before, {free:.2f} free, {bent.error(out):.2f} held")
    assert before > 2
    assert bent.error(out) < 0.5 * free
    assert bent.error(out) < 0.1 * before


@pytest.mark.parametrize("bent", ["permuted and oblique"], indirect=True)
def test_an_alignment_moves_along_one_axis_alone(
    carl: Carl,
    bent: Bent,
    aligning_weights: Path,  # noqa: F811
) -> None:
    free = bent.error(registered(carl, bent, aligning_weights))
    out = registered(carl, bent, aligning_weights, "--restrict", "0x1x0")
    assert_held(bent, out, 1e-4)
    assert bent.error(out) < 0.5 * free


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--io", "--io-scope", "all", "--io-steps", 2), marks=pytest.mark.slow),
    ],
)
def test_a_network_alone_is_held(
    register: Register, smooth_weights: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    """Nothing along x, half along y as without --restrict of the same start."""
    found = {}
    for name, weights in (("half", "0,0.5,1"), ("most", "0,1,1")):
        out = tmp_path / f"{name}.h5"
        register(smooth_weights, "-o", out, "--restrict", weights, *options)
        transform = sitk.ReadTransform(str(out))
        points = np.random.default_rng(0).uniform(-60, 60, (50, 3))
        mapped = np.array([transform.TransformPoint(point) for point in points.tolist()])
        found[name] = mapped - points
    assert np.abs(found["most"][:, 0]).max() == np.abs(found["half"][:, 0]).max() == 0
    assert np.abs(found["most"][:, 1:]).max(0).min() > 1
    if not options:
        np.testing.assert_allclose(found["half"][:, 1], found["most"][:, 1] / 2, atol=1e-3)


def test_all_ones_hold_nothing() -> None:
    assert StartOptions(restrict="1,1,1").restrict_xyz is None
    assert StartOptions(restrict="0x1x0").restrict_xyz == (0, 1, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--restrict", "0,1"), "--restrict 0,1 was given for 3 axes"),
        (("--restrict", "0,1,0", "--transform", "rigid"), "with --transform rigid"),
        (("--restrict", "0,2,0"), "weights x,y,z from 0 to 1 expected"),
        (("--restrict", "0,0,0"), "one above 0"),
        (("--restrict", "y"), "found y"),
    ],
)
def test_weights_that_make_no_sense_are_refused(
    carl: Carl, identity_weights: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    sitk.WriteImage(blobs(), str(tmp_path / "i.nii.gz"))
    images = (tmp_path / "i.nii.gz",) * 2
    out = tmp_path / "t.h5"
    outcome = carl("register", *images, "-o", out, "--weights", identity_weights, *options)
    assert (outcome.code, out.exists()) == (2, False)
    assert said in " ".join(outcome.err.split())
