"""FSL's transforms: FLIRT matrices, FNIRT fields and coefficients, by the two images they are of.

FSL's coordinates are voxel indices times their spacing, x running the other way where the image's
axes are right-handed in RAS. A FLIRT matrix maps the moving image (-in) to the fixed one (-ref); a
warp maps coordinates of the fixed image to those of the moving image. Coefficients hold their first
affine (moving to fixed) in the sform and the spacing of the knots, in voxels, in pixdim.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images import nifti_header as nifti
from carl_cli.io.images.image import Image
from carl_cli.io.ras import voxel_to_ras
from carl_cli.io.transforms.fields import raw_vectors, write_vectors
from carl_cli.io.transforms.matrices import read_matrix
from carl_cli.transforms import (
    AffineTransform,
    BSplineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    from_homogeneous,
)

FIELD, CUBIC, COSINES, QUADRATIC = 2006, 2007, 2008, 2009
TOPUP = (2016, 2017, 2018)
INTENTS = (FIELD, CUBIC, COSINES, QUADRATIC, *TOPUP)


def read_fsl(path: Path, fixed: Grid, moving: Grid) -> Transform:
    """Fixed to moving, LPS. Raises InputError for what is no warp or lies on another grid."""
    if not full_suffix(path).lower().startswith(".nii"):
        matrix = read_matrix(path, "FLIRT")
        return from_homogeneous(to_lps(moving) @ _inverse(matrix) @ _inverse(to_lps(fixed)))
    intent = nifti.read_header(path).intent
    if intent == CUBIC:
        return _from_coefficients(path, fixed, moving)
    if intent in INTENTS and intent != FIELD:
        raise InputError(
            f"{path}: coefficients of FSL with intent {intent}, cubic splines (2007) were expected",
            f"fnirtfileutils -i {path.name} -o field.nii.gz -a makes a field of it",
        )
    return _from_field(path, fixed, moving, may_be_absolute=intent != FIELD)


def to_lps(grid: Grid) -> Array:
    """(4, 4) FSL coordinates of an image → LPS mm."""
    scaled = np.diag([*grid.spacing_mm, 1.0])
    if np.linalg.det(voxel_to_ras(grid)) > 0:
        scaled[0] = [-grid.spacing_mm[0], 0, 0, (grid.size_xyz[0] - 1) * grid.spacing_mm[0]]
    return np.asarray(grid.index_to_lps @ _inverse(scaled))


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), float)


def _from_field(path: Path, fixed: Grid, moving: Grid, may_be_absolute: bool) -> Transform:
    vectors, _ = raw_vectors(path)
    if vectors.shape[:3] != fixed.shape_zyx:
        size = " x ".join(map(str, vectors.shape[2::-1]))
        raise InputError(f"{path}: {size} voxels, not those of the fixed image", "name that image")
    here = apply_affine(_inverse(to_lps(fixed)), fixed.points_mm())
    if may_be_absolute:
        as_coordinates, as_displacements = (
            _spread(apply_affine(to_lps(moving), numbers) - fixed.points_mm())
            for numbers in (vectors, here + vectors)
        )
        vectors = vectors - here if as_coordinates < as_displacements else vectors
    return _placed(DisplacementField(fixed, _turned(vectors, fixed)), np.eye(4), fixed, moving)


def _spread(vectors: Array) -> float:
    """How much displacements in mm differ within the image, which is less if they are that."""
    return float(vectors.std(axis=(0, 1, 2)).sum())


def _from_coefficients(path: Path, fixed: Grid, moving: Grid) -> Transform:
    """x → A⁻¹ x + d(x) with the first affine A, as fnirtfileutils has it: A⁻¹ (x + A d(x)).

    The first of four control points around x is that of index floor(x / spacing).
    """
    coefficients, header = raw_vectors(path)
    before = np.eye(4) if header.sform is None else header.sform
    knots = np.array(header.pixdim[:3])
    origin = fixed.index_to_lps @ [*-knots, 1.0]
    spacing = tuple((knots * fixed.spacing_mm).tolist())
    size = tuple(coefficients.shape[2::-1])
    grid = Grid(size, spacing, tuple(origin[:3].tolist()), fixed.direction)
    spline = BSplineTransform(grid, _turned(coefficients @ before[:3, :3].T, fixed))
    return _placed(spline, _inverse(before), fixed, moving)


def _turned(vectors: Array, fixed: Grid) -> Array:
    """FSL displacements as LPS ones within the fixed image."""
    return np.asarray(vectors @ to_lps(fixed)[:3, :3].T)


def _placed(warp: Transform, after: Array, fixed: Grid, moving: Grid) -> Transform:
    """The warp within the fixed image, then FSL's coordinates taken for those of the moving one."""
    matrix = to_lps(moving) @ after @ _inverse(to_lps(fixed))
    return CompositeTransform((from_homogeneous(matrix), warp))


def write_flirt(path: Path, affine: AffineTransform, fixed: Grid, moving: Grid) -> None:
    matrix = _inverse(to_lps(moving)) @ affine.homogeneous @ to_lps(fixed)
    np.savetxt(path, _inverse(matrix), fmt="%.12g")


def write_fsl_field(path: Path, field: DisplacementField, moving: Grid) -> None:
    """A relative field on the fixed grid, as fnirt --fout writes it: four axes."""
    there = field.displacement_mm + field.grid.points_mm()
    here = apply_affine(_inverse(to_lps(field.grid)), field.grid.points_mm())
    moved = apply_affine(_inverse(to_lps(moving)), there) - here
    write_vectors(
        path, Image(moved.astype(np.float32), field.grid, 3, channel_kind="time"), FIELD, raw=True
    )
