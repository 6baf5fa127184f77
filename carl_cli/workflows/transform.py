"""Transform files read, changed and written: what compose, average, invert, convert, jacobian
and points do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from carl_cli.errors import InputError, UsageError
from carl_cli.evaluation import metrics
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import Image, read_grid, write_image
from carl_cli.io.points.document import Frame
from carl_cli.io.points.files import read_points, write_points
from carl_cli.io.transforms import Program
from carl_cli.io.transforms.chain import parse_chain
from carl_cli.io.transforms.dicom_registration import write_registration
from carl_cli.io.transforms.files import natural_grid, read_transform, write_transform
from carl_cli.io.transforms.hdf5 import Precision
from carl_cli.io.transforms.programs import Pair
from carl_cli.transforms import (
    Deformation,
    Transform,
    jacobian_determinant,
    log_residual,
    spaced_grid,
)
from carl_cli.transforms.folds import without_folds
from carl_cli.transforms.means import as_affine, mean_affine, mean_displacement
from carl_cli.workflows.grids import COARSEST_MM, FINEST_MM, VALUE_BYTES, VECTOR_BYTES, check_fits

log = logging.getLogger(__name__)

Side = Literal["fixed", "moving"]
RESIDUAL_VOXELS = 64
SMALLEST_LOG_ARGUMENT = 1e-3


@dataclass(frozen=True)
class Storage:
    """How a transform is written. reference: image whose grid a dense field gets.

    spacing_mm: a coarser or finer grid over the same field of view. intent: of NIfTI fields.
    program and moving: for the files of other programs. overwrite: whether a file may stand there
    when it is written. keep_identity: of the reference's patient, in DICOM registrations.
    """

    reference: Path | None = None
    spacing_mm: float | None = None
    precision: Precision = "float"
    intent: Literal[1006, 1007] = 1007
    program: Program | None = None
    moving: Path | None = None
    overwrite: bool = True
    keep_identity: bool = False

    def grid(self, transform: Transform) -> Grid | None:
        """Where a dense field is sampled; None: where its file has it. Raises InputError,
        UsageError, OutOfMemoryError."""
        base = None if self.reference is None else read_grid(self.reference)
        if self.spacing_mm is None:
            return base
        if not FINEST_MM <= self.spacing_mm <= COARSEST_MM:
            raise UsageError(
                f"--field-spacing {self.spacing_mm:g}",
                f"give {FINEST_MM:g} to {COARSEST_MM:g} millimetres",
            )
        wanted = spaced_grid(base or natural_grid(transform), self.spacing_mm)
        check_fits(wanted, VECTOR_BYTES)
        return wanted

    def write(self, path: Path, transform: Transform) -> None:
        if path.suffix.lower() == ".dcm":
            with atomic_path(path, replace=self.overwrite) as temporary:
                write_registration(
                    temporary, transform, self.reference, self.moving, self.keep_identity
                )
            return
        write_transform(
            path,
            transform,
            precision=self.precision,
            field_grid=self.grid(transform),
            intent=self.intent,
            program=self.program,
            moving_grid=None if self.moving is None else read_grid(self.moving),
            replace=self.overwrite,
        )


def compose(items: Sequence[str], output: Path, storage: Storage) -> Transform:
    """The chain as one file; returns the chain."""
    chain = parse_chain(items)
    storage.write(output, chain)
    return chain


def average(items: Sequence[str], output: Path, storage: Storage) -> Transform:
    """Write the mean of several transforms, each T or [T,1]; returns it.

    Affine ones have a log-Euclidean mean. With any other among them it is the mean displacement,
    on the reference's grid or that of the first transform which has one.
    """
    transforms = [parse_chain([item]) for item in items]
    _check_alike(items, transforms)
    affines = [affine for affine in map(as_affine, transforms) if affine is not None]
    if len(affines) == len(transforms):
        mean: Transform = mean_affine(affines)
    else:
        bent = next(t for t in transforms if as_affine(t) is None)
        mean = mean_displacement(transforms, storage.grid(bent) or natural_grid(bent))
    storage.write(output, mean)
    return mean


def _check_alike(items: Sequence[str], transforms: Sequence[Transform]) -> None:
    for item, transform in zip(items, transforms, strict=True):
        if transform.dimension != transforms[0].dimension:
            raise InputError(
                f"{item} has {transform.dimension} dimensions, {items[0]} has "
                f"{transforms[0].dimension}",
                "average transforms of one dimension",
            )


def convert(
    source: Path, output: Path, storage: Storage, program: Program | None, repair: bool
) -> Transform:
    """The same map in another format, its folds removed where asked; returns it."""
    pair = Pair(storage.reference, storage.moving)
    transform = read_transform(source, program, pair)
    if repair:
        transform = without_folds(transform)
    storage.write(output, transform)
    return transform


def invert(item: str, output: Path, storage: Storage) -> dict[str, Array]:
    """Write the inverse; returns what the written file leaves, |T(T⁻¹(y)) - y| in mm, (N,) each:

    at the reference's voxels and between them, or, without one, at the mapped points of the
    field. Empty for affine transforms.
    """
    forward = parse_chain([item])
    storage.write(output, forward.inverse())
    written = read_transform(output, storage.program, Pair(storage.reference, storage.moving))
    residuals = {
        name: np.asarray(np.linalg.norm(forward(written(points)) - points, axis=-1))
        for name, points in _test_points(forward, storage).items()
    }
    for name, residual in residuals.items():
        log_residual(residual, f"inverse {name}")
    return residuals


def _test_points(forward: Transform, storage: Storage) -> dict[str, Array]:
    if storage.reference is not None:
        grid = read_grid(storage.reference)
        return {"at voxels": _some_points(grid, 0.0), "between voxels": _some_points(grid, 0.5)}
    grids = [part.sampling_grid for part in forward.parts if isinstance(part, Deformation)]
    return {"at mapped points": forward(_some_points(grids[-1], 0.5))} if grids else {}


def _some_points(grid: Grid, shift: float) -> Array:
    """(N, D) LPS positions of every k-th voxel along each axis, shifted by a part of a voxel."""
    axes = [np.arange(0, n, max(1, round(n / RESIDUAL_VOXELS))) for n in grid.size_xyz]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.dimension)
    inside = np.minimum(index + shift, np.array(grid.size_xyz) - 1)
    return apply_affine(grid.index_to_lps, inside)


def map_points(
    source: Path,
    items: Sequence[str],
    side: Side,
    output: Path,
    frame: Frame | None,
    overwrite: bool = True,
) -> Array | None:
    """Carry the points of a file from one image to the other.

    side: where the points are now. Fixed points map by T, moving points by its inverse, solved
    at each point; then the residual |T(result) - point| in mm (N,) is returned and logged.
    """
    chain = parse_chain(items)
    points = read_points(source, frame=frame, dimension=chain.dimension)
    mapped = (chain if side == "fixed" else chain.inverse())(points.points_lps)
    write_points(output, points.moved_to(mapped), replace=overwrite)
    if side == "fixed" or not len(mapped):
        return None
    residual = np.asarray(np.linalg.norm(chain(mapped) - points.points_lps, axis=-1))
    log_residual(residual, "inverse at the points")
    return residual


def write_jacobian(
    item: str, output: Path, reference: Path | None, logarithm: bool, overwrite: bool = True
) -> dict[str, float]:
    """Write det dT/dx (or its natural logarithm) on the reference's grid; returns a summary.

    The logarithm of determinants below 0.001, folds included, is taken of 0.001.
    """
    chain = parse_chain([item])
    grid = read_grid(reference) if reference else natural_grid(chain)
    check_fits(grid, VALUE_BYTES)
    determinant = jacobian_determinant(chain, grid)
    logged = np.log(np.maximum(determinant, SMALLEST_LOG_ARGUMENT))
    image = Image(logged if logarithm else determinant, grid)
    write_image(output, image, replace=overwrite)
    folds = metrics.folds([determinant])
    return {
        "smallest": float(determinant.min()),
        "largest": float(determinant.max()),
        "mean": float(determinant.mean(dtype=float)),
        "sd_of_log": folds.sdlogj,
        "folded_voxels": int((determinant <= 0).sum()),
        "folded_percent": folds.percent,
    }
