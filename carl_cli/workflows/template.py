"""A template from a group of images: what a round of registrations makes of the last one.

Each round maps the template to every image. The next template is the mean of the images seen
through these maps, on the shape that the maps have on average: the mean map's inverse is applied
first, so that the maps of the new template have no mean displacement. Affine parts have a
log-Euclidean mean, which neither shrinks nor grows by rotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.evaluation import metrics
from carl_cli.geometry import Grid, block_grid
from carl_cli.io.images.files import Image, read_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import natural_grid, read_written
from carl_cli.preprocessing.foreground import foreground_weight
from carl_cli.registration.averaging import How, average, gradient_energy, sharpened
from carl_cli.report.record import RunRecord, read_record
from carl_cli.transforms import CompositeTransform, Transform
from carl_cli.transforms.means import MeanMap, as_affine, mean_map
from carl_cli.workflows.grids import VALUE_BYTES, check_fits
from carl_cli.workflows.request import CaseOutputs
from carl_cli.workflows.warp import sampled_inverses

MOST_POINTS = 20_000  # of the foreground, for affine parts and figures
BLOCKS = 24  # along the longest side: where the mean of affine maps alone is looked at
ROBUST_BYTES = 12  # a voxel and image: values, distances, weights


@dataclass(frozen=True)
class Member:
    """An image of the group with what belongs to it. channels: further contrasts in its space."""

    name: str
    image: Path
    labels: Path | None = None
    mask: Path | None = None  # which voxels may be used (not 0)
    channels: tuple[Path, ...] = ()

    @property
    def contrasts(self) -> tuple[Path, ...]:
        """The image, then the further ones."""
        return (self.image, *self.channels)


@dataclass(frozen=True)
class Registered:
    """A member and where its registration to the template lies."""

    member: Member
    outputs: CaseOutputs

    @cached_property
    def record(self) -> RunRecord:
        assert self.outputs.json is not None, "a round keeps the record of every case"
        return read_record(self.outputs.json)

    @property
    def transform(self) -> Transform:
        """Template points → image points, LPS mm."""
        assert self.outputs.forward is not None, "a round keeps the transform of every case"
        return read_written(self.outputs.forward, self.record.outputs["forward"].sha256)


@dataclass(frozen=True)
class Looks:
    """How the mean of intensities is taken. sharpen: see `sharpened`; 0 for not at all."""

    average: How = "mean"
    sharpen: float = 0.0


@dataclass(frozen=True)
class Figures:
    """A round in numbers, for the table. Displacements are means over the foreground. channels: of
    further contrasts what is told of the image's own, by column."""

    round: int
    mean_displacement_mm: float  # of the mean map, which the round takes out
    left_displacement_mm: float  # of the mean of the maps to the new template
    ncc_to_last: float  # of the new template and the one that the images were registered to
    mean_lncc: float  # of the images and the template that they were registered to
    gradient_energy: float
    channels: Mapping[str, float] = field(default_factory=dict)


class Contrast(NamedTuple):
    """What the images of one contrast have in common. variance: over the images, at each voxel."""

    template: Image
    variance: Image


@dataclass(frozen=True, eq=False)
class Built:
    """A new template. contrasts: the images' own, then the further ones, on one grid.
    update: its points → points of the template of the round, LPS mm."""

    contrasts: tuple[Contrast, ...]
    update: CompositeTransform
    figures: Figures

    @property
    def template(self) -> Image:
        return self.contrasts[0].template

    def maps(self, group: Sequence[Registered]) -> Iterator[CompositeTransform]:
        """Points of the new template → points of each image."""
        return _maps(group, self.update)


def nearest_to_mean(members: Sequence[Member]) -> Member:
    """The one whose foreground is nearest to the mean of all in its extents, whatever its pose.

    Extents are the logarithms of the foreground's principal variances: an image that is twice as
    large counts as far from the mean as one of half its size. Raises InputError for slices among
    volumes.
    """
    found = [_extents(read_image(m.image, average=True)) for m in members]
    for member, one in zip(members, found, strict=True):
        if one.shape != found[0].shape:
            raise InputError(
                f"{member.image}: {one.size} dimensions, {members[0].image} has {found[0].size}",
                "give images of one kind",
            )
    extents = np.stack(found)
    away = np.linalg.norm(extents - extents.mean(axis=0), axis=1)
    return members[int(away.argmin())]


def _extents(image: Image) -> NDArray[np.float64]:
    weight = foreground_weight(image)
    points = weight.grid.points_mm().reshape(-1, weight.grid.dimension)
    covariance = np.cov(points, rowvar=False, aweights=weight.array.ravel().astype(float))
    return np.asarray(np.log(np.maximum(np.linalg.eigvalsh(covariance), 1e-12)))


def next_template(
    number: int, last: Sequence[Image], group: Sequence[Registered], looks: Looks
) -> Built:
    """The template after round `number`, whose registrations to `last` are those of `group`.

    last: a template of each contrast; the grid of the first is carried along where the mean map
    shifts its middle, and all new ones get it.
    Raises InputError for maps that have no mean, OutOfMemoryError.
    """
    template = last[0]
    if looks.average == "robust":
        check_fits(template.grid, ROBUST_BYTES * len(group))
    points = _foreground(template)
    mean = _mean(template.grid, group, points)
    grid = _moved(template.grid, mean)
    update = CompositeTransform(sampled_inverses(mean.map.inverse(), grid).parts)
    contrasts = tuple(
        _averaged(k, group, _maps(group, update), grid, looks) for k in range(len(last))
    )
    alike = [
        _ncc(made, resample(old, grid, background=float(old.array.min())))
        for (made, _), old in zip(contrasts, last, strict=True)
    ]
    sharp = [gradient_energy(made) for made, _ in contrasts]
    figures = Figures(
        number,
        _displacement_mm(mean, points),
        _left_mm(_maps(group, update), grid, mean.map(points)),
        alike[0],
        _mean_lncc(group),
        sharp[0],
        _columns("ncc_to_last", alike) | _columns("gradient_energy", sharp),
    )
    return Built(contrasts, update, figures)


def _columns(name: str, values: Sequence[float]) -> dict[str, float]:
    """Of further contrasts alone."""
    return {f"{name}_channel{k}": value for k, value in enumerate(values) if k}


def _maps(group: Sequence[Registered], update: Transform) -> Iterator[CompositeTransform]:
    """One in memory at a time."""
    return (CompositeTransform((r.transform, update)) for r in group)


def _foreground(template: Image) -> NDArray[np.float64]:
    """(N, D) LPS mm, of a coarse lattice inside the anatomy."""
    weight = foreground_weight(template)
    points = weight.grid.points_mm()[weight.array.astype(np.float32) > 0.5]
    return points[:: max(1, len(points) // MOST_POINTS)]


def _mean(grid: Grid, group: Sequence[Registered], points: NDArray[np.float64]) -> MeanMap:
    first = group[0].transform
    bends = as_affine(first) is None
    sampled = natural_grid(first) if bends else _blocks(grid)
    try:
        return mean_map((r.transform for r in group), sampled, points, np.ones(len(points)))
    except InputError as error:
        raise InputError(f"the maps to the images: {error.message}", error.hint) from error


def _blocks(grid: Grid) -> Grid:
    longest = max(n * mm for n, mm in zip(grid.size_xyz, grid.spacing_mm, strict=True))
    return block_grid(grid, longest / BLOCKS)


def _moved(grid: Grid, mean: MeanMap) -> Grid:
    """Where the middle goes, so that the template stays in view; the axes keep their directions."""
    shift = mean.map(grid.centre_mm) - grid.centre_mm
    return replace(grid, origin_mm=tuple((np.array(grid.origin_mm) + shift).tolist()))


def _displacement_mm(mean: MeanMap, points: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(mean.map(points) - points, axis=1).mean())


def _left_mm(maps: Iterable[Transform], grid: Grid, points: NDArray[np.float64]) -> float:
    """Of the mean of the new maps at points of the new template; nought but for rounding, a
    coarser lattice and what affine parts of different axes leave."""
    left = mean_map(maps, _blocks(grid), points, np.ones(len(points)))
    return _displacement_mm(left, points)


def _mean_lncc(group: Sequence[Registered]) -> float:
    found = (r.record.metrics.similarity_after.lncc for r in group)
    return float(np.mean([np.nan if value is None else value for value in found]))


def _ncc(made: Image, last: Image) -> float:
    return metrics.ncc(made.array.astype(np.float64), last.array.astype(np.float64))


def _averaged(
    number: int, group: Sequence[Registered], maps: Iterable[Transform], grid: Grid, looks: Looks
) -> Contrast:
    """Mean and variance of a contrast's intensities on `grid`. All CT is averaged in Hounsfield
    units; others as the network scaled them, and brought back to the group's mean scale.

    number: 0 for the images' own, else which of the further ones.
    """
    scales = _scales(group, f"moving_channel_{number}" if number else "moving")
    low, high = np.mean(scales, axis=0)
    mean, variance = average(
        (
            _seen(r.member.contrasts[number], r.member, scale, grid, m)
            for r, scale, m in zip(group, scales, maps, strict=True)
        ),
        looks.average,
    )
    if np.isnan(mean).all():
        raise InputError("no image shows anything where the template lies", "check their headers")
    mean = np.where(np.isnan(mean), np.nanmin(mean), mean)
    made = Image((low + (high - low) * mean).astype(np.float32), grid)
    spread = np.nan_to_num(variance) * (high - low) ** 2
    if looks.sharpen:
        made = sharpened(made, looks.sharpen)
    return Contrast(made, Image(spread.astype(np.float32), grid))


def _scales(group: Sequence[Registered], role: str) -> list[tuple[float, float]]:
    """Of each image the stored values that became 0 and 1 for the network; none for CT. role: that
    of the images in the records."""
    images = [registered.record.inputs[role] for registered in group]
    if len({image.modality for image in images}) > 1:
        odd = {image.modality: image.path for image in images}
        told = ", ".join(f"{path} as {name}" for name, path in odd.items())
        raise InputError(f"images of different kinds: {told}", "name one with --modality")
    if images[0].modality == "ct":
        return [(0.0, 1.0)] * len(images)
    return [image.intensity_window or (0.0, 1.0) for image in images]


def _seen(
    path: Path, member: Member, scale: tuple[float, float], grid: Grid, transform: Transform
) -> NDArray[np.float32]:
    """One of its contrasts on the template's grid, scaled; NaN outside it and outside its mask."""
    image = read_image(path, average=True)
    low, high = scale
    values = (image.array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    if member.mask is not None:
        mask = read_image(member.mask, allow_nan=False)
        inside = resample(mask, image.grid, interpolator="nearest").array != 0
        values = np.where(inside, values, np.float32(np.nan))
    seen = resample(replace(image, array=values), grid, transform, background=np.nan)
    return seen.array.astype(np.float32, copy=False)


def first_template(image: Image) -> Image:
    """What the first round registers to: the chosen image's voxels, whatever their type."""
    check_fits(image.grid, VALUE_BYTES)
    return Image(image.array.astype(np.float32), image.grid)
