"""What is known of a pair, and how well a transform agrees with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.evaluation import metrics
from carl_cli.io.images.files import Image
from carl_cli.io.images.image import looks_like_labels
from carl_cli.io.label_names import LabelName
from carl_cli.io.points.files import PointSet, read_points
from carl_cli.io.resample import resample
from carl_cli.registration.known import Known
from carl_cli.report.record import Landmark, StructureScore
from carl_cli.transforms import Transform

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of the pair."""

    fixed_seg: Image | None = None
    moving_seg: Image | None = None
    fixed_points: PointSet | None = None  # landmark k here belongs to landmark k there
    moving_points: PointSet | None = None
    label_names: Mapping[int, LabelName] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises InputError for segmentations with fractions, warns of what is no label map."""
        for image in (self.fixed_seg, self.moving_seg):
            if image is not None:
                _check_labels(image)

    @property
    def known(self) -> Known:
        """What both images have, to guide a registration by."""
        labels = points = None
        if self.fixed_seg is not None and self.moving_seg is not None:
            labels = self.fixed_seg, self.moving_seg
        if self.fixed_points is not None and self.moving_points is not None:
            points = self.fixed_points.points_lps, self.moving_points.points_lps
        return Known(labels, points)


def _check_labels(image: Image) -> None:
    """Fractions would be cut off, and an image that is taken for its labels has a Dice too."""
    whole = image.array.astype(np.int64)
    if np.any(whole != image.array):
        raise InputError(
            f"{image.source or 'a segmentation'}: voxels with fractions, labels were expected",
            "name the label map, or resample it with nearest neighbour",
        )
    if whole.min() < 0 or not looks_like_labels(replace(image, array=whole)):
        log.warning("%s: its voxels don't look like labels", image.source or "a segmentation")


def read_landmarks(
    fixed: Path | None, moving: Path | None, dimension: int
) -> tuple[PointSet | None, PointSet | None]:
    """Both files, or None for what isn't given. Raises InputError unless they are as many, and
    where one has no point: means of none are no numbers."""
    paths = (fixed, moving)
    a, b = (None if p is None else read_points(p, dimension=dimension) for p in paths)
    for path, points in zip(paths, (a, b), strict=True):
        if points is not None and not len(points.points_lps):
            raise InputError(f"{path}: no landmark in it", "leave it out, or give some")
    if a is not None and b is not None and len(a.points_lps) != len(b.points_lps):
        raise InputError(
            f"{len(a.points_lps)} fixed landmarks meet {len(b.points_lps)} moving ones",
            "give both images the same landmarks, in the same order",
        )
    return a, b


def structure_scores(truth: Truth, transform: Transform) -> list[StructureScore]:
    """Each label before and after, on the fixed segmentation's grid, nearest neighbour.

    A label that one of the two segmentations lacks has no scores: there is nothing to compare.
    One that both have, but that leaves the fixed image, has Dice 0 and no distances.
    """
    if truth.fixed_seg is None or truth.moving_seg is None:
        return []
    fixed, moving = truth.fixed_seg, truth.moving_seg
    before, after = (
        _overlap(fixed, resample(moving, fixed.grid, t, interpolator="nearest").array)
        for t in (None, transform)
    )
    occurring = [set(np.unique(image.array).tolist()) - {0} for image in (fixed, moving)]
    shared, found = occurring[0] & occurring[1], sorted(occurring[0] | occurring[1])
    if truth.label_names and truth.label_names.keys().isdisjoint(map(int, found)):
        log.warning(
            "the table of names names none of the labels %s", ", ".join(str(int(k)) for k in found)
        )
    return [
        StructureScore(
            **_named(label, truth),
            **{f"{name}_before{unit}": before[name].get(label) for name, unit in FIGURES},
            **{f"{name}{unit}": after[name].get(label) for name, unit in FIGURES},
        )
        if label in shared
        else StructureScore(**_named(label, truth))
        for label in found
    ]


def _named(label: float, truth: Truth) -> dict[str, str]:
    return {"label": str(int(label)), **truth.label_names.get(int(label), LabelName(""))._asdict()}


FIGURES = (("dice", ""), ("hd95", "_mm"), ("surface", "_mm"))


def _overlap(fixed: Image, warped: NDArray[np.generic]) -> dict[str, dict[int, float | None]]:
    """Figure → label → value; None where it is undefined."""
    surface = metrics.surface_distance(fixed.array, warped, fixed.grid.spacing_mm)
    found = {
        "dice": metrics.dice(fixed.array, warped),
        "hd95": surface.hd95_mm,
        "surface": surface.mean_mm,
    }
    return {name: _defined(values.values) for name, values in found.items()}


def _defined(values: dict[int, float]) -> dict[int, float | None]:
    return {label: None if np.isnan(v) else v for label, v in values.items()}


def landmark_errors(truth: Truth, transform: Transform) -> list[Landmark]:
    """Errors in the moving image, where a mapped fixed landmark meets its partner."""
    if truth.fixed_points is None or truth.moving_points is None:
        return []
    fixed, moving = truth.fixed_points.points_lps, truth.moving_points.points_lps
    before = np.linalg.norm(fixed - moving, axis=1)
    after = np.linalg.norm(transform(fixed) - moving, axis=1)
    return [
        Landmark(
            name=str(k + 1),
            fixed_mm=tuple(map(float, fixed[k])),
            moving_mm=tuple(map(float, moving[k])),
            error_before_mm=float(before[k]),
            error_mm=float(after[k]),
        )
        for k in range(len(fixed))
    ]
