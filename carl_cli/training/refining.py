"""Ψ alone, behind a Ξ and Λ that stay as they are: stages of kind `refinement`.

Ξ and Λ take most of the time of a step, so what they found is kept: a pair is rendered and matched
once, then shown many times, turned, cut and with other intensities. One Ψ learns at half and at
full resolution at once, from what is left before it there. It is trained as it is used: behind it
the two directions are made each other's inverse (`refine_symmetric`).

Shapes: (2, C, *shape) of both directions, fixed → moving first; u in unit coordinates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from carl_cli.model.fields import DisplacementMap, identity, sample
from carl_cli.model.layers import pool
from carl_cli.model.operators import Down, Kept, Registrar, SymmetricTwoStep
from carl_cli.model.regularity import diffusion
from carl_cli.model.similarity import by_name
from carl_cli.model.unet import DisplacementUNet
from carl_cli.training.data import PairSource
from carl_cli.training.losses import common_labels, field_error, most_frequent, soft_dice, to_voxels
from carl_cli.training.objective import Term, weighted
from carl_cli.training.synthesis.appearance import recoloured
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.tables import StageConfig

FIRST_PAIRS, FASTER = 50, 3  # so many pairs come so many times as fast, that there be a choice
THIN, THINNEST = 0.3, 6  # share of the views that are slabs, and voxels of the thinnest


@dataclass(frozen=True)
class View:
    """A pair and the maps so far, both directions; where the correspondence is known, u and
    visible have a third entry: the true displacement, and where it counts."""

    images: Tensor
    labels: Tensor  # int16: hundreds of pairs are kept
    visible: Tensor  # bool
    u: Tensor
    alike: bool  # of one contrast

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[2:])


@dataclass(frozen=True)
class Shown:
    """A kept pair at half and at full resolution; one of them is to be looked at."""

    half: View
    full: View
    chance: Chance


def tied_refinements(network: Registrar) -> tuple[Registrar, DisplacementUNet]:
    """What comes before the first Ψ (a copy, in eval mode, for images of half resolution), and the
    Ψ at full resolution, which takes the place of that at half in the network."""
    assert isinstance(network, SymmetricTwoStep)
    assert isinstance(network.first, Down)
    inner, unet = network.first.inner, network.second
    assert isinstance(inner, SymmetricTwoStep)
    assert isinstance(unet, DisplacementUNet)
    inner.second = unet
    return copy.deepcopy(inner.first).eval(), unet


class KeptPairs:
    """Batch number n is a kept pair, a new one now and then; a function of seed and n alone.

    After a resume, kept pairs are made again as they are drawn.
    """

    def __init__(
        self, source: PairSource, matching: Registrar, stage: StageConfig, seed: int
    ) -> None:
        self.source, self.matching, self.seed = source, matching, seed
        self.every = stage.fresh_every
        self.kept: dict[int, tuple[View, View]] = {}

    def batch(self, number: int) -> list[Shown]:
        chance, count = Chance(self.seed, "view", number), self._count(number)
        fresh = number == 0 or count > self._count(number - 1)
        which = count - 1 if fresh else chance.integer(0, count - 1)
        if which not in self.kept:
            self.kept[which] = self._made(which)
        return [Shown(*self.kept[which], chance)]

    def _count(self, number: int) -> int:
        """How many pairs there are at this batch."""
        fast = max(1, self.every // FASTER)
        if number < FIRST_PAIRS * fast:
            return number // fast + 1
        return FIRST_PAIRS + number // self.every - (FIRST_PAIRS * fast - 1) // self.every

    def _made(self, which: int) -> tuple[View, View]:
        """A pair at half and at full resolution, with the maps of what comes before Ψ."""
        pair = self.source.pair(which)
        images = torch.cat([pair.fixed, pair.moving])
        labels = torch.cat([pair.fixed_labels, pair.moving_labels])
        visible = torch.cat([pair.fixed_visible, pair.moving_visible])
        half, shape = pool(images), images.shape[2:]
        with torch.no_grad():
            maps = self.matching.both_directions(half[:1], half[1:])
            u = torch.cat([map_.on_grid(half.shape[2:]) for map_ in maps])
        u = u - identity(half.shape[2:], False, u.device)
        coarse = torch.stack([most_frequent(one[0], 2)[None] for one in labels]).short()
        if pair.phi is not None:
            assert pair.valid is not None
            voxels = torch.tensor(shape, device=u.device).view(1, 3, 1, 1, 1)
            true = (pair.phi + 0.5) / voxels - identity(shape, False, u.device)
            visible = torch.cat([visible, pair.valid & (pair.fixed_labels > 0)])
            u = torch.cat([u, pool(true)])
        seen, alike = pool(visible.float()) > 0.9, pair.contrast == "same"
        return View(half, coarse, seen, u, alike), View(images, labels.short(), visible, u, alike)


class RefinementObjective(nn.Module):
    """Loss of a stage on kept pairs: LNCC of like contrasts, soft Dice of the labels or distance
    from the truth, and the diffusion of what Ψ added."""

    def __init__(self, unet: DisplacementUNet, stage: StageConfig) -> None:
        super().__init__()
        self.unet, self.stage = unet, stage

    def forward(self, shown: Sequence[Shown], chance: Chance) -> tuple[Tensor, dict[str, Tensor]]:
        terms = [term for one in shown for term in self._terms(self._view(one), chance)]
        return weighted(terms, self.stage.loss, len(shown))

    def _view(self, shown: Shown) -> View:
        draw = shown.chance
        view = at_full(shown.half, shown.full, self.unet) if draw.coin(0.5) else shown.half
        view = cut(turned(view, draw), draw, min(shown.half.shape))
        images = recoloured(draw, view.images[:1], view.images[1:], view.alike)
        return replace(view, images=torch.cat(images))

    def _terms(self, view: View, chance: Chance) -> Iterator[Term]:
        loss, added = self.stage.loss, Added(self.unet)
        grid = identity(view.shape, False, view.images.device)
        phi = grid + refined(view, added)
        yield "zero", phi.sum() * 0
        cubic = torch.tensor(view.shape, device=phi.device).view(1, 3, 1, 1, 1) / view.shape[0]
        energies = [diffusion(u * cubic, torch.zeros_like(u)) for u in added.noted]
        yield "refinement", torch.stack(energies).sum() / 2
        inside = ((phi > 0) & (phi < 1)).all(1, keepdim=True)
        visible = view.visible[:2]
        seen = visible & inside & (sample(visible.flip(0).float(), phi, False) > 0.5)
        if view.alike and loss.similarity:
            warped = sample(view.images.flip(0), phi, False)
            yield "similarity", 2 * by_name(loss.metric, loss.sigma)(view.images, warped, seen)
        if len(view.u) > 2:
            found, true = (to_voxels(x, view.shape, False) for x in (phi[:1], grid + view.u[2:]))
            yield "field", field_error(found, true, view.visible[2:].float())
        else:
            yield from _labelled(view, phi, seen, chance, loss.dice_labels)


def _labelled(view: View, phi: Tensor, seen: Tensor, chance: Chance, count: int) -> Iterator[Term]:
    fixed, moving = view.labels.long().split(1)
    labels = common_labels(chance, fixed, moving, count)
    if len(labels):
        forward = soft_dice(fixed, moving, phi[:1], seen[:1], labels, False)
        backward = soft_dice(moving, fixed, phi[1:], seen[1:], labels, False)
        yield "dice", (forward + backward) / 2


class Added(Registrar):
    """Ψ, with a list of the displacements that it added."""

    def __init__(self, unet: DisplacementUNet) -> None:
        super().__init__()
        self.unet = unet
        self.noted: list[Tensor] = []

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        found: DisplacementMap = self.unet(fixed, moving)
        self.noted.append(found.displacement_BDx)
        return found


def at_full(half: View, full: View, unet: DisplacementUNet) -> View:
    """The pair with what Ψ finds at half resolution."""
    with torch.no_grad():
        u = torch.cat([refined(half, unet), half.u[2:]])
    return replace(full, u=interpolate(u, scale_factor=2, mode="trilinear"))


def refined(view: View, unet: Registrar) -> Tensor:
    """u of both directions behind Ψ."""
    first = Kept(*(DisplacementMap(u[None], False) for u in view.u[:2]))
    maps = SymmetricTwoStep(first, unet, False).both_directions(view.images[:1], view.images[1:])
    shape = view.images.shape[2:]
    grid = identity(shape, False, view.images.device)
    return torch.cat([map_.on_grid(shape) - grid for map_ in maps])


def turned(view: View, chance: Chance) -> View:
    """Axes permuted and flipped, in both images alike."""
    order = chance.permutation(3)
    flips = [k for k in range(3) if chance.coin(0.5)]

    def placed(x: Tensor) -> Tensor:
        return x.permute(0, 1, *(2 + k for k in order)).flip([2 + k for k in flips])

    signs = torch.tensor([-1.0 if k in flips else 1.0 for k in range(3)]).view(1, 3, 1, 1, 1)
    images, labels, visible = map(placed, (view.images, view.labels, view.visible))
    u = placed(view.u)[:, order] * signs.to(view.u)
    return View(images, labels, visible, u, view.alike)


def cut(view: View, chance: Chance, most: int) -> View:
    """A part of at most so many voxels a side, the same of both images, with content in it; now
    and then as thin as a slab."""
    size = [8 * chance.integer(max(1, most // 12), max(1, most // 8)) for _ in range(3)]
    if chance.coin(THIN):
        size[chance.integer(0, 2)] = 2 * chance.integer(THINNEST // 2, 8)
    size = [min(n, whole) for n, whole in zip(size, view.shape, strict=True)]
    inside = torch.nonzero(view.labels[0, 0] > 0)
    middle = torch.tensor(view.shape) // 2
    centre = inside[chance.integer(0, len(inside) - 1)] if len(inside) else middle
    starts = [
        min(max(0, int(c) - n // 2), whole - n)
        for c, n, whole in zip(centre, size, view.shape, strict=True)
    ]
    a, b, c = (slice(start, start + n) for start, n in zip(starts, size, strict=True))
    images, labels, visible, u = (
        x[:, :, a, b, c] for x in (view.images, view.labels, view.visible, view.u)
    )
    larger = torch.tensor(view.shape) / torch.tensor(size)  # unit coordinates are of the part
    return View(images, labels, visible, u * larger.view(1, 3, 1, 1, 1).to(u), view.alike)
