"""The record of one registration: what went in, what came out, how long, how good.

It is written by `--json` and embedded in the HTML report. It holds paths, hashes,
geometry and numbers; nothing here reads text from an image header, so no patient name
can reach it except through a path that the user typed.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from carl_cli import __version__
from carl_cli.errors import InputError, told
from carl_cli.geometry import Grid
from carl_cli.io.atomic import atomic_path, sha256_of
from carl_cli.report.process import (
    package_versions,
    printable,
    utc_now,
)

PACKAGES = ("torch", "SimpleITK", "h5py", "numpy")


class _Part(BaseModel):
    """Infinite and undefined numbers are written as null: JSON has no word for them."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null", protected_namespaces=())


class InputFile(_Part):
    """One file or DICOM folder that was read. Sizes and vectors are x first, mm, LPS."""

    path: str
    sha256: str
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    origin: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()
    dtype: str = ""
    modality: str = ""
    intensity_window: tuple[float, float] | None = None


class OutputFile(_Part):
    path: str
    sha256: str


class WeightsUsed(_Part):
    name: str
    sha256: str
    source: str = ""


class Environment(_Part):
    carl: str
    python: str
    packages: dict[str, str]
    platform: str
    device: str
    threads: int
    deterministic: bool = False

    @classmethod
    def current(cls, device: str, threads: int, deterministic: bool = False) -> Environment:
        return cls(
            carl=__version__,
            python=platform.python_version(),
            packages=package_versions(PACKAGES),
            platform=platform.platform(),
            device=device,
            threads=threads,
            deterministic=deterministic,
        )


class Similarity(_Part):
    """Of fixed and moving inside the fixed image: higher is better in all three."""

    lncc: float | None = None
    ncc: float | None = None
    nmi: float | None = None


class ErrorSummary(_Part):
    """Mean, 95th percentile and maximum of a set of errors, in mm."""

    mean: float | None
    p95: float | None
    max: float | None

    @classmethod
    def of(cls, values_mm: ArrayLike) -> ErrorSummary:
        finite = np.asarray(values_mm, float).ravel()
        finite = finite[np.isfinite(finite)]
        if finite.size == 0:
            return cls(mean=None, p95=None, max=None)
        p95 = float(np.percentile(finite, 95))
        return cls(mean=float(finite.mean()), p95=p95, max=float(finite.max()))


class StructureScore(_Part):
    """One segmented structure before and after registration; None is undefined.

    surface: mean distance between the two surfaces. name, colour (#rrggbb): of a table of names."""

    label: str
    name: str = ""
    colour: str = Field("", pattern="^(#[0-9a-fA-F]{6})?$")
    dice_before: float | None = None
    dice: float | None = None
    hd95_before_mm: float | None = None
    hd95_mm: float | None = None
    surface_before_mm: float | None = None
    surface_mm: float | None = None


class Landmark(_Part):
    """One pair of points in LPS mm; the error is measured in the moving image."""

    name: str
    fixed_mm: tuple[float, ...]
    moving_mm: tuple[float, ...]
    error_before_mm: float
    error_mm: float


class Metrics(_Part):
    """inverse_consistency_mm: |backward(forward(x)) - x| of the network's two directions;
    inverse_residual_mm: the same with the numerical inverse that was written.
    match_spread_mm: median of the map of the match spread, see `write_report`. match_evidence: how
    much better the map fits than maps a little beside it, 0 to 1, whatever the contrasts."""

    similarity_before: Similarity = Field(default_factory=Similarity)
    similarity_after: Similarity = Field(default_factory=Similarity)
    overlap_percent: float | None = None
    folded_percent: float | None = None
    sdlogj: float | None = None
    inverse_consistency_mm: ErrorSummary | None = None
    inverse_residual_mm: ErrorSummary | None = None
    rotation_degrees: float | None = None
    linear_determinant: float | None = None
    match_spread_mm: float | None = None
    match_evidence: float | None = None
    structures: list[StructureScore] = Field(default_factory=list)
    landmarks: list[Landmark] = Field(default_factory=list)

    @property
    def mean_dice(self) -> float | None:
        return self.mean_of("dice")

    def mean_of(self, figure: str) -> float | None:
        """Over the structures for which it is defined."""
        values = [getattr(score, figure) for score in self.structures]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    @property
    def tre_mm(self) -> ErrorSummary | None:
        return ErrorSummary.of([m.error_mm for m in self.landmarks]) if self.landmarks else None


class SeriesMetrics(_Part):
    """Of a motion correction. likeness: correlation of each volume with the mean of all."""

    volumes: int
    framewise_displacement_mm: ErrorSummary
    tsnr_before: float | None
    tsnr_after: float | None
    likeness: list[float]


class RunRecord(_Part):
    """`inputs` and `outputs` are keyed by role: fixed, moving, fixed_seg, forward, warped, …"""

    format: Literal["carl-run/1"] = "carl-run/1"
    command: str
    started: str = Field(default_factory=lambda: utc_now())
    environment: Environment
    seed: int | None = None
    weights: WeightsUsed | None = None
    inputs: dict[str, InputFile]
    outputs: dict[str, OutputFile] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    timings_s: dict[str, float] = Field(default_factory=dict)
    peak_memory_mib: float | None = None
    metrics: Metrics = Field(default_factory=Metrics)
    series: SeriesMetrics | None = None
    io_loss: list[float | None] = Field(default_factory=list)
    io_metric: str = ""
    warnings: list[str] = Field(default_factory=list)


def input_file(
    path: str | Path, grid: Grid | None = None, *, sha256: str | None = None, dtype: str = ""
) -> InputFile:
    """Describe a file that was read; `grid` is left out for points and transforms.

    sha256: of what was read; None: of what the file holds now.
    """
    geometry = {} if grid is None else _geometry(grid)
    return InputFile(
        path=printable(path),
        sha256=sha256 or sha256_of(path),
        dtype=dtype,
        **geometry,
    )


def output_files(paths: dict[str, Path]) -> dict[str, OutputFile]:
    """Role → path becomes role → path and hash, read back from the disk."""
    return {role: OutputFile(path=printable(p), sha256=sha256_of(p)) for role, p in paths.items()}


def _geometry(grid: Grid) -> dict[str, Any]:
    return {
        "size": grid.size_xyz,
        "spacing": grid.spacing_mm,
        "origin": grid.origin_mm,
        "direction": grid.direction,
    }


def write_record(path: str | Path, record: RunRecord, *, replace: bool = True) -> None:
    """Write the record as indented UTF-8 JSON. Raises OutputError, leaves no half file."""
    with atomic_path(Path(path), replace=replace) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_record(path: str | Path) -> RunRecord:
    """Raises InputError when the file is missing, not JSON or not a run record."""
    hint = "give the file that `carl register --json` wrote"
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path} is not a file", hint)
    try:
        return RunRecord.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: the run record can't be read: {error.strerror}", hint) from error
    except ValidationError as error:
        problem = told(error.errors()[0])
        raise InputError(f"{path} is not a run record: {problem}", hint) from error


def record_json(record: RunRecord) -> dict[str, Any]:
    """The record as plain JSON values, the same as in the file."""
    return json.loads(record.model_dump_json())
