"""Images onto other grids, through a transform, with SimpleITK's C++ loops.

Integer results are rounded and clipped (ITK alone truncates). Real-valued intermediates of
integer images live one slab at a time, so that a large int16 image costs no float copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.transforms.conversion import to_sitk_transform
from carl_cli.io.volume import Image, one_volume, to_sitk
from carl_cli.transform import Transform

SMOOTH: dict[str, int] = {
    "linear": sitk.sitkLinear,
    "bspline": sitk.sitkBSpline3,
    "gaussian": sitk.sitkGaussian,
    "lanczoswindowedsinc": sitk.sitkLanczosWindowedSinc,
    "hammingwindowedsinc": sitk.sitkHammingWindowedSinc,
    "cosinewindowedsinc": sitk.sitkCosineWindowedSinc,
    "welchwindowedsinc": sitk.sitkWelchWindowedSinc,
    "blackmanwindowedsinc": sitk.sitkBlackmanWindowedSinc,
} | {f"bspline[{order}]": getattr(sitk, f"sitkBSpline{order}") for order in range(1, 6)}
LABEL: dict[str, int] = {
    "nearest": sitk.sitkNearestNeighbor,
    "genericlabel": sitk.sitkLabelLinear,
    "multilabel": sitk.sitkLabelGaussian,
}
ALIASES = {"nearestneighbor": "nearest", "genericlabel[linear]": "genericlabel"}
SLAB_VOXELS = 2**23
MINIMUM_FOR_RECURSION = 4


def interpolator_name(name: str) -> str:
    """Our name for an interpolator given as ours or in ANTs' words, in any case.

    Raises UsageError with the list of names.
    """
    lower = name.lower().replace(" ", "")
    lower = ALIASES.get(lower, lower)
    if lower in SMOOTH or lower in LABEL:
        return lower
    names = sorted({*SMOOTH, *LABEL} - {f"bspline[{n}]" for n in range(1, 6)})
    raise UsageError(f"no interpolator {name!r}", f"choose one of {', '.join(names)}, bspline[1-5]")


def resample(
    image: Image,
    grid: Grid,
    transform: Transform | None = None,
    *,
    interpolator: str = "linear",
    background: float = 0,
    dtype: DTypeLike | None = None,
) -> Image:
    """Sample `image` at the transformed points of `grid`.

    transform maps points of `grid` (fixed, LPS mm) to points of `image` (moving, LPS mm); None
    is the identity. Outside the image, half a voxel beyond its border centres, the result is
    `background`. dtype None keeps the image's; integers are rounded and clipped. nearest,
    genericlabel and multilabel give values that occur in the image, exactly, in every dtype.
    Components and time points are sampled one by one.
    """
    name = interpolator_name(interpolator)
    if grid.dimension != image.grid.dimension:
        raise InputError(
            f"{image.source or 'image'} has {image.grid.dimension} dimensions, "
            f"the reference grid {grid.dimension}",
            "give a reference of the same dimension",
        )
    sampler = _Sampler(grid, _sitk_transform(transform, grid), name, background)
    out = np.dtype(dtype or image.array.dtype)
    sample = sampler.labels if name in LABEL else sampler.smooth
    channels = [sample(one_volume(image, c), out) for c in range(image.channels)]
    array = np.stack(channels, axis=-1) if image.channels > 1 else channels[0]
    return replace(image, array=array, grid=grid)


def smooth(image: Image, sigma_mm: tuple[float, ...]) -> Image:
    """Gaussian along each index axis (x, y, z), sigma in mm, border continued; float32.

    For anti-aliasing before a reduction. An axis with sigma 0 is left alone.
    """
    result = sitk.Cast(to_sitk(image), sitk.sitkFloat32)
    for axis, sigma in enumerate(sigma_mm):
        if sigma > 0:
            result = _smooth_axis(result, axis, sigma)
    return Image(sitk.GetArrayFromImage(result), image.grid, source=image.source)


def _smooth_axis(image: sitk.Image, axis: int, sigma_mm: float) -> sitk.Image:
    short = image.GetSize()[axis] < MINIMUM_FOR_RECURSION
    margin = [MINIMUM_FOR_RECURSION * int(short and a == axis) for a in range(image.GetDimension())]
    padded = sitk.ZeroFluxNeumannPad(image, margin, margin) if short else image
    smoothed = sitk.RecursiveGaussian(
        padded, sigma_mm, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
    )
    result: sitk.Image = sitk.Crop(smoothed, margin, margin) if short else smoothed
    return result


@dataclass(frozen=True)
class _Sampler:
    grid: Grid
    transform: sitk.Transform
    name: str
    background: float

    def smooth(self, image: Image, out: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Interpolate real values; (z, y, x) array of dtype `out`."""
        moving = to_sitk(image)
        wide = _real_type(image.array.dtype, out)
        result = np.empty(self.grid.shape_zyx, out)
        for rows, part in self._slabs(out):
            sampled = self._run(moving, part, SMOOTH[self.name], wide, self.background)
            result[rows] = round_and_clip(sitk.GetArrayViewFromImage(sampled), out)
        return result

    def labels(self, image: Image, out: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Choose among the values that occur; (z, y, x) array of dtype `out`."""
        codes, values = _encode(image.array, self.background)
        moving = to_sitk(replace(image, array=codes))
        outside = float(np.searchsorted(values, np.asarray(self.background, values.dtype)))
        sampled = self._run(moving, self.grid, LABEL[self.name], moving.GetPixelID(), outside)
        chosen: NDArray[np.generic] = values[sitk.GetArrayViewFromImage(sampled)]
        return chosen.astype(out, copy=False)

    def _run(
        self, moving: sitk.Image, part: Grid, interpolator: int, pixel_id: int, outside: float
    ) -> sitk.Image:
        geometry = (part.size_xyz, self.transform, interpolator, part.origin_mm, part.spacing_mm)
        return sitk.Resample(moving, *geometry, part.direction, outside, pixel_id)

    def _slabs(self, out: np.dtype[np.generic]) -> Iterator[tuple[slice, Grid]]:
        """Parts of the grid along its last axis: bounds the float copy of an integer image."""
        depth = self.grid.size_xyz[-1]
        whole = np.issubdtype(out, np.floating) or self.name.startswith("bspline")
        plane = int(np.prod(self.grid.size_xyz[:-1]))
        step = depth if whole else max(1, SLAB_VOXELS // plane)
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            yield slice(start, stop), grid_rows(self.grid, start, stop)


def grid_rows(grid: Grid, start: int, stop: int) -> Grid:
    """The part of a grid with start <= last index < stop."""
    corner = np.zeros(grid.dimension)
    corner[-1] = start
    origin = tuple(map(float, apply_affine(grid.index_to_lps, corner)))
    return replace(grid, size_xyz=(*grid.size_xyz[:-1], stop - start), origin_mm=origin)


def round_and_clip(values: NDArray[np.generic], out: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Real values → dtype `out`; integers to the nearest, ties to even, within its range."""
    if not np.issubdtype(out, np.integer):
        return values.astype(out, copy=False)
    low, high = np.iinfo(out.name).min, np.iinfo(out.name).max
    rounded = np.rint(values)
    with np.errstate(invalid="ignore"):  # 2**63 itself is out of range and replaced below
        result: NDArray[np.generic] = rounded.astype(out)
    result[rounded <= low] = low
    result[rounded >= high] = high
    return result


def _real_type(source: np.dtype[np.generic], out: np.dtype[np.generic]) -> int:
    """float32 holds every sum of 16-bit integers well enough to round; wider types need double."""
    narrow = all(d.itemsize <= 2 or d == np.float32 for d in (source, out))
    return int(sitk.sitkFloat32 if narrow else sitk.sitkFloat64)


def _encode(
    array: NDArray[np.generic], background: float
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Labels → (codes, values) with values[codes] == array, so that no label meets a float."""
    values, codes = np.unique(array, return_inverse=True)
    with_background = np.union1d(values, np.asarray([background]).astype(array.dtype))
    shift = np.atleast_1d(np.searchsorted(with_background, values))
    kind = np.min_scalar_type(len(with_background))
    return shift.astype(kind)[codes.reshape(array.shape)], with_background


def _sitk_transform(transform: Transform | None, grid: Grid) -> sitk.Transform:
    if transform is None:
        return sitk.Transform(grid.dimension, sitk.sitkIdentity)
    return to_sitk_transform(transform, grid)
