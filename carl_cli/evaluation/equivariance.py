"""How equivariant a network is on a real pair, layer by layer (Eq. 2 and 3; Fig. 4).

If the images are moved by W (moving) and U (fixed), the map should move along:
Φ[F∘U, M∘W] = W⁻¹ ∘ Φ[F, M] ∘ U. The difference of the two sides is measured in mm where both
are defined: U(x) on the fixed foreground, all positions inside the images.

Everything happens on the network's grids. Shapes: (1, 1, *shape) images, (1, D, *any) points in
unit coordinates, component k along array axis k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from carl_cli.evaluation.metrics import dice
from carl_cli.io.images.files import read_image
from carl_cli.io.resample import resample
from carl_cli.model.attention import WindowAttention
from carl_cli.model.fields import DisplacementMap, Map, identity, sample, voxels_per_unit
from carl_cli.model.layers import pool
from carl_cli.model.operators import Down, Registrar, SymmetricTwoStep, TwoStep
from carl_cli.model.unet import DisplacementUNet
from carl_cli.preprocessing.pair import PreparedPair

Mode = Literal["[U,U]", "[W,U]"]
FOREGROUND = 0.05
EXTRA_VOXELS = 16  # voxels that each axis gains, so that what is moved a little is not cut off
LARGEST_STEP = 16  # the grid stays a multiple of it when it is made longer


@dataclass(frozen=True)
class Views:
    """A pair on the network's grids."""

    fixed: Tensor
    moving: Tensor
    fixed_spacing_mm: tuple[float, ...]  # along the array axes (z, y, x)
    moving_spacing_mm: tuple[float, ...]
    align_corners: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.fixed.shape[2:])

    def unit_mm(self, spacing_mm: Sequence[float]) -> Tensor:
        """(D,) mm that one unit coordinate spans along each array axis."""
        voxels = voxels_per_unit(self.shape, self.align_corners)
        return voxels * torch.tensor(spacing_mm)


@dataclass(frozen=True)
class Motion:
    """x → c + A (x - c) + t about the middle c of a grid; A and t along array axes (z, y, x)."""

    matrix: NDArray[np.float64]
    shift_mm: NDArray[np.float64]

    def inverse(self) -> Motion:
        back = np.asarray(np.linalg.inv(self.matrix), float)
        return Motion(back, -back @ self.shift_mm)

    def __call__(self, points_BDx: Tensor, unit_mm: Tensor) -> Tensor:
        wide = unit_mm.to(points_BDx).view(1, -1, *[1] * (points_BDx.dim() - 2))
        matrix = torch.as_tensor(self.matrix).to(points_BDx)
        shift = torch.as_tensor(self.shift_mm).to(points_BDx).view_as(wide)
        away = (points_BDx - 0.5) * wide
        return (torch.einsum("ij,bj...->bi...", matrix, away) + shift) / wide + 0.5


@dataclass(frozen=True)
class Finding:
    """One motion and layer: how far the map is from moving along, over the common domain."""

    motion: str
    mode: Mode
    layer: str
    change_mm: float  # mean, by which the displacement should have changed
    mean_mm: float
    p95_mm: float
    max_mm: float


def layers_of(network: Registrar) -> list[str]:
    """Names of the maps of `staged_maps`: the coarse network, then each window and each Ψ."""
    kinds = []  # the last one first
    while isinstance(network, Down | TwoStep):
        if isinstance(network, TwoStep):
            kinds.append("window " if isinstance(network.second, WindowAttention) else "Ψ")
        network = network.inner if isinstance(network, Down) else network.first
    steps = kinds[::-1]
    return [
        "coarse",
        *(f"after {kind}{steps[: k + 1].count(kind)}" for k, kind in enumerate(steps)),
    ]


def staged_maps(network: Registrar, fixed: Tensor, moving: Tensor) -> list[Map]:
    """The map after each layer, coarse first; the last one is the network's own."""
    if isinstance(network, Down):
        return staged_maps(network.inner, pool(fixed), pool(moving))
    if isinstance(network, TwoStep):
        maps = staged_maps(network.first, fixed, moving)
        if isinstance(network, SymmetricTwoStep):  # needs the other direction too
            return [*maps, network(fixed, moving)]
        return [*maps, network.refine(maps[-1], fixed, moving)]
    return [network(fixed, moving)]


def motions(dimension: int, coarse_voxel_mm: float) -> Iterator[tuple[str, Motion]]:
    """Shifts by whole and partial voxels of the coarse network, scales, rotations."""
    still = np.eye(dimension)
    along = np.zeros(dimension)
    along[-1] = coarse_voxel_mm
    for voxels in (1.0, 2.0, 0.5, 0.25):
        yield (
            f"shift {voxels:g} voxel{'s' if voxels > 1 else ''} of Ξ",
            Motion(still, voxels * along),
        )
    for factor in (0.9, 1.1):
        yield f"scale {factor:g}", Motion(still * factor, 0 * along)
    for degrees in (10.0, 30.0):
        yield f"rotation {degrees:g}°", Motion(_turn(dimension, degrees), 0 * along)


def _turn(dimension: int, degrees: float) -> NDArray[np.float64]:
    """In the plane of the last two array axes."""
    angle, matrix = np.deg2rad(degrees), np.eye(dimension)
    matrix[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def views_of(pair: PreparedPair, align_corners: bool, extra_voxels: int = EXTRA_VOXELS) -> Views:
    """A prepared pair, on grids that leave room for motions."""
    images = (torch.from_numpy(i.array)[None, None] for i in (pair.fixed, pair.moving))
    fixed, moving = (enlarged(image, extra_voxels) for image in images)
    ours, theirs = (i.grid.spacing_mm[::-1] for i in (pair.fixed, pair.moving))
    return Views(fixed, moving, ours, theirs, align_corners)


def labels_of(
    pair: PreparedPair, fixed: Path, moving: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segmentations on the two network grids, nearest neighbour. Raises InputError."""
    places = ((fixed, pair.fixed.grid), (moving, pair.moving.grid))
    a, b = (resample(read_image(p), grid, interpolator="nearest").array for p, grid in places)
    return a.astype(np.int64), b.astype(np.int64)


def enlarged(array: Tensor, extra_voxels: int = EXTRA_VOXELS) -> Tensor:
    """The image on a grid with extra_voxels/2 empty ones more at both ends of each axis."""
    return pad(array, [extra_voxels // 2] * 2 * (array.dim() - 2))


@torch.inference_mode()
def findings(
    network: Registrar, views: Views, tried: Sequence[tuple[str, Motion]]
) -> Iterator[Finding]:
    """Each motion applied to both images alike ([U,U]), then the moving image by the motion and
    the fixed image by its inverse ([W,U]), for each layer."""
    names = layers_of(network)
    before = staged_maps(network, views.fixed, views.moving)
    for name, motion in tried:
        modes: tuple[tuple[Mode, Motion, Motion], ...] = (
            ("[U,U]", motion, motion),
            ("[W,U]", motion, motion.inverse()),
        )
        for mode, w, u in modes:
            fixed = _moved(views.fixed, u, views, views.fixed_spacing_mm)
            moving = _moved(views.moving, w, views, views.moving_spacing_mm)
            after = staged_maps(network, fixed, moving)
            for layer, old, new in zip(names, before, after, strict=True):
                errors, change = _errors_mm(views, old, new, w, u)
                yield Finding(name, mode, layer, change, *_summary(errors))


def _moved(image: Tensor, motion: Motion, views: Views, spacing_mm: Sequence[float]) -> Tensor:
    """image ∘ motion; nothing outside."""
    points = motion(identity(views.shape, views.align_corners), views.unit_mm(spacing_mm))
    outside = ((points < 0) | (points > 1)).any(dim=1, keepdim=True)
    return sample(image, points, views.align_corners).masked_fill(outside, 0.0)


def _errors_mm(
    views: Views, old: Map, new: Map, w: Motion, u: Motion
) -> tuple[NDArray[np.float64], float]:
    """|Φ[F∘U, M∘W](x) - W⁻¹(Φ[F, M](U x))| in the common domain, and the mean change asked for."""
    grid = identity(views.shape, views.align_corners)
    fixed_mm, moving_mm = (
        views.unit_mm(s) for s in (views.fixed_spacing_mm, views.moving_spacing_mm)
    )
    seen = u(grid, fixed_mm)
    expected = w.inverse()(old(seen), moving_mm)
    found = new.on_grid(views.shape)
    inside = (sample(views.fixed, seen, views.align_corners) > FOREGROUND)[:, 0]
    for places in (seen, expected, found, old(seen)):
        inside &= ((places >= 0) & (places <= 1)).all(dim=1)
    wide = moving_mm.view(1, -1, *[1] * len(views.shape))
    errors = ((found - expected) * wide).norm(dim=1)[inside]
    change = ((w.inverse()(seen, moving_mm) - grid) * wide).norm(dim=1)[inside]
    return errors.double().numpy(), float(change.mean())


def _summary(errors: NDArray[np.float64]) -> tuple[float, float, float]:
    if not len(errors):
        return (float("nan"),) * 3
    return float(errors.mean()), float(np.percentile(errors, 95)), float(errors.max())


@dataclass(frozen=True)
class ShiftScore:
    """Mean Dice of a pair whose moving image was moved by shift_mm along the last array axis."""

    network: str
    shift_mm: float
    dice: float


@torch.inference_mode()
def dice_against_shift(
    networks: Mapping[str, Registrar],
    views: Views,
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    shifts_mm: Sequence[float],
) -> Iterator[ShiftScore]:
    """Fig. 4 of the paper. labels: fixed and moving, of the views' shape, by nearest neighbour.

    All images lie on one grid that is long enough for the largest shift, so that no network
    sees anything cut off; `none` is the pair left as it is. A Ψ tells parts of the grid's extent:
    here of the grid before it was made longer, so that it moves by as many voxels as on that.
    """
    spacing = views.moving_spacing_mm[-1]
    longest = int(np.ceil(max(shifts_mm) / spacing / LARGEST_STEP) * LARGEST_STEP)
    fixed, moving = (pad(image, [0, longest]) for image in (views.fixed, views.moving))
    truth = np.pad(labels[0], [(0, 0)] * (labels[0].ndim - 1) + [(0, longest)])
    shape = tuple(fixed.shape[2:])
    parts = [voxels_per_unit(n, views.align_corners) for n in (views.shape, shape)]
    for shift_mm in shifts_mm:
        voxels = shift_mm / spacing
        seen = _rolled(moving, voxels, views.align_corners)
        for name, network in {"none": None, **networks}.items():
            phi = identity(shape, views.align_corners)
            if network is not None:
                with _displacements_times(network, parts[0] / parts[1]):
                    phi = network(fixed, seen).on_grid(shape)
            places = _voxels(phi, shape, views.align_corners)
            places[-1] -= voxels  # labels stay where they are: the point moves back
            yield ShiftScore(name, shift_mm, dice(truth, _nearest(labels[1], places)).mean)


@contextmanager
def _displacements_times(network: Registrar, factors_D: Tensor) -> Iterator[None]:
    """What each Ψ finds is multiplied, axis by axis."""

    def multiply(psi: DisplacementUNet, _: object, found: DisplacementMap) -> DisplacementMap:
        wide = factors_D.to(found.displacement_BDx).view(1, -1, *[1] * len(factors_D))
        return psi.map_kind(found.displacement_BDx * wide, psi.align_corners)

    modules = (m for m in network.modules() if isinstance(m, DisplacementUNet))
    hooks = [m.register_forward_hook(multiply) for m in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rolled(image: Tensor, voxels: float, align_corners: bool) -> Tensor:
    """Content moved along the last axis by a number of voxels; empty ground follows."""
    shape = image.shape[2:]
    points = identity(shape, align_corners)
    points[:, -1] -= voxels / float(voxels_per_unit(shape, align_corners)[-1])
    outside = (points[:, -1:] < 0) | (points[:, -1:] > 1)
    return sample(image, points, align_corners).masked_fill(outside, 0.0)


def _voxels(phi: Tensor, shape: Sequence[int], align_corners: bool) -> NDArray[np.float64]:
    """(D, *shape) unit coordinates → voxel indices."""
    wide = voxels_per_unit(shape, align_corners).double().view(-1, *[1] * len(shape))
    return (phi[0].double() * wide - (0.0 if align_corners else 0.5)).numpy()


def _nearest(labels: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Labels at voxel indices (D, *any); 0 outside."""
    index = np.rint(places).astype(np.int64)
    last = np.array(labels.shape).reshape(-1, *[1] * (index.ndim - 1)) - 1
    inside = ((index >= 0) & (index <= last)).all(axis=0)
    return np.where(inside, labels[tuple(np.clip(index, 0, last))], 0)
