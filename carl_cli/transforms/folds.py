"""Removal of folds: the smallest local change that makes a field invertible.

Central differences do not see a field that alternates from voxel to voxel, and the linear
interpolant can fold between two voxels whose central determinants are positive. So the
determinant is asked to be positive for central differences and for each of the 2**D choices
of one-sided differences, which are the interpolant's derivatives in the corners of its cells,
those beyond the border included. (Between the steps of a network `model.smoothing` blurs folds
away, in torch: quicker, and without the promise that none is left.)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.transforms.core import DisplacementField, Transform, composed
from carl_cli.transforms.interpolation import Floats, chunks
from carl_cli.transforms.matrices import adjugate, determinant

Index = NDArray[np.int64]

log = logging.getLogger(__name__)

ACCEPTED_DETERMINANT = 0.01
# Aiming a little beyond what is accepted makes the projections end in finitely many rounds.
WANTED_DETERMINANT = 0.03
PROJECTIONS = 200
WIDEST_SMOOTHING_VOXELS = 40
LONGEST_STEP_VOXELS = 0.25


@dataclass(frozen=True)
class FoldRepair:
    """What `repair_folds` did."""

    folded_before: int  # voxels, one of whose determinants was not positive
    changed_voxels: int
    largest_change_mm: float
    mean_change_mm: float


def repair_folds(field: DisplacementField) -> tuple[DisplacementField, FoldRepair]:
    """A field without folds, equal to `field` except around its folds; and what was changed.

    The worst determinant of each folded voxel is moved to its bound by the least change of the
    vectors it depends on (a Kaczmarz step along the determinant's gradient), until none is
    folded. Where that stalls, the neighbourhood is smoothed, ever more widely.
    Raises InputError when even that does not end.
    """
    problem = _Problem(field)
    suspects = problem.folded(np.arange(len(problem.values)))
    before = len(problem.folded(suspects, 0.0))
    for radius in range(1, WIDEST_SMOOTHING_VOXELS):
        folded = problem.project(suspects)
        if folded.size == 0:
            return _finish(field, problem, before)
        suspects = problem.smooth(folded, radius)
    raise InputError("the field folds almost everywhere: no local repair is possible")


def _finish(
    field: DisplacementField, problem: _Problem, before: int
) -> tuple[DisplacementField, FoldRepair]:
    original = field.displacement_mm
    values = problem.values.reshape(original.shape).astype(original.dtype)
    change = np.linalg.norm(values - original, axis=-1)
    changed = change[change > 0]
    mean = float(changed.mean()) if changed.size else 0.0
    report = FoldRepair(before, changed.size, float(change.max()), mean)
    return DisplacementField(field.grid, values), report


class _Problem:
    """The displacements being changed in place, with voxels as flat indices.

    Along each array axis, `ahead` and `behind` are the slopes towards the next and from the
    previous voxel; beyond the border, where the border displacement goes on, they are zero. A
    stencil is the share of `ahead` along each axis: 1, 0, or 0.5 for central differences.
    """

    def __init__(self, field: DisplacementField) -> None:
        self.shape = field.grid.shape_zyx
        self.dimension = field.dimension
        self.values = field.displacement_mm.astype(np.float64).reshape(-1, self.dimension)
        # (D, axes, 1): mm per voxel along the array axes z, y, x, of points that do not move.
        self.at_rest = field.grid.index_to_lps[:-1, :-1][:, ::-1, None]
        self.volume = float(determinant(np.moveaxis(self.at_rest, -1, 0))[0])
        self.longest_step_mm = LONGEST_STEP_VOXELS * min(field.grid.spacing_mm)
        self.corners = np.array(list(product((0.0, 1.0), repeat=self.dimension)))

    def neighbour(self, voxels: Index, axis: int, step: int) -> Index:
        """The next voxel along an axis; itself beyond the border."""
        stride = int(np.prod(self.shape[axis + 1 :]))
        position = voxels // stride % self.shape[axis] + step
        inside = (position >= 0) & (position < self.shape[axis])
        return np.where(inside, voxels + step * stride, voxels)

    def neighbours(self, voxels: Index) -> list[Index]:
        axes = range(self.dimension)
        return [self.neighbour(voxels, axis, step) for axis in axes for step in (-1, 1)]

    def pairs(self, voxels: Index, axis: int) -> tuple[Index, Index, Index, Index]:
        """(end, start) of the slope ahead, (end, start) of the slope behind."""
        following, previous = self.neighbour(voxels, axis, 1), self.neighbour(voxels, axis, -1)
        return following, voxels, voxels, previous

    def slopes(self, voxels: Index) -> tuple[Floats, Floats]:
        """Of the mapped points, ahead and behind: (D components, D axes, N) in mm per voxel."""
        forward, backward = np.empty((2, self.dimension, self.dimension, len(voxels)))
        for axis in range(self.dimension):
            end, start, end_behind, start_behind = self.pairs(voxels, axis)
            forward[:, axis] = (self.values[end] - self.values[start]).T
            backward[:, axis] = (self.values[end_behind] - self.values[start_behind]).T
        return forward + self.at_rest, backward + self.at_rest

    def central(self, voxels: Index) -> Floats:
        """(D axes, N): one half, but the slope that exists alone in the outermost layer."""
        share = np.full((self.dimension, len(voxels)), 0.5)
        for axis, count in enumerate(self.shape):
            position = voxels // int(np.prod(self.shape[axis + 1 :])) % count
            share[axis, position == 0] = 1.0
            share[axis, position == count - 1] = 0.0
        return share

    def worst(self, voxels: Index) -> tuple[Floats, Floats]:
        """Smallest determinant (N,), as a part of the volume at rest, and its stencil (D, N)."""
        forward, backward = self.slopes(voxels)
        smallest, chosen = np.full(len(voxels), np.inf), self.central(voxels)
        for share in (chosen.copy(), *self.corners[:, :, None]):
            matrix = np.moveaxis(share * forward + (1 - share) * backward, -1, 0)
            value = determinant(matrix) / self.volume
            chosen = np.where(value < smallest, share, chosen)
            np.minimum(smallest, value, out=smallest)
        return smallest, chosen

    def folded(self, suspects: Index, bound: float = ACCEPTED_DETERMINANT) -> Index:
        found = [part[self.worst(part)[0] <= bound] for part in _batches(suspects)]
        return np.concatenate(found)

    def project(self, suspects: Index) -> Index:
        """Rounds of corrections; returns the voxels that are still folded."""
        folded = self.folded(suspects)
        for _ in range(PROJECTIONS):
            if folded.size == 0:
                break
            self.correct(folded)
            folded = self.folded(self.around(folded, 2))
        return folded

    def correct(self, voxels: Index) -> None:
        """One step of every voxel's worst determinant towards its bound, all at once."""
        value, share = self.worst(voxels)
        forward, backward = self.slopes(voxels)
        matrix = np.moveaxis(share * forward + (1 - share) * backward, -1, 0)
        # Gradient of the determinant by the slopes: the cofactors, (D, axes, N).
        pull = adjugate(matrix).T / self.volume
        weight = share**2 + (1 - share) ** 2 + (1 - 2 * share) ** 2
        square = np.maximum(np.einsum("can,an->n", pull**2, weight), 1e-12)
        wanted = (WANTED_DETERMINANT - value) / square
        step = np.minimum(wanted, self.longest_step_mm / np.sqrt(square))
        self.spread(voxels, pull * step, share)

    def spread(self, voxels: Index, change: Floats, share: Floats) -> None:
        """Add what the voxels ask of their neighbours' vectors; shared wishes are averaged."""
        places: list[Index] = []
        wishes: list[Floats] = []
        for axis in range(self.dimension):
            forward = (change[:, axis] * share[axis]).T
            backward = change[:, axis].T - forward
            places.extend(self.pairs(voxels, axis))
            wishes.extend([forward, -forward, backward, -backward])
        nodes, owner = np.unique(np.concatenate(places), return_inverse=True)
        asked = np.concatenate(wishes)
        count = np.bincount(owner, weights=np.any(asked != 0, axis=1))
        for component in range(self.dimension):
            total = np.bincount(owner, weights=asked[:, component])
            # Between the mean, which is slow, and the sum, which overshoots.
            self.values[nodes, component] += total / np.sqrt(np.maximum(count, 1))

    def around(self, voxels: Index, radius: int) -> Index:
        """The voxels and all within `radius` steps along the axes."""
        for _ in range(radius):
            steps = [
                self.neighbour(voxels, axis, s) for axis in range(self.dimension) for s in (-1, 1)
            ]
            voxels = np.unique(np.concatenate([voxels, *steps]))
        return voxels

    def smooth(self, folded: Index, radius: int) -> Index:
        """Diffuse the vectors near folds, as often as wide; returns what to check again."""
        inside = self.around(folded, radius)
        for _ in range(radius):
            around = [self.values[voxels] for voxels in self.neighbours(inside)]
            self.values[inside] = np.mean(around, axis=0)
        return self.around(inside, 1)


def _batches(voxels: Index) -> list[Index]:
    return [voxels[part] for part in chunks(len(voxels))] or [voxels]


def without_folds(transform: Transform) -> Transform:
    """The transform with each displacement field among its parts repaired, as the log tells.

    Raises InputError for a field that can't be repaired.
    """
    return composed(map(_repaired, transform.parts))


def _repaired(part: Transform) -> Transform:
    if not isinstance(part, DisplacementField):
        return part
    repaired, report = repair_folds(part)
    log.info(
        "%d folded voxels repaired: %d changed by %.3g mm on average, at most %.3g mm",
        report.folded_before,
        report.changed_voxels,
        report.mean_change_mm,
        report.largest_change_mm,
    )
    return repaired
