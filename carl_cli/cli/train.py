"""`carl train CONFIG` and `carl train export RUN`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from carl_cli.cli.options import shared as options
from carl_cli.cli.options.grouping import application

REQUEUE = 75  # EX_TEMPFAIL: stopped in good order, run again with --resume


# `carl train CONFIG` is short for `carl train run CONFIG`.
app = application(
    default="run",
    help="Train a network from a config file: carl train CONFIG. Make a weights folder of a "
    "run: carl train export RUN -o FOLDER.",
)


@app.command()
def run(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="TOML file, see examples/training.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder of the run. Default: runs/NAME, NAME as in the config."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint, if there is one.")
    ] = False,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds", min=1, help=f"Save and exit with code {REQUEUE} after this time."
        ),
    ] = None,
    threads: options.Threads = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
) -> None:
    """Train a network. SIGTERM saves a checkpoint and exits with code 75: run again with
    --resume. Several GPUs: torchrun --nproc-per-node N -m carl_cli.cli.app train CONFIG."""
    from carl_cli.cli import console
    from carl_cli.system import keep_freed_memory

    count = console.start(verbose, quiet, log_file, threads)
    keep_freed_memory()

    import torch

    from carl_cli.training.config import ImageData, load_config
    from carl_cli.training.loop import train

    torch.set_num_threads(count)
    settings = load_config(config)
    folder = out or Path("runs") / settings.name
    with console.progress() as progress:
        if isinstance(settings.data, ImageData) and settings.data.images.exists():
            _fill_cache(settings, progress)
        outcome = train(
            settings,
            folder,
            resume=resume,
            max_seconds=max_seconds or math.inf,
            progress=progress,
        )
    console.LOGGER.info("%s: %s", outcome, folder)
    if outcome != "finished":
        raise typer.Exit(REQUEUE)


def _fill_cache(settings: Any, progress: Any) -> None:
    from carl_cli.training.cache import fill_cache

    data = settings.data
    fill_cache(data.images, data.cache, settings.preprocess, progress)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Weights folder to write.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the weights. Default: the config's.")
    ] = None,
    last: Annotated[
        bool,
        typer.Option("--last", help="Export the last network instead of the best by validation."),
    ] = False,
) -> None:
    """Make a weights folder of a run: float16 safetensors, config.json, model card."""
    from carl_cli.training.export import export as export_run

    export_run(run, folder, name, last)
    typer.echo(str(folder))
