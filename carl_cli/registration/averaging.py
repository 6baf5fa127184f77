"""Voxels of many images on one grid: their mean, a robust one, their variance, labels by vote.

Arrays are (z, y, x) or (y, x); NaN stands where an image shows nothing, and does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from carl_cli.io.images.files import Image
from carl_cli.io.resample import smooth

Floats = NDArray[np.float32]
How = Literal["mean", "robust"]
SIGMAS_PER_MAD = 1.4826  # of a normal distribution
HUBER = 1.345  # sigmas within which a voxel counts fully, as is usual for normal noise


class Average(NamedTuple):
    """NaN where no image shows anything."""

    mean: Floats
    variance: Floats  # over the images, around the mean, in squared units of intensity


def average(warped: Iterable[Floats], how: How = "mean") -> Average:
    """The mean keeps one image in memory at a time, the robust one all of them."""
    return _plain(warped) if how == "mean" else _robust(np.stack(list(warped)))


def _plain(warped: Iterable[Floats]) -> Average:
    total: NDArray[np.float64] | float = 0.0
    squares: NDArray[np.float64] | float = 0.0
    count: NDArray[np.int64] | int = 0
    for values in warped:
        shown = np.isfinite(values)
        known = np.where(shown, values, 0).astype(np.float64)
        total, squares, count = total + known, squares + known**2, count + shown
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.asarray(total / count)
        variance = np.maximum(squares / count - mean**2, 0)
    return Average(mean.astype(np.float32), variance.astype(np.float32))


def _robust(stack: Floats) -> Average:
    """One step of Huber's mean from the median: what lies far from it counts the less, the
    farther. Where more than half of the images agree exactly, their value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.abs(stack - _median(stack))
        limit = HUBER * SIGMAS_PER_MAD * _median(away)
        weight = np.where(away <= limit, 1, limit / away)
        weight[np.isnan(stack)] = 0
        mean = np.nansum(weight * stack, axis=0) / weight.sum(axis=0)
        variance = np.nansum(weight * (stack - mean) ** 2, axis=0) / weight.sum(axis=0)
    return Average(mean.astype(np.float32), variance.astype(np.float32))


def _median(stack: Floats) -> Floats:
    """Over the images that show something; NaN sorts last. Quicker than numpy's by far."""
    ordered, count = np.sort(stack, axis=0), np.isfinite(stack).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(stack) - 1)
    pair = [np.take_along_axis(ordered, k[None], axis=0)[0] for k in (low, high)]
    return np.asarray((pair[0] + pair[1]) / 2, np.float32)


def sharpened(image: Image, amount: float) -> Image:
    """Unsharp masking: amount times what a blur of one voxel takes away is added.

    Values stay between the smallest and the largest of the image.
    """
    values = image.array.astype(np.float32)
    blurred = smooth(image, image.grid.spacing_mm).array.astype(np.float32)
    sharp = np.clip(values + amount * (values - blurred), values.min(), values.max())
    return Image(sharp.astype(np.float32), image.grid)


def vote(labels: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """The label that most images have at a voxel; the smallest one of several."""
    values = np.unique(np.concatenate([np.unique(array) for array in labels]))
    most = np.zeros(labels[0].shape, np.int32)
    winner = np.full(labels[0].shape, values[0])
    for value in values:
        found = np.stack([array == value for array in labels]).sum(axis=0, dtype=np.int32)
        better = found > most
        most[better], winner[better] = found[better], value
    return winner


def gradient_energy(image: Image) -> float:
    """Mean squared gradient per mm², over the image's variance: how sharp it is."""
    values = image.array.astype(np.float64)
    axes = [k for k, size in enumerate(values.shape) if size > 1]
    spacing = image.grid.spacing_mm[::-1]
    squares = [np.gradient(values, spacing[k], axis=k) ** 2 for k in axes]
    return float(np.mean(sum(squares)) / values.var())
