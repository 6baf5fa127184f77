"""`carl warp` against antspyx, itk and SimpleITK; its grammar; what it keeps and refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import typer
from ants.internal import get_lib_fn
from typer.testing import CliRunner, Result

from carl_cli.cli.warp import warp
from carl_cli.errors import CarlError, InputError, OutputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, read_any, write_image
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import AffineTransform, DisplacementField
from carl_cli.workflows.grids import target_grid
from tests.measured import assert_close

MakeImage = Callable[..., Image]
AFFINE = AffineTransform(
    np.array([[0.98, -0.17, 0.03], [0.16, 0.97, -0.05], [-0.02, 0.06, 1.03]]),
    np.array([3.0, -2.0, 4.0]),
)
NAMES = ("plain", "anisotropic", "flipped", "oblique", "permuted")

app = typer.Typer()
app.command()(warp)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)
    if isinstance(result.exception, CarlError):
        raise result.exception
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def smooth_field(grid: Grid, amplitude_mm: float = 4.0) -> DisplacementField:
    """A field without folds that is neither odd nor symmetric."""
    x, y, z = np.moveaxis(grid.points_mm(), -1, 0)
    waves = [np.sin(y / 13 + 0.4), np.cos(z / 15 + x / 40), np.sin(x / 14) * np.cos(y / 17)]
    return DisplacementField(grid, amplitude_mm * np.stack(waves, axis=-1).astype("f4"))


@pytest.fixture
def files(tmp_path: Path, grids: dict[str, Grid], make_image: MakeImage) -> dict[str, Path]:
    """moving.nii.gz, fixed.nii.gz, affine.mat, field.nii.gz (on the fixed image's grid)."""
    paths = {
        "moving": tmp_path / "moving.nii.gz",
        "fixed": tmp_path / "fixed.nii.gz",
        "affine": tmp_path / "affine.mat",
        "field": tmp_path / "field.nii.gz",
        "out": tmp_path / "out.nii.gz",
    }
    fixed = Grid(**vars_of(grids["oblique"]))
    write_image(paths["moving"], make_image(grids["flipped"]))
    write_image(paths["fixed"], make_image(fixed))
    write_transform(paths["affine"], AFFINE)
    write_transform(paths["field"], smooth_field(fixed))
    return paths


def vars_of(grid: Grid) -> dict[str, tuple[float, ...]]:
    names = ("size_xyz", "spacing_mm", "origin_mm", "direction")
    return {name: getattr(grid, name) for name in names}


def between_centres(grid: Grid, points: np.ndarray) -> np.ndarray:
    index = apply_affine(grid.lps_to_index, points)
    return np.all((index >= 0) & (index <= np.array(grid.size_xyz) - 1), axis=-1)


def by_ants(files: dict[str, Path], chain: list[str], invert: list[bool], how: str) -> np.ndarray:
    """ANTs' own result, (z, y, x)."""
    result = ants.apply_transforms(
        ants.image_read(str(files["fixed"])),
        ants.image_read(str(files["moving"])),
        [str(files[name]) for name in chain],
        whichtoinvert=invert,
        interpolator=how,
    )
    array: np.ndarray = result.numpy().T
    return array


@pytest.mark.parametrize("fixed_name", NAMES)
@pytest.mark.parametrize("moving_name", NAMES)
def test_ants_agrees_on_every_pair_of_geometries(
    files: dict[str, Path],
    grids: dict[str, Grid],
    make_image: MakeImage,
    fixed_name: str,
    moving_name: str,
) -> None:
    fixed, moving = grids[fixed_name], make_image(grids[moving_name])
    write_image(files["fixed"], make_image(fixed))
    write_image(files["moving"], moving)
    write_transform(files["field"], smooth_field(fixed))
    run(
        files["moving"], "-r", files["fixed"], "-o", files["out"],
        "-t", files["field"], "-t", files["affine"],
    )  # fmt: skip
    ours = read_any(files["out"])
    theirs = by_ants(files, ["field", "affine"], [False, False], "linear")
    known = between_centres(moving.grid, (AFFINE @ smooth_field(fixed))(fixed.points_mm()))
    assert known.sum() > 1000
    assert ours.grid.matches(fixed)
    assert np.abs(ours.array - theirs)[known].max() < 1e-3 * np.ptp(moving.array)


@pytest.mark.slow  # loading itk alone takes half a minute
def test_itk_agrees(files: dict[str, Path], tmp_path: Path) -> None:
    import itk

    run(
        files["moving"], "-r", files["fixed"], "-o", files["out"],
        "-t", files["field"], "-t", files["affine"],
    )  # fmt: skip
    fixed, moving = (itk.imread(str(files[name]), itk.F) for name in ("fixed", "moving"))
    both = tmp_path / "both.h5"
    write_transform(both, AFFINE @ smooth_field(read_any(files["fixed"]).grid), precision="double")
    (chain,) = itk.transformread(str(both))
    theirs = itk.resample_image_filter(
        moving, transform=chain, use_reference_image=True, reference_image=fixed
    )
    ours, source = read_any(files["out"]), read_any(files["moving"])
    mapped = (AFFINE @ smooth_field(ours.grid))(ours.grid.points_mm())
    known = between_centres(source.grid, mapped)
    gap = np.abs(ours.array - itk.array_from_image(theirs))[known]
    assert gap.max() < 1e-3 * np.ptp(source.array)


@pytest.mark.parametrize("swapped", [False, True])
def test_chain_order(
    files: dict[str, Path], intensity: Callable[[np.ndarray], np.ndarray], swapped: bool
) -> None:
    """The first -t meets the fixed point first; the other order is far off."""
    order = ["affine", "field"] if swapped else ["field", "affine"]
    items = [x for name in order for x in ("-t", files[name])]
    run(files["moving"], "-r", files["fixed"], "-o", files["out"], *items)
    out, moving = read_any(files["out"]), read_any(files["moving"])
    mapped = (AFFINE @ smooth_field(out.grid))(out.grid.points_mm())
    known = between_centres(moving.grid, mapped)
    gap = np.abs(out.array - intensity(mapped))[known] / np.ptp(moving.array)
    assert (np.percentile(gap, 99) < 0.01) != swapped


def test_composite_file_is_the_chain(files: dict[str, Path], tmp_path: Path) -> None:
    fixed = read_any(files["fixed"]).grid
    write_transform(tmp_path / "both.h5", AFFINE @ smooth_field(fixed))
    common = (files["moving"], "-r", files["fixed"])
    run(*common, "-o", tmp_path / "a.nrrd", "-t", files["field"], "-t", files["affine"])
    run(*common, "-o", tmp_path / "b.nrrd", "-t", tmp_path / "both.h5")
    first, second = (read_any(tmp_path / f"{n}.nrrd").array for n in "ab")
    np.testing.assert_allclose(first, second, atol=1e-3)
    assert np.ptp(first) > 100


@pytest.mark.parametrize("mark", ["[{},1]", "{},-1", "[{}, true]"])
def test_an_inverted_affine_is_exact(files: dict[str, Path], mark: str) -> None:
    run(
        files["moving"], "-r", files["fixed"], "-o", files["out"],
        "-t", mark.format(files["affine"]),
    )  # fmt: skip
    ours, moving = read_any(files["out"]), read_any(files["moving"])
    theirs = by_ants(files, ["affine"], [True], "linear")
    known = between_centres(moving.grid, AFFINE.inverse()(ours.grid.points_mm()))
    assert np.abs(ours.array - theirs)[known].max() < 1e-3 * np.ptp(moving.array)
    plain = by_ants(files, ["affine"], [False], "linear")
    assert np.abs(plain - theirs)[known].max() > 0.1 * np.ptp(moving.array)


def test_an_inverted_field_undoes_the_field(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """moving → fixed by the field, then back by its inverse: the identity inside."""
    field = smooth_field(read_any(files["fixed"]).grid)
    moving = read_any(files["moving"])
    items = ["-t", f"[{files['field']},1]", "-t", files["field"]]
    result = run(files["moving"], "-r", files["fixed"], "-o", files["out"], *items)
    ours = read_any(files["out"])
    plain = sitk.Resample(
        sitk.ReadImage(str(files["moving"])), sitk.ReadImage(str(files["fixed"])), sitk.Transform()
    )
    points = ours.grid.points_mm()
    known = between_centres(moving.grid, points) & between_centres(field.grid, field(points))
    gap = np.abs(ours.array - sitk.GetArrayFromImage(plain))[known]
    assert np.percentile(gap, 99) < 1e-3 * np.ptp(moving.array)
    assert "numerical inverse of a field: residual" in result.stderr
    residual_mm = float(result.stderr.split("residual ")[1].split(" mm")[0])
    assert residual_mm < 0.1


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_type_is_kept_or_as_asked(
    files: dict[str, Path], grids: dict[str, Grid], make_image: MakeImage, dtype: str
) -> None:
    image = make_image(grids["flipped"], "float64")
    scaled = (image.array - image.array.min()) / np.ptp(image.array) * 200
    write_image(files["moving"], Image(scaled.astype(dtype), image.grid))
    common = (files["moving"], "-r", files["fixed"], "-t", files["affine"], "-o", files["out"])
    run(*common)
    assert nib.load(files["out"]).get_data_dtype() == np.dtype(dtype)
    exact = read_any(files["out"]).array
    for ants_name, numpy_name in (("short", "int16"), ("float", "float32"), ("uchar", "uint8")):
        run(*common, "-u", ants_name, "--overwrite")
        again = read_any(files["out"]).array
        assert again.dtype == np.dtype(numpy_name)
        assert np.abs(again.astype(float) - exact).max() <= 0.5


@pytest.mark.parametrize(
    ("dtype", "labels"),
    [
        ("uint8", (1, 2, 255)),
        ("uint32", (2**24 + 1, 2**24 + 2, 2**32 - 1)),
        ("uint64", (2**24 + 1, 2**53 + 1, 2**63 + 5)),
    ],
)
@pytest.mark.parametrize("how", ["NearestNeighbor", "GenericLabel", "MultiLabel"])
def test_labels_in_files_are_exact(
    files: dict[str, Path],
    grids: dict[str, Grid],
    make_labels: MakeImage,
    how: str,
    dtype: str,
    labels: tuple[int, ...],
) -> None:
    write_image(files["moving"], make_labels(grids["flipped"], labels, dtype))
    items = ["-t", files["field"], "-t", files["affine"]]
    run(files["moving"], "-r", files["fixed"], "-o", files["out"], *items, "-n", how)
    raw = np.asarray(nib.load(files["out"]).dataobj)
    assert raw.dtype == np.dtype(dtype)
    assert set(np.unique(raw)) == {np.dtype(dtype).type(v) for v in (0, *labels)}


@pytest.mark.parametrize("how", ["linear", "bspline", "genericLabel"])
def test_labels_and_a_mean_are_warned_of(
    how: str,
    files: dict[str, Path],
    grids: dict[str, Grid],
    make_labels: MakeImage,
    make_image: MakeImage,
) -> None:
    write_image(files["moving"], make_labels(grids["flipped"], (3, 9, 200), "uint8"))
    warned = said_by(files, how)
    assert ("genericlabel keeps them" in warned) == (how != "genericLabel")
    write_image(files["moving"], make_image(grids["flipped"], "uint8"))
    assert "genericlabel keeps them" not in said_by(files, how)


def test_images_that_were_exchanged_are_warned_of(files: dict[str, Path]) -> None:
    """A field on the fixed image's grid, with an affine before it, resamples the moving image."""
    fixed, moving = files["fixed"], files["moving"]
    both = ("-t", files["field"], "-t", files["affine"])

    def said(source: Path, reference: Path, *chain: object) -> str:
        words = ("--overwrite", "-o", files["out"])
        return run(source, "-r", reference, *chain, *words).stderr

    doubt = f"fixed image seems to be {fixed}"
    assert doubt in said(fixed, moving, *both)
    for right in (said(moving, fixed, *both), said(fixed, moving, "-t", files["affine"])):
        assert doubt not in right
        assert "no transform" not in right
    assert f"no transform: the header of {moving} alone" in said(moving, fixed)


def said_by(files: dict[str, Path], how: str) -> str:
    common = (files["moving"], "-r", files["fixed"], "-o", files["out"], "--overwrite")
    return run(*common, "-t", files["affine"], "-n", how).stderr


def test_identity_is_ants_word_for_no_transform(files: dict[str, Path]) -> None:
    common = (files["moving"], "-r", files["fixed"], "-o", files["out"], "--overwrite")
    images = []
    for items in ([], ["-t", "identity"], ["-t", "[identity,1]"], ["-t", "Identity"]):
        run(*common, *items)
        images.append(read_any(files["out"]).array)
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])
    run(*common, "-t", files["affine"])
    moved = read_any(files["out"]).array
    run(*common, "-t", "identity", "-t", files["affine"])
    np.testing.assert_array_equal(read_any(files["out"]).array, moved)


def test_generic_label_is_that_of_ants(
    files: dict[str, Path], grids: dict[str, Grid], make_labels: MakeImage
) -> None:
    write_image(files["moving"], make_labels(grids["flipped"], (3, 9, 200), "uint8"))
    items = ["-t", files["field"], "-t", files["affine"]]
    common = (files["moving"], "-r", files["fixed"], "-o", files["out"], *items)
    run(*common, "-n", "GenericLabel")
    theirs = by_ants(files, ["field", "affine"], [False, False], "genericLabel")
    ours = read_any(files["out"]).array
    wrong = np.count_nonzero(ours != theirs)
    run(*common, "-n", "nearest", "--overwrite")
    wrong_by_nearest = np.count_nonzero(read_any(files["out"]).array != theirs)
    assert wrong_by_nearest > 50
    file = "antsApplyTransforms -n GenericLabel"
    # ties, decided by the last bit of a weight
    assert_close(wrong, 0, 2, file=file, way="written", referee="ANTs", unit="voxels")


@pytest.mark.parametrize(
    ("how", "labels"),
    [
        ("MultiLabel", True),
        ("MultiLabel[0.3,4]", True),
        ("MultiLabel[1.5x2x1,3]", True),
        ("Gaussian", False),
        ("Gaussian[1,2]", False),
        ("Gaussian[2]", False),
    ],
)
def test_gaussian_weights_are_those_of_ants(
    how: str,
    labels: bool,
    files: dict[str, Path],
    grids: dict[str, Grid],
    make_labels: MakeImage,
    make_image: MakeImage,
) -> None:
    """Every voxel; with the numbers in brackets as antsApplyTransforms takes them."""
    moving = grids["flipped"]
    held = make_labels(moving, (3, 9, 200), "uint8") if labels else make_image(moving, "float32")
    write_image(files["moving"], held)
    common = ["-r", files["fixed"], "-t", files["field"], "-n", how]
    theirs = files["out"].with_name("theirs.nii.gz")
    command = ["-d", "3", "-i", files["moving"], "-o", theirs, *common]
    get_lib_fn("antsApplyTransforms")([str(word) for word in command])
    run(files["moving"], "-o", files["out"], *common)
    ours, expected = (read_any(path).array.astype(float) for path in (files["out"], theirs))
    if labels:
        file, wrong = "antsApplyTransforms -n MultiLabel", np.count_nonzero(ours != expected)
        assert_close(wrong, 0, 2, file=file, way="written", referee="ANTs", unit="voxels")  # ties
        assert len(np.unique(expected)) == 4
    else:
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.ptp(expected))


def test_numbers_of_a_kernel_are_checked(files: dict[str, Path]) -> None:
    for how in ("gaussian[]", "multilabel[0]", "gaussian[1,x]", "gaussian[-1,2]", "linear[2]"):
        with pytest.raises(UsageError, match="no interpolator"):
            run(files["moving"], "-o", files["out"], "-n", how)
    with pytest.raises(UsageError, match="one sigma or 3"):
        run(files["moving"], "-o", files["out"], "-n", "gaussian[1x2,2]")


def test_time_series_stay_series(
    files: dict[str, Path], grids: dict[str, Grid], make_image: MakeImage
) -> None:
    image = make_image(grids["flipped"], "int16")
    volumes = np.stack([image.array, image.array // 2, image.array * 3], axis=-1)
    series = Image(volumes, image.grid, 3, channel_kind="time", time_step=2.5)
    write_image(files["moving"], series)
    common = (files["moving"], "-r", files["fixed"], "-t", files["affine"], "-o", files["out"])
    run(*common, "-e", "time-series")
    out = nib.load(files["out"])
    assert out.shape == (*read_any(files["fixed"]).grid.size_xyz, 3)
    assert out.header.get_zooms()[3] == 2.5
    warped = np.asarray(out.dataobj)
    for t in range(3):
        write_image(files["moving"], Image(np.ascontiguousarray(volumes[..., t]), image.grid))
        run(*common, "--overwrite")
        np.testing.assert_array_equal(warped[..., t].T, read_any(files["out"]).array)
    write_image(files["moving"], series)
    run(*common, "--overwrite", "-e", "multichannel")
    assert nib.load(files["out"]).shape[3:] == (1, 3)
    with pytest.raises(InputError, match="3 time points, one scalar volume was expected"):
        run(*common, "--overwrite", "-e", "scalar")


def test_colour_stays_colour(files: dict[str, Path], grids: dict[str, Grid]) -> None:
    grid = grids["flipped"]
    rgb = np.zeros((*grid.shape_zyx, 3), "u1")
    rgb[:12, ..., 0], rgb[12:, ..., 2] = 200, 255
    write_image(files["moving"], Image(rgb, grid, 3, channel_kind="rgb"))
    run(files["moving"], "-r", files["fixed"], "-t", files["affine"], "-o", files["out"])
    out = nib.load(files["out"])
    assert int(out.header["datatype"]) == 128
    data = np.asarray(out.dataobj)
    assert data["R"].max() == 200
    assert data["G"].max() == 0
    assert data["B"].max() == 255


@pytest.mark.parametrize(
    "options", [("--spacing", "3"), ("--size", "20,24,10"), ("--spacing", "1,2x3")]
)
def test_other_spacing_or_size_covers_the_same_extent(
    files: dict[str, Path], options: tuple[str, str], intensity: Callable[..., np.ndarray]
) -> None:
    run(files["moving"], "-o", files["out"], *options)
    out, moving = read_any(files["out"]), read_any(files["moving"])
    np.testing.assert_allclose(out.grid.centre_mm, moving.grid.centre_mm, atol=1e-4)
    extents = [np.array(g.size_xyz) * g.spacing_mm for g in (out.grid, moving.grid)]
    assert (extents[0] > extents[1] - 1e-3).all()
    assert (extents[0] < extents[1] + np.array(out.grid.spacing_mm)).all()
    points = out.grid.points_mm()
    known = between_centres(moving.grid, points)
    gap = np.abs(out.array - intensity(points))[known]
    assert np.percentile(gap, 99) < 0.01 * np.ptp(moving.array)


def test_spacing_and_size_together_keep_the_middle(files: dict[str, Path]) -> None:
    grid = target_grid(files["fixed"], [2.0], [10, 11, 12])
    assert (grid.size_xyz, grid.spacing_mm) == ((10, 11, 12), (2.0, 2.0, 2.0))
    original = read_any(files["fixed"]).grid
    np.testing.assert_allclose(grid.centre_mm, original.centre_mm, atol=1e-5)
    assert grid.direction == original.direction


def test_several_inputs_go_into_a_folder(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    other = tmp_path / "other.mha"
    write_image(other, read_any(files["moving"]))
    run(files["moving"], other, "-r", files["fixed"], "-t", files["affine"], "-o", folder)
    assert sorted(p.name for p in folder.iterdir()) == ["moving.nii.gz", "other.mha"]
    first, second = (read_any(p) for p in sorted(folder.iterdir()))
    np.testing.assert_array_equal(first.array, second.array)
    with pytest.raises(UsageError, match="2 inputs, but"):
        run(files["moving"], other, "-r", files["fixed"], "-o", tmp_path / "file.nii.gz")
    with pytest.raises(UsageError, match="same file name"):
        run(files["moving"], files["moving"], "-r", files["fixed"], "-o", folder, "--overwrite")


def test_refusals_leave_nothing_behind(files: dict[str, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    common = (files["moving"], "-r", files["fixed"], "-o", files["out"])
    for error, words, options in (
        (UsageError, "no interpolator 'cubic'", ("-n", "cubic")),
        (UsageError, "no voxel type 'half'", ("-u", "half")),
        (UsageError, "no input image type 'vector'", ("-e", "vector")),
        (InputError, "tensors were expected", ("-e", "tensor")),
        (UsageError, "is not a list of numbers", ("--spacing", "fine")),
        (UsageError, "--spacing 0", ("--spacing", "0")),
        (UsageError, "whole numbers", ("--size", "2.5")),
        (InputError, "no such file", ("-t", tmp_path / "none.mat")),
    ):
        with pytest.raises(error, match=words):
            run(*common, *options)
    assert sorted(tmp_path.iterdir()) == before
    files["out"].write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        run(*common)
    assert files["out"].read_text() == "old"


def test_dicom_in_nifti_out_holds_no_patient_text(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "dicom/mr_17_slices"
    run(folder, "-o", tmp_path / "a.nii", "--spacing", "2")
    same = read_any(tmp_path / "a.nii")
    np.testing.assert_array_equal(same.array, read_any(folder).array)
    assert b"nonymous" not in (tmp_path / "a.nii").read_bytes()


LIGHT = """
import sys
from carl_cli.cli.app import app
from typer.testing import CliRunner
result = CliRunner().invoke(app, sys.argv[1:])
assert result.exit_code == 0, result.output
print("torch" in sys.modules, "itk" in sys.modules, "matplotlib" in sys.modules)
"""


def test_no_torch_is_imported(files: dict[str, Path]) -> None:
    command = ("warp", files["moving"], "-r", files["fixed"], "-t", files["affine"])
    result = subprocess.run(
        [sys.executable, "-c", LIGHT, *map(str, command), "-o", str(files["out"])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["False", "False", "False"]
    assert files["out"].exists()
