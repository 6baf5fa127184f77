"""A registration in a Python session: its images at hand, its figures and files when asked for."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass, field, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from carl_cli.errors import UsageError
from carl_cli.evaluation.truth import Truth
from carl_cli.io.images.files import Image
from carl_cli.io.images.foreign import as_image
from carl_cli.io.resample import resample
from carl_cli.registration import register as straight
from carl_cli.report import record as records
from carl_cli.report.advice import advise, same_image
from carl_cli.system import thread_count
from carl_cli.weights.folder import Weights
from carl_cli.workflows.outputs import Delivery
from carl_cli.workflows.recording import used
from carl_cli.workflows.request import CaseOutputs, RunSettings
from carl_cli.workflows.score import score


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Registration(straight.Registration):
    """Both directions as the network has them, LPS mm, and the two images.

    forward: fixed points → moving points. backward: the network's own other direction, close to
    the inverse of forward but not equal to it.
    """

    fixed: Image
    moving: Image
    weights: Weights
    truth: Truth = field(default_factory=Truth)
    fixed_mask: Image | None = None  # where `metrics` measures similarity and folds

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed image's grid; outside it, its smallest value."""
        return self.warp(self.moving, background=float(self.moving.array.min()))

    @cached_property
    def metrics(self) -> records.Metrics:
        """Similarity before and after, folds, inverse consistency; Dice where labels were given."""
        return score(self.fixed, self.moving, self, self.truth, self.fixed_mask)

    @property
    def warnings(self) -> list[str]:
        """One sentence for each doubt about the result; empty when nothing stands out."""
        return [*same_image([self.fixed], [self.moving]), *advise(self.metrics)]

    def warp(
        self,
        image: Any,
        *,
        interpolator: str = "linear",
        background: float = 0,
        inverse: bool = False,
    ) -> Image:
        """An image in the moving space, on the fixed grid; with inverse, the other way round.

        interpolator "genericlabel" keeps labels.
        """
        onto = self.moving if inverse else self.fixed
        transform = self.backward if inverse else self.forward
        looks: dict[str, Any] = {"interpolator": interpolator, "background": background}
        return resample(as_image(image), onto.grid, transform, **looks)

    def save(self, forward: str | Path | None = None, **outputs: str | Path) -> list[Path]:
        """Write what is named, as `carl register` does: forward, inverse, warped, inverse_warped,
        jacobian, figure, report. Returns the paths; files that are there are replaced."""
        paths = self._paths({"forward": forward, **outputs})
        settings = RunSettings(device=self.weights.device, threads=thread_count(None))
        delivery = Delivery(self.fixed, self.moving, self, self.truth, paths, settings)
        delivery.write_data()
        if paths.figure is not None or paths.report is not None:
            delivery.write_pictures(self._record(settings))
        return list(paths.paths().values())

    def _paths(self, named: dict[str, str | Path | None]) -> CaseOutputs:
        known = [f.name for f in fields(CaseOutputs) if f.name not in ("json", "match_spread")]
        if unknown := sorted(set(named) - set(known)):
            raise UsageError(f"no output {unknown[0]!r}", f"choose among {', '.join(known)}")
        found = {role: Path(path) for role, path in named.items() if path is not None}
        if not found:
            raise UsageError("no output was asked for", "name one, as in save('forward.h5')")
        return CaseOutputs(**found)

    def _record(self, settings: RunSettings) -> records.RunRecord:
        return records.RunRecord(
            command="carl_cli.register(fixed, moving)",
            environment=records.Environment.current(settings.device, settings.threads),
            weights=used(self.weights),
            inputs={},
            metrics=self.metrics,
            io_loss=list(self.losses),
            io_metric=self.io_metric,
            warnings=self.warnings,
            timings_s=dict(self.seconds),
        )

    def __repr__(self) -> str:
        """Short; figures that have not been asked for are not computed for it."""
        sizes = (" x ".join(map(str, i.grid.size_xyz)) for i in (self.fixed, self.moving))
        return (
            f"Registration(fixed {next(sizes)}, moving {next(sizes)}, "
            f"weights {self.weights.config.name}, {sum(self.seconds.values()):.1f} s)"
        )

    def _repr_html_(self) -> str:
        """For a notebook: the figures, the doubts, and the picture of `carl register --figure`."""
        before, after = self.metrics.similarity_before.lncc, self.metrics.similarity_after.lncc
        rows = {"LNCC": f"{before:.3f} → {after:.3f}"}
        rows["folded voxels"] = f"{self.metrics.folded_percent:.3f} %"
        if self.metrics.mean_dice is not None:
            rows["mean Dice"] = f"{self.metrics.mean_dice:.3f}"
        cells = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows.items())
        doubts = "".join(f"<p><b>Warning:</b> {escape(text)}</p>" for text in self.warnings)
        return f"<p>{escape(repr(self))}</p><table>{cells}</table>{doubts}{self._picture()}"

    def _picture(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            self.save(figure=Path(folder) / "pair.png")
            coded = base64.b64encode((Path(folder) / "pair.png").read_bytes()).decode()
        return f'<img alt="the pair before and after" src="data:image/png;base64,{coded}">'
