"""What leaves a registration as files: transforms, images, maps, pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carl_cli.errors import UsageError
from carl_cli.evaluation.truth import Truth
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images.files import WRITABLE, Image, write_image
from carl_cli.io.images.image import joined
from carl_cli.io.resample import resample, resample_mass, with_turned_header
from carl_cli.io.transforms.files import AFFINE, write_transform
from carl_cli.preprocessing.intensity import NO_MASS_HU
from carl_cli.preprocessing.pair import NetworkImage
from carl_cli.registration.register import Registration
from carl_cli.report.record import ErrorSummary, RunRecord
from carl_cli.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    dense,
    inverse_residual,
    jacobian_determinant,
    spaced_grid,
)
from carl_cli.workflows.request import SPLIT_FILES
from carl_cli.workflows.split import Split, split, warp_inverse

if TYPE_CHECKING:
    from carl_cli.workflows.request import CaseOutputs, RunSettings

log = logging.getLogger(__name__)
TRANSFORMS = ("forward", "inverse", *SPLIT_FILES)
IMAGES = ("warped", "inverse_warped", "jacobian", "match_spread")
"""Roles of outputs, each the name of what is written: the parts of `Delivery`."""


class Delivery:
    """Writes the outputs of one registration; what several of them need is computed once.

    All of them belong to the transform as its file holds it: -w is what -o makes of the moving
    image, -O inverts what -o holds. `measured` holds the metrics that only writing brings to light.
    parts: of fixed and moving images of vectors, the components beyond the first: warped images
    hold them all, pictures the first alone.
    """

    def __init__(
        self,
        fixed: Image,
        moving: Image,
        result: Registration,
        truth: Truth,
        outputs: CaseOutputs,
        settings: RunSettings,
        parts: tuple[Sequence[Image], Sequence[Image]] = ((), ()),
    ) -> None:
        self.fixed = fixed
        self.moving = moving
        self.result = result
        self.truth = truth
        self.outputs = outputs
        self.settings = settings
        self.parts = parts
        self.measured: dict[str, Any] = {}

    def write_data(self) -> None:
        """Transforms, warped images and maps. Raises UsageError, OutputError."""
        precision, replace = self.settings.precision, self.settings.overwrite
        for role, path in self.outputs.paths().items():
            if role in TRANSFORMS:
                held = getattr(self, role)
                write_transform(path, held, precision=precision, replace=replace)
            elif role in IMAGES:
                write_image(path, getattr(self, role), replace=replace)
        forward = self.outputs.forward
        if forward and not self.outputs.warped and full_suffix(forward).lower() in WRITABLE:
            log.info(
                "%s holds the transform (a displacement field), not an image; -w writes the "
                "warped image",
                forward,
            )

    def write_pictures(self, record: RunRecord) -> None:
        """Figure and HTML page."""
        shown = (self.fixed, self.moving)
        labels = (self.truth.fixed_seg, self.truth.moving_seg)
        if self.outputs.figure is not None:
            from carl_cli.report.figure import save_figure

            save_figure(
                self.outputs.figure,
                *shown,
                self._resampled,
                self.forward,
                labels=labels,
                replace=self.settings.overwrite,
            )
        if self.outputs.report is not None:
            from carl_cli.report.html import write_report

            write_report(
                self.outputs.report,
                *shown,
                self._resampled,
                self.forward,
                record=record,
                match_spread=self._coarse_match_spread(),
                labels=labels,
                replace=self.settings.overwrite,
            )

    @cached_property
    def forward(self) -> Transform:
        """Fixed points → moving points."""
        if self.outputs.forward is None and self.outputs.split_warp is not None:
            return self._split.whole
        return self._as_written(self.outputs.forward, self.result.forward, self.fixed.grid)

    @cached_property
    def _split(self) -> Split:
        held = self.result.forward if self.outputs.forward is None else self.forward
        return split(held, self.result.prepared, self._field_grid(self.fixed.grid))

    @property
    def split_affine(self) -> AffineTransform:
        """The affine part of `forward`, of ITK's class AffineTransform whatever it is."""
        return AffineTransform(self._split.affine.matrix, self._split.affine.translation)

    @property
    def split_warp(self) -> DisplacementField:
        """forward = split_affine ∘ split_warp. Raises UsageError for a linear transform."""
        if self._split.warp is None:
            raise UsageError("this transform has no warp", "leave out the file of the warp")
        return self._split.warp

    @property
    def split_inverse_warp(self) -> DisplacementField:
        """Of `split_warp` alone, on the network's spacing."""
        return warp_inverse(self.split_warp, self._network_spacing_mm)

    @cached_property
    def inverse(self) -> Transform:
        """Moving points → fixed points: exact of an affine, else solved on the network's spacing
        (a field has no detail below it) over the moving image's field of view."""
        grid = spaced_grid(self.moving.grid, self._network_spacing_mm)
        exact = _affine_inverse(self.result.forward)
        solved = dense(self.forward.inverse(), grid) if exact is None else exact
        written = self._as_written(self.outputs.inverse, solved, self.moving.grid)
        residual_mm = inverse_residual(self.forward, written, _between(grid))
        self.measured["inverse_residual_mm"] = ErrorSummary.of(residual_mm)
        return written

    @cached_property
    def _resampled(self) -> Image:
        """The moving image on the fixed grid."""
        return self._onto_fixed(self.moving)

    @property
    def warped(self) -> Image:
        """The moving image on the fixed grid or, header_only, on its own, turned there."""
        more = self.parts[1]
        if self.settings.header_only:
            return joined([with_turned_header(part, self.forward) for part in (self.moving, *more)])
        return joined([self._resampled, *map(self._onto_fixed, more)])

    @property
    def inverse_warped(self) -> Image:
        """The fixed image on the moving grid or on its own, in the same way."""
        parts = (self.fixed, *self.parts[0])
        if self.settings.header_only:
            return joined([with_turned_header(part, self.inverse) for part in parts])
        onto, side = self.moving.grid, self.result.prepared.fixed
        return joined([self._seen_through(part, onto, self.inverse, side) for part in parts])

    def _onto_fixed(self, image: Image) -> Image:
        side = self.result.prepared.moving
        return self._seen_through(image, self.fixed.grid, self.forward, side)

    def _seen_through(
        self, image: Image, grid: Grid, transform: Transform, side: NetworkImage
    ) -> Image:
        """Dtype kept, but for mass. Outside the image its smallest value, which is air: in CT, 0
        would be water. side: what the network saw of the image."""
        if not self.settings.intensity_conservation:
            return resample(image, grid, transform, background=float(image.array.min()))
        no_mass = NO_MASS_HU if side.intensity.modality == "ct" else 0.0
        return resample_mass(image, grid, transform, no_mass=no_mass)

    @cached_property
    def jacobian(self) -> Image:
        values = jacobian_determinant(self.forward, self.fixed.grid)
        return Image(values.astype(np.float32), self.fixed.grid)

    @property
    def match_spread(self) -> Image:
        """Spread of the match in mm on the fixed grid; outside the network's view the largest.

        Raises UsageError for networks without attention.
        """
        coarse = self._coarse_match_spread()
        if coarse is None:
            raise UsageError("these weights give no map of the match", "leave out --match-spread")
        return resample(coarse, self.fixed.grid, background=float(coarse.array.max()))

    def _coarse_match_spread(self) -> Image | None:
        """On the coarse network's grid, in the fixed frame."""
        spread = self.result.spread_mm
        if spread is None:
            return None
        return Image(spread, _pooled(self.result.prepared.fixed.grid, spread.shape))

    def _as_written(self, path: Path | None, transform: Transform, image_grid: Grid) -> Transform:
        """The transform as the file will hold it: exact, or sampled on a grid."""
        spacing = self.settings.field_spacing
        suffix = "" if path is None else full_suffix(path).lower()
        if suffix in ("", *AFFINE) or (suffix == ".h5" and spacing == "native"):
            return transform
        return dense(transform, self._field_grid(image_grid))

    def _field_grid(self, image_grid: Grid) -> Grid:
        """Grid of a dense field; coarser ones still cover the image's field of view."""
        if self.settings.field_spacing == "native":
            return image_grid
        asked_mm = self.settings.field_spacing_mm
        return spaced_grid(image_grid, asked_mm or self._network_spacing_mm)

    @property
    def _network_spacing_mm(self) -> float:
        return min(self.result.prepared.fixed.grid.spacing_mm)


def _affine_inverse(transform: CompositeTransform) -> Transform | None:
    is_affine = all(isinstance(part, AffineTransform) for part in transform.parts)
    return transform.inverse() if is_affine else None


def _between(grid: Grid) -> Grid:
    """The points half-way between the voxels, where an interpolated field errs most."""
    middle = apply_affine(grid.index_to_lps, np.minimum(np.array(grid.size_xyz) - 1, 1) / 2)
    size = tuple(max(n - 1, 1) for n in grid.size_xyz)
    return replace(grid, size_xyz=size, origin_mm=tuple(middle.tolist()))


def _pooled(grid: Grid, shape_zyx: tuple[int, ...]) -> Grid:
    """The same field of view in fewer voxels."""
    size = shape_zyx[::-1]
    factor = np.array(grid.size_xyz) / size
    origin = apply_affine(grid.index_to_lps, (factor - 1) / 2)
    spacing = tuple((factor * grid.spacing_mm).tolist())
    return Grid(size, spacing, tuple(origin.tolist()), grid.direction)
