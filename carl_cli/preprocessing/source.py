"""One image made ready to be sampled: cleaned, in [0, 1], in the centred frame, with its box."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image
from carl_cli.preprocessing import foreground, grids, intensity
from carl_cli.preprocessing.grids import Box
from carl_cli.preprocessing.intensity import Intensity
from carl_cli.preprocessing.lowpass import as_float, without_uniform_borders
from carl_cli.preprocessing.options import Modality
from carl_cli.preprocessing.rule import IntensityRule, PreprocessRule


@dataclass(frozen=True, eq=False)
class Request:
    """One image with what the caller says about it."""

    image: Image
    modality: Modality
    mask: Image | None


@dataclass(frozen=True, eq=False)
class Source:
    """One image cleaned, scaled and placed in its centred frame."""

    image: Image  # float32 in [0, 1], or beyond where the rule divides
    offset_mm: NDArray[np.float64]  # (D,) LPS, from the centred frame to the true one
    mask: Image | None  # in the centred frame too, on a grid of its own
    box: Box  # around the foreground with its margin; under the stretch rule the field of view
    intensity: Intensity


def load(
    request: Request, rule: PreprocessRule, intensities: IntensityRule, box_from_mask: bool
) -> Source:
    """Clean, find the foreground, scale.

    box_from_mask: the mask, not the intensities, tells where the foreground is. Raises InputError
    for what can't be used, UsageError for an unknown modality.
    """
    stored = checked(request.image)
    mask = None if request.mask is None else _checked_mask(request.mask, stored)
    modality = intensity.known_modality(stored, request.modality)
    window = intensity.window_of(intensities, modality)
    image = as_float(stored, window, may_reduce=rule.anti_alias)
    if rule.crop_uniform is not None:
        image = without_uniform_borders(image, rule.crop_uniform)
    box = grids.field_of_view(image.grid)
    if rule.grid_rule == "physical" or (window is None and _counts_foreground(intensities)):
        box = _foreground_box(image, mask if box_from_mask else None, rule.margin)
    limits = window or intensity.percentile_limits(_counted(image, box, intensities), intensities)
    _scale(image, limits, clip=window is not None or intensities.lower_percentile is not None)
    return Source(image, stored.grid.centre_mm, mask, box, Intensity(*limits, modality))


def checked(image: Image) -> Image:
    """Raises InputError for components and complex numbers."""
    if image.channels > 1 or np.iscomplexobj(image.array):
        raise InputError(
            f"{image.source or 'image'}: one real number per voxel was expected, "
            f"found {image.channels} of type {image.array.dtype}",
            "choose a component, or the magnitude, first",
        )
    return image


def _checked_mask(mask: Image, stored: Image) -> Image:
    """The mask as 0 and 1 in the image's centred frame."""
    name = mask.source or "mask"
    if mask.grid.dimension != stored.grid.dimension or mask.channels > 1:
        raise InputError(f"{name}: not a mask of {stored.grid.dimension} dimensions")
    inside = mask.array != 0
    if not inside.any():
        raise InputError(f"{name}: the mask is empty", "leave it out, or draw it")
    if not _meet(_extent(inside, mask.grid), grids.field_of_view(stored.grid)):
        raise InputError(
            f"{name}: the mask lies outside the field of view of {stored.source or 'its image'}",
            "check that it was drawn on this image, and its header",
        )
    same = mask.grid.matches(stored.grid)
    grid = grids.centred(stored.grid) if same else grids.moved(mask.grid, -stored.grid.centre_mm)
    return Image(inside.astype(np.uint8), grid, source=mask.source)


def _extent(inside: NDArray[np.bool_], grid: Grid) -> Box:
    """LPS box around the voxels of a mask."""
    spans = []
    for axis in reversed(range(inside.ndim)):
        others = tuple(k for k in range(inside.ndim) if k != axis)
        hits = np.flatnonzero(inside.any(axis=others))
        spans.append((hits[0] - 0.5, hits[-1] + 0.5))
    corners = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, inside.ndim)
    points = apply_affine(grid.index_to_lps, corners)
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _meet(a: Box, b: Box) -> bool:
    return bool(np.all(a[0] < b[1]) and np.all(b[0] < a[1]))


def _counts_foreground(intensities: IntensityRule) -> bool:
    return intensities.percentiles_of == "foreground"


def _foreground_box(image: Image, mask: Image | None, margin: float) -> Box:
    """With a margin, inside the field of view; a mask's box where one may decide."""
    if mask is None:
        weight = foreground.foreground_weight(image)
    else:
        weight = foreground.coarse(replace(mask, array=mask.array.astype(np.float32)))
    return foreground.with_margin(foreground.box_of(weight), margin, image.grid)


def _counted(image: Image, box: Box, intensities: IntensityRule) -> Image:
    """The part of the image whose voxels set the percentiles."""
    if not _counts_foreground(intensities):
        return image
    start, size = grids.voxels_in(box, image.grid)
    return grids.crop_image(image, start, size)


def _scale(image: Image, limits: tuple[float, float], clip: bool) -> None:
    intensity.scale_to_unit(image.array, limits, clip)
    if image.array.max() <= image.array.min():
        raise InputError(
            f"{image.source or 'image'}: no contrast between {limits[0]:g} and {limits[1]:g}",
            "choose another --window or --modality",
        )
