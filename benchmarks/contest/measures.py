"""What a transform is worth: one code for all contenders, SimpleITK and NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from benchmarks.contest.pairs import Pair

SMALLEST, LARGEST = 1e-9, 1e9


@dataclass(frozen=True)
class Figures:
    """score: mean Dice, or mean error in mm. folded_percent and sdlogj over all voxels of the
    fixed image."""

    score: float
    folded_percent: float
    sdlogj: float


def figures(pair: Pair, transform: sitk.Transform) -> Figures:
    determinant = jacobian_determinant(transform, sitk.ReadImage(str(pair.fixed)))
    folded = 100 * float(np.mean(determinant <= 0))
    sdlogj = float(np.log(determinant.clip(SMALLEST, LARGEST)).std())
    return Figures(score(pair, transform), folded, sdlogj)


def score(pair: Pair, transform: sitk.Transform) -> float:
    return overlap(pair, transform) if pair.points is None else error_mm(pair, transform)


def overlap(pair: Pair, transform: sitk.Transform) -> float:
    """Mean Dice of the pair's labels; one that an image lacks counts as 0."""
    fixed, moving = (sitk.ReadImage(str(p)) for p in (pair.fixed_labels, pair.moving_labels))
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor)
    a, b = sitk.GetArrayViewFromImage(fixed), sitk.GetArrayViewFromImage(warped)
    size = max(pair.labels) + 1
    counts = [np.bincount(x.ravel(), minlength=size)[:size] for x in (a[a == b], a, b)]
    shared, in_fixed, in_warped = (c[list(pair.labels)] for c in counts)
    return float(np.mean(2 * shared / np.maximum(in_fixed + in_warped, 1)))


def error_mm(pair: Pair, transform: sitk.Transform) -> float:
    """Mean distance of mapped fixed points from their true partners."""
    points = np.load(pair.points)
    mapped = np.array([transform.TransformPoint(p) for p in points["fixed"].tolist()])
    return float(np.linalg.norm(mapped - points["moving"], axis=1).mean())


def jacobian_determinant(transform: sitk.Transform, grid: sitk.Image) -> np.ndarray:
    """(z, y, x) by central differences between voxel centres, one-sided at the border."""
    sampler = sitk.TransformToDisplacementFieldFilter()
    sampler.SetReferenceImage(grid)
    sampler.SetOutputPixelType(sitk.sitkVectorFloat64)
    displacement = sitk.GetArrayFromImage(sampler.Execute(transform))
    to_mm = np.array(grid.GetDirection()).reshape(3, 3) * np.array(grid.GetSpacing())
    slopes = np.stack([np.gradient(displacement, axis=axis) for axis in (2, 1, 0)])
    # columns[j]: (..., 3) derivative of the mapped point along index axis j, x first
    columns = slopes + to_mm.T[:, None, None, None]
    volume = (np.cross(columns[0], columns[1]) * columns[2]).sum(axis=-1)
    return volume / np.linalg.det(to_mm)
