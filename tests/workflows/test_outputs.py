"""The files of `carl register` in the hands of SimpleITK, ANTs and ITK."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ants
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from carl_cli.evaluation.truth import Truth
from carl_cli.io.images.files import read_image
from carl_cli.model.fields import DisplacementMap
from carl_cli.registration.register import RegistrationOptions, _spread_mm
from carl_cli.registration.register import register as register_images
from carl_cli.weights.folder import load_weights
from carl_cli.workflows.outputs import Delivery
from carl_cli.workflows.register import load_case
from carl_cli.workflows.request import CaseInputs, CaseOutputs, RunSettings
from tests.cli.conftest import Carl
from tests.conftest import make_grid
from tests.workflows.conftest import PairFiles, Register

CASES = {
    "exact.h5": (),
    "double.h5": ("--precision", "double"),
    "coarse.h5": ("--field-spacing", "25"),
    "field.nii": (),
    "field.nii.gz": (),
    "network.nii.gz": ("--field-spacing", "network"),
    "field.nrrd": (),
    "field.mha": (),
}
PART_OF_RANGE = 1e-3


def read_by_sitk(path: Path) -> sitk.Transform:
    if path.suffix in (".h5", ".mat", ".txt", ".tfm"):
        return sitk.ReadTransform(str(path))
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def resampled(moving: Path, fixed: Path, transform: sitk.Transform) -> np.ndarray:
    image = sitk.ReadImage(str(moving), sitk.sitkFloat64)
    reference = sitk.ReadImage(str(fixed))
    return sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, sitk.sitkLinear))


def shown(moving: Path, fixed: Path, transform: sitk.Transform) -> np.ndarray:
    """Which fixed voxels map to a place between the moving image's voxel centres."""
    ones = sitk.ReadImage(str(moving), sitk.sitkFloat64) * 0 + 1
    reference = sitk.ReadImage(str(fixed))
    index = sitk.Resample(ones, reference, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat64)
    inside = sitk.GetArrayFromImage(index) > 0
    return np.asarray(
        sitk.GetArrayFromImage(sitk.BinaryErode(sitk.GetImageFromArray(inside.astype("uint8")))) > 0
    )


def array_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(float)


@pytest.fixture(scope="module", params=list(CASES))
def written(
    request: pytest.FixtureRequest,
    register: Register,
    smooth_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The forward transform; in its folder lie inverse.*, w.nrrd, W.nrrd and j.nrrd."""
    folder = tmp_path_factory.mktemp("out")
    forward = folder / request.param
    register(
        smooth_weights,
        *("-o", forward, "-O", folder / f"inverse_{request.param}"),
        *("-w", folder / "w.nrrd", "-W", folder / "W.nrrd", "--jacobian", folder / "j.nrrd"),
        *CASES[request.param],
    )
    return forward


def assert_same_image(ours: np.ndarray, theirs: np.ndarray, where: np.ndarray) -> None:
    assert where.mean() > 0.3
    assert np.ptp(ours[where]) > 1000
    np.testing.assert_allclose(
        ours[where], theirs[where], rtol=0, atol=PART_OF_RANGE * np.ptp(theirs)
    )


def test_simpleitk_warps_as_we_do(written: Path, pair: PairFiles) -> None:
    transform = read_by_sitk(written)
    theirs = resampled(pair.moving, pair.fixed, transform)
    where = shown(pair.moving, pair.fixed, transform)
    assert_same_image(array_of(written.parent / "w.nrrd"), theirs, where)


def test_ants_warps_as_we_do(written: Path, pair: PairFiles) -> None:
    warped = ants.apply_transforms(
        ants.image_read(str(pair.fixed)),
        ants.image_read(str(pair.moving)),
        [str(written)],
        interpolator="linear",
    )
    where = shown(pair.moving, pair.fixed, read_by_sitk(written))
    assert_same_image(array_of(written.parent / "w.nrrd"), warped.numpy().T, where)


def test_the_inverse_undoes_the_forward_file(written: Path, pair: PairFiles) -> None:
    """|forward(inverse(y)) - y| by SimpleITK, where inverse(y) lies in the fixed image."""
    inverse = read_by_sitk(written.with_name(f"inverse_{written.name}"))
    forward = read_by_sitk(written)
    moving = sitk.ReadImage(str(pair.moving))
    around = sitk.CompositeTransform([forward, inverse])
    residual = np.linalg.norm(field_of(around, moving), axis=-1)
    moved = np.linalg.norm(field_of(inverse, moving), axis=-1)
    where = shown(pair.fixed, pair.moving, inverse)
    assert np.median(moved[where]) > 10
    limit_mm = 0.5 if written.name == "coarse.h5" else 0.1  # between samples 25 mm apart
    assert np.mean(residual[where]) < limit_mm
    assert np.percentile(residual[where], 99) < 5 * limit_mm
    theirs = resampled(pair.fixed, pair.moving, inverse)
    assert_same_image(array_of(written.parent / "W.nrrd"), theirs, where)


def field_of(transform: sitk.Transform, image: sitk.Image) -> np.ndarray:
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        image.GetSize(),
        image.GetOrigin(),
        image.GetSpacing(),
        image.GetDirection(),
    )
    return sitk.GetArrayFromImage(field)


def test_the_jacobian_determinant_is_that_of_the_file(written: Path, pair: PairFiles) -> None:
    """Derivatives of SimpleITK's mapped points along the fixed image's axes, which are upright."""
    fixed = sitk.ReadImage(str(pair.fixed))
    assert fixed.GetDirection() == tuple(np.eye(3).ravel())
    field = field_of(read_by_sitk(written), fixed)
    steps = fixed.GetSpacing()[::-1]
    matrix = np.stack([np.gradient(field, steps[a], axis=a) for a in (2, 1, 0)], axis=-1)
    expected = np.linalg.det(matrix + np.eye(3))
    found = array_of(written.parent / "j.nrrd")
    assert np.ptp(found) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_outside_the_moving_image_is_air(written: Path, pair: PairFiles) -> None:
    """CT: outside is the smallest value of the image, not 0, which would be water."""
    transform = read_by_sitk(written)
    moving = sitk.ReadImage(str(pair.moving), sitk.sitkFloat64)
    marked = sitk.Resample(
        moving * 0 + 1, sitk.ReadImage(str(pair.fixed)), transform, sitk.sitkLinear, 0.0
    )
    outside = sitk.GetArrayFromImage(marked) == 0
    air = sitk.GetArrayFromImage(moving).min()
    assert outside.sum() > 100
    assert np.all(array_of(written.parent / "w.nrrd")[outside] == air)
    assert sitk.ReadImage(str(written.parent / "w.nrrd")).GetPixelID() == sitk.sitkInt16


@pytest.mark.slow
def test_itk_warps_as_we_do(register: Register, smooth_weights: Path, pair: PairFiles) -> None:
    """Its Python wrapping reads the composite; the first transform takes some 20 seconds."""
    import itk

    folder = pair.fixed.parent
    register(smooth_weights, "-o", folder / "d.h5", "-w", folder / "d.mha", "--precision", "double")
    (composite,) = itk.transformread(str(folder / "d.h5"))
    warped = itk.resample_image_filter(
        itk.imread(str(pair.moving), itk.F),
        transform=composite,
        use_reference_image=True,
        reference_image=itk.imread(str(pair.fixed), itk.F),
    )
    where = shown(pair.moving, pair.fixed, read_by_sitk(folder / "d.h5"))
    assert_same_image(array_of(folder / "d.mha"), itk.array_from_image(warped), where)


@pytest.mark.parametrize("suffix", [".mat", ".txt", ".tfm"])
def test_an_affine_result_is_an_affine_file(
    register: Register, attention_weights: Path, tmp_path: Path, suffix: str
) -> None:
    """ANTs and SimpleITK map points alike with it, and the inverse file takes them back."""
    forward, inverse = tmp_path / f"a{suffix}", tmp_path / f"i{suffix}"
    register(attention_weights, "--affine-only", "-o", forward, "-O", inverse)
    ahead, back = read_by_sitk(forward), read_by_sitk(inverse)
    for point in np.random.default_rng(0).uniform(-150, 150, (10, 3)):
        mapped = ahead.TransformPoint(point.tolist())
        assert np.linalg.norm(mapped - point) > 1
        np.testing.assert_allclose(back.TransformPoint(mapped), point, atol=1e-6)
        if suffix == ".mat":
            by_ants = ants.read_transform(str(forward)).apply_to_point(point.tolist())
            np.testing.assert_allclose(by_ants, mapped, atol=1e-3)


def test_the_map_of_the_match_spread_is_the_spread_where_it_was_measured(
    attention_weights: Path, pair: PairFiles, tmp_path: Path
) -> None:
    """A value of the coarse grid stands in the middle of the voxels that it is for."""
    fixed, moving = (read_image(path) for path in pair[:2])
    result = register_images(
        fixed, moving, load_weights(attention_weights), RegistrationOptions(match_spread=True)
    )
    assert result.spread_mm is not None
    ramp = np.arange(result.spread_mm.size, dtype=np.float32).reshape(result.spread_mm.shape)
    outputs = CaseOutputs(match_spread=tmp_path / "c.nii.gz")
    delivery = Delivery(
        fixed, moving, replace(result, spread_mm=ramp), Truth(None, None), outputs, RunSettings()
    )
    delivery.write_data()
    found = sitk.ReadImage(str(tmp_path / "c.nii.gz"))
    network = result.prepared.fixed.grid
    ratio = np.array(network.size_xyz) / ramp.shape[::-1]
    assert (ratio >= 2).all()
    seen = 0
    for place in itertools.product(*(range(1, n - 1) for n in ramp.shape)):
        index = (np.array(place[::-1]) + 0.5) * ratio - 0.5
        point = network.index_to_lps @ [*index, 1]
        where = found.TransformPhysicalPointToContinuousIndex(point[:3].tolist())
        if all(1 <= i <= n - 2 for i, n in zip(where, found.GetSize(), strict=True)):
            assert found.EvaluateAtContinuousIndex(where) == pytest.approx(ramp[place], abs=1e-2)
            seen += 1
    assert seen > 5


def test_the_spread_is_measured_in_each_axis_own_millimetres() -> None:
    """A standard deviation of one coarse voxel along one axis: its size on the moving grid."""
    grid = make_grid((24, 40, 64), (1.0, 3.0, 0.5))
    prepared: Any = SimpleNamespace(moving=SimpleNamespace(grid=grid))
    for axis, expected in enumerate((64 * 0.5 / 8, 40 * 3.0 / 10, 24 * 1.0 / 6)):
        spread = torch.zeros(1, 3, 8, 10, 6)
        spread[:, axis] = 1
        phi = DisplacementMap(torch.zeros(1, 3, 8, 10, 6), False, spread)
        np.testing.assert_allclose(_spread_mm(phi, prepared), expected, rtol=1e-6)


def test_each_image_is_read_as_it_was_asked(
    register: Register, identity_weights: Path, pair: PairFiles, tmp_path: Path
) -> None:
    """Volume 1 of both where they are series, and each by the modality given for it."""
    series = []
    for path in pair[:2]:
        image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
        series.append(tmp_path / path.name)
        sitk.WriteImage(sitk.JoinSeries([image * 0 + 5, image]), str(series[-1]))
    loaded = load_case(CaseInputs(*series, time_index=1), RegistrationOptions())
    for found, path in zip((loaded.fixed, loaded.moving), pair[:2], strict=True):
        np.testing.assert_array_equal(found.array, read_image(path).array)
    for options, expected in (
        (("--moving-modality", "mr"), ("ct", "mr")),
        (("--fixed-modality", "mr"), ("mr", "ct")),
        (("--modality", "mr"), ("mr", "mr")),
    ):
        names = ("-o", tmp_path / "t.h5", "--json", tmp_path / "r.json", "--overwrite")
        register(identity_weights, *names, *options)
        inputs = json.loads((tmp_path / "r.json").read_text())["inputs"]
        assert (inputs["fixed"]["modality"], inputs["moving"]["modality"]) == expected


def test_the_weight_of_gradicon_comes_from_the_command_line(
    register: Register, attention_weights: Path, tmp_path: Path
) -> None:
    """The loss before the first step is similarity + λ · GradICON: linear in λ."""
    first = {}
    for weight in (0, 1, 3):
        names = ("-o", tmp_path / "t.h5", "--json", tmp_path / "r.json", "--overwrite")
        io = ("--io", "--io-scope", "all", "--io-steps", 1, "--io-lambda", weight)
        register(attention_weights, *names, *io)
        first[weight] = json.loads((tmp_path / "r.json").read_text())["io_loss"][0]
    assert first[1] - first[0] > 1e-3
    assert first[3] - first[0] == pytest.approx(3 * (first[1] - first[0]), rel=1e-3)


def test_the_map_of_the_match_spread_lies_on_the_fixed_grid(
    register: Register, attention_weights: Path, pair: PairFiles, tmp_path: Path
) -> None:
    """Standard deviations in mm: above 0, and no larger than the moving network view."""
    register(attention_weights, "--match-spread", tmp_path / "c.nii.gz")
    found, fixed = sitk.ReadImage(str(tmp_path / "c.nii.gz")), sitk.ReadImage(str(pair.fixed))
    assert found.GetSize() == fixed.GetSize()
    np.testing.assert_allclose(found.GetOrigin(), fixed.GetOrigin(), atol=1e-4)
    spread = sitk.GetArrayFromImage(found)
    assert spread.min() > 0
    extent = [n * s for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    assert spread.max() < np.linalg.norm(extent)


def test_repaired_folds_are_gone_and_the_rest_is_kept(
    register: Register, folding_weights: Path, tmp_path: Path
) -> None:
    """Judged by SimpleITK on the two files: determinants, and where the map was changed."""
    arrays, determinants = [], []
    for name, option in (("plain.h5", ()), ("repaired.h5", ("--repair-folds",))):
        register(folding_weights, "-o", tmp_path / name, *option)
        composite = sitk.CompositeTransform(sitk.ReadTransform(str(tmp_path / name)))
        field = sitk.DisplacementFieldTransform(composite.GetNthTransform(1)).GetDisplacementField()
        arrays.append(sitk.GetArrayFromImage(field))
        determinants.append(
            sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
        )
    before, after = determinants
    assert (before <= 0).sum() > 20
    assert (after <= 0).sum() == 0
    change = np.linalg.norm(arrays[1] - arrays[0], axis=-1)
    assert change[before <= 0].max() > 0.1
    assert np.median(change[before > 0]) < 1e-3


def test_convert_writes_the_same_field_as_register(
    register: Register, smooth_weights: Path, pair: PairFiles, tmp_path: Path, carl: Carl
) -> None:
    """One spacing in millimetres is one lattice, whichever command is given it."""
    exact, direct, later = (tmp_path / n for n in ("exact.h5", "direct.nii", "later.nii"))
    register(smooth_weights, "-o", exact)
    register(smooth_weights, "-o", direct, "--field-spacing", "25")
    options = ("-r", pair.fixed, "--field-spacing", "25")
    assert carl("convert", exact, "-o", later, *options).code == 0
    ours, theirs = sitk.ReadImage(str(later)), sitk.ReadImage(str(direct))
    assert ours.GetSize() == theirs.GetSize()
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(*map(sitk.GetArrayFromImage, (ours, theirs)), atol=1e-4)
