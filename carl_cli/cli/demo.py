"""`carl demo`: the whole way on a synthetic pair whose true deformation is known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_cli.cli import console
from carl_cli.cli.options.completion import weights as weights_names
from carl_cli.cli.options.shared import Overwrite, Quiet, Threads, Verbose, check_outputs

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
        bool, typer.Option("--io/--no-io", help="With instance optimisation (minutes on a CPU).")
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the pair: each gives another patient.")
    ] = 0,
    overwrite: Overwrite = False,
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Register a synthetic torso pair and score the result against the known truth.

    The two images differ in position, shape, field of view, spacing and orientation. Writes the
    pair, its labels and true transform, all outputs of `carl register`, a picture and a report.
    """
    count = console.start(verbose, quiet, threads=threads)
    started = time.perf_counter()
    from carl_cli.cli.options.method import MethodArguments
    from carl_cli.cli.options.register import InstanceArguments
    from carl_cli.errors import UsageError
    from carl_cli.io.atomic import make_folder
    from carl_cli.weights.options import NetworkOptions
    from carl_cli.workflows.demo import DemoFiles, run_demo

    network, fit = NetworkOptions(weights=weights, seed=seed), InstanceArguments(io=instance)
    method = MethodArguments(network=network, instance=fit)
    files = DemoFiles.within(folder)
    chosen = method.load(network.device)
    if chosen.config.model.dimension != 3:
        raise UsageError(f"{weights} are for slices, the demo is in 3D", "choose other weights")
    make_folder(folder)
    check_outputs(files, overwrite)
    options = method.options(chosen, match_spread=True)
    with console.progress() as progress:
        scores = run_demo(folder, chosen, options, seed, count, progress)
    _print(scores)
    typer.echo(f"\n{time.perf_counter() - started:.0f} s in all; everything is in {folder}/")
    typer.echo(f"picture: {files.picture}")
    typer.echo(f"report: {files.report}")
    for text in scores.record.warnings:
        console.LOGGER.warning("%s", text)


def _print(scores: DemoScores) -> None:
    metrics = scores.record.metrics
    typer.echo(f"{'Dice':<16} {'before':>8} {'after':>8}")
    for organ, (before, after) in scores.dice.items():
        typer.echo(f"{organ:<16} {before:>8.3f} {after:>8.3f}")
    typer.echo(f"{'mean':<16} {metrics.mean_of('dice_before'):>8.3f} {metrics.mean_dice:>8.3f}\n")
    typer.echo(f"{'error, mm':<16} {'before':>8} {'after':>8}")
    for name in ("mean", "p95", "max"):
        typer.echo(f"{name:<16} {_mm(scores.error_before_mm, name)} {_mm(scores.error_mm, name)}")
    typer.echo("")
    _print_map(metrics)


def _print_map(metrics: Metrics) -> None:
    before, after = metrics.similarity_before.lncc, metrics.similarity_after.lncc
    typer.echo(f"{'LNCC':<16} {before:>8.3f} {after:>8.3f}")
    typer.echo(f"{'folded, %':<25} {metrics.folded_percent:>8.3f}")
    if metrics.inverse_residual_mm is not None:
        typer.echo(f"{'inverse, mean mm':<25} {_mm(metrics.inverse_residual_mm, 'mean')}")


def _mm(spread: ErrorSummary, name: str) -> str:
    return f"{getattr(spread, name):>8.2f}"
