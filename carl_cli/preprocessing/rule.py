"""How a set of weights wants its images: plain data, stored in the weights' config.json."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from carl_cli.errors import WeightsError

_AXIS_PAIRS = ("LR", "PA", "SI")


class IntensityRule(BaseModel):
    """Stored values → [0, 1], linear between two limits and clipped beyond them.

    uniGradICON: percentiles (0, 99) of the image. uniCARL: ct_window None, (1, 99) of the
    image. The paper's division by the maximum: ct_window None, (None, 100) of the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The limits of CT, HU; None: CT is treated like all else.
    ct_window: tuple[float, float] | None = (-1000.0, 1000.0)
    # The limits of all else; lower None: a division by the upper one: 0 stays 0 and nothing is
    # clipped, so that air in a CT is below 0.
    lower_percentile: float | None = Field(default=1.0, ge=0, lt=100)
    upper_percentile: float = Field(default=99.0, gt=0, le=100)
    # Which voxels count: all, or those in the box around the foreground, which makes the contrast
    # independent of how much air was scanned.
    percentiles_of: Literal["image", "foreground"] = "foreground"
    maximum: float = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _none_by_name(cls, values: Any) -> Any:
        """ "none" stands for None in files that have no word for it (TOML)."""
        if not isinstance(values, dict):
            return values
        return {key: None if value == "none" else value for key, value in values.items()}

    @model_validator(mode="after")
    def _ordered(self) -> IntensityRule:
        if self.ct_window is not None and not self.ct_window[0] < self.ct_window[1]:
            raise ValueError(f"ct_window {self.ct_window}: the first must be the smaller one")
        if self.lower_percentile is not None and self.lower_percentile >= self.upper_percentile:
            raise ValueError("lower_percentile must be below upper_percentile")
        return self


class PreprocessRule(BaseModel):
    """Which grid the network sees and with which intensities.

    stretch (the paper, uniGradICON, uniCARL): each image's whole extent is resized to one shape
    along the array's axes. physical: both images on grids along the LPS axes, of one shape and
    one isotropic spacing, each around its own foreground; the spacing is the smallest that fits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid_rule: Literal["stretch", "physical"]
    # Of the stretch rule:
    shape_zyx: tuple[int, ...] | None = None
    # The sides that the axes are first turned to ("LPI": left, posterior, inferior); None: as
    # stored.
    orientation: str | None = None
    # First cut border slices that hold one value only, and this many more; None: don't.
    crop_uniform: int | None = Field(default=None, ge=0)
    # Of the physical rule:
    multiple_of: int = Field(default=32, ge=1)  # voxels along each axis
    max_voxels: int = Field(default=128**3, ge=1)
    # Nor below the images' own finest spacing.
    min_spacing_mm: float = Field(default=0.0, ge=0, le=1e4)
    margin: float = Field(default=0.08, ge=0)  # part of the foreground's extent, on each side
    # Of both:
    anti_alias: bool = True  # low-pass before shrinking; the reference implementation doesn't
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
    """For each letter: its LPS axis (x is 0) and the sign, "LPI" → [(0, 1), (1, 1), (2, -1)]."""
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
