"""A rigid, similarity or affine transform of a pair: a robust fit to the dense map, then a descent.

The fit takes the map's correspondences in the fixed foreground (`fitting`). The descent moves the
few numbers of the transform down the difference of the images' self-similarity channels
(`alignment`), and in the end up their squared local correlation, in small windows inside the
foreground: of any two contrasts, it is the more exact of the two, and it leaves out the surface.
(Two contrasts show an organ's surface at different places, which makes an affine fit too large.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carl_cli.geometry import Grid, apply_affine
from carl_cli.model.blur import blur
from carl_cli.model.fields import Map, Shape, identity, sample, summed, voxels_per_unit
from carl_cli.model.similarity import Similarity, over_channels, squared_difference, squared_lncc
from carl_cli.preprocessing.pair import NetworkImage, PreparedPair
from carl_cli.progress import Progress, silent
from carl_cli.registration.alignment import WINDOW
from carl_cli.registration.contexts import FOREGROUND, Pair, all_contexts, brightest
from carl_cli.registration.diffeomorphic import MIN_VOXELS, intensities
from carl_cli.transforms import AffineTransform, CompositeTransform, Transform
from carl_cli.transforms.fitting import fit_affine
from carl_cli.transforms.linear import KINDS, Linear
from carl_cli.weights.folder import AlignmentRule

Floats = NDArray[np.float64]
STAGE = "linear refinement"
CHANNEL_BLUR = 1  # voxels: else interpolation, which smooths, alone would make channels alike
FEW_VOXELS = 64**3  # of the network's grid
SMALL_WINDOW = 1  # voxels: sigma
INSIDE = 0.9  # of a blurred foreground
CORRELATION: Similarity = partial(squared_lncc, sigma=SMALL_WINDOW)
REACH = 1.5  # voxels of a scale: no number of a step leads further (a line search would)
GAIN = 100.0  # of losses below 1, so that the first step is of some tenths of a millimetre


def fit_linear(kind: Linear, forward: Transform, prepared: PreparedPair) -> AffineTransform:
    """The one of its kind nearest to a map of fixed to moving points, LPS mm, in the foreground."""
    points, weights = foreground(prepared.fixed)
    counts = weights * _reaches(prepared, forward, points)
    return fit_affine(forward, points, counts if counts.any() else weights, kind)


def _reaches(prepared: PreparedPair, forward: Transform, points: Floats) -> NDArray[np.bool_]:
    """Whether points (N, D) LPS mm go to voxels of the moving mask. It was seen through the
    initial transform, where there is one."""
    moving = prepared.moving
    if moving.mask is None:
        return np.ones(len(points), bool)
    if prepared.initial is not None and isinstance(forward, CompositeTransform):
        forward = CompositeTransform(forward.parts[1:])
    index = np.rint(apply_affine(moving.grid.lps_to_index, forward(points))).astype(int)[:, ::-1]
    nearest = np.clip(index, 0, np.array(moving.mask.shape) - 1)
    reached: NDArray[np.bool_] = moving.mask[tuple(nearest.T)] & (nearest == index).all(axis=1)
    return reached


def foreground(image: NetworkImage) -> tuple[Floats, Floats]:
    """Points of every second voxel (N, D) LPS mm, and their weights: intensity inside the mask."""
    every_second = (slice(None, None, 2),) * image.array.ndim
    weight = image.array.astype(float)
    if image.mask is not None:
        weight = weight * image.mask if (weight * image.mask).any() else image.mask.astype(float)
    points = image.grid.points_mm()[every_second].reshape(-1, image.grid.dimension)
    return points, weight[every_second].ravel()


def refine_linear(
    kind: Linear,
    start: AffineTransform,
    prepared: PreparedPair,
    pair: Pair,
    align_corners: bool,
    progress: Progress = silent,
) -> AffineTransform:
    """The transform of this kind near `start`, fixed → moving points, LPS mm, under which the
    images are most alike.

    prepared: without an initial transform; pair: its tensors. The lowest loss that was seen is
    kept, so that images which match already stay in place.
    """
    search = _Search(kind, prepared, pair, align_corners)
    plan = PLAN if pair.fixed.dim() == 5 else FLAT_PLAN
    for number, step in enumerate(plan):
        start = search.descended(start, step)
        progress(STAGE, (number + 1) / len(plan), step.compared)
    return start


class Step(NamedTuple):
    """compared: what is; coarser: voxels of the network's grid to one there."""

    compared: str
    coarser: int
    iterations: int


PLAN = Step("channels", 4, 20), Step("channels", 2, 20), Step("correlation", 2, 12)
FLAT_PLAN = Step("correlation", 4, 20), Step("correlation", 2, 20)  # there are no channels of 2D

Loss = Callable[[Floats], tuple[float, Floats]]
"""Of a transform (D + 1, D + 1), LPS mm: its value, and the slope by each of its entries."""


class _View(NamedTuple):
    """Channels that are compared, and where they lie."""

    fixed: Tensor  # (1, C, *shape)
    moving: Tensor  # (1, C, *shape)
    mask: Tensor  # (1, 1, *shape) of the fixed ones: where they count
    to_moving: Floats  # (D + 1, D + 1), LPS mm → unit coordinates of `moving`


@dataclass(frozen=True)
class AffineMap(Map):
    """x → matrix · x in unit coordinates, matrix (D + 1, D + 1)."""

    matrix: Floats
    align_corners: bool
    device: torch.device | None = None

    @property
    def shape(self) -> Shape:
        return ()

    def __call__(self, points_BDx: Tensor) -> Tensor:
        matrix = torch.from_numpy(self.matrix).to(points_BDx)
        moved = torch.einsum("ij,bj...->bi...", matrix[:-1, :-1], points_BDx)
        return moved + matrix[:-1, -1].view(1, -1, *[1] * (points_BDx.dim() - 2))

    def on_grid(self, shape: Shape) -> Tensor:
        return self(identity(shape, self.align_corners, self.device or "cpu"))


class _Search:
    """The descent of one pair's transform. Matrices are of homogeneous coordinates."""

    def __init__(
        self, kind: Linear, prepared: PreparedPair, pair: Pair, align_corners: bool
    ) -> None:
        self.kind, self.pair, self.align_corners = kind, pair, align_corners
        self.from_fixed = unit_to_lps(prepared.fixed.grid, align_corners)
        self.from_moving = unit_to_lps(prepared.moving.grid, align_corners)
        points, weights = foreground(prepared.fixed)
        share = (weights / weights.sum())[:, None]
        self.centre = (share * points).sum(0)
        self.voxel_mm = max(prepared.fixed.grid.spacing_mm)
        self.radius = float(np.sqrt((share * (points - self.centre) ** 2).sum()))

    def map_of(self, transform: AffineTransform) -> AffineMap:
        """The same between the unit coordinates of the two network images."""
        matrix = inverted(self.from_moving) @ transform.homogeneous @ self.from_fixed
        return AffineMap(matrix, self.align_corners, self.pair.fixed.device)

    def _loss(self, start: AffineTransform, step: Step) -> Loss:
        if step.compared == "channels":
            view, similarity = self._channels(start, step.coarser), squared_difference
        else:
            view = self._images(start, step.coarser)
            similarity = over_channels(CORRELATION, self.pair.channel_weights)
        return lambda matrix: self._slope(matrix, view, similarity)

    def _images(self, start: AffineTransform, coarser: int) -> _View:
        fixed, moving = (intensities(i, coarser) for i in (self.pair.fixed, self.pair.moving))
        mask = self._mask(start, coarser, inside=True)
        return _View(fixed, moving, mask, inverted(self.from_moving))

    def _channels(self, start: AffineTransform, coarser: int) -> _View:
        """Channels follow an image's axes, so they are taken of the moving image as it is seen
        through `start`, in the fixed image's frame."""
        floor = AlignmentRule().noise_floor
        points = self.map_of(start).on_grid(self.pair.fixed.shape[2:])
        seen = sample(self.pair.moving, points, self.align_corners)
        fixed, moving = (
            blur(all_contexts(image, coarser, floor, self.pair.channel_weights), CHANNEL_BLUR)
            for image in (self.pair.fixed, seen)
        )
        back = inverted(start.homogeneous @ self.from_fixed)
        return _View(fixed, moving, self._mask(start, coarser), back)

    def _mask(self, start: AffineTransform, coarser: int, inside: bool = False) -> Tensor:
        """Around the fixed foreground, or inside it; inside both masks, and with a counterpart."""
        fixed = brightest(self.pair.fixed, coarser)
        around = blur((fixed > FOREGROUND).float(), WINDOW)
        points = self.map_of(start).on_grid(fixed.shape[2:])
        counts = ((points >= 0) & (points <= 1)).all(1, keepdim=True)
        if self.pair.fixed_mask is not None:
            counts &= intensities(self.pair.fixed_mask.float(), coarser) >= 0.5
        if self.pair.moving_mask is not None:
            counts &= sample(self.pair.moving_mask.float(), points, self.align_corners) >= 0.5
        core = (around > INSIDE) & counts
        return core if inside and core.any() else (around > FOREGROUND) & counts

    def _slope(self, matrix: Floats, view: _View, similarity: Similarity) -> tuple[float, Floats]:
        """Sums over voxels go axis by axis: the same bits for any number of threads."""
        grid = identity(view.fixed.shape[2:], self.align_corners, view.fixed.device)
        ahead = AffineMap(view.to_moving @ matrix @ self.from_fixed, self.align_corners)
        points = ahead(grid).requires_grad_()
        with torch.enable_grad():
            warped = sample(view.moving, points, self.align_corners)
            loss = similarity(warped, view.fixed, view.mask)
            (slope,) = torch.autograd.grad(loss, points)
        by_unit = torch.stack(
            [*(summed(slope * grid[:, k : k + 1], 2)[0] for k in range(grid.shape[1])),
             summed(slope, 2)[0]], dim=1,
        )  # fmt: skip
        by_entry = np.zeros_like(matrix)
        by_entry[:-1] = by_unit.double().cpu().numpy()
        return loss.item(), view.to_moving.T @ by_entry @ self.from_fixed.T

    def descended(self, start: AffineTransform, step: Step) -> AffineTransform:
        """By L-BFGS; the best that was seen. Half of a grid of few voxels would show too little."""
        if self.pair.fixed[0, 0].numel() < FEW_VOXELS:
            step = step._replace(coarser=step.coarser // 2)
        if min(self.pair.fixed.shape[2:]) < MIN_VOXELS * step.coarser:
            return start
        loss, reach = self._loss(start, step), REACH * step.coarser * self.voxel_mm
        numbers = torch.zeros(len(self._generators) + len(self.centre), dtype=torch.float64)
        numbers.requires_grad_()
        lowest, best = np.inf, start.homogeneous
        optimiser = torch.optim.LBFGS(
            [numbers],
            max_iter=step.iterations,
            tolerance_change=1e-5,
            line_search_fn="strong_wolfe",
        )

        def evaluate() -> float:
            nonlocal lowest, best
            with torch.enable_grad():
                matrix = self._moved(start, reach * torch.tanh(numbers / reach))
                value, by_entry = loss(matrix.detach().numpy())
                slope = torch.from_numpy(GAIN * by_entry)
                (numbers.grad,) = torch.autograd.grad((matrix * slope).sum(), numbers)
            if value < lowest:
                lowest, best = value, matrix.detach().numpy()
            return GAIN * value

        optimiser.step(evaluate)
        return KINDS[self.kind](best[:-1, :-1], best[:-1, -1])

    @property
    def _generators(self) -> Tensor:
        """Of 1, a point `radius` from the centre moves by about a millimetre."""
        return generators(self.kind, len(self.centre)) / self.radius

    def _moved(self, start: AffineTransform, numbers: Tensor) -> Tensor:
        """(D + 1, D + 1): turned and stretched about the middle of the fixed foreground."""
        generators, d = self._generators, len(self.centre)
        change = torch.einsum("k,kij->ij", numbers[: len(generators)], generators)
        matrix = torch.matrix_exp(change) @ torch.from_numpy(start.matrix)
        centre = torch.from_numpy(self.centre)
        reached = torch.from_numpy(start(self.centre)) + numbers[len(generators) :]
        shift = (reached - matrix @ centre)[:, None]
        last = torch.eye(d + 1, dtype=torch.float64)[d:]
        return torch.cat([torch.cat([matrix, shift], dim=1), last])


def generators(kind: Linear, d: int) -> Tensor:
    """(K, D, D): what a matrix of this kind may do, turns first."""
    entries = torch.eye(d * d, dtype=torch.float64).view(d * d, d, d)
    if kind == "affine":
        return entries
    turns = [entries[i * d + j] - entries[j * d + i] for i in range(d) for j in range(i)]
    grow = [torch.eye(d, dtype=torch.float64)] if kind == "similarity" else []
    return torch.stack(turns + grow)


def inverted(matrix: Floats) -> Floats:
    return np.linalg.inv(matrix).astype(np.float64, copy=False)


def unit_to_lps(grid: Grid, align_corners: bool) -> Floats:
    """(D + 1, D + 1): unit coordinates in array-axis order → LPS mm."""
    d = grid.dimension
    to_index = np.eye(d + 1)
    voxels = voxels_per_unit(grid.shape_zyx, align_corners).double().numpy()
    to_index[:d, :d] = np.diag(voxels)[::-1]
    to_index[:d, d] = 0.0 if align_corners else -0.5
    return np.asarray(grid.index_to_lps @ to_index)
