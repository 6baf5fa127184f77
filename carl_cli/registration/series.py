"""Every volume of a time series onto one reference.

The volumes are matched rigidly with one of them, then, as asked for, with the mean that this makes:
it has little noise, and noise of a single one would draw an affine fit together. Each begins where
its neighbour ended. A deformable map goes on from the rigid motion, and from its neighbour's map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from carl_cli.io.images.files import Image, one_volume
from carl_cli.io.resample import resample
from carl_cli.preprocessing.pair import prepare_pair, seen_through
from carl_cli.progress import Progress, silent
from carl_cli.registration.alignment import Maps, align
from carl_cli.registration.contexts import Contexts, Pair
from carl_cli.registration.realign import Found, Kind, Realigner
from carl_cli.registration.register import displacement_voxels
from carl_cli.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    from_network,
    identity,
)
from carl_cli.transforms.linear import KINDS
from carl_cli.weights.folder import Weights

Motion = Sequence[AffineTransform]


@dataclass(frozen=True, eq=False)
class Realigned:
    """reference: what the volumes lie on. motion: reference points → points of each volume, LPS mm,
    rigid or affine; transforms: the same or, deformable, the whole map. likeness: correlation of
    each volume with the mean of all behind its motion, reference_likeness: of that mean with the
    reference, if it is an image of its own."""

    reference: Image
    reference_likeness: float
    motion: tuple[AffineTransform, ...]
    transforms: tuple[Transform, ...]
    likeness: tuple[float, ...]


def realign(
    series: Image,
    reference: Image | int | None,
    kind: Kind = "rigid",
    weights: Weights | None = None,
    progress: Progress = silent,
) -> Realigned:
    """The volumes of a series on a reference: an image, the number of a volume, or None, the mean
    of all in the place of the first.

    kind: of the motion. weights: None, or of the network whose map goes on from it. Raises
    InputError for volumes or a reference that show nothing.
    """
    number = reference if isinstance(reference, int) else 0
    first = _found(series, Realigner(volume_of(series, number), "rigid"), number, None, progress)
    mean = _mean(series, [each.transform for each in first])
    found = _found(series, Realigner(mean, kind), number, first, progress)
    motion = tuple(each.transform for each in found)
    onto = Found(identity(series.grid.dimension), 1.0)
    image = mean
    if isinstance(reference, int):
        image, onto = volume_of(series, number), Found(motion[number].inverse(), 1.0)
    elif reference is not None:
        gap_mm = mean.grid.centre_mm - reference.grid.centre_mm
        starts = [onto.transform, AffineTransform(np.eye(len(gap_mm)), gap_mm)]
        image, onto = reference, Realigner(reference, kind).find(mean, starts)
    motion = tuple(_composed(kind, each, onto.transform) for each in motion)
    bent = None if weights is None else tuple(_bent(series, image, motion, weights, progress))
    likeness = tuple(each.likeness for each in found)
    return Realigned(image, onto.likeness, motion, bent or motion, likeness)


def volume_of(series: Image, number: int) -> Image:
    """One volume, by a name that says which."""
    name = f"{series.source or 'the series'}, volume {number}"
    return replace(one_volume(series, number), source=name)


def _found(
    series: Image,
    realigner: Realigner,
    number: int,
    known: Sequence[Found] | None,
    progress: Progress,
) -> list[Found]:
    """From volume `number` on to both ends; known: from where each starts, else its neighbour's."""
    nowhere = identity(series.grid.dimension)
    found: dict[int, Found] = {}
    for k, neighbour in _outwards(number, series.channels):
        near = found.get(neighbour) if known is None else known[k]
        starts = [nowhere] if near is None else [near.transform, nowhere]
        found[k] = realigner.find(volume_of(series, k), starts)
        stage = "motion" if known is None else "motion, onto the mean"
        progress(stage, len(found) / series.channels, f"volume {k}")
    return [found[k] for k in range(series.channels)]


def _outwards(number: int, count: int) -> Iterator[tuple[int, int]]:
    """Each volume once, with its neighbour that came before it."""
    yield from ((k, k - 1) for k in range(number, count))
    yield from ((k, k + 1) for k in reversed(range(number)))


def _mean(series: Image, motion: Motion) -> Image:
    """float32, of the volumes seen through their motions; beyond a volume, its smallest value."""
    total = np.zeros(series.grid.shape_zyx)
    for k, transform in enumerate(motion):
        volume = volume_of(series, k)
        low = float(volume.array.min())
        seen = resample(volume, series.grid, transform, background=low, dtype=np.float32)
        total += seen.array.astype(np.float32, copy=False)
    array = (total / len(motion)).astype(np.float32)
    return Image(array, series.grid, source=f"the mean of {series.source or 'the series'}")


def _composed(kind: Kind, outer: AffineTransform, inner: AffineTransform) -> AffineTransform:
    matrix = outer.homogeneous @ inner.homogeneous
    return KINDS[kind](matrix[:-1, :-1], matrix[:-1, -1])


def _bent(
    series: Image, reference: Image, motion: Motion, weights: Weights, progress: Progress
) -> Iterator[Transform]:
    """In the series' order; see `_Bender`."""
    bender = _Bender(reference, volume_of(series, 0), motion[0], weights)
    for k, start in enumerate(motion):
        yield bender.find(volume_of(series, k), start)
        progress("deformation", (k + 1) / len(motion), f"volume {k}")


class _Bender:
    """Deformable maps of volumes, one after the other, with one reference.

    The network finds the first map; the next ones are aligned from their neighbour's, with the
    reference's channels as they are. Weights without an alignment match each volume by themselves.
    """

    def __init__(
        self, reference: Image, volume: Image, motion: AffineTransform, weights: Weights
    ) -> None:
        self.reference, self.weights = reference, weights
        rule = weights.config.preprocess
        self.fixed = prepare_pair(reference, volume, rule, initial=motion).fixed
        self.image = torch.from_numpy(self.fixed.array)[None, None].to(weights.device)
        self.maps: Maps | None = None
        self.known: Contexts | None = None

    def find(self, volume: Image, motion: AffineTransform) -> Transform:
        """Reference points → points of the volume, LPS mm: a field, then the motion."""
        rule = self.weights.config.preprocess
        seen = seen_through(motion, volume, self.fixed, rule).array
        forward = self._maps(torch.from_numpy(seen)[None, None].to(self.image))[0]
        grid, align = self.fixed.grid, self.weights.config.model.align_corners
        voxels = displacement_voxels(forward, grid.shape_zyx, align)
        parts = from_network(voxels, grid, grid, self.reference.grid).parts
        # Without the change between two grids, which are one here.
        return CompositeTransform((motion, *(p for p in parts if isinstance(p, DisplacementField))))

    def _maps(self, moving: torch.Tensor) -> Maps:
        rule, network = self.weights.config.alignment, self.weights.network
        maps = self.maps
        if maps is None or rule is None:
            with torch.inference_mode():
                maps = network.both_directions(self.image, moving)
        if rule is not None:
            start = self.known or Contexts(Pair(self.image, moving), rule)
            self.known = start.beside(moving)
            maps, _ = align(maps, self.known, self.weights.config.model.align_corners)
        self.maps = maps
        return maps
