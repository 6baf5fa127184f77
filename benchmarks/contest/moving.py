"""The same pair elsewhere: what a registration must not notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.contest.pairs import Pair

FARTHEST_MM = 100.0
KINDS = ("moved", "moved inside a larger field of view")


def moved_pair(pair: Pair, kind: str, seed: int, folder: Path) -> Pair:
    """Both images moved by up to FARTHEST_MM along each axis, independently, labels and points
    with them; or (the second kind) also put off centre by margins of up to as much."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    shifts, files = {}, {}
    for end in ("fixed", "moving"):
        image = sitk.ReadImage(str(getattr(pair, end)))
        shifts[end] = draw.uniform(-FARTHEST_MM, FARTHEST_MM, 3)
        sides = _margins(image, draw) if kind != KINDS[0] else ((0, 0, 0), (0, 0, 0))
        for name in (end, f"{end}_labels"):
            if getattr(pair, name):
                files[name] = folder / f"{name}.nii.gz"
                source = sitk.ReadImage(str(getattr(pair, name)))
                sitk.WriteImage(_moved(source, shifts[end], *sides), str(files[name]))
    if pair.points:
        files["points"] = folder / "points.npz"
        points = np.load(pair.points)
        np.savez(files["points"], **{end: points[end] + shifts[end] for end in shifts})
    return replace(pair, **files)


def _margins(image: sitk.Image, draw: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Voxels to add before and after each axis: up to FARTHEST_MM, on one side."""
    voxels = [int(draw.uniform(0, FARTHEST_MM) / s) for s in image.GetSpacing()]
    first = draw.random(3) < 0.5
    before = tuple(n if f else 0 for n, f in zip(voxels, first, strict=True))
    return before, tuple(0 if f else n for n, f in zip(voxels, first, strict=True))


def _moved(
    image: sitk.Image, shift_mm: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]
) -> sitk.Image:
    lowest = float(sitk.GetArrayViewFromImage(image).min())
    result = sitk.ConstantPad(image, before, after, lowest)
    result.SetOrigin([o + float(s) for o, s in zip(result.GetOrigin(), shift_mm, strict=True)])
    return result
