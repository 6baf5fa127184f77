"""TwoStep, Down and others: networks made of networks, composing maps as functions.

TwoStep is Eq. 14 of the paper, Down its Eq. 19. The paper and its published code name the moving
image first; this project always says (fixed, moving).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor, nn

from carl_cli.model.blur import blur_keeping_affine
from carl_cli.model.fields import ComposedMap, DisplacementMap, Map, Shape, identity, sample
from carl_cli.model.layers import pool
from carl_cli.model.parallel import both
from carl_cli.model.smoothing import unfolded

INVERSE_ROUNDS = 3  # each multiplies what is left by the displacement's slope


class Registrar(nn.Module, ABC):
    """A network that registers: images (B, C, *shape) of one shape → maps on unit coordinates.

    A map carries points of the fixed image to points of the moving one. Nothing that is found for
    a pair stays behind in the network.
    """

    @abstractmethod
    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        """The map fixed → moving, Φ[M, F] in the paper."""

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        """Maps fixed → moving and moving → fixed. Overridden where work can be shared."""
        return self(fixed, moving), self(moving, fixed)


class TwoStep(Registrar):
    """TwoStep{Φ, Ψ}[F, M] = Φ[F, M] ∘ Ψ[F, M ∘ Φ[F, M]] (Eq. 14)."""

    def __init__(self, first: Registrar, second: Registrar, align_corners: bool) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.align_corners = align_corners

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        return self.refine(self.first(fixed, moving), fixed, moving)

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        forward, backward = self.first.both_directions(fixed, moving)
        return self.refine(forward, fixed, moving), self.refine(backward, moving, fixed)

    def refine(self, phi: Map, fixed: Tensor, moving: Tensor) -> Map:
        """phi ∘ Ψ[F, M ∘ phi], for the map phi that the first network found."""
        warped = sample(moving, phi.on_grid(fixed.shape[2:]), self.align_corners)
        return ComposedMap(phi, self.second(fixed, warped))


class SymmetricTwoStep(TwoStep):
    """Sym{TwoStep{Φ, Ψ}}: both directions made each other's inverse, and free of folds."""

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        return self.both_directions(fixed, moving)[0]

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        maps = super().both_directions(fixed, moving)
        means = mutual_mean(*maps, maps[0].shape, self.align_corners, fixed.device)
        return self._unfolded(means[0]), self._unfolded(means[1])

    def _unfolded(self, phi: DisplacementMap) -> DisplacementMap:
        align = self.align_corners
        return DisplacementMap(unfolded(phi.displacement_BDx, align), align, phi.spread)


class Down(Registrar):
    """Down{Φ}[F, M] = Φ[half F, half M] (Eq. 19); unit coordinates need no rescaling."""

    def __init__(self, inner: Registrar) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        phi: Map = self.inner(pool(fixed), pool(moving))
        return phi

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        return self.inner.both_directions(pool(fixed), pool(moving))


class Blurred(Registrar):
    """The map of another network, smoothed by a Gaussian of sigma voxels of the images."""

    def __init__(
        self,
        inner: Registrar,
        sigma: int,
        align_corners: bool,
        map_kind: type[DisplacementMap] = DisplacementMap,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.sigma = sigma
        self.align_corners = align_corners
        self.map_kind = map_kind

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        return self._smooth(self.inner(fixed, moving), fixed)

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        forward, backward = self.inner.both_directions(fixed, moving)
        return self._smooth(forward, fixed), self._smooth(backward, moving)

    def _smooth(self, phi: Map, image: Tensor) -> Map:
        shape = image.shape[2:]
        smooth = blur_keeping_affine(phi.on_grid(shape), self.sigma)
        grid = identity(shape, self.align_corners, image.device)
        return self.map_kind(smooth - grid, self.align_corners, phi.spread)


class Symmetric(Registrar):
    """Sym{Φ}[F, M] = ½ (Φ[F, M] + Φ[M, F]⁻¹), on the grid of the images.

    What biases both directions alike cancels: two equal images are left in place, and a match
    that shrinks towards the middle of its image no longer does (Appendix C.2: an inverse
    consistent network is exact). Equivariance is kept: both terms move with either image.
    """

    def __init__(self, inner: Registrar, align_corners: bool) -> None:
        super().__init__()
        self.inner = inner
        self.align_corners = align_corners

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        return self.both_directions(fixed, moving)[0]

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        forward, backward = self.inner.both_directions(fixed, moving)
        return mutual_mean(forward, backward, forward.shape, self.align_corners, fixed.device)


def mutual_mean(
    forward: Map, backward: Map, shape: Shape, align_corners: bool, device: torch.device
) -> tuple[DisplacementMap, DisplacementMap]:
    """Each map's mean with the inverse of the other, on the voxels of `shape`."""
    grid = identity(shape, align_corners, device)
    return both(
        partial(_mean, forward, backward, grid, align_corners),
        partial(_mean, backward, forward, grid, align_corners),
        device,
    )


def _mean(forward: Map, backward: Map, grid: Tensor, align_corners: bool) -> DisplacementMap:
    there = forward.on_grid(grid.shape[2:])
    inverse = there
    for _ in range(INVERSE_ROUNDS):
        inverse = inverse + grid - backward(inverse)
    return DisplacementMap((there + inverse) / 2 - grid, align_corners, forward.spread)


class Kept(Registrar):
    """Maps computed before, in place of the network that made them."""

    def __init__(self, forward: Map, backward: Map) -> None:
        super().__init__()
        self.maps = (forward, backward)

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        return self.maps[0]

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        return self.maps
