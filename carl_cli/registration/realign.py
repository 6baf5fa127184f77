"""Volumes of one series onto their reference, rigid or affine, by Gauss-Newton.

All volumes show one contrast: each is the reference moved, times a gain, plus an offset and noise,
and least squares find the motion as exactly as the noise allows. A step moves the reference instead
of the volume (inverse compositional: Baker and Matthews, IJCV 2004), so that the reference's slopes
are computed once for all volumes. There is no coarser scale: on a brain, shifts of eight
voxels and turns of 27 degrees from one volume to the next are found without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carl_cli.errors import InputError
from carl_cli.geometry import apply_affine
from carl_cli.io.images.files import Image
from carl_cli.io.morphology import dilated
from carl_cli.io.resample import resample
from carl_cli.model.blur import blur
from carl_cli.model.fields import sample
from carl_cli.preprocessing.foreground import foreground_weight
from carl_cli.registration.affine import AffineMap, Floats, generators, inverted, unit_to_lps
from carl_cli.transforms import AffineTransform
from carl_cli.transforms.linear import KINDS

Kind = Literal["rigid", "affine"]
BLUR = 1.0  # voxels: linear interpolation hardly smooths further
STEPS = 30  # at most; three or four are usual, a dozen after a jump
DONE_MM = 2e-3  # a step that moves no point of the foreground further changes nothing
FOREGROUND = 0.05  # of its weight
# Voxels around it that count as well. Both flanks of a blurred surface do then: with one alone, an
# affine fit to a volume that interpolation has smoothed is too small.
MARGIN = 4
MOST_POINTS = 2**17  # more of the foreground would cost time and gain nothing
BLOCK = 1024  # points whose products are summed at once, by one thread
LEAST_INSIDE = 0.25  # of the points: fewer say nothing of the whole
SLACK = 1e-3  # of the correlation: it is of other points once tissue leaves the field of view
NOTHING = -1.0  # the correlation where too little is seen
LEAST_VOXELS = 4  # along an axis: fewer have no slope to follow


class Found(NamedTuple):
    """A map of reference points to points of the volume, LPS mm, and the correlation of the two
    images behind it, both blurred by a voxel."""

    transform: AffineTransform
    likeness: float


class _Seen(NamedTuple):
    """A blurred volume (1, 1, *shape), and LPS mm → its unit coordinates (D + 1, D + 1)."""

    values: Tensor
    to_unit: Floats


class Realigner:
    """Finds volumes on one reference; all that depends on the reference alone is computed once.

    Of the blurred reference, at points of its foreground: 1, its value, its slopes along each
    motion. Matrices (D + 1, D + 1) are of homogeneous LPS mm, reference → volume.
    """

    def __init__(self, reference: Image, kind: Kind) -> None:
        """Raises InputError for a reference without contrast, or of too few voxels."""
        check_reference(reference)
        self.kind = kind
        index_zyx = _spread(np.argwhere(_around(foreground_of(reference))))
        blurred = _blurred(reference)
        points = apply_affine(reference.grid.index_to_lps, index_zyx[:, ::-1].astype(float))
        self.centre = points.mean(0)
        arms = points - self.centre
        self.radius_mm = float(np.linalg.norm(arms, axis=1).max())
        slope = _slopes_per_mm(blurred, reference, index_zyx)
        motions = generators(kind, arms.shape[1]).numpy()
        turning = np.einsum("nd,kde,ne->nk", slope, motions, arms, optimize=True)
        value = blurred[tuple(index_zyx.T)][:, None]
        design = np.hstack([np.ones_like(value), value, turning, slope])
        self.unit = np.abs(design).max(0)
        self.design = _in_blocks(torch.from_numpy(design / self.unit).float())
        unit = (index_zyx + 0.5) / np.array(reference.array.shape)
        self.points = torch.from_numpy(unit.T).float()[None]
        self.to_lps = unit_to_lps(reference.grid, align_corners=False)

    def find(self, volume: Image, starts: Sequence[AffineTransform]) -> Found:
        """The most alike near the best of some starts. Raises InputError for a volume without
        contrast."""
        check_contrast(volume)
        values = torch.from_numpy(_blurred(volume))[None, None]
        seen = _Seen(values, inverted(unit_to_lps(volume.grid, align_corners=False)))
        matrices = [start.homogeneous for start in starts]
        start = max(matrices, key=lambda matrix: _likeness(self._gram(seen, matrix)))
        best, likeness = self._descended(seen, start)
        return Found(KINDS[self.kind](best[:-1, :-1], best[:-1, -1]), likeness)

    def _gram(self, seen: _Seen, matrix: Floats) -> Floats:
        """(K + 3, K + 3): products of the columns, the volume's values the last one, summed over
        the points that the volume shows; 0 where it shows few of them."""
        at = AffineMap(seen.to_unit @ matrix @ self.to_lps, False)(self.points)
        counts = ((at >= 0) & (at <= 1)).all(1)[0].float()
        if float(counts.mean()) < LEAST_INSIDE:
            return np.zeros((len(self.unit) + 1,) * 2)
        values = sample(seen.values, at, False)[0, 0]
        own = torch.cat([self.design, _in_blocks(values[:, None])], dim=2)
        products = (own * _in_blocks(counts[:, None])).mT @ own
        return np.asarray(products.double().sum(0).numpy())

    def _descended(self, seen: _Seen, start: Floats) -> tuple[Floats, float]:
        """Where Gauss-Newton ends, as long as it does not make the images less alike."""
        matrix, best, highest = start, start, NOTHING
        for _ in range(STEPS):
            gram = self._gram(seen, matrix)
            if not _likeness(gram) > highest - SLACK:
                break
            best, highest = matrix, _likeness(gram)
            numbers = self._step(gram)
            if not DONE_MM <= self._reach_mm(numbers) < self.radius_mm:
                break  # done, or lost
            matrix = matrix @ self._motion(-numbers)
        return best, highest

    def _step(self, gram: Floats) -> Floats:
        """(K,): how the reference moves towards the volume; turns and stretches first, then mm."""
        weights = np.linalg.lstsq(gram[:-1, :-1], gram[:-1, -1], rcond=None)[0] / self.unit
        with np.errstate(divide="ignore", invalid="ignore"):  # without a gain, it leads nowhere
            return np.asarray(weights[2:] / weights[1])

    def _motion(self, numbers: Floats) -> Floats:
        """(D + 1, D + 1), about the middle of the points."""
        motions = generators(self.kind, d := len(self.centre))
        change = torch.zeros(d + 1, d + 1, dtype=torch.float64)
        change[:d, :d] = torch.einsum("k,kij->ij", torch.from_numpy(numbers[:-d]), motions)
        change[:d, d] = torch.from_numpy(numbers[-d:])
        there = np.eye(d + 1)
        there[:d, d] = self.centre
        return np.asarray(there @ torch.matrix_exp(change).numpy() @ np.linalg.inv(there))

    def _reach_mm(self, numbers: Floats) -> float:
        d = len(self.centre)
        return float(np.abs(numbers[-d:]).max() + self.radius_mm * np.abs(numbers[:-d]).max())


def foreground_of(image: Image) -> NDArray[np.bool_]:
    """Where the anatomy is, (z, y, x), a little around it included."""
    weight: NDArray[Any] = resample(foreground_weight(image), image.grid).array
    return np.asarray(weight > FOREGROUND)


def _around(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    for _ in range(MARGIN):
        inside = dilated(inside)
    return inside


def check_contrast(image: Image) -> None:
    if image.array.max() <= image.array.min():
        raise InputError(
            f"{image.source}: every voxel is {float(image.array.flat[0]):g}, an image was expected",
            "take this volume out of the series",
        )


def check_reference(reference: Image) -> None:
    """Raises as `Realigner` does."""
    check_contrast(reference)
    if reference.grid.dimension < 3 or min(reference.grid.size_xyz) < LEAST_VOXELS:
        size = " x ".join(map(str, reference.grid.size_xyz))
        raise InputError(
            f"{reference.source}: volumes of {size} voxels, at least {LEAST_VOXELS} along each "
            "of three axes were expected",
            "register slices with carl register",
        )


def _spread(index_zyx: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most MOST_POINTS of them, the same ones each time."""
    if len(index_zyx) <= MOST_POINTS:
        return index_zyx
    kept = np.random.default_rng(0).choice(len(index_zyx), MOST_POINTS, replace=False)
    return index_zyx[np.sort(kept)]


def _likeness(gram: Floats) -> float:
    """Correlation of the reference's values with the volume's."""
    if not gram[0, 0]:
        return NOTHING
    both = [1, -1]
    centred = gram[np.ix_(both, both)] - np.outer(gram[0, both], gram[0, both]) / gram[0, 0]
    return float(centred[0, 1] / max(np.sqrt(centred[0, 0] * centred[1, 1]), 1e-30))


def _blurred(image: Image) -> NDArray[np.float32]:
    """Standardised, so that sums of products in single precision keep what differs."""
    values = image.array.astype(np.float64)
    values = (values - values.mean()) / values.std()
    voxels = torch.from_numpy(values.astype(np.float32))[None, None]
    # Zeros beyond the border would draw an edge there, which stays where it is when tissue moves.
    even = blur(torch.ones_like(voxels), BLUR)
    return np.asarray((blur(voxels, BLUR) / even)[0, 0].numpy())


def _slopes_per_mm(
    blurred: NDArray[np.float32], reference: Image, index_zyx: NDArray[np.intp]
) -> Floats:
    """(N, D), x first, along LPS."""
    by_index = [axis[tuple(index_zyx.T)] for axis in np.gradient(blurred)[::-1]]
    return np.stack(by_index, axis=1) @ reference.grid.lps_to_index[:-1, :-1]


def _in_blocks(rows: Tensor) -> Tensor:
    """(N, C) → (blocks, BLOCK, C), rows of zeros at the end."""
    spare = -len(rows) % BLOCK
    return torch.nn.functional.pad(rows, (0, 0, 0, spare)).view(-1, BLOCK, rows.shape[1])
