"""Images onto other grids, through a transform, with SimpleITK's C++ loops.

Integer results are rounded and clipped (ITK alone truncates). Real-valued intermediates of
integer images live one slab at a time, so that a large int16 image costs no float copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid
from carl_cli.io.images.image import Image, one_volume, to_sitk
from carl_cli.io.label_vote import Kernel, gaussian_mean, gaussian_vote, linear_vote
from carl_cli.io.transforms.programs import product
from carl_cli.io.transforms.sitk import to_sitk_transform
from carl_cli.transforms import AffineTransform, Transform, jacobian_determinant
from carl_cli.transforms.linear import carried_back
from carl_cli.transforms.sampling import slab_grid, slabs

SMOOTH: dict[str, int] = {
    "linear": sitk.sitkLinear,
    "bspline": sitk.sitkBSpline3,
    "lanczoswindowedsinc": sitk.sitkLanczosWindowedSinc,
    "hammingwindowedsinc": sitk.sitkHammingWindowedSinc,
    "cosinewindowedsinc": sitk.sitkCosineWindowedSinc,
    "welchwindowedsinc": sitk.sitkWelchWindowedSinc,
    "blackmanwindowedsinc": sitk.sitkBlackmanWindowedSinc,
} | {f"bspline[{order}]": getattr(sitk, f"sitkBSpline{order}") for order in range(1, 6)}
LABELLERS = ("nearest", "genericlabel", "multilabel")
GAUSSIANS = {"gaussian": 1.0, "multilabel": 4.0}
"""And how far they reach, in sigmas: ANTs' defaults. sigma is a voxel unless it is given."""
WITH_NUMBERS = re.compile(r"(gaussian|multilabel)\[([-+.\dex]+)(?:,([-+.\de]+))?\]")
ALIASES = dict.fromkeys(("nearestneighbor", "nearestneighbour"), "nearest")
ALIASES["genericlabel[linear]"] = "genericlabel"
KERNEL_VOXELS, KERNEL_CUT = 255, 1e-3
MOST_LABELS = 2**16


def interpolator_name(name: str) -> str:
    """Our name for an interpolator given as ours or in ANTs' words, in any case.

    Raises UsageError with the list of names.
    """
    lower = name.lower().replace(" ", "")
    lower = ALIASES.get(lower, lower)
    if lower in SMOOTH or lower in LABELLERS or lower == "gaussian" or _numbers_of(lower):
        return lower
    names = sorted({*SMOOTH, *LABELLERS, *GAUSSIANS} - {f"bspline[{n}]" for n in range(1, 6)})
    raise UsageError(
        f"no interpolator {name!r}",
        f"choose one of {', '.join(names)}, bspline[1-5], gaussian[SIGMA,ALPHA], "
        "multilabel[SIGMA,ALPHA]",
    )


def is_for_labels(name: str) -> bool:
    return interpolator_name(name).partition("[")[0] in LABELLERS


def _numbers_of(name: str) -> tuple[list[float], float] | None:
    """sigma in mm, one or one an axis (1x1x2), and alpha of `gaussian[sigma,alpha]`."""
    match = WITH_NUMBERS.fullmatch(name)
    try:
        sigma = [float(word) for word in match[2].split("x")] if match else []
        alpha = float(match[3] or GAUSSIANS[match[1]]) if match else 0.0
    except ValueError:
        return None
    return (sigma, alpha) if sigma and min(*sigma, alpha) > 0 else None


def _kernel(name: str, grid: Grid) -> Kernel:
    """Of an interpolator with Gaussian weights, for an image on `grid`."""
    found = _numbers_of(name)
    sigma, alpha = found or (list(grid.spacing_mm), GAUSSIANS[name])
    if len(sigma) not in (1, grid.dimension):
        raise UsageError(f"-n {name}: one sigma or {grid.dimension} were expected")
    return Kernel(np.broadcast_to(sigma, grid.dimension) / np.array(grid.spacing_mm), alpha)


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
    sample = sampler.labels if is_for_labels(name) else sampler.smooth
    channels = [sample(one_volume(image, c), out) for c in range(image.channels)]
    array = np.stack(channels, axis=-1) if image.channels > 1 else channels[0]
    return replace(image, array=array, grid=grid)


def resample_mass(
    image: Image,
    grid: Grid,
    transform: Transform,
    *,
    no_mass: float,
    interpolator: str = "linear",
    dtype: DTypeLike | None = None,
) -> Image:
    """As `resample`, times det dT/dx: the sum of voxels times their volume is that of the image.

    Intensities count from `no_mass`, which lies outside the image too. dtype None: a real type
    that holds the image's. Raises UsageError for an interpolator of labels.
    """
    if is_for_labels(interpolator):
        raise UsageError(f"-n {interpolator}: labels have no mass", "choose -n linear")
    real = np.result_type(image.array.dtype, np.float32)
    looks: dict[str, Any] = {"interpolator": interpolator, "background": no_mass, "dtype": real}
    warped = resample(image, grid, transform, **looks)
    volume = jacobian_determinant(transform, grid)
    gain = volume if image.channels == 1 else volume[..., None]
    mass = (warped.array - real.type(no_mass)) * gain + real.type(no_mass)
    return replace(warped, array=round_and_clip(mass, np.dtype(dtype or real)))


def with_turned_header(image: Image, transform: Transform) -> Image:
    """The image seen through a rigid transform without a voxel changed: its header alone is.

    transform: fixed → moving points, LPS mm, the image being the moving one. Spacing stays.
    Raises UsageError for a transform that is not rigid.
    """
    if not all(isinstance(part, AffineTransform) for part in transform.parts):
        raise UsageError(
            "the transform bends, a rigid one was expected", "resample the image instead"
        )
    return replace(image, grid=carried_back(image.grid, product(transform, "a header")))


def smooth(image: Image, sigma_mm: tuple[float, ...]) -> Image:
    """Gaussian along each index axis (x, y, z), sigma in mm, border continued; float32.

    For anti-aliasing before a reduction. An axis with sigma 0 is left alone.
    """
    real = sitk.Cast(to_sitk(image), sitk.sitkFloat32)
    variance = [sigma**2 for sigma in sigma_mm]
    result = sitk.DiscreteGaussian(real, variance, KERNEL_VOXELS, KERNEL_CUT, True)
    return Image(sitk.GetArrayFromImage(result), image.grid, source=image.source)


@dataclass(frozen=True)
class _Sampler:
    grid: Grid
    transform: sitk.Transform
    name: str
    background: float

    def smooth(self, image: Image, out: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Interpolate real values; (z, y, x) array of dtype `out`."""
        if self.name.startswith("gaussian"):
            kernel = _kernel(self.name, image.grid)
            means = gaussian_mean(image, self.grid, self.transform, self.background, kernel)
            return round_and_clip(means, out)
        moving = to_sitk(image)
        wide = _real_type(image.array.dtype, out)
        result = np.empty(self.grid.shape_zyx, out)
        for rows, part in self._parts(out):
            sampled = self._run(moving, part, SMOOTH[self.name], wide, self.background)
            result[rows] = round_and_clip(sitk.GetArrayViewFromImage(sampled), out)
        return result

    def labels(self, image: Image, out: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Choose among the values that occur; (z, y, x) array of dtype `out`."""
        if self.name == "genericlabel":
            chosen = linear_vote(image, self.grid, self.transform, self.background)
            return round_and_clip(chosen, out)
        if self.name != "nearest":
            kernel = _kernel(self.name, image.grid)
            chosen = gaussian_vote(image, self.grid, self.transform, self.background, kernel)
            return round_and_clip(chosen, out)
        codes, values = _encode(image.array, self.background)
        moving = to_sitk(replace(image, array=codes))
        outside = self.background
        if values is not None:
            outside = float(np.searchsorted(values, np.asarray(outside).astype(values.dtype)))
        sampled = self._run(
            moving, self.grid, sitk.sitkNearestNeighbor, moving.GetPixelID(), outside
        )
        array: NDArray[np.generic] = sitk.GetArrayFromImage(sampled)
        return round_and_clip(array if values is None else values[array], out)

    def _run(
        self, moving: sitk.Image, part: Grid, interpolator: int, pixel_id: int, outside: float
    ) -> sitk.Image:
        geometry = (part.size_xyz, self.transform, interpolator, part.origin_mm, part.spacing_mm)
        return sitk.Resample(moving, *geometry, part.direction, outside, pixel_id)

    def _parts(self, out: np.dtype[np.generic]) -> Iterator[tuple[slice, Grid]]:
        """Slabs bound the float copy of an integer image; B-spline coefficients are made once."""
        if np.issubdtype(out, np.floating) or self.name.startswith("bspline"):
            yield slice(None), self.grid
            return
        for rows in slabs(self.grid):
            yield rows, slab_grid(self.grid, rows)


def round_and_clip(values: NDArray[np.generic], out: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Real values → dtype `out`; integers to the nearest, ties to even, within its range."""
    if values.dtype == out or not np.issubdtype(out, np.integer):
        return values.astype(out, copy=False)
    limits = np.iinfo(out.name)
    low, high = limits.min, limits.max
    rounded: NDArray[Any] = values
    if not np.issubdtype(values.dtype, np.integer):
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
) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """(codes, values) with values[codes] == array where ITK's double would not keep a label.

    ITK hands every label through a double: exact up to 32 bits, not for 64. (array, None) where it
    needs no help.
    """
    if array.dtype.itemsize < 8 or not np.issubdtype(array.dtype, np.integer):
        return array, None
    values, codes = np.unique(array, return_inverse=True)
    if len(values) > MOST_LABELS:
        raise InputError(
            f"{len(values)} different values, at most {MOST_LABELS} labels were expected",
            "choose linear or bspline for grey values",
        )
    known = np.union1d(values, np.asarray([background]).astype(array.dtype))
    shift: NDArray[np.uint32] = np.atleast_1d(np.searchsorted(known, values)).astype(np.uint32)
    return shift[codes.reshape(array.shape)], known


def _sitk_transform(transform: Transform | None, grid: Grid) -> sitk.Transform:
    if transform is None:
        return sitk.Transform(grid.dimension, sitk.sitkIdentity)
    return to_sitk_transform(transform, grid)
