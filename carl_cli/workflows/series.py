"""Motion correction of a time series by its paths: what `carl series` does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError, UsageError
from carl_cli.evaluation.motion import Steadiness, motion_table
from carl_cli.evaluation.tables import write_csv
from carl_cli.geometry import Grid
from carl_cli.io.atomic import sha256_of
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.images.series import read_series
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import write_series
from carl_cli.progress import Progress, Stopwatch, silent
from carl_cli.registration.options import SeriesOptions
from carl_cli.registration.realign import Kind, check_contrast, check_reference, foreground_of
from carl_cli.registration.series import Realigned, realign, volume_of
from carl_cli.report import process
from carl_cli.report import record as records
from carl_cli.transforms import Transform
from carl_cli.weights.folder import Weights
from carl_cli.workflows.checks import check_distinct, check_suffix
from carl_cli.workflows.grids import check_fits
from carl_cli.workflows.recording import circumstances, closed, used
from carl_cli.workflows.request import DEFAULT_SETTINGS, RunSettings, SeriesOutputs

NUMBER = re.compile(r"-?[0-9]{1,9}")  # of a volume
UNLIKE = 5.0  # robust standard deviations below the median correlation
LEAST_SCATTER = 0.01  # of correlations: smaller differences say nothing
LEAST_LIKENESS = 0.8  # of the mean volume and a reference of its own


@dataclass(frozen=True, eq=False)
class LoadedSeries:
    """reference: as `realign` takes it."""

    series: Image
    reference: Image | int | None
    inputs: dict[str, records.InputFile]
    watch: Stopwatch
    started: str = field(default_factory=process.utc_now)


def run_series(
    path: Path,
    outputs: SeriesOutputs,
    options: SeriesOptions,
    weights: Weights | None = None,
    settings: RunSettings = DEFAULT_SETTINGS,
    progress: Progress = silent,
) -> records.RunRecord:
    """Read, realign, write; the returned record is what `--json` holds.

    weights: for a deformable result alone. Raises InputError, UsageError, OutputError,
    OutOfMemoryError; an output that was not finished does not exist.
    """
    loaded = load_series(path, outputs, options, progress)
    kind: Kind = "affine" if options.transform == "affine" else "rigid"
    with loaded.watch.stage("matching"):
        found = realign(loaded.series, loaded.reference, kind, weights, progress)
    table = motion_table(found.motion, found.reference.grid.centre_mm)
    pairs = zip(table, found.likeness, strict=True)
    rows = [{**row, "correlation": round(likeness, 6)} for row, likeness in pairs]
    with loaded.watch.stage("resampling"):
        aligned, tsnr = _aligned(loaded.series, found)
    with loaded.watch.stage("writing"):
        if outputs.aligned is not None:
            write_image(outputs.aligned, aligned, replace=settings.overwrite)
        if outputs.transforms is not None:
            write_series(outputs.transforms, found.transforms, replace=settings.overwrite)
        if outputs.table is not None:
            write_csv(outputs.table, rows, replace=settings.overwrite)
    record = _record(loaded, found, rows, tsnr, settings, weights)
    if outputs.report is not None:
        from carl_cli.report.series import write_series_report

        with loaded.watch.stage("pictures"):
            shown = (loaded.series, aligned, found.motion[0], rows, record)
            write_series_report(outputs.report, *shown, replace=settings.overwrite)
    return closed(record, outputs.paths(), loaded.watch, settings.overwrite)


def load_series(
    path: Path, outputs: SeriesOutputs, options: SeriesOptions, progress: Progress = silent
) -> LoadedSeries:
    """All that can fail before anything is computed: names, files, sizes, contrast."""
    image = _reference_path(options.reference)
    paths = {"series": path} | ({} if image is None else {"reference": image})
    for role, target in outputs.paths().items():
        check_suffix(role, target, linear=True)
    check_distinct(paths, outputs.paths())
    watch = Stopwatch(progress)
    with watch.stage("reading"):
        series = read_series(path)
        check_fits(series.grid, 2 * series.channels * series.array.dtype.itemsize)
        reference = _reference(options.reference, image, series)
        for number in range(series.channels):
            check_contrast(volume_of(series, number))
        first = reference if isinstance(reference, Image) else volume_of(series, reference or 0)
        check_reference(first)
        inputs = {"series": _described(path, series)}
        if isinstance(reference, Image) and image is not None:
            inputs["reference"] = _described(image, reference)
    return LoadedSeries(series, reference, inputs, watch)


def _reference_path(text: str) -> Path | None:
    """Where --reference names an image."""
    return None if text in ("mean", "first") or NUMBER.fullmatch(text) else Path(text)


def _reference(text: str, path: Path | None, series: Image) -> Image | int | None:
    if path is None:
        number = None if text == "mean" else 0 if text == "first" else int(text)
        if number is not None and not 0 <= number < series.channels:
            raise UsageError(
                f"--reference {text}: {series.source} has {series.channels} volumes",
                f"give 0 to {series.channels - 1}, first, mean or an image",
            )
        return number
    image = read_image(path, average=True)
    sizes = [" x ".join(map(str, each.grid.size_xyz)) for each in (image, series)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{path}: a reference of {sizes[0]} voxels, the series has {sizes[1]}",
            "bring it to the series' grid first: carl warp REFERENCE -r SERIES -o reference.nii.gz",
        )
    return image


def _described(path: Path, image: Image) -> records.InputFile:
    kind = str(image.array.dtype)
    return records.input_file(path, image.grid, sha256=sha256_of(path), dtype=kind)


def _aligned(series: Image, found: Realigned) -> tuple[Image, tuple[float | None, float | None]]:
    """The series on its reference, its own type kept, and tSNR before and after.

    Before: where the first volume lies on the reference, all others as they were scanned.
    """
    grid = found.reference.grid
    inside = foreground_of(found.reference)
    before, after = Steadiness(inside), Steadiness(inside)
    array = np.empty((*grid.shape_zyx, series.channels), series.array.dtype)
    for k, transform in enumerate(found.transforms):
        array[..., k] = _seen(series, k, grid, transform).array
        after.add(array[..., k])
        before.add(_seen(series, k, grid, found.motion[0]).array)
    return replace(series, array=array, grid=grid), (before.tsnr, after.tsnr)


def _seen(series: Image, number: int, grid: Grid, transform: Transform) -> Image:
    """A volume on a grid, its type kept; beyond it, its smallest value."""
    volume = volume_of(series, number)
    return resample(volume, grid, transform, background=float(volume.array.min()))


def _record(
    loaded: LoadedSeries,
    found: Realigned,
    rows: list[dict[str, Any]],
    tsnr: tuple[float | None, float | None],
    settings: RunSettings,
    weights: Weights | None,
) -> records.RunRecord:
    displacement = [row["framewise_displacement_mm"] for row in rows[1:]]
    figures = records.SeriesMetrics(
        volumes=len(rows),
        framewise_displacement_mm=records.ErrorSummary.of(displacement),
        tsnr_before=tsnr[0],
        tsnr_after=tsnr[1],
        likeness=[round(value, 6) for value in found.likeness],
    )
    return records.RunRecord(
        **circumstances(settings, loaded.started),
        weights=weights and used(weights),
        inputs=loaded.inputs,
        series=figures,
        warnings=list(_doubts(found, figures)),
        timings_s=loaded.watch.seconds,
        peak_memory_mib=process.peak_memory_mib(),
    )


def _doubts(found: Realigned, figures: records.SeriesMetrics) -> Iterator[str]:
    likeness = np.array(found.likeness)
    middle = np.median(likeness)
    scatter = max(1.4826 * np.median(np.abs(likeness - middle)), LEAST_SCATTER)
    for number in np.flatnonzero(likeness < middle - UNLIKE * scatter):
        yield (
            f"Volume {number} looks unlike the others (correlation {likeness[number]:.2f}, "
            f"others {middle:.2f}): its transform may be wrong."
        )
    if found.reference_likeness < LEAST_LIKENESS:
        yield (
            f"The reference looks unlike the series (correlation {found.reference_likeness:.2f}): "
            "all transforms may be wrong."
        )
    before, after = figures.tsnr_before, figures.tsnr_after
    if before is not None and after is not None and after < before:
        yield f"The series is less steady than before: tSNR {before:.1f} -> {after:.1f}."
