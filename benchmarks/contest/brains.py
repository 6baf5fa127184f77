"""T1-like, T2-like and FLAIR-like images from label maps of whole heads.

Written apart from the renderer of the training, so that a network is not tried on the very
statistics that it learnt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from carl_cli.training.label_maps import MIRROR, T1

SPACING_MM = 2.0
BRAIN_BELOW = 500
OTHER_TISSUE = 0.4
# Means of the other contrasts, by structure; what is not named is soft tissue.
T2 = {0: 0.0, 2: 0.36, 3: 0.56, 4: 0.95, 5: 0.95, 7: 0.38, 8: 0.56, 10: 0.45, 11: 0.52}
T2 |= {12: 0.47, 13: 0.30, 14: 0.95, 15: 0.95, 16: 0.42, 17: 0.58, 18: 0.57, 24: 0.97}
T2 |= {26: 0.52, 28: 0.43, 30: 0.12, 72: 0.95, 502: 0.05, 506: 0.30, 507: 0.27, 508: 0.25}
T2 |= {509: 0.75, 511: 0.06, 512: 0.10, 514: 0.70, 515: 0.08, 516: 0.80, 530: 0.27}
FLAIR = {0: 0.0, 2: 0.46, 3: 0.64, 4: 0.10, 5: 0.10, 7: 0.48, 8: 0.63, 10: 0.54, 11: 0.60}
FLAIR |= {12: 0.56, 13: 0.44, 14: 0.10, 15: 0.10, 16: 0.50, 17: 0.68, 18: 0.67, 24: 0.08}
FLAIR |= {26: 0.60, 28: 0.51, 30: 0.15, 72: 0.10, 502: 0.05, 506: 0.35, 507: 0.32, 508: 0.30}
FLAIR |= {509: 0.80, 511: 0.06, 512: 0.10, 514: 0.35, 515: 0.08, 516: 0.85, 530: 0.32}
CONTRASTS = {"t1": T1, "t2": T2, "flair": FLAIR}
# The structures that are scored: whole and bilateral ones of the brain, CSF included.
STRUCTURES = (2, 3, 4, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 24, 26, 28)
STRUCTURES += (41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)


def rendered(path: Path, seed: int, contrast: str = "t1") -> tuple[sitk.Image, sitk.Image]:
    """int16 image of the head and uint8 labels of STRUCTURES, both at SPACING_MM.

    Every person has a scanner of their own: means, texture, bias field and noise follow `seed`.
    """
    draw = np.random.default_rng(seed)
    labels = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(labels)
    image = _image_like(labels, _tissue(array, draw, CONTRASTS[contrast]))
    image = sitk.SmoothingRecursiveGaussian(image, SPACING_MM / 2)
    image = sitk.Resample(image, _reference(labels), sitk.Transform(), sitk.sitkLinear)
    kept = np.where(np.isin(array, STRUCTURES), array, 0).astype(np.uint8)
    segmentation = _image_like(labels, kept)
    segmentation = sitk.Resample(segmentation, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    return _scanned(image, draw), segmentation


def _tissue(labels: np.ndarray, draw: np.random.Generator, means: dict[int, float]) -> np.ndarray:
    """Means of the structures with the grain and the blotches of tissue, stronger outside the
    brain."""
    size = int(labels.max()) + 1
    mean, texture = np.zeros(size, np.float32), np.zeros(size, np.float32)
    jitter = draw.normal(0, 0.03, size)
    for value in np.unique(labels)[1:]:
        left = MIRROR.get(int(value), int(value))
        mean[value] = means.get(left, OTHER_TISSUE) * (1 + jitter[left])
        texture[value] = 0.04 if value < BRAIN_BELOW else 0.12
    noise = (_smooth_noise(labels.shape, sigma, draw) for sigma in (1.0, 4.0))
    return mean[labels] * (1 + texture[labels] * sum(noise))


def _scanned(image: sitk.Image, draw: np.random.Generator) -> sitk.Image:
    """Bias field of up to about a third, Rician noise, gamma, 0 to about 1000."""
    array = sitk.GetArrayFromImage(image).clip(0)
    array = array * np.exp(0.12 * _smooth_noise(array.shape, 25.0, draw))
    real, imaginary = draw.normal(0, 0.02, (2, *array.shape))
    array = np.hypot(array + real, imaginary) ** draw.uniform(0.85, 1.15)
    return _image_like(image, np.rint(1000 * array).astype(np.int16))


def _smooth_noise(
    shape: tuple[int, ...], sigma_voxels: float, draw: np.random.Generator
) -> np.ndarray:
    """float32 of unit variance."""
    white = sitk.GetImageFromArray(draw.standard_normal(shape, np.float32))
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(white, sigma_voxels))
    return smooth / smooth.std()


def _reference(labels: sitk.Image) -> sitk.Image:
    """An empty image over the same extent at SPACING_MM."""
    size = [
        round(n * s / SPACING_MM)
        for n, s in zip(labels.GetSize(), labels.GetSpacing(), strict=True)
    ]
    start = [(SPACING_MM / s - 1) / 2 for s in labels.GetSpacing()]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([SPACING_MM] * 3)
    grid.SetOrigin(labels.TransformContinuousIndexToPhysicalPoint(start))
    grid.SetDirection(labels.GetDirection())
    return grid


def _image_like(reference: sitk.Image, array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(reference)
    return image
