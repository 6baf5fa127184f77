"""`carl register`: arguments → one call of `run_case`."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from carl_cli.cli import console
from carl_cli.cli.options.grouping import grouped
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.register import OverwriteArguments, PairArguments
from carl_cli.cli.options.shared import check_outputs, warn_confidence
from carl_cli.errors import DoubtfulError, UsageError
from carl_cli.io.atomic import full_suffix
from carl_cli.workflows.request import CaseOutputs, split_files

if TYPE_CHECKING:
    from carl_cli.report.record import RunRecord


@grouped
def register(
    pair: PairArguments,
    outputs: CaseOutputs,
    existing: OverwriteArguments,
    method: MethodArguments,
) -> None:
    """Find the transform that resamples the MOVING image onto the FIXED one.

    Fixed comes first, as in antsRegistration and greedy. The transform maps points of the fixed
    image to points of the moving one, in LPS millimetres: what ANTs, ITK and SimpleITK apply.

    Examples:

        carl register fixed.nii.gz moving.nii.gz -o forward.h5 -w warped.nii.gz
        carl register fixed.nii.gz moving.nii.gz -o T.h5 --io --report page.html
        carl register ct_folder mr.nrrd -o T.h5 --fixed-modality ct
        carl register fixed.nii.gz moving.nii.gz -o affine.mat --transform affine

    Kinds of registration; --help-all says more of each:

        --transform rigid                 rigid, similarity or affine alone
        --split, --ants-prefix P          affine part and warp as two files
        -i A.mat -i W.nii.gz              start from transforms; [T,1] inverts
        --fixed-mask, --moving-mask       leave a lesion out
        --guide-labels 1                  labels pull; --guide-points: landmarks
        --fixed-channel, --moving-channel several contrasts at once
        --regularity 0.75                 smoother; 0 is soft, 1 stiff
        --restrict 0,1,0                  hold axes (EPI distortion)
        --intensity-conservation          keep the mass of the image (lungs)
        --header-only                     rigid: turn the header, keep the voxels
        --time-index N                    one volume of a series, not the mean
        --weights carl-base-2d            slices, PNG, JPEG, TIFF: by itself
    """
    started = time.perf_counter()
    threads = method.begin()
    fixed, moving = _named_once(pair)
    wanted = _wanted(outputs, existing, method.start.linear is not None)
    from carl_cli.workflows.register import check_case, run_case

    inputs = method.inputs(fixed, moving)
    console.LOGGER.info("resampling %s onto %s", moving, fixed)
    method = method.suited_to(fixed)
    weights = method.load(method.network.device)
    options = method.options(weights, bool(wanted.match_spread or wanted.report))
    settings = method.settings(options, weights.device, threads)
    settings = replace(settings, overwrite=existing.overwrite)
    if method.run.dry_run:
        for text in check_case(inputs, wanted, weights, options, settings):
            console.LOGGER.warning("%s", text)
        console.LOGGER.info("all inputs can be used; nothing was computed (--dry-run)")
        return
    with console.progress() as progress:
        record = run_case(inputs, wanted, weights, options, settings, progress)
    _print(record)
    _tell(wanted, record, time.perf_counter() - started)
    if method.run.strict:
        _check_doubts(record)


def _check_doubts(record: RunRecord) -> None:
    from carl_cli.report.advice import grave_doubts

    if doubts := grave_doubts(record.metrics):
        raise DoubtfulError(
            f"the result is doubtful (--strict): {doubts[0]}",
            "look at it with --report page.html; the outputs are written",
        )


def _named_once(pair: PairArguments) -> tuple[Path, Path]:
    """Fixed and moving, by position or by name but not by a mixture of both."""
    positional = [p for p in (pair.fixed, pair.moving) if p is not None]
    named = [p for p in (pair.fixed_named, pair.moving_named) if p is not None]
    if positional and named:
        raise UsageError(
            "images were given both by position and by --fixed or --moving",
            "give both by position, fixed first, or both by name",
        )
    if len(positional or named) != 2:
        raise UsageError("two images are needed", "carl register FIXED MOVING -o transform.h5")
    fixed, moving = positional or named
    return fixed, moving


def _wanted(outputs: CaseOutputs, existing: OverwriteArguments, linear: bool) -> CaseOutputs:
    """The outputs asked for, each checked to be writable before any work is done."""
    if (prefix := _prefix(outputs, existing)) is not None:
        outputs = replace(outputs, **split_files(prefix, linear))
    if existing.confidence is not None:
        warn_confidence()
        outputs = replace(outputs, match_spread=outputs.match_spread or existing.confidence)
    if not outputs.paths():
        raise UsageError("no output was asked for", "add -o transform.h5 or -w warped.nii.gz")
    check_outputs(outputs.paths().values(), existing.overwrite)
    return outputs


def _prefix(outputs: CaseOutputs, existing: OverwriteArguments) -> str | None:
    """Of the transform in two parts; None: it is not wanted."""
    if existing.ants_prefix is not None or not existing.split:
        return existing.ants_prefix
    if outputs.forward is None:
        raise UsageError(
            "--split was given without -o", "add -o T.h5, or name the files with --ants-prefix P"
        )
    return str(outputs.forward).removesuffix(full_suffix(outputs.forward))


def _print(record: RunRecord) -> None:
    """The figures that a script may want, one per line, on stdout."""
    metrics = record.metrics
    pair = (metrics.similarity_before, metrics.similarity_after)
    before, after = (math.nan if found.lncc is None else found.lncc for found in pair)
    typer.echo(f"lncc {before:.4f} -> {after:.4f}")
    typer.echo(f"folded_percent {metrics.folded_percent:.4f}")
    if metrics.mean_dice is not None:
        typer.echo(f"mean_dice {metrics.mean_dice:.4f}")
    if metrics.tre_mm is not None:
        typer.echo(f"tre_mean_mm {metrics.tre_mm.mean:.3f}")


FILES = {
    "forward": "transform: brings the moving image onto the fixed one",
    "inverse": "its inverse",
    "split_affine": "affine part of the transform, which acts after the warp",
    "split_warp": "warp of the transform, which meets the fixed points first",
    "split_inverse_warp": "inverse of the warp alone, which acts after the inverse of the affine",
    "warped": "moving image on the fixed grid",
    "inverse_warped": "fixed image on the moving grid",
    "jacobian": "Jacobian determinant",
    "match_spread": "spread of the match, mm",
    "figure": "picture",
    "report": "page to look at in a browser",
    "json": "record of the run",
}


def _tell(wanted: CaseOutputs, record: RunRecord, seconds: float) -> None:
    """A line for each file, the time, and the warnings last, where they are seen."""
    for role, path in wanted.paths().items():
        console.LOGGER.info("%s: %s", path, FILES[role])
    count = len(record.warnings)
    doubts = {0: "no warning", 1: "1 warning:"}.get(count, f"{count} warnings:")
    console.LOGGER.info("%.0f s, %s", seconds, doubts)
    for text in record.warnings:
        console.LOGGER.warning("%s", text)
