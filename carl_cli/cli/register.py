"""`carl register`: arguments → one call of `run_case`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from carl_cli.cli import console
from carl_cli.cli.arguments import (
    ImageArguments,
    InstanceArguments,
    NetworkArguments,
    OutputArguments,
    PairArguments,
    RunArguments,
    ScoreArguments,
    StartArguments,
    WritingArguments,
    check_instance,
    registration_options,
)
from carl_cli.cli.grouping import grouped
from carl_cli.cli.outputs import check_outputs
from carl_cli.errors import UsageError

if TYPE_CHECKING:
    from carl_cli.case import CaseInputs, CaseOutputs
    from carl_cli.registration import RegistrationOptions
    from carl_cli.report.record import RunRecord


@grouped
def register(
    pair: PairArguments,
    outputs: OutputArguments,
    writing: WritingArguments,
    network: NetworkArguments,
    instance: InstanceArguments,
    images: ImageArguments,
    start: StartArguments,
    scores: ScoreArguments,
    run: RunArguments,
) -> None:
    """Find the transform that resamples the MOVING image onto the FIXED one.

    Fixed comes first, as in antsRegistration and greedy. The transform maps points of the fixed
    image to points of the moving one, in LPS millimetres: what ANTs, ITK and SimpleITK apply.
    """
    threads = console.start(run.verbose, run.quiet, run.log_file, run.threads)
    fixed, moving = _named_once(pair)
    check_instance(instance, start)
    wanted = _wanted(outputs)
    from carl_cli.case import RunSettings, check_case, run_case
    from carl_cli.devices import chosen_weights

    inputs = _inputs(fixed, moving, images, start, scores)
    console.LOGGER.info("resampling %s onto %s", moving, fixed)
    weights = chosen_weights(
        network.weights, network.device, network.deterministic, network.offline
    )
    confidence = wanted.confidence is not None or wanted.report is not None
    options = registration_options(weights, instance, images, start, network.seed, confidence)
    settings = RunSettings(
        writing.field_spacing,
        writing.precision,
        str(next(weights.network.parameters()).device),
        threads,
        network.seed,
        network.deterministic,
        noted=_noted(instance, images, start, writing) | _noted_instance(options),
    )
    if run.dry_run:
        check_case(inputs, wanted, weights, options, settings)
        console.LOGGER.info("all inputs can be used; nothing was computed (--dry-run)")
        return
    with console.progress() as progress:
        record = run_case(inputs, wanted, weights, options, settings, progress)
    _print(record)


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


def _wanted(arguments: OutputArguments) -> CaseOutputs:
    """The outputs asked for, each checked to be writable before any work is done."""
    from carl_cli.case import CaseOutputs

    values = asdict(arguments)
    overwrite = values.pop("overwrite")
    outputs = CaseOutputs(**values)
    if not outputs.paths():
        raise UsageError("no output was asked for", "add -o transform.h5 or -w warped.nii.gz")
    check_outputs(outputs.paths().values(), overwrite)
    return outputs


def _inputs(
    fixed: Path,
    moving: Path,
    images: ImageArguments,
    start: StartArguments,
    scores: ScoreArguments,
) -> CaseInputs:
    from carl_cli.case import CaseInputs

    return CaseInputs(
        fixed,
        moving,
        images.fixed_mask,
        images.moving_mask,
        start.initial_transform,
        scores.fixed_seg,
        scores.moving_seg,
        scores.fixed_points,
        scores.moving_points,
        images.series_uid,
        images.time_index,
    )


def _noted(*groups: object) -> dict[str, object]:
    """Options as plain values for the record, without those left at None."""
    values = {k: v for group in groups for k, v in asdict(group).items()}  # type: ignore[call-overload]
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v is not None}


def _noted_instance(options: RegistrationOptions) -> dict[str, object]:
    """What instance optimisation was done with, the weights' own choices included."""
    used = options.instance
    if used is None:
        return {}
    return {
        "io_steps": used.steps,
        "io_lr": used.learning_rate,
        "io_metric": used.metric,
        "io_lambda": used.regularisation,
        "io_scope": used.scope,
    }


def _print(record: RunRecord) -> None:
    """The figures that a script may want, one per line, on stdout."""
    metrics = record.metrics
    before, after = metrics.similarity_before.lncc, metrics.similarity_after.lncc
    typer.echo(f"lncc {before:.4f} -> {after:.4f}")
    typer.echo(f"folded_percent {metrics.folded_percent:.4f}")
    if metrics.mean_dice is not None:
        typer.echo(f"mean_dice {metrics.mean_dice:.4f}")
    if metrics.tre_mm is not None:
        typer.echo(f"tre_mean_mm {metrics.tre_mm.mean:.3f}")
    for text in record.warnings:
        console.LOGGER.warning("%s", text)
