"""Real images in another contrast: the same anatomy, other intensities."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

FOREGROUND = 0.05  # of the brightest tissue
BRIGHTEST = 1000.0


def as_t2(image: sitk.Image) -> sitk.Image:
    """A T1 with its intensities inverted inside the foreground, as a T2 has them; 0 outside."""
    inside = sitk.GetArrayViewFromImage(foreground(image)) > 0
    return _like(image, np.where(inside, 1.05 - _unit(image), 0) * BRIGHTEST)


def as_mr(ct: sitk.Image) -> sitk.Image:
    """An MR-like view of a CT: bone and air dark, fat brighter than water, muscle in between."""
    hu = sitk.GetArrayFromImage(ct).astype(float)
    values = np.interp(
        hu,
        [-1000, -500, -150, -70, 0, 40, 100, 250, 700],
        [0, 30, 650, 900, 350, 480, 700, 300, 60],
    )
    return _like(ct, values)


def foreground(image: sitk.Image) -> sitk.Image:
    """uint8: the largest piece that is not dark, with what it encloses."""
    bright = _like(image, (_unit(image) > FOREGROUND).astype(np.float32)) > 0.5
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(bright)) == 1
    return sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(largest, [2, 2, 2]))


def thousand(image: sitk.Image) -> sitk.Image:
    """Intensities of an MR from 0 to about 1000."""
    return _like(image, _unit(image) * BRIGHTEST)


def _unit(image: sitk.Image) -> np.ndarray:
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    return (array / np.percentile(array[array > 0], 99.5)).clip(0, 1)


def _like(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    result = sitk.GetImageFromArray(array.astype(np.float32))
    result.CopyInformation(image)
    return result
