"""The figures of one case from its files, and the columns that a table of cases has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from carl_cli.errors import InputError
from carl_cli.evaluation import metrics
from carl_cli.evaluation.cases import CaseFiles
from carl_cli.evaluation.truth import Truth, landmark_errors, read_landmarks, structure_scores
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, read_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.chain import parse_chain
from carl_cli.report.record import ErrorSummary, Landmark, Similarity, StructureScore
from carl_cli.transforms import Deformation, Transform, determinant_slabs, identity

MOST_VOXELS = 1 << 23  # of similarity: a second for each million
MOST_POINTS = 50_000  # of the inverse-consistency error, spread evenly


class Scores(BaseModel):
    """Figures of one case; None and empty where the files don't tell."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")
    id: str
    structures: list[StructureScore] = Field(default_factory=list)  # on the fixed segmentation
    landmarks: list[Landmark] = Field(default_factory=list)  # errors in the moving image
    # The rest on the fixed image's grid, inside its mask if there is one:
    similarity_before: Similarity | None = None
    similarity_after: Similarity | None = None
    folded_percent: float | None = None
    sdlogj: float | None = None
    inverse_consistency_mm: ErrorSummary | None = None
    error: str = ""  # why there are no figures


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A case in memory."""

    grid: Grid | None  # where the transform is looked at; None for an affine one alone
    mask: NDArray[np.bool_] | None  # where on that grid
    fixed: Image | None
    moving: Image | None
    truth: Truth
    transform: Transform
    has_transform: bool
    inverse: Transform | None


def score_files(case: CaseFiles) -> Scores:
    """Raises InputError for files that can't be used or don't belong together."""
    loaded = _load(case)
    result = Scores(
        id=case.id,
        structures=structure_scores(loaded.truth, loaded.transform),
        landmarks=landmark_errors(loaded.truth, loaded.transform),
        similarity_before=_similarity(loaded, None),
        similarity_after=_similarity(loaded, loaded.transform),
        inverse_consistency_mm=_inverse_error(loaded),
    )
    if loaded.has_transform and loaded.grid is not None:
        folds = folds_of(loaded.transform, loaded.grid, loaded.mask)
        result.folded_percent, result.sdlogj = folds
    return result


def folds_of(transform: Transform, grid: Grid, mask: NDArray[np.bool_] | None) -> metrics.Folds:
    """At all voxels of `grid`, or those of its mask (z, y, x)."""
    return metrics.folds(
        values if mask is None else values[mask[part]]
        for part, values in determinant_slabs(transform, grid)
    )


def similarity_of(
    fixed: Image, moving: Image, transform: Transform | None, mask: NDArray[np.bool_] | None
) -> Similarity:
    """Of the fixed image and the moving one seen through a transform (None: as its header places
    it) on the fixed grid, intensities as stored; outside it, its darkest value.

    mask: (z, y, x) of the fixed grid, where to measure. Of a fixed image above MOST_VOXELS every
    second voxel counts along the axis with the finest spacing, again until there are so few.
    """
    fixed, mask = _thinned(fixed, mask)
    darkest = float(moving.array.min())
    seen = resample(moving, fixed.grid, transform, background=darkest, dtype=np.float32)
    pair = (fixed.array.astype(np.float32), seen.array, mask)
    return Similarity(
        lncc=_known(metrics.lncc(*pair)),
        ncc=_known(metrics.ncc(*pair)),
        nmi=_known(metrics.nmi(*pair)),
    )


def _thinned(
    fixed: Image, mask: NDArray[np.bool_] | None
) -> tuple[Image, NDArray[np.bool_] | None]:
    array, grid = fixed.array, fixed.grid
    while array.size > MOST_VOXELS:
        axis = int(np.argmin(grid.spacing_mm))
        every = tuple(
            slice(None, None, 2 if k == array.ndim - 1 - axis else 1) for k in range(array.ndim)
        )
        array, mask = array[every], None if mask is None else mask[every]
        spacing = [mm * (2 if k == axis else 1) for k, mm in enumerate(grid.spacing_mm)]
        grid = replace(grid, size_xyz=array.shape[::-1], spacing_mm=tuple(spacing))
    return replace(fixed, array=array, grid=grid), mask


def _load(case: CaseFiles) -> _Loaded:
    # Of a moving time series the mean, as `carl register` takes it.
    read = partial(read_image, series_uid=case.series_uid, time_index=case.time_index)
    fixed = None if case.fixed is None else read(case.fixed)
    moving = None if case.moving is None else read(case.moving, average=True)
    masks = (case.fixed_mask, case.fixed_seg, case.moving_seg)
    mask, fixed_seg, moving_seg = (None if path is None else read_image(path) for path in masks)
    transform = parse_chain(case.transform) if case.transform else None
    grid = _grid(fixed, fixed_seg, transform)
    dimension = _dimension(case, grid, transform)
    landmarks = read_landmarks(case.fixed_points, case.moving_points, dimension)
    return _Loaded(
        grid,
        None if mask is None or grid is None else mask_on(mask, grid),
        fixed,
        moving,
        Truth(fixed_seg, moving_seg, *landmarks),
        transform or identity(dimension),
        transform is not None,
        parse_chain(case.inverse) if case.inverse else None,
    )


def _grid(fixed: Image | None, seg: Image | None, transform: Transform | None) -> Grid | None:
    """Of the fixed image, else of its segmentation, else of the field that meets points first."""
    image = fixed or seg
    if image is not None:
        return image.grid
    first = None if transform is None else transform.parts[-1]
    return first.sampling_grid if isinstance(first, Deformation) else None


def _dimension(case: CaseFiles, grid: Grid | None, transform: Transform | None) -> int:
    known = grid or transform
    if known is None:
        raise InputError(
            f"case {case.id}: no fixed image, no fixed segmentation, no transform",
            "give at least one of them",
        )
    return known.dimension


def mask_on(mask: Image, grid: Grid) -> NDArray[np.bool_]:
    """(z, y, x) where a mask of any grid is not 0. Raises InputError where it is so nowhere."""
    inside: NDArray[np.bool_] = resample(mask, grid, interpolator="nearest").array != 0
    if not inside.any():
        raise InputError(f"{mask.source}: the mask is empty on the fixed grid", "check its header")
    return inside


def _similarity(loaded: _Loaded, transform: Transform | None) -> Similarity | None:
    if loaded.fixed is None or loaded.moving is None:
        return None
    return similarity_of(loaded.fixed, loaded.moving, transform, loaded.mask)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _inverse_error(loaded: _Loaded) -> ErrorSummary | None:
    """Of inverse(forward(x)) from x, for points that the forward map leaves in the moving image."""
    if loaded.inverse is None or loaded.grid is None:
        return None
    points = _spread_points(loaded.grid, loaded.mask)
    mapped = loaded.transform(points)
    moving = loaded.moving or loaded.truth.moving_seg
    if moving is not None:
        index = apply_affine(moving.grid.lps_to_index, mapped)
        shown = ((index >= 0) & (index <= np.array(moving.grid.size_xyz) - 1)).all(axis=-1)
        points, mapped = points[shown], mapped[shown]
    return ErrorSummary.of(np.linalg.norm(loaded.inverse(mapped) - points, axis=-1))


def _spread_points(grid: Grid, mask: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """At most 50,000 voxel centres (N, D) LPS mm, evenly spread over the mask or the grid."""
    count = int(np.prod(grid.size_xyz)) if mask is None else int(mask.sum())
    places = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int))
    flat = places if mask is None else np.flatnonzero(mask)[places]
    index_zyx = np.stack(np.unravel_index(flat, grid.shape_zyx), axis=-1)
    return apply_affine(grid.index_to_lps, index_zyx[:, ::-1].astype(float))


Row = dict[str, float]
_ERROR_FIGURES = ("mean", "p95", "max")


def row_of(scores: Scores) -> Row:
    """Column → figure, nan where it is undefined. Structures: means, then label by label."""
    row: Row = {}
    for name, unit in (("dice", ""), ("hd95", "_mm"), ("surface", "_mm")):
        for when in ("_before", ""):
            row |= _mean_of(f"{name}{when}{unit}", scores.structures)
    for when, name in (("_before", "error_before_mm"), ("", "error_mm")):
        row |= _of_landmarks(f"tre{when}", [getattr(m, name) for m in scores.landmarks])
    row |= _of_similarity(scores)
    row |= {k: _number(getattr(scores, k)) for k in ("folded_percent", "sdlogj")}
    if scores.inverse_consistency_mm is not None:
        error = scores.inverse_consistency_mm
        row |= {f"inverse_{part}_mm": _number(getattr(error, part)) for part in _ERROR_FIGURES}
    for structure in scores.structures:
        row |= {
            f"{name}[{structure.label}]": _number(getattr(structure, name))
            for name in ("dice", "hd95_mm", "surface_mm")
        }
    return row


def _mean_of(name: str, structures: Iterable[StructureScore]) -> Row:
    """Mean over the structures for which it is defined."""
    values = [_number(getattr(structure, name)) for structure in structures]
    return {name: metrics.PerLabel(dict(enumerate(values))).mean} if values else {}


def _of_landmarks(name: str, errors: list[float]) -> Row:
    if not errors:
        return {}
    figures: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median, "max": np.max}
    row = {f"{name}_{part}_mm": float(figure(errors)) for part, figure in figures.items()}
    return {**row, f"{name}_p95_mm": float(np.percentile(errors, 95))}


def _of_similarity(scores: Scores) -> Row:
    before, after = scores.similarity_before, scores.similarity_after
    if before is None or after is None:
        return {}
    pairs = (("_before", before), ("", after))
    return {
        f"{name}{when}": _number(getattr(values, name))
        for name in ("lncc", "ncc", "nmi")
        for when, values in pairs
    }


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
