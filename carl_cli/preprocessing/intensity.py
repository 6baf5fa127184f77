"""Stored values → [0, 1]: what kind of image it is, its limits, and voxels that aren't numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError, UsageError
from carl_cli.io.images.files import Image
from carl_cli.preprocessing.rule import IntensityRule

MODALITIES = ("auto", "ct", "mr")
SAMPLE_VOXELS = 2**21
AIR_HU = (-1100.0, -900.0)
SOFT_TISSUE_HU = (-200.0, 300.0)


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


def known_modality(image: Image, asked: str) -> str:
    """The modality that was asked for, or the detected one. Raises UsageError."""
    if asked not in MODALITIES:
        raise UsageError(f"no modality {asked!r}", f"choose one of {', '.join(MODALITIES)}")
    return detect_modality(image.array) if asked == "auto" else asked


def overridden(
    rule: IntensityRule,
    window: tuple[float, float] | None,
    percentiles: tuple[float, float] | None,
) -> IntensityRule:
    """The rule with the user's window and percentiles in place of its own. Raises UsageError."""
    if window is not None and not window[0] < window[1]:
        raise UsageError(f"window {window[0]:g} {window[1]:g}: the low end must come first")
    if percentiles is not None and not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise UsageError(
            f"percentiles {percentiles[0]:g} {percentiles[1]:g}: 0 <= low < high <= 100 expected"
        )
    changes: dict[str, object] = {}
    if window is not None:
        changes["ct_window"] = window
    if percentiles is not None:
        changes |= {"lower_percentile": percentiles[0], "upper_percentile": percentiles[1]}
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


def scale_to_unit(array: NDArray[Any], limits: tuple[float, float]) -> None:
    """Map [low, high] to [0, 1] and clip, in place; float32."""
    low, high = limits
    array -= np.float32(low)
    array /= np.float32(high - low)
    np.clip(array, 0, 1, out=array)
