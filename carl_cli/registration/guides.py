"""Labels and landmarks that are known to belong together, and pull the maps with the images.

A guide adds to the loss of a descent (`diffeomorphic`): weight · (1 - mean soft Dice of the labels)
and weight · mean distance of the landmarks in mm, for each of the two directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.images.files import Image
from carl_cli.io.resample import resample
from carl_cli.model.fields import Shape, sample, voxels_per_unit, voxels_per_unit_of
from carl_cli.model.layers import pool, pooled
from carl_cli.model.similarity import soft_dice
from carl_cli.preprocessing.pair import PreparedPair
from carl_cli.registration.known import Known
from carl_cli.registration.options import GuideOptions
from carl_cli.registration.sides import Side
from carl_cli.weights.folder import Weights

Pulled = tuple[float, Tensor]  # loss, and its slope by displacements in voxels, (1, D, *shape)


@dataclass(frozen=True, eq=False)
class Guide:
    """What pulls one side: its own labels and landmarks, and where they belong in the other."""

    own_labels: Tensor | None  # (1, 1, *shape): numbers of the shared labels, 0 elsewhere
    other_labels: Tensor | None
    own_points: Tensor | None  # (1, D, N), unit coordinates
    other_points: Tensor | None
    labels_weight: float
    points_weight: float
    mm_per_unit: Tensor  # (1, D, 1) of the other image
    _known: dict[Shape, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def pull(self, side: Side) -> Pulled:
        loss, slope = 0.0, torch.zeros_like(side.u)
        for part in (self._labels_pull(side), self._points_pull(side)):
            if part is not None:
                loss, slope = loss + part[0], slope + part[1]
        return loss, slope

    def _labels_pull(self, side: Side) -> Pulled | None:
        if self.own_labels is None or self.other_labels is None:
            return None
        shape = tuple(side.u.shape[2:])
        if shape not in self._known:
            coarser = _coarser(self.own_labels, shape)
            self._known[shape] = (
                _shares(self.own_labels, coarser),
                _shares(self.other_labels, coarser),
            )
        own, other = self._known[shape]
        with torch.enable_grad():
            u = side.u.detach().requires_grad_()
            warped = sample(other, side.grid + u, side.align_corners)
            loss = self.labels_weight * soft_dice(warped, own)
            (slope,) = torch.autograd.grad(loss, u)
        return loss.item(), slope / voxels_per_unit_of(slope, side.align_corners)

    def _points_pull(self, side: Side) -> Pulled | None:
        if self.own_points is None or self.other_points is None:
            return None
        with torch.enable_grad():
            u = side.u.detach().requires_grad_()
            moved = self.own_points + sample(u, self.own_points, side.align_corners)
            apart = ((moved - self.other_points) * self.mm_per_unit).square().sum(1)
            loss = self.points_weight * (apart + 1e-6).sqrt().mean()
            (slope,) = torch.autograd.grad(loss, u)
        return loss.item(), slope / voxels_per_unit_of(slope, side.align_corners)


def _coarser(labels: Tensor, shape: Shape) -> int:
    """Voxels along each axis of one voxel of a scale of this shape."""
    return (
        1 if tuple(labels.shape[2:]) == tuple(shape) else 2 * _coarser(pool(labels.float()), shape)
    )


def _shares(labels: Tensor, coarser: int) -> Tensor:
    """(1, L, *shape): the share of each label in the voxels of a scale."""
    numbers = range(1, int(labels.max()) + 1)
    return torch.cat([pooled((labels == n).float(), coarser) for n in numbers], dim=1)


def guides_of(
    options: GuideOptions, known: Known, prepared: PreparedPair, weights: Weights
) -> tuple[Guide, Guide] | None:
    """Of the fixed and the moving side; None where nothing guides.

    Raises InputError where no label is shared.
    """
    align_corners, device = weights.config.model.align_corners, weights.device
    labels: tuple[Tensor | None, Tensor | None] = (None, None)
    points: tuple[Tensor | None, Tensor | None] = (None, None)
    if options.guide_labels and known.labels is not None:
        labels = _numbered(known.labels, prepared, device)
    if options.guide_points and known.points is not None:
        points = _placed(known.points, prepared, align_corners, device)
    if labels[0] is None and points[0] is None:
        return None
    sides = []
    for k, image in ((0, prepared.moving), (1, prepared.fixed)):
        mm = _mm_per_unit(image.grid, align_corners).to(device)
        parts = labels[k], labels[1 - k], points[k], points[1 - k]
        sides.append(Guide(*parts, options.guide_labels or 0.0, options.guide_points or 0.0, mm))
    return sides[0], sides[1]


def _numbered(
    labels: tuple[Image, Image], prepared: PreparedPair, device: str
) -> tuple[Tensor, Tensor]:
    """The labels that both images have, numbered from 1, on the network's grids."""
    fixed = resample(labels[0], prepared.fixed.grid, interpolator="nearest").array
    moving = resample(
        labels[1], prepared.moving.grid, prepared.initial, interpolator="nearest"
    ).array
    shared = np.intersect1d(fixed, moving)
    shared = shared[shared != 0]
    if not len(shared):
        raise InputError(
            f"{labels[0].source or 'labels'} and {labels[1].source or 'labels'} share no label",
            "give both segmentations the same numbers, or leave out --guide-labels",
        )
    numbers = [
        np.where(np.isin(x, shared), np.searchsorted(shared, x) + 1, 0) for x in (fixed, moving)
    ]
    first, second = (torch.from_numpy(n.astype(np.int32))[None, None].to(device) for n in numbers)
    return first, second


def _placed(
    points: tuple[Array, Array], prepared: PreparedPair, align_corners: bool, device: str
) -> tuple[Tensor, Tensor]:
    """(1, D, N) unit coordinates on the network's grids; moving points as the initial transform
    shows them."""
    moving = points[1] if prepared.initial is None else prepared.initial.inverse()(points[1])
    first = _unit(points[0], prepared.fixed.grid, align_corners)
    return first.to(device), _unit(moving, prepared.moving.grid, align_corners).to(device)


def _unit(points_lps: Array, grid: Grid, align_corners: bool) -> Tensor:
    index = torch.from_numpy(apply_affine(grid.lps_to_index, points_lps)[:, ::-1].copy()).float()
    voxels = voxels_per_unit(grid.shape_zyx, align_corners)
    return ((index + (0.0 if align_corners else 0.5)) / voxels).T[None]


def _mm_per_unit(grid: Grid, align_corners: bool) -> Tensor:
    spacing = torch.tensor(grid.spacing_mm[::-1], dtype=torch.float32)
    return (voxels_per_unit(grid.shape_zyx, align_corners) * spacing).view(1, -1, 1)
