"""A pair of images as stored → the pair of arrays that a network sees, by the weights' rule.

Clean and scale both images, find their foregrounds, place the two network grids, sample.
Grids are in LPS mm; arrays are (z, y, x) or (y, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError, UsageError, chosen
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.io.resample import resample
from carl_cli.preprocessing import grids
from carl_cli.preprocessing.foreground import centroid_mm, foreground_weight
from carl_cli.preprocessing.grids import sample_fading
from carl_cli.preprocessing.holes import filled
from carl_cli.preprocessing.intensity import Intensity, known_modality, overridden, window_of
from carl_cli.preprocessing.lowpass import as_float, low_pass
from carl_cli.preprocessing.options import DEFAULT_OPTIONS, ImageOptions, Modality
from carl_cli.preprocessing.rule import IntensityRule, PreprocessRule, grid_shape
from carl_cli.preprocessing.source import Request, Source, checked, load
from carl_cli.transforms import AffineTransform, Transform

__all__ = [
    "IntensityRule",
    "NetworkImage",
    "PreparedPair",
    "PreprocessRule",
    "initialise",
    "prepare_pair",
]


@dataclass(frozen=True, eq=False)
class NetworkImage:
    """One image as the network sees it."""

    # (z, y, x) or (y, x), in [0, 1], or beyond where the rule divides; what the mask leaves out is
    # continued from inside it.
    array: NDArray[np.float32]
    grid: Grid  # of the array, LPS mm
    mask: NDArray[np.bool_] | None  # of the array's shape
    intensity: Intensity  # how the stored values became these
    others: tuple[NetworkImage, ...] = ()  # further contrasts on the same grid


@dataclass(frozen=True, eq=False)
class PreparedPair:
    """Two images as the network sees them, each on a grid of its own unless `initial` is given."""

    fixed: NetworkImage
    moving: NetworkImage
    # fixed → moving, LPS mm. The moving image was sampled through it onto the fixed network grid:
    # the whole transform is initial ∘ what the network finds.
    initial: Transform | None


def prepare_pair(
    fixed: Image,
    moving: Image,
    rule: PreprocessRule,
    options: ImageOptions = DEFAULT_OPTIONS,
    *,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    initial: Transform | None = None,
    channels: tuple[tuple[Image, ...], tuple[Image, ...]] = ((), ()),
) -> PreparedPair:
    """The pair on the rule's network grids.

    The window (CT) and the percentiles (all else) of `options` replace the rule's. Masks may
    have grids of their own; under the `physical` rule the two together, but not one alone,
    decide what is centred (one alone would centre a part of one image on the whole of the
    other). initial: fixed → moving, LPS mm. channels: further contrasts in the spaces of the fixed
    and of the moving image, on grids of their own.
    Raises InputError for images and masks that can't be used, UsageError for options that
    contradict each other.
    """
    for other in (moving, *channels[0], *channels[1]):
        _check_dimensions(fixed, other)
    intensities = overridden(rule.intensity, options)
    masked = fixed_mask is not None and moving_mask is not None
    kinds = options.modalities
    requests = Request(fixed, kinds[0], fixed_mask), Request(moving, kinds[1], moving_mask)
    a, b = (load(request, rule, intensities, masked) for request in requests)
    _check_window(options, a, b)
    grid_a, grid_b = _network_grids(rule, a, b, together=initial is not None)
    first = _sample(a, grid_a, rule)
    if initial is None:
        second = _sample(b, grid_b, rule)
    else:
        second = _sample_through(b, first.grid, rule, initial)
    beside = zip((first, second), channels, kinds, (None, initial), strict=True)
    first, second = (_with(*each, rule, intensities) for each in beside)
    return PreparedPair(first, second, initial)


def seen_through(
    initial: Transform, moving: Image, fixed: NetworkImage, rule: PreprocessRule
) -> NetworkImage:
    """Another moving image beside a fixed one that is prepared already, as in `prepare_pair` with
    this initial transform (fixed → moving, LPS mm)."""
    source = load(Request(moving, "auto", None), rule, rule.intensity, False)
    return _sample_through(source, fixed.grid, rule, initial)


def _with(
    image: NetworkImage,
    channels: tuple[Image, ...],
    kind: Modality,
    initial: Transform | None,
    rule: PreprocessRule,
    intensities: IntensityRule,
) -> NetworkImage:
    """With its further contrasts, each scaled by itself; one mask serves for all."""
    others = []
    for channel in channels:
        source = load(Request(channel, kind, None), rule, intensities, False)
        sampled = _sample_through(source, image.grid, rule, initial or _still(channel))
        others.append(replace(sampled, array=filled(sampled.array, image.mask)))
    return replace(image, others=tuple(others))


def _still(image: Image) -> Transform:
    return AffineTransform(np.eye(image.grid.dimension), np.zeros(image.grid.dimension))


def initialise(
    fixed: Image,
    moving: Image,
    how: Literal["centers", "moments"],
    options: ImageOptions = DEFAULT_OPTIONS,
) -> AffineTransform:
    """Translation, fixed → moving, that brings two centres together (LPS mm).

    centers: middles of the fields of view. moments: centres of mass of the foregrounds, each
    found by intensity but weighted evenly inside, so that contrast doesn't move it. Raises
    InputError for images of different dimensions and for images that can't be used, and UsageError
    for another `how`.
    """
    _check_dimensions(fixed, moving)
    pairs = zip((fixed, moving), options.modalities, strict=True)
    centre_mm = chosen("initialisation", how, {"centers": _middle_mm, "moments": _centroid_mm})
    a, b = (centre_mm(image, modality) for image, modality in pairs)
    return AffineTransform(np.eye(fixed.grid.dimension), b - a)


def _middle_mm(image: Image, _modality: Modality) -> NDArray[np.float64]:
    return image.grid.centre_mm


def _centroid_mm(image: Image, modality: Modality) -> NDArray[np.float64]:
    window = window_of(IntensityRule(), known_modality(checked(image), modality))
    return centroid_mm(foreground_weight(as_float(image, window, True))) + image.grid.centre_mm


def _check_dimensions(fixed: Image, moving: Image) -> None:
    if fixed.grid.dimension != moving.grid.dimension:
        raise InputError(
            f"{fixed.source or 'the fixed image'} has {fixed.grid.dimension} dimensions, "
            f"{moving.source or 'the moving one'} {moving.grid.dimension}",
            "give two images of the same dimension",
        )


def _check_window(options: ImageOptions, a: Source, b: Source) -> None:
    if options.window is not None and "ct" not in (a.intensity.modality, b.intensity.modality):
        raise UsageError(
            "a window was given, but neither image looks like CT in Hounsfield units",
            "add --modality ct, or use --percentiles",
        )


def _network_grids(rule: PreprocessRule, a: Source, b: Source, together: bool) -> tuple[Grid, Grid]:
    """Each in its image's centred frame; together: the fixed image's foreground alone decides."""
    if rule.shape_zyx is not None:
        return _stretched(a, rule, rule.shape_zyx), _stretched(b, rule, rule.shape_zyx)
    boxes = np.stack([a.box] if together else [a.box, b.box])
    extent = (boxes[:, 1] - boxes[:, 0]).max(axis=0)
    finest = min(min(s.image.grid.spacing_mm) for s in (a, b))
    size, spacing = grid_shape(
        tuple(extent), rule.multiple_of, rule.max_voxels, max(finest, rule.min_spacing_mm)
    )
    return (
        grids.aligned(size, spacing, a.box.mean(axis=0)),
        grids.aligned(size, spacing, b.box.mean(axis=0)),
    )


def _stretched(source: Source, rule: PreprocessRule, shape_zyx: tuple[int, ...]) -> Grid:
    grid = source.image.grid
    if rule.orientation is not None:
        grid = grids.oriented(grid, rule.orientation)
    return grids.stretched(grid, shape_zyx)


def _sample(source: Source, grid: Grid, rule: PreprocessRule) -> NetworkImage:
    """grid is in the source's centred frame, the result's in the true one."""
    mask = _sampled_mask(source.mask, grid, None)
    sampled = filled(_resampled(source.image, grid, rule, None), mask)
    return NetworkImage(sampled, grids.moved(grid, source.offset_mm), mask, source.intensity)


def _sample_through(
    source: Source, grid: Grid, rule: PreprocessRule, transform: Transform
) -> NetworkImage:
    """grid and transform are in the true frame."""
    image, mask = _in_true_frame(source.image, source), None
    if source.mask is not None:
        mask = _sampled_mask(_in_true_frame(source.mask, source), grid, transform)
    array = filled(_resampled(image, grid, rule, transform), mask)
    return NetworkImage(array, grid, mask, source.intensity)


def _in_true_frame(image: Image, source: Source) -> Image:
    return replace(image, grid=grids.moved(image.grid, source.offset_mm))


def _resampled(
    image: Image, grid: Grid, rule: PreprocessRule, transform: Transform | None
) -> NDArray[np.float32]:
    """An initial transform's own scale isn't considered in the low-pass.

    The stretch rule's grid ends with the image, so that border values continue as in torch.
    """
    source = low_pass(image, grids.footprint_mm(grid, image.grid)) if rule.anti_alias else image
    sample = resample if rule.grid_rule == "stretch" else sample_fading
    array = sample(source, grid, transform, background=0.0).array.astype(np.float32, copy=False)
    if array.max() <= array.min():
        raise InputError(
            f"{image.source or 'image'}: nothing of it lies in the network's field of view",
            "check the initial transform and the headers of both images",
        )
    # Rounding alone leads out of the source's range.
    return np.clip(array, min(0, image.array.min()), max(1, image.array.max()))


def _sampled_mask(
    mask: Image | None, grid: Grid, transform: Transform | None
) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    inside = resample(mask, grid, transform, interpolator="nearest").array.astype(bool)
    if not inside.any():
        raise InputError(
            f"{mask.source or 'mask'}: no voxel of the network's grid lies inside the mask",
            "check the initial transform, or enlarge the mask",
        )
    return inside
