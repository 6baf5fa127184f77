"""`carl demo`: the whole way on two real brains, or on a phantom with a known deformation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_cli.cli import console
from carl_cli.cli.options.completion import weights as weights_names
from carl_cli.cli.options.shared import Overwrite, Quiet, Threads, Verbose, check_outputs
from carl_cli.errors import UsageError

if TYPE_CHECKING:
    from carl_cli.report.record import ErrorSummary, Metrics
    from carl_cli.workflows.demo import DemoScores


def demo(
    folder: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything that is written.")
    ] = Path("carl-demo"),
    weights: Annotated[
        str,
        typer.Option(
            "--weights", help="Name or folder of the weights to try.", autocompletion=weights_names
        ),
    ] = "carl-base",
    instance: Annotated[
        bool, typer.Option("--io/--no-io", help="Fit the result to this pair.")
    ] = False,
    phantom: Annotated[
        bool,
        typer.Option(
            "--phantom", help="A synthetic torso instead, whose true deformation is known."
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Of the phantom: each seed gives another patient."),
    ] = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Register two real brains and score the result by the overlap of their structures.

    Both are T1-weighted MRI at 2 mm, of two people. Writes the pair, its labels, all outputs of
    `carl register`, a picture and a report; with `--phantom` also the true transform.
    """
    if seed is not None and not phantom:
        raise UsageError("--seed is of the phantom alone", "add --phantom")
    count = console.start(verbose, quiet, threads=threads)
    started = time.perf_counter()
    from carl_cli.cli.options.method import MethodArguments
    from carl_cli.cli.options.register import InstanceArguments
    from carl_cli.io.atomic import make_folder
    from carl_cli.weights.options import NetworkOptions
    from carl_cli.workflows.demo import DemoFiles, run_demo

    drawn = (seed or 0) if phantom else None
    network = NetworkOptions(weights=weights, seed=seed or 0)
    fit = InstanceArguments(io=instance)
    method = MethodArguments(network=network, instance=fit)
    files = DemoFiles.within(folder)
    chosen = method.load(network.device)
    if chosen.config.model.dimension != 3:
        raise UsageError(f"{weights} are for slices, the demo is in 3D", "choose other weights")
    make_folder(folder)
    check_outputs([*files, files.truth] if phantom else files, overwrite)
    options = method.options(chosen, match_spread=True)
    with console.progress() as progress:
        scores = run_demo(folder, chosen, options, drawn, count, progress)
    _print(scores)
    typer.echo(f"\n{time.perf_counter() - started:.0f} s in all; everything is in {folder}/")
    typer.echo(f"picture: {files.picture}")
    typer.echo(f"report: {files.report}")
    for text in scores.record.warnings:
        console.LOGGER.warning("%s", text)


def _print(scores: DemoScores) -> None:
    metrics = scores.record.metrics
    typer.echo(f"{'Dice':<24} {'before':>8} {'after':>8}")
    for structure, (before, after) in scores.dice.items():
        typer.echo(f"{structure:<24} {before:>8.3f} {after:>8.3f}")
    mean = f"mean of {len(metrics.structures)}"
    typer.echo(f"{mean:<24} {metrics.mean_of('dice_before'):>8.3f} {metrics.mean_dice:>8.3f}\n")
    if scores.errors_mm is not None:
        _print_errors(*scores.errors_mm)
    _print_map(metrics)


def _print_errors(before_mm: ErrorSummary, after_mm: ErrorSummary) -> None:
    typer.echo(f"{'error, mm':<24} {'before':>8} {'after':>8}")
    for name in ("mean", "p95", "max"):
        typer.echo(f"{name:<24} {_mm(before_mm, name)} {_mm(after_mm, name)}")
    typer.echo("")


def _print_map(metrics: Metrics) -> None:
    before, after = metrics.similarity_before.lncc, metrics.similarity_after.lncc
    typer.echo(f"{'LNCC':<24} {before:>8.3f} {after:>8.3f}")
    typer.echo(f"{'folded, %':<33} {metrics.folded_percent:>8.3f}")
    if metrics.inverse_residual_mm is not None:
        typer.echo(f"{'inverse, mean mm':<33} {_mm(metrics.inverse_residual_mm, 'mean')}")


def _mm(spread: ErrorSummary, name: str) -> str:
    return f"{getattr(spread, name):>8.2f}"
