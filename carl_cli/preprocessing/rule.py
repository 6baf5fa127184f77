"""How a set of weights wants its images: plain data, stored in the weights' config.json."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from carl_cli.errors import WeightsError

_AXIS_PAIRS = ("LR", "PA", "SI")


class IntensityRule(BaseModel):
    """Stored values → [0, 1], linear between two limits and clipped beyond them.

    CT: the limits are ct_window in Hounsfield units; None treats CT like all else. All else:
    the limits are percentiles; lower_percentile None means that 0 stays 0 (a division).
    percentiles_of: the voxels that count, all of the image or only those inside the box
    around the foreground, which makes the contrast independent of how much air was scanned.
    maximum: what the upper percentile becomes, 1 but in the authors' evaluation on HCP (0.9).

    uniGradICON: percentiles (0, 99) of the image. uniCARL: ct_window None, (1, 99) of the
    image. The paper's division by the maximum: ct_window None, (None, 100) of the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ct_window: tuple[float, float] | None = (-1000.0, 1000.0)
    lower_percentile: float | None = Field(default=1.0, ge=0, lt=100)
    upper_percentile: float = Field(default=99.0, gt=0, le=100)
    percentiles_of: Literal["image", "foreground"] = "foreground"
    maximum: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> IntensityRule:
        if self.ct_window is not None and not self.ct_window[0] < self.ct_window[1]:
            raise ValueError(f"ct_window {self.ct_window}: the first must be the smaller one")
        if self.lower_percentile is not None and self.lower_percentile >= self.upper_percentile:
            raise ValueError("lower_percentile must be below upper_percentile")
        return self


class PreprocessRule(BaseModel):
    """Which grid the network sees and with which intensities.

    grid_rule `stretch` (the paper, uniGradICON, uniCARL): each image's whole extent is
    resized to shape_zyx along the array's axes. orientation: first turn the axes so that
    they point to these sides ("LPI": to left, posterior, inferior); None keeps them as
    stored. crop_uniform: first cut border slices that hold one value only, and this many more.

    grid_rule `physical`: both images on LPS-aligned grids of one shape and one isotropic
    spacing, each around its own foreground with margin (part of the foreground's extent, on
    each side), each axis a multiple of multiple_of voxels, max_voxels at most; the spacing is
    the smallest that fits, but not below min_spacing_mm or the images' own finest spacing.

    anti_alias: low-pass before shrinking; False is the reference implementation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid_rule: Literal["stretch", "physical"]
    shape_zyx: tuple[int, ...] | None = None
    orientation: str | None = None
    crop_uniform: int | None = Field(default=None, ge=0)
    multiple_of: int = Field(default=32, ge=1)
    max_voxels: int = Field(default=128**3, ge=1)
    min_spacing_mm: float = Field(default=0.0, ge=0)
    margin: float = Field(default=0.08, ge=0)
    anti_alias: bool = True
    intensity: IntensityRule = IntensityRule()

    @model_validator(mode="after")
    def _complete(self) -> PreprocessRule:
        if (self.grid_rule == "stretch") != (self.shape_zyx is not None):
            raise ValueError("shape_zyx belongs to the stretch rule, and is required there")
        if self.shape_zyx is not None and not all(n > 0 for n in self.shape_zyx):
            raise ValueError(f"shape_zyx {self.shape_zyx}: sizes must be positive")
        if self.orientation is not None and not _names_each_axis_once(self.orientation):
            raise ValueError(f"orientation {self.orientation}: one letter of LR, PA, SI each")
        return self


def _names_each_axis_once(orientation: str) -> bool:
    axes = [k for letter in orientation for k, pair in enumerate(_AXIS_PAIRS) if letter in pair]
    return sorted(axes) == list(range(len(orientation)))


def orientation_axes(orientation: str) -> list[tuple[int, int]]:
    """For each letter: the LPS axis it lies on and the sign, "LPI" → [(0, 1), (1, 1), (2, -1)]."""
    return [
        (axis, 1 if letter == pair[0] else -1)
        for letter in orientation
        for axis, pair in enumerate(_AXIS_PAIRS)
        if letter in pair
    ]


def grid_shape(
    extent_mm: tuple[float, ...], multiple_of: int, max_voxels: int, min_spacing_mm: float
) -> tuple[tuple[int, ...], float]:
    """Smallest isotropic spacing whose grid holds the extents within the budget.

    extent_mm: x first. Returns size_xyz (multiples of multiple_of) and the spacing in mm.
    Raises WeightsError where the budget can't hold one block along each axis.
    """
    coarsest = max(extent_mm) / multiple_of
    if multiple_of ** len(extent_mm) > max_voxels:
        raise WeightsError(f"the weights' rule allows {max_voxels} voxels: less than one block")
    finer, fits = 0.0, coarsest
    while fits - finer > 1e-9 * fits:
        middle = (finer + fits) / 2
        if math.prod(_blocks(extent_mm, multiple_of, middle)) <= max_voxels:
            fits = middle
        else:
            finer = middle
    size = _blocks(extent_mm, multiple_of, max(fits, min_spacing_mm))
    snug = max(e / n for e, n in zip(extent_mm, size, strict=True))
    return size, max(snug, min_spacing_mm)


def _blocks(extent_mm: tuple[float, ...], multiple_of: int, spacing_mm: float) -> tuple[int, ...]:
    """Sizes that hold the extents; a hair beyond a whole number of blocks doesn't add one."""
    return tuple(
        multiple_of * max(1, math.ceil(e / (multiple_of * spacing_mm) - 1e-6)) for e in extent_mm
    )
