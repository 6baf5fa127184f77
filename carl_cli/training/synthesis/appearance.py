"""From labels to images: intensities, texture, degradations, and the final range [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.shapes import LabelMap
from carl_cli.training.synthesis.warps import (
    Shape,
    blur_matrix,
    separable,
    slice_matrix,
    smooth_noise,
)

CONTRASTS = ("same", "near", "unrelated")


@dataclass(frozen=True)
class Contrast:
    """The intensities by which a label map is painted."""

    mean: Tensor  # (labels,)
    texture: Tensor  # (labels,) strength of each label's texture
    background: float  # mean of label 0
    clutter: float  # strength of the structures in the background


def random_contrast(chance: Chance, map_: LabelMap, t1_fraction: float) -> Contrast:
    """Means per tissue class, T1-like now and then where the map knows them.

    t1_fraction: probability that they are made T1-like there, or the inverse (two in five).
    """
    classes = int(map_.tissue.max()) + 1
    mean = chance.rand(classes)[map_.tissue]
    if map_.t1 is not None and chance.coin(0.4):
        mean = map_.t1 + (chance.normal(classes) * 0.04)[map_.tissue]
        mean = 1 - mean if chance.coin(0.25) else mean
    texture = (chance.rand(classes) * chance.uniform(0, 0.25))[map_.tissue]
    background = 0.0 if chance.coin(0.75) else chance.uniform(0, 1)
    clutter = chance.uniform(0.1, 0.6) if chance.coin(0.12) else 0.0
    if map_.t1 is not None and t1_fraction and chance.coin(t1_fraction):
        mean = map_.t1 + (chance.normal(classes) * chance.uniform(0.02, 0.1))[map_.tissue]
        mean = 1 - mean if chance.coin(0.4) else mean
    return Contrast(mean.clamp(0, 1), texture, background, clutter)


def near_contrast(chance: Chance, contrast: Contrast, map_: LabelMap) -> Contrast:
    """The same contrast with means moved by up to 0.15 (another scanner or protocol)."""
    classes = int(map_.tissue.max()) + 1
    shift = (chance.normal(classes) * chance.uniform(0.03, 0.15))[map_.tissue]
    return replace(contrast, mean=(contrast.mean + shift).clamp(0, 1))


def contrast_pair(
    chance: Chance, map_: LabelMap, kind: str, t1_fraction: float
) -> tuple[Contrast, Contrast]:
    """Contrasts of the fixed and the moving image; `kind` is one of CONTRASTS."""
    first = random_contrast(chance, map_, t1_fraction)
    if kind == "same":
        return first, first
    if kind == "near":
        return first, near_contrast(chance, first, map_)
    return first, random_contrast(chance, map_, t1_fraction)


def texture_volume(chance: Chance, shape: Shape) -> Tensor:
    """(1, D, H, W) noise of unit variance, grains and blotches in random proportion."""
    blotches = smooth_noise(chance, 1, shape, chance.integer(6, max(6, max(shape) // 2)))
    mixed = chance.normal(1, *shape) * chance.uniform(0, 1) + blotches * chance.uniform(0, 1)
    return mixed / (mixed.std() + 1e-6)


def paint(contrast: Contrast, labels: Tensor, texture: Tensor) -> Tensor:
    """Labels and texture (1, D, H, W) → intensities (1, D, H, W), background included."""
    mean = contrast.mean.clone()
    mean[0] = contrast.background
    relative = contrast.texture.clone()
    relative[0] = contrast.clutter
    return mean[labels] + relative[labels] * texture


def degrade(chance: Chance, image: Tensor, strength: float) -> Tensor:
    """What a scanner does to (1, D, H, W): lesion, partial volume, slices, bias, noise."""
    shape: Shape = tuple(image.shape[1:])
    if chance.coin(0.15 * strength):
        image = _with_lesion(chance, image)
    image = separable(image, _blurs(shape, chance.uniform(0.5, 0.7 + 0.5 * strength), image.device))
    if chance.coin(0.3 * strength):
        image = _thick_slices(chance, image)
    if chance.coin(0.6 * strength):
        bias = smooth_noise(chance, 1, shape, chance.integer(1, 3))
        image = image * (bias * chance.uniform(0.05, 0.3)).exp()
    noise = chance.normal(*image.shape)
    if chance.coin(0.3):
        noise = separable(noise, _blurs(shape, 0.8, image.device)) * 2
    return image + noise * chance.uniform(0.0, 0.06) * strength


def _blurs(shape: Shape, sigma: float, device: torch.device) -> list[Tensor]:
    # Rounded so that the cache of matrices stays small.
    return [blur_matrix(n, round(sigma, 1), device) for n in shape]


def _thick_slices(chance: Chance, image: Tensor) -> Tensor:
    matrices = [blur_matrix(n, 0.0, image.device) for n in image.shape[1:]]
    axis = chance.integer(0, len(matrices) - 1)
    thickness = chance.integer(2, max(2, image.shape[axis + 1] // 16))
    matrices[axis] = slice_matrix(image.shape[axis + 1], min(thickness, 5), image.device)
    return separable(image, matrices)


def _with_lesion(chance: Chance, image: Tensor) -> Tensor:
    """A wavy blob of another intensity, about a tenth of the field of view wide."""
    shape: Shape = tuple(image.shape[1:])
    axes = [
        (torch.arange(n, device=image.device) / n - chance.uniform(0.25, 0.75))
        / chance.uniform(0.03, 0.12)
        for n in shape
    ]
    squares = torch.meshgrid(*[axis.square() for axis in axes], indexing="ij")
    radius = sum(squares[1:], start=squares[0]).sqrt()
    wavy = radius[None] + smooth_noise(chance, 1, shape, 8) * 0.3
    inside = (2 * (1.2 - wavy)).clamp(0, 1)
    return image + inside * chance.uniform(-0.6, 0.6)


def recoloured(chance: Chance, fixed: Tensor, moving: Tensor, alike: bool) -> tuple[Tensor, Tensor]:
    """Two images with other intensities: each another gamma (up to twice as steep, usually). If
    they are alike, of one contrast, three times in ten both are inverted. Values below 0 and above
    1 are clipped."""
    images = [x.clamp(0, 1) ** (2 ** (0.4 * float(chance.normal(1)))) for x in (fixed, moving)]
    if alike and chance.coin(0.3):
        images = [x.amax() - x for x in images]
    return images[0], images[1]


def normalise(chance: Chance, image: Tensor, visible: Tensor, strength: float) -> Tensor:
    """1 to 99 percentile (jittered by `strength`) of what is visible → [0, 1], then gamma;
    0 elsewhere, as preprocessing fills what lies outside the field of view."""
    # Every 16th voxel or so: enough for percentiles; odd, so as not to follow one column.
    step = max(1, image.numel() // 20000) | 1
    seen = image.reshape(-1)[::step][visible.reshape(-1)[::step]]
    if seen.numel() < 2:
        return torch.zeros_like(image)
    upper = 0.99 + chance.uniform(-0.01, 0.009) * strength
    low, high = torch.quantile(seen, torch.tensor([0.01, upper], device=image.device))
    unit = ((image - low) / (high - low + 1e-6)).clamp(0, 1)
    gamma = chance.log_uniform(1 / (1 + 0.5 * strength), 1 + 0.5 * strength)
    return unit.pow(gamma) * visible
