"""Label maps without end: nested bodies with organs, blobs, vessels; and prepared real ones.

A canvas is normalised to [-1, 1] along each axis. All draws of a map have a part common to
all "people" and a part of each person's own, so that different people share an anatomy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carl_cli.errors import InputError
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.warps import Shape, spline_field

LEFT_OFFSET = 32  # labels of the mirrored half of a symmetric random body


@dataclass(frozen=True)
class LabelMap:
    """One person's anatomy, and what is known of its labels."""

    labels: Tensor  # (D, H, W) int64, 0 = background, dense below `tissue.shape[0]`
    tissue: Tensor  # (labels,) class that decides the intensity (left and right share one)
    # (labels,) True where the label stays when all else is stripped (the brain); all False when
    # there is nothing to strip.
    inner: Tensor
    t1: Tensor | None = None  # (labels,) means of a T1-like rendering
    low: tuple[float, ...] = field(default=())  # corners of the foreground's box, voxels
    high: tuple[float, ...] = field(default=())

    def to(self, device: torch.device | str) -> LabelMap:
        return replace(
            self,
            labels=self.labels.to(device),
            tissue=self.tissue.to(device),
            inner=self.inner.to(device),
            t1=None if self.t1 is None else self.t1.to(device),
        )

    @property
    def centre(self) -> Tensor:
        return (torch.tensor(self.low) + torch.tensor(self.high)) / 2

    @property
    def extent(self) -> float:
        return float((torch.tensor(self.high) - torch.tensor(self.low)).max()) + 1


def with_box(map_: LabelMap) -> LabelMap:
    """The map with the corners of its foreground filled in (the whole array if empty)."""
    present = map_.labels > 0
    low, high = [], []
    for axis in range(present.dim()):
        others = tuple(k for k in range(present.dim()) if k != axis)
        hit = torch.nonzero(present.amax(others)).flatten()
        low.append(float(hit[0]) if len(hit) else 0.0)
        high.append(float(hit[-1]) if len(hit) else map_.labels.shape[axis] - 1.0)
    return replace(map_, low=tuple(low), high=tuple(high))


def turned(map_: LabelMap, order: list[int], flips: list[int]) -> LabelMap:
    """The map with its axes permuted and flipped."""
    labels = map_.labels.permute(order).flip(flips).contiguous()
    return with_box(replace(map_, labels=labels))


def random_people(chance: Chance, shape: Shape, people: int, variation: float) -> list[LabelMap]:
    """Label maps of `people` individuals of one random anatomy, on the chance's device."""
    points = _canvas(shape, chance.device)
    radius = _body_radius(chance, points, people, variation)
    organs = _organs(chance, points, people, variation)
    everywhere = chance.coin(0.25)  # no background: tissue fills the canvas
    shells = sorted(chance.uniforms(0.72, 0.97, chance.integer(0, 3)), reverse=True)
    symmetric = chance.coin(0.35)
    vessels = _vessels(chance, shape, people, variation) if chance.coin(0.4) else None
    maps = []
    for person in range(people):
        labels = organs[person]
        if symmetric:
            labels = _mirrored(labels)
        if vessels is not None:
            labels = torch.where(vessels[person], 2 * LEFT_OFFSET, labels)
        if not everywhere:
            labels = _in_body(labels, radius[person], shells)
        maps.append(with_box(_dense_tissues(labels)))
    return maps


def _canvas(shape: Shape, device: torch.device) -> Tensor:
    axes = [torch.linspace(-1, 1, n, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _shared(common: Tensor, own: Tensor, variation: float) -> Tensor:
    """Unit-variance mixture: (…) common to all and (people, …) of each."""
    return common[None] * (1 - variation**2) ** 0.5 + own * variation


def _body_radius(chance: Chance, points: Tensor, people: int, variation: float) -> Tensor:
    """(people, D, H, W): below 1 inside the body, an ellipsoid with a wavy skin."""
    dimension, *shape = points.shape
    axes = torch.tensor(chance.uniforms(0.6, 0.95, dimension), device=points.device)
    centred = points / axes.reshape(-1, *[1] * dimension)
    cells = (6,) * dimension
    lattice = _shared(chance.normal(*cells), chance.normal(people, *cells), variation)
    wave = spline_field(lattice, tuple(shape)) * chance.uniform(0.05, 0.3)
    # A power above 2 makes boxes with round corners (a torso in a field of view).
    power = chance.uniform(2, 4)
    return centred.abs().pow(power).sum(0).pow(1 / power)[None] + wave


def _organs(chance: Chance, points: Tensor, people: int, variation: float) -> Tensor:
    """(people, D, H, W) labels from 4; 0 between the organs is label 4 of the filling."""
    scores = [_ellipsoids(chance, points, chance.integer(4, 14), people, variation)]
    if chance.coin(0.75):
        scores.append(_blobs(chance, points, chance.integer(3, 12), people, variation))
    total = torch.cat(scores[:: chance.choose([1, 1]) * 2 - 1], dim=1)
    best, which = total.max(dim=1)
    filled = chance.uniform(-0.1, 0.5)
    return torch.where(best > filled, which + 5, 4)


def _blobs(chance: Chance, points: Tensor, count: int, people: int, variation: float) -> Tensor:
    """(people, count, D, H, W) spline noise: its argmax is a smooth partition."""
    dimension, *shape = points.shape
    cells = chance.integer(2, 9)
    lattice = (count, *(cells + 3,) * dimension)
    mixed = _shared(chance.normal(*lattice), chance.normal(people, *lattice), variation)
    return torch.stack([spline_field(one, tuple(shape)) for one in mixed])


def _ellipsoids(
    chance: Chance, points: Tensor, count: int, people: int, variation: float
) -> Tensor:
    """(people, count, D, H, W): 1 at the centre of an organ, 0 on its surface."""
    d = len(points)
    centre = chance.rand(count, d) * 1.3 - 0.65
    log_radius = chance.rand(count, d) * 1.2 - 2.3
    centre = centre[None] + chance.normal(people, count, d) * (0.15 * variation)
    log_radius = log_radius[None] + chance.normal(people, count, d) * (0.25 * variation)
    axes = torch.linalg.qr(chance.normal(count, d, d).cpu())[0].to(points.device)
    scaled = axes[None] / log_radius.exp()[..., None, :]  # columns divided by the radii
    form = scaled @ scaled.transpose(-1, -2)
    return 1 - _quadratic(form, centre, points)


def _quadratic(form: Tensor, centre: Tensor, points: Tensor) -> Tensor:
    """(x - c)^T Q (x - c) for forms (P, K, 3, 3), centres (P, K, 3) at points (3, …)."""
    axes = points.reshape(len(points), -1)
    across = list(itertools.combinations(range(len(axes)), 2))
    products = [axes[i] * axes[j] for i, j in across]
    monomials = torch.stack([*axes.square(), *products, *axes, torch.ones_like(axes[0])])
    square = form.diagonal(dim1=-2, dim2=-1).unbind(-1)
    mixed = [2 * form[..., i, j] for i, j in across]
    linear = (form @ centre[..., None])[..., 0]
    constant = (linear * centre).sum(-1)
    terms = [*square, *mixed, *(-2 * linear).unbind(-1), constant]
    values = torch.stack(terms, dim=-1) @ monomials
    return values.reshape(*form.shape[:2], *points.shape[1:])


def _vessels(chance: Chance, shape: Shape, people: int, variation: float) -> Tensor:
    """(people, D, H, W) tubes: where two smooth fields cross zero together; one, in a slice."""
    cells = chance.integer(2, 5)
    dimension = len(shape)
    lattice = (dimension - 1, *(cells + 3,) * dimension)
    mixed = _shared(chance.normal(*lattice), chance.normal(people, *lattice), variation)
    crossing = torch.stack([spline_field(one, shape) for one in mixed])
    return crossing.square().sum(1).sqrt() < chance.uniform(0.02, 0.06) * cells / 2


def _mirrored(labels: Tensor) -> Tensor:
    """The left half mirrored onto the right, with labels of its own (same tissue)."""
    half = labels.shape[-1] // 2
    left = labels[..., :half]
    paired = torch.where(left > 4, left + LEFT_OFFSET, left).flip(-1)
    return torch.cat([left, labels[..., half : labels.shape[-1] - half], paired], dim=-1)


def _in_body(labels: Tensor, radius: Tensor, shells: list[float]) -> Tensor:
    for number, inside in enumerate(reversed(shells)):
        labels = torch.where(radius > inside, 1 + number, labels)
    return torch.where(radius > 1, 0, labels)


def _dense_tissues(labels: Tensor) -> LabelMap:
    count = 2 * LEFT_OFFSET + 1
    tissue = torch.arange(count)
    tissue[LEFT_OFFSET + 5 : 2 * LEFT_OFFSET] = tissue[5:LEFT_OFFSET]
    nothing = torch.zeros(count, dtype=torch.bool, device=labels.device)
    return LabelMap(labels, tissue.to(labels.device), nothing)


def load_label_maps(path: Path, names: list[str] | None = None) -> dict[str, LabelMap]:
    """Prepared maps of an .npz (see `training.label_maps`), on the CPU.

    The file holds one (D, H, W) or (H, W) integer array per subject, and `tissue`, `inner` and
    perhaps `t1`, each with one entry per label. Raises InputError if a name or an array is missing.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "make it with `carl train prepare`")
    with np.load(path) as file:
        subjects = [n for n in sorted(file.files) if file[n].ndim in (2, 3)]
        missing = [n for n in ["tissue", "inner", *(names or [])] if n not in file.files]
        if missing:
            raise InputError(f"{path} has no array {missing[0]}", f"subjects: {subjects}")
        tissue, inner = (torch.from_numpy(file[n]) for n in ("tissue", "inner"))
        t1 = torch.from_numpy(file["t1"]) if "t1" in file.files else None
        return {
            n: with_box(LabelMap(torch.from_numpy(file[n].astype(np.int64)), tissue, inner, t1))
            for n in names or subjects
        }
