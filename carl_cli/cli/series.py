"""`carl series`: the volumes of a time series brought together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_cli.cli import console
from carl_cli.cli.options.grouping import grouped
from carl_cli.cli.options.shared import (
    LogFile,
    Overwrite,
    Quiet,
    Threads,
    Verbose,
    check_outputs,
)
from carl_cli.errors import UsageError
from carl_cli.preprocessing.options import noted
from carl_cli.registration.options import SeriesOptions
from carl_cli.weights.options import NetworkOptions
from carl_cli.workflows.request import SeriesOutputs

if TYPE_CHECKING:
    from carl_cli.report.record import RunRecord
    from carl_cli.weights.folder import Weights


@dataclass(frozen=True)
class SeriesArguments:
    moving: Annotated[
        Path, typer.Argument(metavar="MOVING_4D", help="Time series: volumes along a fourth axis.")
    ]


@dataclass(frozen=True)
class SeriesRunArguments:
    overwrite: Overwrite = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the inputs; compute nothing.")
    ] = False
    threads: Threads = None
    verbose: Verbose = False
    quiet: Quiet = False
    log_file: LogFile = None


@grouped
def series(
    what: SeriesArguments,
    outputs: SeriesOutputs,
    options: SeriesOptions,
    network: NetworkOptions,
    run: SeriesRunArguments,
) -> None:
    """Correct the motion in a time series: fMRI, DCE, cardiac, 4D CT.

    Each volume gets a transform, found from its neighbour's on, and is resampled once. A network is
    asked for --transform deformable alone.

    Examples:

        carl series bold.nii.gz -o aligned.nii.gz --table motion.csv
        carl series bold.nii.gz -o still.nii.gz --reference sbref.nii.gz
        carl series ct4d.nii.gz -o still.nii.gz --transform deformable
        carl series bold.nii.gz --transforms motion.h5
    """
    started = time.perf_counter()
    threads = console.start(run.verbose, run.quiet, run.log_file, run.threads)
    if not outputs.paths():
        raise UsageError("no output was asked for", "add -o aligned.nii.gz or --table motion.csv")
    check_outputs(outputs.paths().values(), run.overwrite)
    from carl_cli.workflows.request import RunSettings
    from carl_cli.workflows.series import load_series, run_series

    weights = _weights(network) if options.transform == "deformable" else None
    if run.dry_run:
        load_series(what.moving, outputs, options)
        console.LOGGER.info("all inputs can be used; nothing was computed (--dry-run)")
        return
    settings = RunSettings(
        device="cpu" if weights is None else weights.device,
        threads=threads,
        seed=network.seed,
        deterministic=network.deterministic,
        noted={**noted(options), **(noted(network) if weights else {})},
        overwrite=run.overwrite,
    )
    with console.progress() as progress:
        record = run_series(what.moving, outputs, options, weights, settings, progress)
    _tell(outputs, record, time.perf_counter() - started)


def _weights(network: NetworkOptions) -> Weights:
    from carl_cli.weights.locate import chosen_weights

    return chosen_weights(network.weights, network.device, network.deterministic, network.offline)


FILES = {
    "aligned": "the series on its reference",
    "transforms": "a transform for each volume",
    "table": "motion of each volume",
    "report": "page to look at in a browser",
    "json": "record of the run",
}


def _tell(outputs: SeriesOutputs, record: RunRecord, seconds: float) -> None:
    """The figures that a script may want on stdout, the rest on stderr."""
    assert record.series is not None
    motion, figures = record.series.framewise_displacement_mm, record.series
    typer.echo(f"volumes {figures.volumes}")
    typer.echo(f"framewise_displacement_mean_mm {motion.mean:.3f}")
    typer.echo(f"framewise_displacement_max_mm {motion.max:.3f}")
    if figures.tsnr_before is not None and figures.tsnr_after is not None:
        typer.echo(f"tsnr {figures.tsnr_before:.2f} -> {figures.tsnr_after:.2f}")
    for role, path in outputs.paths().items():
        console.LOGGER.info("%s: %s", path, FILES[role])
    console.LOGGER.info("%.0f s", seconds)
    for text in record.warnings:
        console.LOGGER.warning("%s", text)
