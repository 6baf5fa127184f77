"""`carl demo`: the whole way on a synthetic pair whose true deformation is known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_cli.cli import console
from carl_cli.cli.options import Overwrite, Quiet, Threads, Verbose
from carl_cli.cli.outputs import check_outputs

if TYPE_CHECKING:
    from carl_cli.demonstration import DemoScores
    from carl_cli.report.record import Spread


def demo(
    folder: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything that is written.")
    ] = Path("carl-demo"),
    weights: Annotated[
        str, typer.Option("--weights", help="Name or folder of the weights to try.")
    ] = "carl-base",
    instance: Annotated[
        bool, typer.Option("--io/--no-io", help="With instance optimisation (minutes on a CPU).")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another patient.")] = 0,
    overwrite: Overwrite = False,
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Register a synthetic torso pair and score the result against the known truth.

    The two images differ in position, shape, field of view, spacing and orientation. Writes the
    pair, its labels and true transform, all that registration makes of them, and a picture.
    """
    console.start(verbose, quiet, threads=threads)
    started = time.perf_counter()
    from carl_cli.demonstration import DemoFiles, run_demo
    from carl_cli.instance import InstanceOptions
    from carl_cli.registration import RegistrationOptions
    from carl_cli.registry import locate
    from carl_cli.weights import load_weights

    files = DemoFiles.within(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_outputs(files, overwrite)
    options = RegistrationOptions(instance=InstanceOptions() if instance else None)
    with console.progress() as progress:
        scores = run_demo(folder, load_weights(locate(weights)), options, seed, progress)
    _print(scores)
    typer.echo(f"\n{time.perf_counter() - started:.0f} s in all; everything is in {folder}/")
    typer.echo(f"picture: {files.picture}")


def _print(scores: DemoScores) -> None:
    typer.echo(f"{'Dice':<16} {'before':>8} {'after':>8}")
    for organ, after in scores.dice.items():
        typer.echo(f"{organ:<16} {scores.dice_before[organ]:>8.3f} {after:>8.3f}")
    mean_before, mean_after = (
        sum(dice.values()) / len(dice) for dice in (scores.dice_before, scores.dice)
    )
    typer.echo(f"{'mean':<16} {mean_before:>8.3f} {mean_after:>8.3f}\n")
    typer.echo(f"{'error, mm':<16} {'before':>8} {'after':>8}")
    for name in ("mean", "p95", "max"):
        typer.echo(f"{name:<16} {_mm(scores.error_before_mm, name)} {_mm(scores.error_mm, name)}")


def _mm(spread: Spread, name: str) -> str:
    return f"{getattr(spread, name):>8.2f}"
