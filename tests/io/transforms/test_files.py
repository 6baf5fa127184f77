"""Every writer, read by every referee: signs, order, raw bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ants
import h5py
import nibabel
import nitransforms
import numpy as np
import pandas
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError, OutputError, UsageError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import sha256_of
from carl_cli.io.transforms.files import (
    from_sitk_transform,
    read_transform,
    read_written,
    write_transform,
)
from carl_cli.transforms import AffineTransform, Transform, dense, spaced_grid
from tests.conftest import GRIDS
from tests.fields import TRANSLATION, constant_field, field_on, inner_points
from tests.measured import assert_close

SHIFT = AffineTransform(np.eye(3), np.array(TRANSLATION))
DENSE = ("field.nii.gz", "field.nii", "field.nrrd", "field.mha")
AFFINE = ("affine.tfm", "affine.txt", "affine.mat")


def by_ants(path: Path, points: np.ndarray) -> np.ndarray:
    table = pandas.DataFrame(points, columns=list("xyz"))
    return ants.apply_transforms_to_points(3, table, [str(path)])[list("xyz")].to_numpy()


def by_simpleitk(path: Path, points: np.ndarray) -> np.ndarray:
    if path.suffix in (".gz", ".nii", ".nrrd", ".mha"):
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(image)
    else:
        transform = sitk.ReadTransform(str(path))
    return np.array([transform.TransformPoint(p.tolist()) for p in points])


def by_nitransforms(path: Path, points: np.ndarray) -> np.ndarray:
    """It works in RAS; a chain read from a file maps in ITK's order."""
    flip = np.array([-1.0, -1.0, 1.0])
    if path.suffix == ".h5":
        chain = nitransforms.manip.load(path, fmt="itk")
    else:
        chain = nitransforms.nonlinear.load(path, fmt="itk")
    return chain.map(points * flip) * flip


def some_voxels(grid: Grid) -> np.ndarray:
    """Positions of voxels, where nitransforms (cubic splines) interpolates nothing."""
    return grid.points_mm()[2:-2:5, 2:-2:5, 2:-2:5].reshape(-1, 3)


Referee = Callable[[Path, np.ndarray], np.ndarray]
REFEREES = {by_ants: "ANTs", by_simpleitk: "SimpleITK", by_nitransforms: "nitransforms"}
FIELDS = "displacement field (.nii.gz .nii .nrrd .mha)"
AFFINES = "ITK affine (.tfm .txt .mat .h5)"


def both_ways(
    referee: Referee, path: Path, points: np.ndarray, expected: np.ndarray, file: str, most: float
) -> None:
    """The referee finds the map in our file, and we find in it what the referee does."""
    theirs, name = referee(path, points), REFEREES[referee]
    assert_close(theirs, expected, most, file=file, way="written", referee=name)
    ours = read_transform(path)(points)
    assert_close(ours, theirs, most, file=file, way="read", referee=name)


@pytest.fixture
def grid() -> Grid:
    return GRIDS["oblique"]


@pytest.mark.parametrize("referee", [by_ants, by_simpleitk])
@pytest.mark.parametrize("name", [*DENSE, "composite.h5"])
@pytest.mark.parametrize("shape", sorted(GRIDS))
def test_a_translated_point_goes_where_it_should(
    shape: str, name: str, referee: Referee, tmp_path: Path
) -> None:
    """(6, -4, 3) mm LPS, through a field and through an affine."""
    grid, path = GRIDS[shape], tmp_path / name
    write_transform(path, constant_field(grid))
    points = inner_points(grid, 20)
    file = "ITK composite (.h5, float)" if name == "composite.h5" else FIELDS
    both_ways(referee, path, points, points + TRANSLATION, file, 1e-4)
    np.testing.assert_allclose(read_transform(path)(points), points + TRANSLATION, atol=1e-5)


@pytest.mark.parametrize("referee", [by_ants, by_simpleitk])
@pytest.mark.parametrize("name", [*AFFINE, "affine.h5"])
def test_an_affine_goes_where_it_should(
    name: str, referee: Referee, tmp_path: Path, grid: Grid, affine: AffineTransform
) -> None:
    path, points = tmp_path / name, inner_points(grid, 20)
    write_transform(path, affine @ SHIFT)
    expected = affine(points + TRANSLATION)
    both_ways(referee, path, points, expected, AFFINES, 1e-4)
    np.testing.assert_allclose(read_transform(path)(points), expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["float", "double"])
@pytest.mark.parametrize("referee", [by_ants, by_simpleitk, by_nitransforms])
def test_a_composite_keeps_its_order_in_every_reader(
    referee: Referee, precision: str, tmp_path: Path, grid: Grid, affine: AffineTransform
) -> None:
    field, path = field_on(grid), tmp_path / "chain.h5"
    write_transform(path, affine @ field, precision=precision)  # type: ignore[arg-type]
    points = some_voxels(grid)
    right, swapped = (affine @ field)(points), (field @ affine)(points)
    assert np.linalg.norm(right - swapped, axis=1).max() > 1
    np.testing.assert_allclose(referee(path, points), right, atol=1e-3)
    np.testing.assert_allclose(read_transform(path)(points), right, atol=1e-4)


@pytest.mark.parametrize("referee", [by_ants, by_simpleitk, by_nitransforms])
def test_a_dense_field_of_a_chain(
    referee: Referee, tmp_path: Path, any_grid: Grid, affine: AffineTransform
) -> None:
    chain, path = affine @ field_on(any_grid), tmp_path / "field.nii.gz"
    write_transform(path, chain)
    points = some_voxels(any_grid)
    both_ways(referee, path, points, chain(points), FIELDS, 1e-3)


@pytest.mark.parametrize("name", [*DENSE, "chain.h5"])
def test_our_reader_gives_the_map_back(
    name: str, tmp_path: Path, any_grid: Grid, affine: AffineTransform
) -> None:
    chain, path = affine @ field_on(any_grid), tmp_path / name
    write_transform(path, chain)
    sampled = chain if name.endswith(".h5") else dense(chain, any_grid)
    points = inner_points(any_grid)
    np.testing.assert_allclose(read_transform(path)(points), sampled(points), atol=1e-4)


def test_the_nifti_header_says_vector_and_holds_lps_numbers(tmp_path: Path, any_grid: Grid) -> None:
    path = tmp_path / "field.nii.gz"
    write_transform(path, constant_field(any_grid))
    image = nibabel.load(path)
    header = image.header
    assert header["dim"].tolist() == [5, *any_grid.size_xyz, 1, 3, 1, 1]
    assert int(header["intent_code"]) == 1007
    assert header.get_data_dtype() == np.float32
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header["pixdim"][1:4], any_grid.spacing_mm, rtol=1e-6)
    ras = np.diag([-1, -1, 1, 1]) @ any_grid.index_to_lps
    np.testing.assert_allclose(image.affine, ras, atol=1e-4)
    numbers = np.asarray(image.dataobj).reshape(-1, 3)
    np.testing.assert_array_equal(np.unique(numbers, axis=0), [TRANSLATION])


@pytest.mark.parametrize("name", ["field.nii.gz", "field.nii"])
def test_intent_1006_holds_ras_numbers_that_itk_flips(
    name: str, tmp_path: Path, any_grid: Grid
) -> None:
    path = tmp_path / name
    write_transform(path, constant_field(any_grid), intent=1006)
    image = nibabel.load(path)
    assert int(image.header["intent_code"]) == 1006
    assert image.header["dim"].tolist() == [5, *any_grid.size_xyz, 1, 3, 1, 1]
    numbers = np.asarray(image.dataobj).reshape(-1, 3)
    np.testing.assert_array_equal(np.unique(numbers, axis=0), [(-6.0, 4.0, 3.0)])
    points = inner_points(any_grid, 20)
    file = "displacement field (NIfTI intent 1006)"
    both_ways(by_simpleitk, path, points, points + TRANSLATION, file, 1e-4)


def test_the_h5_file_is_one_compressed_float_composite(
    tmp_path: Path, grid: Grid, affine: AffineTransform
) -> None:
    path = tmp_path / "chain.h5"
    field = field_on(grid)
    write_transform(path, affine @ field)
    with h5py.File(path) as file:
        groups = [file[f"TransformGroup/{k}"] for k in range(3)]
        assert len(file["TransformGroup"]) == 3
        names = [group["TransformType"][0].decode() for group in groups]
        parameters = groups[2]["TransformParameters"]
        fixed = groups[2]["TransformFixedParameters"][:]
        stored, compression = parameters[:], parameters.compression
        linear = groups[1]["TransformParameters"][:]
    assert names == [
        "CompositeTransform_float_3_3",
        "AffineTransform_float_3_3",
        "DisplacementFieldTransform_float_3_3",
    ]
    assert stored.dtype == np.float32
    assert compression == "gzip"
    np.testing.assert_array_equal(stored, field.displacement_mm.ravel())
    expected = [*grid.size_xyz, *grid.origin_mm, *grid.spacing_mm, *grid.direction]
    np.testing.assert_allclose(fixed, expected, rtol=1e-12)
    np.testing.assert_allclose(linear, [*affine.matrix.ravel(), *affine.translation], rtol=1e-6)


@pytest.mark.parametrize("transform", [constant_field(GRIDS["plain"]), SHIFT])
@pytest.mark.parametrize("precision", ["float", "double"])
def test_even_one_part_is_wrapped_in_a_composite(
    transform: Transform, precision: str, tmp_path: Path
) -> None:
    write_transform(tmp_path / "one.h5", transform, precision=precision)  # type: ignore[arg-type]
    with h5py.File(tmp_path / "one.h5") as file:
        first = file["TransformGroup/0/TransformType"][0].decode()
        assert first == f"CompositeTransform_{precision}_3_3"
        assert len(file["TransformGroup"]) == 2


def test_a_double_file_loses_nothing(tmp_path: Path, grid: Grid, affine: AffineTransform) -> None:
    chain = affine @ field_on(grid)
    write_transform(tmp_path / "d.h5", chain, precision="double")
    points = inner_points(grid)
    again = read_transform(tmp_path / "d.h5")(points)
    np.testing.assert_allclose(again, chain(points), atol=1e-12)


def test_the_suffix_hdf5_is_read_and_not_written(tmp_path: Path, affine: AffineTransform) -> None:
    write_transform(tmp_path / "a.h5", affine)
    (tmp_path / "a.h5").rename(tmp_path / "a.hdf5")
    point = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(read_transform(tmp_path / "a.hdf5")(point), affine(point), atol=1e-5)
    with pytest.raises(UsageError, match=r"\.hdf5: no transform can be written"):
        write_transform(tmp_path / "b.hdf5", affine)


def test_a_coarse_field_covers_the_field_of_view(
    tmp_path: Path, any_grid: Grid, affine: AffineTransform
) -> None:
    """ITK and ANTs find a displacement everywhere in the image, its outer corners included."""
    chain = affine @ field_on(any_grid)
    path = tmp_path / "coarse.nii.gz"
    write_transform(path, chain, field_grid=spaced_grid(any_grid, 5.0))
    corners = any_grid.corners_mm()
    for mapped in (by_ants(path, corners), by_simpleitk(path, corners)):
        assert np.linalg.norm(mapped - chain(corners), axis=1).max() < 0.6
        assert np.linalg.norm(mapped - corners, axis=1).min() > 1.0


def test_a_field_inverse_is_stored_as_a_field(tmp_path: Path, any_grid: Grid) -> None:
    field, path = field_on(any_grid), tmp_path / "inverse.h5"
    write_transform(path, field.inverse())
    points = inner_points(any_grid)
    for mapped in (read_transform(path)(field(points)), by_simpleitk(path, field(points))):
        assert np.percentile(np.linalg.norm(mapped - points, axis=1), 99) < 0.1


def test_2d_transforms(tmp_path: Path) -> None:
    grid = Grid((20, 15), (1.0, 2.0), (3.0, 4.0), (0.0, 1.0, -1.0, 0.0))
    turn = AffineTransform(np.array([[0.9, 0.1], [-0.2, 1.1]]), np.array([3.0, -2.0]))
    chain = turn @ constant_field(grid, (6.0, -4.0))
    points = inner_points(grid, 20, 2.0)
    for name in ("c.h5", "c.nii.gz", "c.nrrd", "c.mha"):
        write_transform(tmp_path / name, chain)
        np.testing.assert_allclose(
            read_transform(tmp_path / name)(points), chain(points), atol=1e-4
        )
        mapped = by_simpleitk(tmp_path / name, points)
        np.testing.assert_allclose(mapped, turn(points + np.array([6.0, -4.0])), atol=1e-4)


@pytest.mark.parametrize(
    "transform",
    [
        sitk.TranslationTransform(3, TRANSLATION),
        sitk.Euler3DTransform((1, 2, 3), 0.1, -0.2, 0.3, TRANSLATION),
        sitk.VersorRigid3DTransform((0.1, 0.2, 0.3, 0.9), TRANSLATION, (4, 5, 6)),
        sitk.Similarity3DTransform(1.2, (0.1, 0.2, 0.3, 0.9), TRANSLATION, (4, 5, 6)),
        sitk.ScaleTransform(3, (1.1, 1.2, 0.8)),
        sitk.ScaleSkewVersor3DTransform(
            (1.1, 1.2, 0.8), (0.1,) * 6, (0.1, 0.2, 0.3, 0.9), TRANSLATION, (4, 5, 6)
        ),
        sitk.AffineTransform((1, 0.1, 0, 0, 0.9, 0.2, -0.1, 0, 1.1), TRANSLATION, (4, 5, 6)),
    ],
    ids=lambda t: t.GetName(),
)
@pytest.mark.parametrize("name", ["t.tfm", "t.h5", "t.mat"])
def test_every_linear_type_of_itk(transform: sitk.Transform, name: str, tmp_path: Path) -> None:
    sitk.WriteTransform(transform, str(tmp_path / name))
    points = np.random.default_rng(0).normal(size=(10, 3)) * 50
    expected = np.array([transform.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(read_transform(tmp_path / name)(points), expected, atol=1e-9)


def test_nested_composites_of_itk(grid: Grid) -> None:
    """No file can hold them, memory can."""
    inner = sitk.CompositeTransform([sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3, (1, 2, 3))])
    inner.AddTransform(sitk.TranslationTransform(3, TRANSLATION))
    outer = sitk.CompositeTransform([sitk.ScaleTransform(3, (1.1, 0.9, 1.2)), inner])
    points = inner_points(grid, 20)
    expected = np.array([outer.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(from_sitk_transform(outer)(points), expected, atol=1e-9)


def test_a_centred_affine_around_a_field_in_voxel_units(tmp_path: Path) -> None:
    """As uniGradICON stores it: to the network's unit grid, displace there, to the moving image."""
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    rng = np.random.default_rng(2)
    field = sitk.GetImageFromArray(rng.normal(size=(8, 10, 12, 3)), isVector=True)
    to_network = sitk.AffineTransform((0.2, 0, 0, 0, 0.25, 0, 0, 0, 0.1), (6, 5, 4), (1, 2, 3))
    to_moving = sitk.AffineTransform((4, 0.2, 0, 0, 5, 0, 0.3, 0, 9), (-20, 3, 8), (5, 4, 3))
    theirs = sitk.CompositeTransform(
        [to_moving, sitk.DisplacementFieldTransform(sitk.Image(field)), to_network]
    )
    sitk.WriteTransform(theirs, str(tmp_path / "u.hdf5"))
    ours = read_transform(tmp_path / "u.hdf5")
    network = inner_points(grid, 30, 1.0)
    points = np.array([to_network.GetInverse().TransformPoint(p.tolist()) for p in network])
    expected = np.array([theirs.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(ours(points), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"nothing", "not a readable transform"),
        ("a.tfm", b"Transform: Bogus_double_3_3\n", "not a readable transform"),
        ("a.xyz", b"", "no transform has this suffix"),
        ("a.nii.gz", b"garbage", "a.nii.gz"),
        ("a.mha", b"garbage", "a.mha"),
    ],
)
def test_what_is_no_transform_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path / name)


def test_an_image_is_no_field(tmp_path: Path, grid: Grid) -> None:
    sitk.WriteImage(sitk.Image(5, 5, 5, sitk.sitkFloat32), str(tmp_path / "i.nii.gz"))
    with pytest.raises(InputError, match="an image, not a transform"):
        read_transform(tmp_path / "i.nii.gz")
    sitk.WriteImage(sitk.Image(5, 5, 5, sitk.sitkFloat32), str(tmp_path / "i.mha"))
    with pytest.raises(InputError, match="an image, not a transform"):
        read_transform(tmp_path / "i.mha")


def test_a_truncated_field_is_refused(tmp_path: Path, grid: Grid) -> None:
    path = tmp_path / "field.nii"
    write_transform(path, field_on(grid))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="bytes"):
        read_transform(path)


def test_niftyreg_fields_are_not_mistaken(tmp_path: Path, grid: Grid) -> None:
    write_transform(tmp_path / "f.nii", constant_field(grid))
    raw = bytearray((tmp_path / "f.nii").read_bytes())
    raw[328:338] = b"NREG_TRANS"
    (tmp_path / "f.nii").write_bytes(raw)
    with pytest.raises(InputError, match="NiftyReg"):
        read_transform(tmp_path / "f.nii")


def test_what_a_format_can_not_hold_is_said(
    tmp_path: Path, grid: Grid, affine: AffineTransform
) -> None:
    with pytest.raises(UsageError, match="only an affine"):
        write_transform(tmp_path / "a.mat", affine @ field_on(grid))
    with pytest.raises(UsageError, match="no grid of its own"):
        write_transform(tmp_path / "a.nii.gz", affine)
    with pytest.raises(OutputError):
        write_transform(tmp_path / "missing" / "a.h5", affine)
    assert list(tmp_path.iterdir()) == []


def test_own_files_are_known_by_their_hash(tmp_path: Path) -> None:
    """The same map as with a trial beforehand; a byte more, and it is not the file any more."""
    grid = GRIDS["oblique"]
    path, points = tmp_path / "own.h5", inner_points(grid)
    write_transform(path, SHIFT @ field_on(grid))
    own = read_written(path, sha256_of(path))
    np.testing.assert_array_equal(own(points), read_transform(path)(points))
    known = sha256_of(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="is not the file that was written"):
        read_written(path, known)
