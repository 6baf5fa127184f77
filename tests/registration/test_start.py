"""Where the registration starts: initial transforms and initialisations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.io.images.files import read_image
from carl_cli.io.transforms.files import from_sitk_transform
from carl_cli.registration.register import RegistrationOptions
from carl_cli.registration.register import register as register_images
from carl_cli.weights.folder import load_weights
from tests.workflows.conftest import PairFiles, Register
from tests.workflows.test_outputs import field_of, shown


@pytest.fixture
def affine() -> sitk.AffineTransform:
    """About the middle of the phantom: 8 degrees, a stretch and a shift."""
    transform = sitk.AffineTransform(3)
    transform.Rotate(0, 1, np.deg2rad(8))
    transform.Scale((1.05, 0.97, 1.0))
    transform.SetTranslation((12.0, -9.0, 15.0))
    return transform


@pytest.mark.parametrize("suffix", [".mat", ".txt", ".tfm", ".h5", ".nii.gz"])
def test_a_network_that_finds_nothing_returns_the_initial_transform(
    register: Register,
    identity_weights: Path,
    pair: PairFiles,
    affine: sitk.AffineTransform,
    tmp_path: Path,
    suffix: str,
) -> None:
    fixed = sitk.ReadImage(str(pair.fixed))
    initial = tmp_path / f"initial{suffix}"
    if suffix == ".nii.gz":
        field = field_of(affine, fixed)
        image = sitk.GetImageFromArray(field.astype(np.float32), isVector=True)
        image.CopyInformation(fixed)
        sitk.WriteImage(image, str(initial))
    else:
        sitk.WriteTransform(affine, str(initial))
    out, inverse = tmp_path / "t.h5", tmp_path / "i.h5"
    register(identity_weights, "-i", initial, "-o", out, "-O", inverse)
    total = sitk.ReadTransform(str(out))
    expected = field_of(affine, fixed)
    np.testing.assert_allclose(field_of(total, fixed), expected, atol=2e-3)

    around = sitk.CompositeTransform([sitk.ReadTransform(str(inverse)), total])
    # A field given as a file ends with the fixed image: its bend there is left out.
    inner = np.zeros(fixed.GetSize()[::-1], bool)
    inner[3:-3, 3:-3, 3:-3] = True
    where = shown(pair.moving, pair.fixed, total) & (inner | (suffix != ".nii.gz"))
    assert where.mean() > 0.2
    assert np.linalg.norm(field_of(around, fixed)[where], axis=-1).max() < 0.05


def test_the_network_refines_what_it_is_given(
    register: Register,
    smooth_weights: Path,
    pair: PairFiles,
    affine: sitk.AffineTransform,
    tmp_path: Path,
) -> None:
    """The whole is initial ∘ found: what the file holds last-acting is the initial transform."""
    initial, out = tmp_path / "initial.mat", tmp_path / "t.h5"
    sitk.WriteTransform(affine, str(initial))
    register(smooth_weights, "-i", initial, "-o", out)
    total = sitk.CompositeTransform(sitk.ReadTransform(str(out)))
    first = sitk.AffineTransform(total.GetNthTransform(0))
    np.testing.assert_allclose(first.GetMatrix(), affine.GetMatrix(), atol=1e-6)
    fixed = sitk.ReadImage(str(pair.fixed))
    found = sitk.CompositeTransform([affine.GetInverse(), total])
    moved = np.linalg.norm(field_of(found, fixed), axis=-1)
    assert 1 < moved.mean() < 100


def test_the_way_back_undoes_the_initial_transform(
    identity_weights: Path, pair: PairFiles, affine: sitk.AffineTransform
) -> None:
    """A network that finds nothing: forward is T, backward is T⁻¹, by SimpleITK."""
    fixed, moving = (read_image(path) for path in pair[:2])
    options = RegistrationOptions(initial=from_sitk_transform(affine))
    found = register_images(fixed, moving, load_weights(identity_weights), options)
    inverse = affine.GetInverse()
    for point in np.random.default_rng(0).uniform(-60, 60, (10, 3)):
        ahead, back = (t(point[None])[0] for t in (found.forward, found.backward))
        np.testing.assert_allclose(ahead, affine.TransformPoint(point.tolist()), atol=1e-3)
        np.testing.assert_allclose(back, inverse.TransformPoint(point.tolist()), atol=1e-3)
        assert np.linalg.norm(ahead - back) > 5


def test_centers_brings_the_middles_together(
    register: Register, identity_weights: Path, pair: PairFiles, tmp_path: Path
) -> None:
    register(identity_weights, "--init", "centers", "-o", tmp_path / "t.h5")
    total = sitk.ReadTransform(str(tmp_path / "t.h5"))
    fixed, moving = (sitk.ReadImage(str(path)) for path in pair[:2])
    middles = [
        image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        for image in (fixed, moving)
    ]
    np.testing.assert_allclose(total.TransformPoint(middles[0]), middles[1], atol=1e-3)


@pytest.mark.parametrize("init", ["moments", "rigid", "affine"])
def test_a_start_from_the_images(
    register: Register, identity_weights: Path, pair: PairFiles, tmp_path: Path, init: str
) -> None:
    """A network that finds nothing brings the foregrounds together: one translation."""
    register(identity_weights, "--init", init, "-o", tmp_path / "t.h5")
    total = sitk.ReadTransform(str(tmp_path / "t.h5"))
    field = field_of(total, sitk.ReadImage(str(pair.fixed)))
    np.testing.assert_allclose(field, np.broadcast_to(field[0, 0, 0], field.shape), atol=1e-3)
    truth = np.subtract(*(np.loadtxt(p, delimiter=",", skiprows=1) for p in pair[5:3:-1]))
    assert np.linalg.norm(field[0, 0, 0]) > 5
    before = np.linalg.norm(truth, axis=1).mean()
    assert np.linalg.norm(truth - field[0, 0, 0], axis=1).mean() < before
