"""A CT and a copy of it, bent by a known smooth map, moved, and scanned anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

NOISE_HU = 15
AIR_HU = -1024
BEND_MM = 12.0
LONGEST_SHIFT_MM = 60.0
POINTS = 20000


class Bend:
    """moving point → fixed point, LPS mm: three sums of waves, after a translation."""

    def __init__(self, draw: np.random.Generator) -> None:
        waves = 4
        directions = draw.normal(size=(3, waves))
        directions /= np.linalg.norm(directions, axis=0)
        self.vectors = 2 * np.pi * directions / draw.uniform(170, 320, waves)
        self.phases = draw.uniform(0, 2 * np.pi, waves)
        self.pushes = draw.uniform(-BEND_MM, BEND_MM, (waves, 3)) / np.sqrt(waves / 2)
        self.shift = draw.uniform(-LONGEST_SHIFT_MM, LONGEST_SHIFT_MM, 3)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) → (..., 3)."""
        there = points - self.shift
        return there + np.sin(there @ self.vectors + self.phases) @ self.pushes


@dataclass(frozen=True)
class Scanner:
    """What a second scan adds: noise (standard deviation) and what lies beyond the image."""

    noise: float = NOISE_HU
    outside: float = AIR_HU
    largest: float = 3071


SCANNERS = (Scanner(), Scanner())


def bent_pair(
    fixed: sitk.Image,
    seed: int,
    other: sitk.Image | None = None,
    inside: sitk.Image | None = None,
    scanners: tuple[Scanner, Scanner] = SCANNERS,
) -> tuple[sitk.Image, sitk.Image, np.ndarray, np.ndarray]:
    """Fixed and moving int16, and points (N, 3) of the fixed body with their true partners.

    The moving image has a field of view that moved with the body, and noise of its own. other: the
    same body in another contrast, on the voxels of `fixed`, which is bent in its place. inside:
    where the body is; by default where a CT shows one. scanners: of the two images.
    """
    draw = np.random.default_rng(seed)
    bend = Bend(draw)
    fixed = sitk.Cast(fixed, sitk.sitkFloat32)
    source = fixed if other is None else sitk.Cast(other, sitk.sitkFloat32)
    moving = sitk.Image(source)
    moving.SetOrigin([float(v) for v in np.array(fixed.GetOrigin()) + bend.shift])
    points = _points(moving)
    partners = bend(points)
    field = sitk.GetImageFromArray(partners - points, isVector=True)
    field.CopyInformation(moving)
    transform = sitk.DisplacementFieldTransform(field)
    moving = sitk.Resample(source, moving, transform, sitk.sitkLinear, scanners[1].outside)
    where = body(fixed) if inside is None else inside
    chosen = draw.permutation(np.flatnonzero(_in_body(where, partners)))[:POINTS]
    pairs = (a.reshape(-1, 3)[chosen] for a in (partners, points))
    return _noisy(fixed, draw, scanners[0]), _noisy(moving, draw, scanners[1]), *pairs


def body(image: sitk.Image) -> sitk.Image:
    """The largest piece above -300 HU with what it encloses, uint8."""
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(image > -300))
    closed = sitk.BinaryMorphologicalClosing(pieces == 1, [3, 3, 3])
    return sitk.BinaryFillhole(closed)


def _in_body(inside: sitk.Image, points: np.ndarray) -> np.ndarray:
    """(N,) whether points of the fixed image lie in its body."""
    turn = np.array(inside.GetDirection()).reshape(3, 3) * np.array(inside.GetSpacing())
    index = (points.reshape(-1, 3) - inside.GetOrigin()) @ np.linalg.inv(turn).T
    nearest = np.rint(index).astype(int)
    size = np.array(inside.GetSize())
    shown = np.all((nearest >= 0) & (nearest < size), axis=1)
    x, y, z = np.where(shown[:, None], nearest, 0).T
    return shown & (sitk.GetArrayViewFromImage(inside)[z, y, x] > 0)


def _noisy(image: sitk.Image, draw: np.random.Generator, scanner: Scanner) -> sitk.Image:
    array = sitk.GetArrayFromImage(image)
    array = array + draw.normal(0, scanner.noise, array.shape)
    result = sitk.GetImageFromArray(
        np.rint(array).clip(scanner.outside, scanner.largest).astype(np.int16)
    )
    result.CopyInformation(image)
    return result


def _points(image: sitk.Image) -> np.ndarray:
    """(z, y, x, 3) LPS mm of the voxel centres."""
    index = np.stack(np.meshgrid(*map(np.arange, image.GetSize()[::-1]), indexing="ij"), -1)
    turn = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return index[..., ::-1] @ turn.T + image.GetOrigin()
