"""Diffusion tensors: ANTs is the referee of where and how they are interpolated, scipy's polar
decomposition and closed forms of how they are turned."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.linalg
from ants.internal import get_lib_fn

from carl_cli.errors import OutputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, read_any, write_image
from carl_cli.io.ras import voxel_to_ras
from carl_cli.io.tensors import Reorientation, resample_tensors
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import AffineTransform, Transform, identity
from tests.cli.conftest import Carl, carl  # noqa: F401
from tests.conftest import GRIDS, rotation
from tests.fields import field_on, waves
from tests.measured import assert_close

FIXED, MOVING = GRIDS["oblique"], GRIDS["flipped"]
LOWER = ([0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2])
"""Where xx, xy, yy, xz, yz, zz stand, as NIfTI has it."""
EIGENVALUES = np.array([1.7, 0.7, 0.3])  # um²/ms
FILE = "diffusion tensors (NIfTI intent 1005)"
UNIT = "of eigenvalues up to 1.7"
SHEARED = AffineTransform(
    np.array([[0.98, -0.17, 0.03], [0.16, 0.97, -0.05], [-0.02, 0.06, 1.13]]), np.zeros(3)
)


def fibres(points: np.ndarray) -> np.ndarray:
    """(..., 3, 3) frames that bend from place to place, in LPS; the first column is the fibre."""
    first = np.stack([np.ones_like(points[..., 0]), points[..., 2] / 60, points[..., 0] / 50], -1)
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    second = np.cross(first, [0.0, 0.3, 1.0])
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def along_axes(tensors: np.ndarray, grid: Grid) -> np.ndarray:
    """Six numbers along the index axes of matrices in LPS."""
    turned = grid.direction_matrix.T @ tensors @ grid.direction_matrix
    return turned[(..., *LOWER)]


def in_space(numbers: np.ndarray, grid: Grid) -> np.ndarray:
    tensors = np.zeros((*numbers.shape[:-1], 3, 3))
    for k, (row, column) in enumerate(zip(*LOWER, strict=True)):
        tensors[..., row, column] = tensors[..., column, row] = numbers[..., k]
    return grid.direction_matrix @ tensors @ grid.direction_matrix.T


def tensors_on(grid: Grid) -> Image:
    frames = fibres(grid.points_mm())
    tensors = (frames * EIGENVALUES) @ np.swapaxes(frames, -1, -2)
    numbers = along_axes(tensors, grid).astype(np.float32)
    return Image(numbers, grid, 6, channel_kind="tensor")


def stored(path: Path) -> Path:
    """By nibabel, five axes."""
    numbers = tensors_on(MOVING).array.transpose(2, 1, 0, 3)[:, :, :, None]
    made = nibabel.Nifti1Image(numbers, voxel_to_ras(MOVING))
    made.header.set_intent(1005, (3,))
    nibabel.save(made, path)
    return path


def inside(transform: Transform) -> np.ndarray:
    """Voxels of the fixed grid that land between moving voxels."""
    index = apply_affine(MOVING.lps_to_index, transform(FIXED.points_mm()))
    return np.all((index >= 0) & (index <= np.array(MOVING.size_xyz) - 1), axis=-1)


def by_ants(source: Path, reference: Path, transforms: list[Path]) -> np.ndarray:
    out = source.with_name("ants.nii.gz")
    chain = [word for path in transforms for word in ("-t", str(path))]
    words = ["-d", "3", "-e", "2", "-i", str(source), "-r", str(reference), "-o", str(out), *chain]
    assert get_lib_fn("antsApplyTransforms")([*words, "-f", "0.0007"]) == 0
    held = np.asarray(nibabel.load(out).dataobj)
    return held[:, :, :, 0].transpose(2, 1, 0, 3)


TENTH = field_on(FIXED, lambda points: 0.1 * waves(points))
CHAINS = {"nothing": identity(3), "affine": SHEARED, "field": TENTH}
MOST = {"nothing": 1e-5, "affine": 1e-5, "field": 5e-4}
"""ANTs takes 1 - du/dx for the inverse of 1 + du/dx: that is wrong by terms of second order, hence
a field a tenth as steep as elsewhere."""


@pytest.mark.parametrize("name", CHAINS)
def test_they_are_those_of_ants(tmp_path: Path, name: str, carl: Carl) -> None:  # noqa: F811
    source, reference, out = (tmp_path / f"{n}.nii.gz" for n in ("dt", "fixed", "out"))
    stored(source)
    write_image(reference, Image(np.zeros(FIXED.shape_zyx, np.float32), FIXED))
    chain = {"nothing": [], "affine": [tmp_path / "a.mat"], "field": [tmp_path / "w.nii.gz"]}[name]
    for path in chain:
        write_transform(path, CHAINS[name])
    theirs = by_ants(source, reference, chain)
    items = [word for path in chain for word in ("-t", path)]
    assert carl("warp", source, "-r", reference, *items, "-o", out, "-e", "tensor").code == 0
    made = nibabel.load(out)
    assert made.header.get_intent("code")[0] == 1005
    assert made.shape == (*FIXED.size_xyz, 1, 6)
    ours = np.asarray(made.dataobj)[:, :, :, 0].transpose(2, 1, 0, 3)
    deep = tuple(slice(3, -3) for _ in range(3))  # ANTs turns nothing at the border of a field
    chosen = inside(CHAINS[name])[deep]
    assert chosen.mean() > 0.8
    found, expected = (values[deep][chosen] for values in (ours, theirs))
    file, unit = f"{FILE}, {name}", UNIT
    assert_close(found, expected, MOST[name], file=file, way="written", referee="ANTs", unit=unit)


@pytest.mark.parametrize("grid", sorted(GRIDS))
def test_finite_strain_is_the_rotation_of_scipys_polar_decomposition(
    grid: str, affine: AffineTransform
) -> None:
    """At the fixed points that an affine maps onto moving voxels, so that nothing is interpolated.

    F, from moving to fixed directions, is the inverse of the map's matrix: F = R U.
    """
    moving = GRIDS[grid]
    back = np.linalg.inv(affine.matrix)
    turn, _ = scipy.linalg.polar(back)
    image = tensors_on(moving)
    centre = np.array(moving.size_xyz) // 2
    place = affine.inverse()(moving.index_to_lps[:3] @ [*centre, 1])
    small = Grid((3, 3, 3), (1.0,) * 3, tuple(place - FIXED.direction_matrix.sum(axis=1)),
                 FIXED.direction)  # fmt: skip
    made = resample_tensors(image, small, affine, reorientation="finite-strain")
    found = in_space(made.array[1, 1, 1], small)
    before = in_space(image.array[tuple(centre[::-1])], moving)
    file = FILE + ", finite strain"
    assert_close(
        found, turn @ before @ turn.T, 1e-5, file=file, way="written", referee="scipy", unit=UNIT
    )
    frame = fibres(moving.index_to_lps[:3] @ [*centre, 1])
    found = resample_tensors(image, small, affine, reorientation="ppd").array[1, 1, 1]
    first = back @ frame[:, 0]
    first /= np.linalg.norm(first)
    second = back @ frame[:, 1]
    second -= (second @ first) * first
    second /= np.linalg.norm(second)
    turned = np.column_stack([first, second, np.cross(first, second)])
    expected = (turned * EIGENVALUES) @ turned.T
    file = FILE + ", PPD"
    assert_close(
        in_space(found, small), expected, 1e-5, file=file, way="written", referee="closed form",
        unit=UNIT,
    )  # fmt: skip


def angles(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Degrees between the fibres of tensors and directions without a sign."""
    _, vectors = np.linalg.eigh(found)
    cosine = np.abs((vectors[..., -1] * expected).sum(axis=-1))
    return np.degrees(np.arccos(np.minimum(cosine, 1)))


def test_fibres_follow_a_field() -> None:
    """PPD: the fibre at x is J⁻¹ e(T(x)), J by fine differences of the closed form."""
    made = resample_tensors(tensors_on(MOVING), FIXED, field_on(FIXED))
    points = FIXED.points_mm()
    mapped = points + waves(points)
    columns = []
    for axis in np.eye(3) * 1e-4:
        columns.append((waves(points + axis) - waves(points - axis)) / 2e-4 + axis / 1e-4)
    jacobian = np.stack(columns, axis=-1)
    fibre = (np.linalg.inv(jacobian) @ fibres(mapped)[..., :1])[..., 0]
    fibre /= np.linalg.norm(fibre, axis=-1, keepdims=True)
    deep = tuple(slice(3, -3) for _ in range(3))
    chosen = inside(field_on(FIXED))[deep]
    assert chosen.mean() > 0.8
    found = in_space(made.array[deep][chosen], FIXED)
    wrong = angles(found, fibre[deep][chosen])
    untouched = angles(found, fibres(mapped)[deep][chosen][..., 0])
    assert untouched.max() > 8  # what no turning would be wrong by
    assert_close(
        wrong, np.zeros_like(wrong), 1.0, file=FILE + ", PPD by a field", way="written",
        referee="closed form", unit="degrees",
    )  # fmt: skip


@pytest.mark.parametrize("way", ["ppd", "finite-strain"])
def test_a_turned_head(way: Reorientation) -> None:
    """By a rotation both turn the whole tensor with it."""
    turn = rotation((10, 20, -30))
    image = tensors_on(FIXED)
    made = resample_tensors(image, FIXED, AffineTransform(turn, np.zeros(3)), reorientation=way)
    middle = tuple(n // 2 for n in FIXED.shape_zyx)
    point = FIXED.points_mm()[middle]
    frame = turn.T @ fibres(turn @ point)
    expected = (frame * EIGENVALUES) @ frame.T
    np.testing.assert_allclose(in_space(made.array[middle], FIXED), expected, atol=0.01)


def test_where_there_is_no_tensor(tmp_path: Path) -> None:
    """Zeros and NaN count for nothing; outside stands the background as mean diffusivity."""
    image = tensors_on(MOVING)
    holes = image.array.copy()
    holes[5, 6, 7], holes[8, 9, 10] = 0, np.nan
    made = resample_tensors(Image(holes, MOVING, 6, channel_kind="tensor"), MOVING, background=0.5)
    isotropic = [0.5, 0, 0.5, 0, 0, 0.5]
    np.testing.assert_allclose(made.array[5, 6, 7], isotropic)
    np.testing.assert_allclose(made.array[8, 9, 10], isotropic)
    made.array[5, 6, 7], made.array[8, 9, 10] = image.array[5, 6, 7], image.array[8, 9, 10]
    np.testing.assert_allclose(made.array, image.array, atol=1e-5)


def test_refusals(tmp_path: Path, carl: Carl) -> None:  # noqa: F811
    image = tensors_on(MOVING)
    with pytest.raises(UsageError, match="can't be interpolated by bspline"):
        resample_tensors(image, MOVING, interpolator="bspline")
    with pytest.raises(OutputError, match="NIfTI only"):
        write_image(tmp_path / "a.nrrd", image)
    volumes = Image(image.array, MOVING, 6, channel_kind="time")
    write_image(tmp_path / "six.nii", volumes)
    told = carl("warp", tmp_path / "six.nii", "-o", tmp_path / "o.nii", "-e", "tensor")
    assert told.code == 3
    assert "6 time points, tensors were expected" in told.err
    told = carl("warp", tmp_path / "six.nii", "-o", tmp_path / "o.nii", "--reorient", "ppd")
    assert told.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["six.nii"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    image = tensors_on(MOVING)
    write_image(tmp_path / "a.nii.gz", image)
    again = read_any(tmp_path / "a.nii.gz")
    assert (again.channel_kind, again.channels) == ("tensor", 6)
    np.testing.assert_array_equal(again.array, image.array)
