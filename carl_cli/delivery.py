"""What leaves a registration as files: transforms, images, maps, pictures."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carl_cli.errors import UsageError
from carl_cli.geometry import Grid, covering_grid
from carl_cli.io.image import Image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transform import write_transform
from carl_cli.registration import Registration
from carl_cli.report.record import RunRecord, Spread
from carl_cli.scoring import Truth
from carl_cli.transform import DisplacementField, invert, jacobian_determinant

if TYPE_CHECKING:
    from carl_cli.case import CaseOutputs


class Delivery:
    """Writes the outputs of one registration; what several of them need is computed once.

    `measured` holds the metrics that only writing brings to light.
    """

    def __init__(
        self,
        fixed: Image,
        moving: Image,
        result: Registration,
        truth: Truth,
        field_spacing: str,
        precision: Any,
    ) -> None:
        self.fixed = fixed
        self.moving = moving
        self.result = result
        self.truth = truth
        self.field_spacing = field_spacing
        self.precision = precision
        self.measured: dict[str, Any] = {}

    def write_data(self, outputs: CaseOutputs) -> None:
        """Transforms, warped images and maps. Raises UsageError, OutputError."""
        if outputs.forward is not None:
            self._write_transform(outputs.forward, self.result.forward, self.fixed.grid)
        if outputs.inverse is not None:
            self._write_transform(outputs.inverse, self.inverse, self.moving.grid)
        if outputs.warped is not None:
            write_image(outputs.warped, self.warped)
        if outputs.inverse_warped is not None:
            warped = resample(self.fixed, self.moving.grid, self.inverse)
            write_image(outputs.inverse_warped, warped)
        if outputs.jacobian is not None:
            write_image(outputs.jacobian, self.jacobian)
        if outputs.confidence is not None:
            write_image(outputs.confidence, self.confidence)

    def write_pictures(self, outputs: CaseOutputs, record: RunRecord) -> None:
        """Figure and HTML page."""
        pair = (self.fixed, self.moving)
        if outputs.figure is not None:
            from carl_cli.report.figure import save_figure

            labels = (self.truth.fixed_seg, self.truth.moving_seg)
            save_figure(outputs.figure, *pair, self.warped, self.result.forward, labels=labels)
        if outputs.report is not None:
            from carl_cli.report.html import write_report

            write_report(
                outputs.report,
                *pair,
                self.warped,
                self.result.forward,
                record=record,
                confidence=self._confidence(),
                labels=(self.truth.fixed_seg, self.truth.moving_seg),
            )

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid, dtype kept."""
        return resample(self.moving, self.fixed.grid, self.result.forward)

    @cached_property
    def inverse(self) -> DisplacementField:
        """The numerical inverse of the very transform that is written, on the moving side.

        Sampled no finer than the network's grid: the field has no detail below it.
        """
        grid = covering_grid(self.moving.grid, self.result.prepared.moving.grid.spacing_mm[0])
        field, residual_mm = invert(self.result.forward, grid)
        self.measured["inverse_residual_mm"] = Spread.of(residual_mm)
        return field

    @cached_property
    def jacobian(self) -> Image:
        values = jacobian_determinant(self.result.forward, self.fixed.grid)
        return Image(values.astype(np.float32), self.fixed.grid)

    @property
    def confidence(self) -> Image:
        """Raises UsageError for networks without attention."""
        image = self._confidence()
        if image is None:
            raise UsageError("these weights give no confidence map", "leave out --confidence")
        return resample(image, self.fixed.grid)

    def _confidence(self) -> Image | None:
        """Spread of the match in mm on the coarse network's grid, in the fixed frame."""
        spread = self.result.spread_mm
        if spread is None:
            return None
        network = self.result.prepared.fixed.grid
        scale = network.size_xyz[0] / spread.shape[-1]
        return Image(spread, covering_grid(network, network.spacing_mm[0] * scale))

    def _write_transform(self, path: Path, transform: Any, image_grid: Grid) -> None:
        exact = path.suffix == ".h5" and self.field_spacing == "native"
        grid = None if exact else self._field_grid(image_grid)
        write_transform(path, transform, precision=self.precision, field_grid=grid)

    def _field_grid(self, image_grid: Grid) -> Grid:
        """Grid of a dense field; coarser ones still cover the image's field of view."""
        if self.field_spacing == "native":
            return image_grid
        if self.field_spacing == "network":
            return covering_grid(image_grid, self.result.prepared.fixed.grid.spacing_mm[0])
        try:
            return covering_grid(image_grid, float(self.field_spacing))
        except ValueError:
            raise UsageError(
                f"--field-spacing {self.field_spacing}", "give native, network or millimetres"
            ) from None
