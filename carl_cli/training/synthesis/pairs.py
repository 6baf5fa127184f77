"""Pairs without end from label maps, on the training device.

Coordinates: voxel indices in array order (z, y, x) of grids of one shape; phi maps fixed
voxels to moving voxels. With one map deformed by D, the images of a known pair are

    fixed  = map ∘ D ∘ A1 ∘ (id + u)        moving = map ∘ D ∘ A2

A1, A2 affine and id + u a diffeomorphism, so that phi = A2⁻¹ ∘ A1 ∘ (id + u) is exact and
nothing non-linear is inverted. Pairs of two people have no phi, only labels, and each
image its own u.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from carl_cli.training.synthesis.appearance import CONTRASTS, contrast_pair, texture_volume
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.shapes import LabelMap, random_people, turned
from carl_cli.training.synthesis.views import (
    Person,
    Pose,
    Rendered,
    Slab,
    View,
    bent_person,
    random_affine,
    random_slab,
    random_window,
    render,
)
from carl_cli.training.synthesis.warps import Shape, identity, sample_labels, smooth_displacement

ATTEMPTS = 3
LEAST_SHOWN = 0.01  # of the grid


@dataclass(frozen=True)
class SynthesisSettings:
    """What is rendered. `*_fraction` are probabilities."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic: no unknown keys)

    shape_zyx: Shape = (64, 64, 64)  # grid of both images; two numbers: slices
    real_fraction: float = 0.6  # of pairs from prepared maps, where there are any
    same_map_fraction: float = 0.6  # of pairs with known correspondence
    contrast_weights: tuple[float, float, float] = (0.4, 0.25, 0.35)  # same, near, unrelated
    t1_fraction: float = 0.0  # each image: made T1-like, or the inverse, whatever was drawn
    people_variation: float = 0.35  # how much random people differ at most, 0 to 1
    fill: tuple[float, float] = (0.75, 1.0)  # extent of the foreground / side of the grid
    scale: tuple[float, float] = (0.75, 1.35)  # of each image
    stretch: float = 0.1  # each axis of each image by ± this, and half of it in shear
    rotation_degrees: float = 20.0  # each image, about each axis, ±
    translation: float = 0.15  # each image, along each axis, ± sides of the grid
    bend: tuple[float, float] = (0.05, 0.6)  # largest gradient of the displacements
    turn_fraction: float = 0.3  # both images flipped and permuted alike
    strip_fraction: float = 0.25  # of pairs: inner labels only, in both images or in one
    crop_fraction: float = 0.25  # each image: a smaller field of view
    slab_fraction: float = 0.08  # both images: a slab of the body
    degradation: float = 1.0  # 0 clean, 1 blurred, biased, noisy
    reuse: int = 8  # pairs made from one random map

    @property
    def pose(self) -> Pose:
        return Pose(self.scale, self.stretch, self.rotation_degrees, self.translation)


@dataclass(frozen=True)
class Pair:
    """All tensors (1, C, D, H, W) on one grid shape, on the training device."""

    fixed: Tensor  # (1, 1, …) float32; rendered images lie in [0, 1]
    moving: Tensor
    fixed_labels: Tensor  # int64, 0 = background and where not visible
    moving_labels: Tensor
    fixed_visible: Tensor  # bool, inside the field of view, or the mask, of that image
    moving_visible: Tensor
    contrast: str  # same, near, unrelated
    real: bool  # a real image, or rendered from a prepared map
    # (1, 3, …) place in voxels (z, y, x) of the moving image of each fixed voxel, exact
    # everywhere; None for two people.
    phi: Tensor | None = None
    # bool, the fixed voxel is shown and phi lands where the moving image shows it too (in view,
    # not stripped); None for two people.
    valid: Tensor | None = None

    @classmethod
    def of_images(cls, fixed: Tensor, moving: Tensor) -> Pair:
        """Two images (1, 1, …) of one contrast, seen everywhere, of which nothing else is known."""
        labels, seen = torch.zeros_like(fixed, dtype=torch.int64), torch.ones_like(fixed).bool()
        return cls(fixed, moving, labels, labels, seen, seen, "same", real=True)


class PairSynthesiser:
    """pair(i) is a pure function of (seed, i): no state, any order, any number of workers.
    A draw that shows next to nothing in both images is drawn again, twice at most.

    maps: prepared label maps (may be empty: random shapes only).
    """

    def __init__(
        self,
        settings: SynthesisSettings,
        maps: Sequence[LabelMap] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.seed = seed
        self._maps = [m.to(self.device) for m in maps]
        self._drawn: OrderedDict[int, list[LabelMap]] = OrderedDict()

    def __len__(self) -> int:
        return sys.maxsize  # they never end

    @torch.no_grad()
    def pair(self, index: int, same_map: bool | None = None) -> Pair:
        """The pair with this number; `same_map` fixes its kind."""
        with torch.autocast(self.device.type, enabled=False):
            for attempt in range(ATTEMPTS):
                drawn = self._draw(index, attempt, same_map)
                if _teaches(drawn):
                    break
        return drawn

    def _draw(self, index: int, attempt: int, same_map: bool | None) -> Pair:
        chance = Chance(self.seed, "pair", index, attempt, device=self.device)
        drawn = chance.coin(self.settings.same_map_fraction)
        real = bool(self._maps) and chance.coin(self.settings.real_fraction)
        maps = self._real_maps(chance) if real else self._random_maps(chance, index)
        maps = self._turned(chance, maps)
        make = _known_pair if (drawn if same_map is None else same_map) else _people_pair
        return replace(make(chance, maps, self.settings), real=real)

    def _real_maps(self, chance: Chance) -> list[LabelMap]:
        order = chance.permutation(len(self._maps))
        return [self._maps[order[0]], self._maps[order[-1]]]

    def _random_maps(self, chance: Chance, index: int) -> list[LabelMap]:
        number = index // self.settings.reuse
        if number not in self._drawn:
            own = Chance(self.seed, "map", number, device=self.device)
            variation = self.settings.people_variation * own.uniform(0, 1)
            self._drawn[number] = random_people(own, self.settings.shape_zyx, 2, variation)
            while len(self._drawn) > 4:
                self._drawn.popitem(last=False)
        maps = self._drawn[number]
        return maps[::-1] if chance.coin(0.5) else maps

    def _turned(self, chance: Chance, maps: list[LabelMap]) -> list[LabelMap]:
        if not chance.coin(self.settings.turn_fraction):
            return maps
        dimension = maps[0].labels.dim()
        order = chance.permutation(dimension)
        flips = [axis for axis in range(dimension) if chance.coin(0.5)]
        return [turned(m, order, flips) for m in maps]


def _teaches(pair: Pair) -> bool:
    """Whether a hundredth of the grid shows tissue with a counterpart."""
    shown = pair.fixed_labels > 0
    if pair.valid is not None:
        return bool((shown & pair.valid).float().mean() >= LEAST_SHOWN)
    there = (pair.moving_labels > 0).float().mean()
    return bool(torch.minimum(shown.float().mean(), there) >= LEAST_SHOWN)


def _known_pair(chance: Chance, maps: list[LabelMap], settings: SynthesisSettings) -> Pair:
    """The same map twice; phi is known everywhere."""
    fill = chance.uniform(*settings.fill)
    gradient = chance.uniform(*settings.bend)
    person = bent_person(chance, maps[0], settings.shape_zyx, gradient)
    first, second = (
        random_affine(chance, maps[0], settings.shape_zyx, fill, settings.pose) for _ in "12"
    )
    grid = identity(settings.shape_zyx, chance.device)
    bent = _bent(chance, grid, settings)
    phi = second.inverse().after(first)(bent)
    other = person
    if chance.coin(0.5):  # the texture of another day: not to be matched
        other = replace(person, texture=texture_volume(chance, settings.shape_zyx))
    places = [(person, first(bent)), (other, second(grid))]
    return _with_phi(_rendered_pair(chance, places, settings), phi)


def _people_pair(chance: Chance, maps: list[LabelMap], settings: SynthesisSettings) -> Pair:
    """Two people: each its own map, displacement u and pose."""
    fill = chance.uniform(*settings.fill)
    grid = identity(settings.shape_zyx, chance.device)
    places = []
    for map_ in maps:
        affine = random_affine(chance, map_, settings.shape_zyx, fill, settings.pose)
        bent = _bent(chance, grid, settings)
        person = Person(map_, texture_volume(chance, settings.shape_zyx))
        places.append((person, affine(bent)))
    return _rendered_pair(chance, places, settings)[0]


def _bent(chance: Chance, grid: Tensor, settings: SynthesisSettings) -> Tensor:
    gradient = chance.uniform(*settings.bend)
    return grid + smooth_displacement(chance, settings.shape_zyx, gradient)


def _rendered_pair(
    chance: Chance, places: list[tuple[Person, Tensor]], settings: SynthesisSettings
) -> tuple[Pair, Rendered, Rendered]:
    kind = CONTRASTS[chance.choose(settings.contrast_weights)]
    contrasts = contrast_pair(chance, places[0][0].map, kind, settings.t1_fraction)
    slab = (
        random_slab(chance, len(settings.shape_zyx))
        if chance.coin(settings.slab_fraction)
        else None
    )
    strength = settings.degradation * chance.uniform(0, 1)
    views = [_view(chance, person, points, slab, settings) for person, points in places]
    if chance.coin(settings.strip_fraction):
        views = _stripped(chance, views)
    fixed, moving = (
        render(chance, view, contrast, strength)
        for view, contrast in zip(views, contrasts, strict=True)
    )
    pair = Pair(
        fixed.image[None],
        moving.image[None],
        fixed.labels[None, None],
        moving.labels[None, None],
        fixed.visible[None, None],
        moving.visible[None, None],
        kind,
        real=False,
    )
    return pair, fixed, moving


def _view(
    chance: Chance, person: Person, points: Tensor, slab: Slab | None, settings: SynthesisSettings
) -> View:
    visible = torch.ones(settings.shape_zyx, dtype=torch.bool, device=chance.device)
    if chance.coin(settings.crop_fraction):
        visible = random_window(chance, settings.shape_zyx)
    if slab is not None:
        visible = visible & slab.holds(points, person.map)
    return View(person, points, visible)


def _stripped(chance: Chance, views: list[View]) -> list[View]:
    """Both images without the outer labels, or only one of them."""
    if not bool(views[0].person.map.inner.any()):
        return views
    which = [(True, True), (True, False), (False, True)][chance.choose([2, 1, 1])]
    return [replace(v, stripped=s) for v, s in zip(views, which, strict=True)]


def _with_phi(rendered: tuple[Pair, Rendered, Rendered], phi: Tensor) -> Pair:
    pair, fixed, moving = rendered
    valid = fixed.shown & (sample_labels(moving.shown.long(), phi) > 0)
    return replace(pair, phi=phi[None], valid=valid[None, None])
