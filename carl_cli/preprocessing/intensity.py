"""Stored values → [0, 1]: what kind of image it is, its limits, and voxels that aren't numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.io.images.files import Image
from carl_cli.preprocessing.options import ImageOptions, Modality
from carl_cli.preprocessing.rule import IntensityRule

SAMPLE_VOXELS = 2**21
AIR_HU = (-1100.0, -900.0)
SOFT_TISSUE_HU = (-200.0, 300.0)
NO_MASS_HU = -1000.0


class Intensity(NamedTuple):
    """How an image was brought to [0, 1]."""

    low: float  # the stored value that became 0
    high: float  # the stored value that became 1
    modality: str  # "ct" or "mr", see `detect_modality`


def detect_modality(array: NDArray[Any]) -> str:
    """ "ct" when the values look like Hounsfield units, else "mr" (all that has no fixed scale).

    Hounsfield: something below -500, and either 5 % of the voxels are air or half of them are
    fat and soft tissue. CT stored with its air at 0 has no scale of its own and counts as "mr".
    """
    sample = _sample(array)
    if not sample.size or sample.min() > -500:
        return "mr"
    air = np.mean((sample >= AIR_HU[0]) & (sample <= AIR_HU[1]))
    tissue = np.mean((sample >= SOFT_TISSUE_HU[0]) & (sample <= SOFT_TISSUE_HU[1]))
    return "ct" if air >= 0.05 or tissue >= 0.5 else "mr"


def _sample(array: NDArray[Any]) -> NDArray[Any]:
    """About SAMPLE_VOXELS finite voxels on a regular lattice."""
    step = max(1, round((array.size / SAMPLE_VOXELS) ** (1 / array.ndim)))
    sample = array[(slice(None, None, step),) * array.ndim]
    finite: NDArray[Any] = sample[np.isfinite(sample)]
    return finite


def known_modality(image: Image, asked: Modality) -> str:
    """The modality that was asked for, or the detected one."""
    return detect_modality(image.array) if asked == "auto" else asked


def overridden(rule: IntensityRule, options: ImageOptions) -> IntensityRule:
    """The rule with the user's window and percentiles in place of its own."""
    changes: dict[str, object] = {}
    if options.window is not None:
        changes["ct_window"] = options.window
    if options.percentiles is not None:
        low, high = options.percentiles
        changes |= {"lower_percentile": low, "upper_percentile": high}
    return rule.model_copy(update=changes)


def window_of(rule: IntensityRule, modality: str) -> tuple[float, float] | None:
    """Limits that are known before the voxels are seen; None: percentiles decide."""
    return rule.ct_window if modality == "ct" else None


def percentile_limits(image: Image, rule: IntensityRule) -> tuple[float, float]:
    """(low, high) of the voxels of an image. Raises InputError where they are all the same."""
    values: NDArray[Any] = image.array
    asked = [rule.lower_percentile or 0.0, rule.upper_percentile]
    lower, upper = (float(v) for v in np.percentile(values, asked))
    if rule.lower_percentile is None:
        lower = 0.0
    upper = lower + (upper - lower) / rule.maximum
    if upper <= lower:  # a small object on an even background
        lower, upper = float(values.min()), float(values.max())
    if upper <= lower:
        raise InputError(
            f"{image.source or 'image'}: no contrast, every voxel that counts is {lower:g}",
            "check that this is the right image or volume",
        )
    return lower, upper


def scale_to_unit(array: NDArray[Any], limits: tuple[float, float], clip: bool = True) -> None:
    """Map [low, high] to [0, 1], and clip if asked, in place; float32."""
    low, high = limits
    array -= np.float32(low)
    array /= np.float32(high - low)
    if clip:
        np.clip(array, 0, 1, out=array)
