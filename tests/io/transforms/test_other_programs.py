"""Files of FSL, SPM, NiftyReg and FreeSurfer: made as they make them, with their own libraries as
referees where there are any (fslpy, surfa, nibabel)."""

from __future__ import annotations

from pathlib import Path

import nibabel
import nitransforms
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, write_image
from carl_cli.io.ras import flip_vectors, voxel_to_ras
from carl_cli.io.transforms import Program
from carl_cli.io.transforms.chain import parse_chain
from carl_cli.io.transforms.fields import read_field
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.io.transforms.programs import Pair
from carl_cli.transforms import AffineTransform, BSplineTransform, dense
from tests.conftest import GRIDS
from tests.fields import field_on, inner_points
from tests.measured import assert_close

FIXED = sorted(GRIDS)
MOVING = GRIDS["flipped"]


@pytest.fixture
def pair(tmp_path: Path, any_grid: Grid) -> Pair:
    paths = tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"
    for path, grid in zip(paths, (any_grid, MOVING), strict=True):
        write_image(path, Image(np.zeros(grid.shape_zyx, np.float32), grid))
    return Pair(*paths)


def nifti(
    path: Path, vectors: np.ndarray, affine: np.ndarray, intent: int, name: str = "", p1: int = 0
) -> None:
    """(z, y, x, 3) numbers as a five-dimensional file."""
    made = nibabel.Nifti1Image(vectors.transpose(2, 1, 0, 3)[:, :, :, None], affine)
    made.header["intent_code"], made.header["intent_name"] = intent, name
    made.header["intent_p1"] = p1
    nibabel.save(made, path)


def voxels(grid: Grid) -> np.ndarray:
    return grid.points_mm()[2:-2:5, 2:-2:5, 2:-2:5].reshape(-1, 3)


def test_a_deformation_of_spm(tmp_path: Path, any_grid: Grid) -> None:
    """`y_*.nii`: absolute RAS mm under intent 1007, named Mapping; no --from is needed."""
    field = field_on(any_grid)
    positions = flip_vectors(field(any_grid.points_mm())).astype(np.float32)
    nifti(tmp_path / "y_a.nii", positions, voxel_to_ras(any_grid), 1007, "Mapping")
    points = voxels(any_grid)
    mapped = read_transform(tmp_path / "y_a.nii")(points)
    assert_close(mapped, field(points), 2e-5, file="SPM y_*.nii", way="read", referee="nibabel")
    write_transform(tmp_path / "y_b.nii", field, program="spm", field_grid=any_grid)
    ours, theirs = (nibabel.load(tmp_path / f"y_{k}.nii") for k in "ba")
    held = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    assert_close(*held, 2e-5, file="SPM y_*.nii", way="written", referee="nibabel")
    assert ours.header.get_intent()[2] == "Mapping"
    assert ours.shape == theirs.shape


@pytest.mark.parametrize("kind", ["def", "disp", "cpp"])
def test_a_transformation_of_niftyreg(tmp_path: Path, kind: str, any_grid: Grid) -> None:
    """intent_p1 says whether numbers are positions, displacements or control points."""
    path, field = tmp_path / "t.nii.gz", field_on(any_grid)
    grid = any_grid
    transform = field
    values = field.displacement_mm.astype(float)
    if kind == "cpp":
        spacing = tuple(s * 4 for s in any_grid.spacing_mm)
        grid = Grid((9, 9, 9), spacing, any_grid.origin_mm, any_grid.direction)
        values = np.random.default_rng(0).normal(0, 2, (9, 9, 9, 3))
        transform = BSplineTransform(grid, values)  # type: ignore[assignment]
    if kind != "disp":
        values = values + grid.points_mm()
    code = ["def", "disp", "cpp"].index(kind)
    nifti(path, flip_vectors(values), voxel_to_ras(grid), 1007, "NREG_TRANS", code)
    points = inner_points(grid, 50)
    mapped = read_transform(f"niftyreg:{path}")(points)
    file = f"NiftyReg {kind}"
    assert_close(mapped, transform(points), 1e-4, file=file, way="read", referee="nibabel")
    with pytest.raises(InputError, match="NiftyReg") as refusal:
        read_transform(path)
    assert "niftyreg:" in refusal.value.hint


def test_a_field_written_for_niftyreg(tmp_path: Path, any_grid: Grid) -> None:
    """Positions in RAS mm, as nibabel reads them, under the intent that NiftyReg asks for."""
    path, field = tmp_path / "t.nii.gz", field_on(any_grid)
    write_transform(path, field, program="niftyreg", field_grid=any_grid)
    ours = nibabel.load(path)
    held, expected = np.asarray(ours.dataobj), flip_vectors(field(any_grid.points_mm()))
    held = np.squeeze(held, axis=3).transpose(2, 1, 0, 3)
    assert_close(held, expected, 1e-4, file="NiftyReg def", way="written", referee="nibabel")
    assert ours.header.get_intent() == ("vector", (), "NREG_TRANS")
    assert float(ours.header["intent_p1"]) == 0


WRONG_SUFFIXES = [("greedy", "nii.gz"), ("fsl", "mgz"), ("lta", "mat"), ("spm", "h5")]


@pytest.mark.parametrize(("program", "suffix"), [*WRONG_SUFFIXES, ("synthmorph", "mat")])
def test_a_suffix_that_a_program_does_not_use(
    tmp_path: Path, program: Program, suffix: str, affine: AffineTransform
) -> None:
    path, grids = tmp_path / f"t.{suffix}", {"field_grid": MOVING, "moving_grid": MOVING}
    with pytest.raises(UsageError, match=f"no file of {program} has this suffix"):
        write_transform(path, affine, program=program, **grids)
    assert not list(tmp_path.iterdir())


def test_niftyreg_control_points_are_a_spline_in_its_own_terms(tmp_path: Path) -> None:
    """At a control point of a cubic grid: (1 4 1)/6 along each axis of the absolute positions."""
    grid = Grid((7, 7, 7), (5.0, 6.0, 7.0), (-15.0, -18.0, -21.0), tuple(np.eye(3).ravel()))
    positions = grid.points_mm() + np.random.default_rng(1).normal(0, 2, (7, 7, 7, 3))
    path = tmp_path / "cpp.nii"
    nifti(path, flip_vectors(positions), voxel_to_ras(grid), 1007, "NREG_TRANS", 2)
    weights = np.array([1, 4, 1]) / 6
    block = positions[2:5, 2:5, 2:5]
    expected = np.einsum("i,j,k,ijkd->d", weights, weights, weights, block)
    at = grid.points_mm()[3, 3, 3]
    np.testing.assert_allclose(read_transform(f"niftyreg:{path}")(at), expected, atol=1e-9)


@pytest.mark.parametrize("code", [3, 4, 5, 6])
def test_velocities_of_niftyreg_are_refused_with_the_way_out(tmp_path: Path, code: int) -> None:
    path = tmp_path / "v.nii"
    nifti(path, np.zeros((4, 4, 4, 3)), np.eye(4), 1007, "NREG_TRANS", code)
    with pytest.raises(InputError, match=f"intent_p1 {code}") as refusal:
        read_transform(path, "niftyreg")
    assert "reg_transform -ref FIXED -def" in refusal.value.hint


@pytest.mark.parametrize("program", ["greedy", "niftyreg"])
def test_affines_between_ras_coordinates(
    tmp_path: Path, program: str, affine: AffineTransform
) -> None:
    path, flip = tmp_path / "a.txt", np.diag([-1.0, -1.0, 1.0, 1.0])
    np.savetxt(path, flip @ affine.homogeneous @ flip)
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    ours, file = parse_chain([f"{program}:{path}"])(points), f"{program} affine"
    assert_close(ours, affine(points), 1e-9, file=file, way="read", referee="closed form")
    back = parse_chain([f"[{program}:{path},1]"])(affine(points))
    np.testing.assert_allclose(back, points, atol=1e-9)


def by_fslpy(path: Path, pair: Pair, points: np.ndarray) -> np.ndarray:
    image = pytest.importorskip("fsl.data.image", reason="needs fslpy")
    from fsl.transform import flirt, fnirt

    moving, fixed = (image.Image(str(p)) for p in (pair.moving, pair.fixed))
    ras = flip_vectors(points)
    if path.suffix == ".mat":
        matrix = flirt.fromFlirt(flirt.readFlirt(str(path)), moving, fixed, "world", "world")
        return flip_vectors(apply_affine(np.linalg.inv(matrix), ras))
    warp = fnirt.readFnirt(str(path), moving, fixed)
    return flip_vectors(warp.transform(ras, "world", "world"))


def test_a_flirt_matrix(
    tmp_path: Path, pair: Pair, affine: AffineTransform, any_grid: Grid
) -> None:
    path, points = tmp_path / "a.mat", voxels(any_grid)
    write_transform(path, affine, program="fsl", field_grid=any_grid, moving_grid=MOVING)
    theirs = by_fslpy(path, pair, points)
    assert_close(
        theirs, affine(points), 1e-4, file="FSL FLIRT .mat", way="written", referee="fslpy"
    )
    ours = read_transform(path, "fsl", pair)(points)
    assert_close(ours, theirs, 1e-4, file="FSL FLIRT .mat", way="read", referee="fslpy")
    with pytest.raises(UsageError, match="two images"):
        read_transform(f"fsl:{path}")


@pytest.mark.parametrize("absolute", [False, True])
def test_a_fnirt_field(tmp_path: Path, absolute: bool, pair: Pair, any_grid: Grid) -> None:
    """Ours read by fslpy and by us; also as coordinates, as of convertwarp --absout."""
    field, path = field_on(any_grid), tmp_path / "w.nii.gz"
    write_transform(path, field, program="fsl", field_grid=any_grid, moving_grid=MOVING)
    points = voxels(any_grid)
    expected = field(points)
    theirs = by_fslpy(path, pair, points)
    assert_close(theirs, expected, 1e-3, file="FSL FNIRT field", way="written", referee="fslpy")
    if absolute:
        made = nibabel.load(path)
        index = np.stack(np.meshgrid(*map(np.arange, any_grid.size_xyz), indexing="ij"), -1)
        if np.linalg.det(made.affine[:3, :3]) > 0:
            index[..., 0] = any_grid.size_xyz[0] - 1 - index[..., 0]
        numbers = np.asarray(made.dataobj) + index * any_grid.spacing_mm
        held = nibabel.Nifti1Image(numbers.astype(np.float32), made.affine)
        nibabel.save(held, path)
    ours = read_transform(path, "fsl", pair)(points)
    assert_close(ours, theirs, 1e-3, file="FSL FNIRT field", way="read", referee="fslpy")


def test_coefficients_of_fnirt(tmp_path: Path, pair: Pair, any_grid: Grid) -> None:
    """A cubic spline with a first affine, read by fslpy."""
    knots = (4, 4, 4)
    size = tuple(n // k + 4 for n, k in zip(any_grid.size_xyz, knots, strict=True))
    values = np.random.default_rng(2).normal(0, 2, (*size, 3)).astype(np.float32)
    made = nibabel.Nifti1Image(values, None)
    made.header["intent_code"] = 2007
    for k, spacing in enumerate(any_grid.spacing_mm, 1):
        made.header[f"intent_p{k}"] = spacing
    made.header.set_zooms((*knots, 1))
    premat = np.eye(4)
    premat[:3] += np.random.default_rng(3).normal(0, 0.02, (3, 4)) * [1, 1, 1, 50]
    made.set_sform(premat, 1)
    qform = np.diag([*knots, 1.0])
    qform[:3, 3] = any_grid.size_xyz
    made.set_qform(qform, 1)
    nibabel.save(made, tmp_path / "c.nii.gz")
    points = voxels(any_grid)
    expected = by_fslpy(tmp_path / "c.nii.gz", pair, points)
    found = read_transform(tmp_path / "c.nii.gz", "fsl", pair)(points)
    assert np.linalg.norm(expected - points, axis=1).mean() > 1
    file = "FSL FNIRT coefficients"
    assert_close(found, expected, 1e-3, file=file, way="read", referee="fslpy")


@pytest.mark.parametrize("intent", [2006, 2007, 2008, 2009])
def test_warps_of_fsl_name_what_they_need(tmp_path: Path, intent: int) -> None:
    path = tmp_path / "w.nii"
    nifti(path, np.zeros((4, 4, 4, 3)), np.eye(4), intent)
    with pytest.raises(InputError, match="a warp of FSL") as refusal:
        read_transform(path)
    assert "--from fsl -r FIXED -m MOVING" in refusal.value.hint


def test_synthmorph_as_freesurfer_takes_it(
    tmp_path: Path, any_grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five axes, intent 1006 and FreeSurfer's extension, by surfa RAS displacements."""
    surfa = pytest.importorskip("surfa", reason="needs surfa")
    monkeypatch.setattr(np, "fromstring", np.frombuffer)  # surfa 0.6.3 is older than numpy 2.3
    field, path = field_on(any_grid), tmp_path / "w.nii.gz"
    write_transform(path, field, program="synthmorph", field_grid=any_grid, moving_grid=MOVING)
    made = nibabel.load(path)
    assert made.shape == (*any_grid.size_xyz, 1, 3)
    assert made.header.get_intent("code")[0] == 1006
    points = voxels(any_grid)
    for mapped in (read_transform(path, "synthmorph"), read_transform(path)):
        np.testing.assert_allclose(mapped(points), field(points), atol=1e-4)
    warp = surfa.load_warp(str(path))
    assert warp.format == surfa.Warp.Format.disp_ras
    held = flip_vectors(field.displacement_mm).transpose(2, 1, 0, 3)
    assert_close(warp.data, held, 1e-5, file="SynthMorph warp", way="written", referee="surfa")
    read = flip_vectors(read_field(path).displacement_mm).transpose(2, 1, 0, 3)
    assert_close(read, warp.data, 1e-5, file="SynthMorph warp", way="read", referee="surfa")
    for geometry, grid in ((warp.source, MOVING), (warp.target, any_grid)):
        np.testing.assert_allclose(geometry.vox2world.matrix, voxel_to_ras(grid), atol=1e-4)
        assert tuple(geometry.shape) == grid.size_xyz


def test_an_image_is_no_transform(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(InputError, match="this is an image, not a transform"):
        read_transform(pair.moving or "")
    image = Image(np.zeros(MOVING.shape_zyx, np.float32), MOVING)
    for name in ("a.nrrd", "a.mha"):
        write_image(tmp_path / name, image)
        with pytest.raises(InputError, match="this is an image, not a transform"):
            read_transform(tmp_path / name)


def test_dense_agrees_with_the_exact_parts(tmp_path: Path, pair: Pair, any_grid: Grid) -> None:
    """`--from fsl` gives a composite; on the fixed grid it is the field that was written."""
    field, path = field_on(any_grid), tmp_path / "w.nii.gz"
    write_transform(path, field, program="fsl", field_grid=any_grid, moving_grid=MOVING)
    again = dense(read_transform(path, "fsl", pair), any_grid)
    np.testing.assert_allclose(again.displacement_mm, field.displacement_mm, atol=1e-3)


ELASTIX = """(Transform "{kind}")
(NumberOfParameters {count})
(TransformParameters {numbers})
(InitialTransformParameterFileName "{initial}")
(HowToCombineTransforms "Compose")
(FixedImageDimension 3)
(MovingImageDimension 3)
{more}
"""


def elastix(
    path: Path, kind: str, numbers: list[float], more: str, initial: str = "NoInitialTransform"
) -> Path:
    text = ELASTIX.format(
        kind=kind, count=len(numbers), numbers=" ".join(f"{v:.17g}" for v in numbers), more=more,
        initial=initial,
    )  # fmt: skip
    path.write_text(text)
    return path


CENTRE = (3.0, -7.0, 11.0)
EULER = (0.1, -0.2, 0.3, 4.0, 5.0, -6.0)


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("TranslationTransform", sitk.TranslationTransform(3, (6.0, -4.0, 3.0))),
        ("EulerTransform", sitk.Euler3DTransform(CENTRE, *EULER[:3], EULER[3:])),
        ("EulerTransform zyx", sitk.Euler3DTransform(CENTRE, *EULER[:3], EULER[3:])),
        (
            "SimilarityTransform",
            sitk.Similarity3DTransform(1.1, (0.1, 0.2, 0.3, 0.9), (1, 2, 3), CENTRE),
        ),
        (
            "AffineTransform",
            sitk.AffineTransform((1, 0.1, 0, 0, 0.9, 0.2, 0, 0, 1), (1, 2, 3), CENTRE),
        ),
    ],
)
def test_linear_transforms_of_elastix(tmp_path: Path, kind: str, theirs: sitk.Transform) -> None:
    name, _, order = kind.partition(" ")
    more = (
        ""
        if "Translation" in name
        else f"(CenterOfRotationPoint {CENTRE[0]} {CENTRE[1]} {CENTRE[2]})"
    )
    if order:
        theirs.SetComputeZYX(True)
        more += '\n(ComputeZYX "true")'
    path = elastix(tmp_path / "t.txt", name, list(theirs.GetParameters()), more)
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    expected = [theirs.TransformPoint(p.tolist()) for p in points]
    np.testing.assert_allclose(read_transform(path)(points), expected, atol=1e-9)


def test_a_spline_of_elastix_after_an_affine(tmp_path: Path) -> None:
    """Directions stand column after column; the file named as initial acts first."""
    turn = GRIDS["oblique"].direction_matrix
    grid = Grid((8, 7, 6), (12.0, 13.0, 14.0), (-40.0, -30.0, -20.0), tuple(turn.ravel()))
    values = np.random.default_rng(0).normal(0, 2, (6, 7, 8, 3))
    spline = BSplineTransform(grid, values)
    affine = sitk.AffineTransform((1, 0.1, 0, 0, 0.9, 0.2, 0, 0, 1), (1, 2, 3), CENTRE)
    centre = f"(CenterOfRotationPoint {CENTRE[0]} {CENTRE[1]} {CENTRE[2]})"
    elastix(tmp_path / "t.0.txt", "AffineTransform", list(affine.GetParameters()), centre)
    columns = " ".join(map(repr, map(float, turn.T.ravel())))
    more = (
        "(GridSize 8 7 6)\n(GridIndex 0 0 0)\n(GridSpacing 12 13 14)\n(GridOrigin -40 -30 -20)\n"
        f"(GridDirection {columns})\n(BSplineTransformSplineOrder 3)"
    )
    numbers = np.moveaxis(values, -1, 0).ravel().tolist()
    path = elastix(tmp_path / "t.1.txt", "BSplineTransform", numbers, more, "t.0.txt")
    points = inner_points(grid, 30, 2.0)
    moved = np.array([affine.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(read_transform(path)(points), spline(moved), atol=1e-9)


def test_a_chain_that_elastix_made() -> None:
    """Rigid, affine and B-spline by itk-elastix 0.25.4 on an oblique pair; points by transformix,
    which writes six decimals."""
    folder = Path(__file__).parent / "made_by_elastix"
    points, theirs = np.split(np.loadtxt(folder / "points.txt"), 2, axis=1)
    mapped = read_transform(folder / "TransformParameters.2.txt")(points)
    file = "elastix TransformParameters.txt"
    assert_close(mapped, theirs, 1e-6, file=file, way="read", referee="itk-elastix")
    assert np.linalg.norm(theirs - points, axis=1).mean() > 4


def test_what_of_elastix_is_not_read_names_the_way_out(tmp_path: Path) -> None:
    path = elastix(tmp_path / "t.txt", "SplineKernelTransform", [1.0], "")
    with pytest.raises(InputError, match="not read here: SplineKernelTransform") as refusal:
        read_transform(path)
    assert "WriteITKCompositeTransform" in refusal.value.hint


def test_what_elastix_refuses_is_refused(tmp_path: Path) -> None:
    """Of a parameter that stood there twice the last one counted."""
    path, twice = tmp_path / "t.txt", "(TransformParameters 1 2 3)"
    elastix(path, "TranslationTransform", [6.0, -4.0, 3.0], twice)
    with pytest.raises(InputError, match="stands there twice"):
        read_transform(path)
    elastix(path, "TranslationTransform", [6.0, -4.0, 3.0], "")
    for old, new in (("Parameters 3)", "Parameters 4)"), ("Dimension 3)", "Dimension x)")):
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(InputError, match="not read here: TranslationTransform"):
            read_transform(path)


@pytest.mark.parametrize(
    ("name", "content", "what", "hint"),
    [
        (
            "a.txt",
            "MGH_GPUIT_BSP <experimental>\nimg_origin = 0 0 0\n",
            "plastimatch",
            "xf-convert",
        ),
        ("a.mat", "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "4x4 text matrix", "greedy:a.mat"),
        (
            "a.txt",
            "# command_history: x\n" + "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
            "4x4",
            "mrtrix:",
        ),
        ("a.txt", "# 3dvolreg matrices\n1 0 0 0 0 1 0 0 0 0 1 0\n", "AFNI", "afni:a.txt"),
        ("a.txt", "type      = 1\nnxforms   = 1\n", "LTA", "lta:a.txt"),
        ("a.m3z", "\x1f\x8b", "a warp of FreeSurfer", "mri_warp_convert"),
        ("a.mif.gz", "\x1f\x8b", "an image of MRtrix", "mrtrix:a.mif.gz"),
        (
            "a.tfm",
            "#Insight Transform File V1.0\nTransform: ThinPlateSplineKernelTransform_double_3_3\n"
            "Parameters: 0 0 0\nFixedParameters: 0 0 0\n",
            "thin-plate spline",
            "Convert",
        ),
    ],
)
def test_other_files_say_what_they_are(
    tmp_path: Path, name: str, content: str, what: str, hint: str
) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=what) as refusal:
        read_transform(tmp_path / name)
    assert hint in refusal.value.hint


def test_an_affine_of_afni_by_nitransforms(tmp_path: Path, affine: AffineTransform) -> None:
    path = tmp_path / "a.aff12.1D"
    np.savetxt(path, affine.homogeneous[:3].reshape(1, -1), header="3dvolreg matrices")
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    np.testing.assert_allclose(read_transform(f"afni:{path}")(points), affine(points), atol=1e-9)
    theirs = nitransforms.io.afni.AFNILinearTransform.from_string(path.read_text()).to_ras()
    mapped = flip_vectors(apply_affine(theirs, flip_vectors(points)))
    file = "AFNI .aff12.1D"
    assert_close(mapped, affine(points), 1e-6, file=file, way="read", referee="nitransforms")


def test_a_linear_xfm_of_minc(tmp_path: Path, affine: AffineTransform) -> None:
    """Moving to fixed in RAS, as its header says of a tag file: source to target."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = flip @ affine.inverse().homogeneous @ flip
    rows = "\n".join(" ".join(f"{v:.12g}" for v in row) for row in matrix[:3])
    text = f"MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows};\n"
    (tmp_path / "a.xfm").write_text(text)
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    np.testing.assert_allclose(
        read_transform(tmp_path / "a.xfm")(points), affine(points), atol=1e-6
    )


def test_an_lta_needs_no_name(tmp_path: Path, pair: Pair, affine: AffineTransform) -> None:
    write_transform(
        tmp_path / "a.lta", affine, program="lta", field_grid=MOVING, moving_grid=MOVING
    )
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    np.testing.assert_allclose(
        read_transform(tmp_path / "a.lta")(points), affine(points), atol=1e-9
    )


def test_a_field_of_afni_by_nitransforms(tmp_path: Path, any_grid: Grid) -> None:
    """3dQwarp: displacements in DICOM order."""
    field, path = field_on(any_grid), tmp_path / "w_WARP.nii.gz"
    nifti(path, field.displacement_mm, voxel_to_ras(any_grid), 1006)
    points = voxels(any_grid)
    np.testing.assert_allclose(read_transform(f"afni:{path}")(points), field(points), atol=1e-5)
    theirs = nitransforms.nonlinear.load(path, fmt="afni").map(flip_vectors(points))
    file = "AFNI 3dQwarp"
    mapped = flip_vectors(theirs)
    assert_close(mapped, field(points), 1e-4, file=file, way="read", referee="nitransforms")


@pytest.mark.parametrize("kind", ["affine", "field"])
def test_x5_by_nitransforms(
    tmp_path: Path, kind: str, any_grid: Grid, affine: AffineTransform
) -> None:
    transform = affine if kind == "affine" else affine @ field_on(any_grid)
    path, points = tmp_path / "t.x5", voxels(any_grid)
    write_transform(path, transform)
    expected = transform(points)
    module = nitransforms.linear if kind == "affine" else nitransforms.nonlinear
    load = module.Affine if kind == "affine" else module.DenseFieldTransform
    if kind == "affine":
        theirs = load.from_filename(path, fmt="X5")
    else:
        stored = nitransforms.io.x5.from_filename(path)[0]
        assert (stored.type, stored.representation) == ("nonlinear", "displacements")
        image = nibabel.Nifti1Image(stored.transform, stored.domain.mapping)
        theirs = load(image, is_deltas=True)
    mapped = flip_vectors(np.asarray(theirs.map(flip_vectors(points))))
    file = f"X5 {kind}"
    assert_close(mapped, expected, 1e-4, file=file, way="written", referee="nitransforms")
    assert_close(
        read_transform(path)(points), expected, 1e-4, file=file, way="read", referee="carl"
    )
    made = tmp_path / "n.x5"
    nitransforms.io.x5.to_filename(made, [theirs.to_x5()])
    again = read_transform(made)(points)
    assert_close(again, expected, 1e-4, file=file, way="read", referee="nitransforms")
