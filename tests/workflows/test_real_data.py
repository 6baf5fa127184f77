"""The embedded weights on real images, with SimpleITK, itk and ANTs as referees.

Slow: minutes on two cores. Each case is registered once; its .h5 is applied by every referee
to the same moving image, and compared with --warped where the mapped point lies between
voxel centres of the moving image.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.evaluation.metrics import dice
from carl_cli.geometry import apply_affine
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import read_transform
from carl_cli.preprocessing.pair import initialise
from carl_cli.registration.register import register
from carl_cli.transforms import DisplacementField, Transform
from carl_cli.weights.folder import Weights
from carl_cli.weights.locate import chosen_weights
from carl_cli.workflows.register import run_case
from carl_cli.workflows.request import CaseInputs, CaseOutputs, RunSettings

pytestmark = pytest.mark.slow

LUNGS = ("0004", "0006", "0007")
HEADS = ("AIL", "ASL", "IPL", "LIA", "PIL", "PSL", "RPI", "SLA")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return chosen_weights("carl-base", "cpu")


def _bent_and_moved(image: Image) -> Image:
    """The image seen through x + u(x), u a shift of (12, -9, 6) mm and waves of 8 mm."""
    points = image.grid.points_mm()
    waves = 8 * np.sin(points[..., [1, 2, 0]] / 45.0)
    field = DisplacementField(image.grid, (np.array([12.0, -9.0, 6.0]) + waves).astype(np.float32))
    return resample(image, image.grid, field, background=float(image.array.min()))


def _case(name: str, data: Path, folder: Path) -> tuple[Path, Path]:
    if name == "ct_moved":
        fixed = data / "ct_abdomen" / "ct.nii.gz"
        write_image(folder / "moved.nii.gz", _bent_and_moved(read_image(fixed)))
        return fixed, folder / "moved.nii.gz"
    return {
        "brain": (data / "brain_t1" / "image_A.nii.gz", data / "brain_t1" / "image_B.nii.gz"),
        "lungs": tuple(data / "lung_mr_lobes" / f"{k}.nii.gz" for k in ("0004", "0007")),
        "dicom": (
            data / "dicom" / "ct_head_93_slices",
            data / "dicom" / "ct_head_93_slices_as_nrrd" / "CTHeadAxial.nhdr",
        ),
        "heads": tuple(
            data / "formats" / "one_head_many_orientations" / f"{k}.nii.gz" for k in ("LIA", "PSL")
        ),
    }[name]  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["brain", "lungs", "ct_moved", "dicom", "heads"])
def test_referees_apply_the_transform_as_we_do(
    name: str, weights: Weights, real_data_dir: Path, tmp_path: Path
) -> None:
    fixed_path, moving_path = _case(name, real_data_dir, tmp_path)
    outputs = CaseOutputs(forward=tmp_path / "t.h5", warped=tmp_path / "w.nrrd")
    settings = RunSettings(precision="double")  # itk in Python applies double transforms only
    run_case(CaseInputs(fixed_path, moving_path), outputs, weights, settings=settings)
    fixed, moving = read_image(fixed_path), read_image(moving_path)
    real = Image(moving.array.astype(np.float32), moving.grid)
    transform = read_transform(tmp_path / "t.h5")
    ours = resample(real, fixed.grid, transform, background=float(real.array.min())).array
    index = apply_affine(moving.grid.lps_to_index, transform(fixed.grid.points_mm()))
    inside = ((index >= 0) & (index <= np.array(moving.grid.size_xyz) - 1)).all(axis=-1)
    assert inside.mean() > 0.2
    write_image(tmp_path / "moving.nii.gz", real)
    write_image(tmp_path / "fixed.nii.gz", Image(fixed.array.astype(np.float32), fixed.grid))
    span = float(np.ptp(real.array))
    for referee in (_by_simpleitk, _by_ants, _by_itk):
        gap = np.abs(referee(tmp_path) - ours)[inside].max()
        assert gap < 1e-3 * span, f"{name}: {referee.__name__} differs by {gap / span:.1e}"


def _by_simpleitk(folder: Path) -> np.ndarray:
    images = (sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in ("moving", "fixed"))
    return sitk.GetArrayFromImage(
        sitk.Resample(*images, sitk.ReadTransform(str(folder / "t.h5")), sitk.sitkLinear)
    )


def _by_ants(folder: Path) -> np.ndarray:
    ants = pytest.importorskip("ants")
    fixed, moving = (ants.image_read(str(folder / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    warped = ants.apply_transforms(fixed, moving, [str(folder / "t.h5")])
    return warped.numpy().transpose(2, 1, 0)


def _by_itk(folder: Path) -> np.ndarray:
    itk = pytest.importorskip("itk")
    fixed, moving = (itk.imread(str(folder / f"{n}.nii.gz"), itk.F) for n in ("fixed", "moving"))
    transform = itk.transformread(str(folder / "t.h5"))[0]
    warped = itk.resample_image_filter(
        moving, transform=transform, use_reference_image=True, reference_image=fixed
    )
    return itk.array_from_image(warped)


def test_a_dicom_folder_meets_its_nrrd_copy(weights: Weights, real_data_dir: Path) -> None:
    """The NRRD has lost its position: the same head elsewhere, found to a fraction of a voxel."""
    fixed, moving = (read_image(path) for path in _case("dicom", real_data_dir, Path()))
    result = register(fixed, moving, weights)
    index = np.stack(np.meshgrid(*[np.arange(8, n - 8, 9) for n in fixed.grid.size_xyz]), -1)
    points = apply_affine(fixed.grid.index_to_lps, index.reshape(-1, 3).astype(float))
    found = apply_affine(moving.grid.lps_to_index, result.forward(points))
    order = _axis_order(fixed, moving)
    gap = np.abs(found - order(index.reshape(-1, 3))).max(axis=1)
    assert np.percentile(gap, 95) < 0.5, f"95th percentile {np.percentile(gap, 95):.2f} voxels"


def _axis_order(fixed: Image, moving: Image):  # type: ignore[no-untyped-def]
    """Index of the fixed image → index of the same voxel in the moving one."""
    flips = [
        axes
        for axes in itertools.product([1, -1], repeat=3)
        if np.array_equal(fixed.array, moving.array[:: axes[2], :: axes[1], :: axes[0]])
    ]
    assert flips, "the two volumes hold different voxels"
    size = np.array(moving.grid.size_xyz)
    return lambda index: np.where(np.array(flips[0]) > 0, index, size - 1 - index)


@pytest.mark.parametrize("fixed_name", HEADS)
def test_copies_of_one_head_map_by_the_identity(
    fixed_name: str, weights: Weights, real_data_dir: Path
) -> None:
    folder = real_data_dir / "formats" / "one_head_many_orientations"
    fixed = read_image(folder / f"{fixed_name}.nii.gz")
    head = fixed.array > fixed.array.mean()
    points = fixed.grid.points_mm()[head]
    for moving_name in HEADS:
        moving = read_image(folder / f"{moving_name}.nii.gz")
        error_mm = np.linalg.norm(register(fixed, moving, weights).forward(points) - points, axis=1)
        half_voxel_mm = min(fixed.grid.spacing_mm) / 2
        assert error_mm.max() < half_voxel_mm, f"{moving_name}: {error_mm.max():.2f} mm"


def _moved(image: Image, shift_mm: tuple[float, float, float]) -> Image:
    """The same voxels elsewhere."""
    origin = tuple(o + s for o, s in zip(image.grid.origin_mm, shift_mm, strict=True))
    return replace(image, grid=replace(image.grid, origin_mm=origin))


def _lobe_dice(weights: Weights, folder: Path, shift_mm: tuple[float, float, float]) -> np.ndarray:
    """(6, 3) Dice by centres, by centres of mass, by carl; the moving image moved first."""
    rows = []
    for a, b in itertools.permutations(LUNGS, 2):
        fixed, fixed_seg = (read_image(folder / f"{a}{k}.nii.gz") for k in ("", "_seg"))
        moving, moving_seg = (
            _moved(read_image(folder / f"{b}{k}.nii.gz"), shift_mm) for k in ("", "_seg")
        )
        transforms = [initialise(fixed, moving, how) for how in ("centers", "moments")]
        transforms.append(register(fixed, moving, weights).forward)
        warped = (
            resample(moving_seg, fixed_seg.grid, t, interpolator="nearest") for t in transforms
        )
        rows.append([dice(fixed_seg.array, w.array).mean for w in warped])
    return np.array(rows)


def _dice_through(transform: Transform, fixed_seg: Image, moving_seg: Image) -> float:
    warped = resample(moving_seg, fixed_seg.grid, transform, interpolator="nearest")
    return dice(fixed_seg.array, warped.array).mean


def test_lobes_overlap_better_than_by_centres_and_shifts_do_not_matter(
    weights: Weights, real_data_dir: Path
) -> None:
    folder = real_data_dir / "lung_mr_lobes"
    plain = _lobe_dice(weights, folder, (0.0, 0.0, 0.0))
    by_centres, by_mass, ours = plain.mean(axis=0)
    assert ours > by_centres
    assert ours > by_mass
    shifted = _lobe_dice(weights, folder, (40.0, -30.0, 50.0))
    assert abs(shifted[:, 2].mean() - ours) < 0.01
