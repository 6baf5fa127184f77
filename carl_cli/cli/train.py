"""`carl train CONFIG`, `carl train --from WEIGHTS DATA`, `carl train export` and `prepare`."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carl_cli.cli.options import shared as options
from carl_cli.cli.options.grouping import application

if TYPE_CHECKING:
    from carl_cli.training.config import TrainConfig

UNFINISHED = 75  # as training.distributed says, which imports torch
FURTHER = "Training further (--from)"


# `carl train CONFIG` is short for `carl train run CONFIG`.
app = application(
    default="run",
    help="""Train a network from a config file, or train weights further on images of your own.

    What follows carl train directly goes to carl train run: its options are shown here.

    Examples:

        carl train example base -o config.toml   a config to change
        carl train config.toml
        carl train --from carl-base images
        carl train export runs/base -o weights   a weights folder of a run
    """,
)


@app.command()
def run(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG|IMAGES",
            help="TOML, see carl train example; with --from a folder or table of images.",
        ),
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
        typer.Option("--max-seconds", min=1, help=f"Then save and exit with code {UNFINISHED}."),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="On this machine; with GPUs, one for each.")
    ] = 1,
    weights: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Weights to train further: name, folder or repository. OUT/weights holds the "
            "result.",
            rich_help_panel=FURTHER,
        ),
    ] = None,
    segmentations: Annotated[
        Path | None,
        typer.Option(
            "--segmentations",
            help="Folder of label maps named as their images; common labels are brought together.",
            rich_help_panel=FURTHER,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, rich_help_panel=FURTHER, help="How long to train.")
    ] = 300,
    learn: Annotated[
        str,
        typer.Option(
            "--learn", help="all, coarse (Ξ) or refinements (Ψ).", rich_help_panel=FURTHER
        ),
    ] = "all",
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=0, rich_help_panel=FURTHER)
    ] = 1e-4,
    held_out: Annotated[
        int | None,
        typer.Option(
            "--held-out",
            min=0,
            help="The last images (or pairs of a table) are measured on, not trained on. "
            "Default: a tenth.",
            rich_help_panel=FURTHER,
        ),
    ] = None,
    patience: Annotated[
        int,
        typer.Option(
            "--patience",
            min=0,
            help="End after so many of 20 measurements without gain; 0: never.",
            rich_help_panel=FURTHER,
        ),
    ] = 5,
    max_voxels: Annotated[
        int | None,
        typer.Option(
            "--max-voxels",
            min=4096,
            help="Of the grid to train and measure on; what is gained on a small one may be lost "
            "on the weights' own, the default.",
            rich_help_panel=FURTHER,
        ),
    ] = None,
    modality: Annotated[
        str, typer.Option("--modality", help="auto, ct or mr.", rich_help_panel=FURTHER)
    ] = "auto",
    threads: options.Threads = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
) -> None:
    """Train a network.

    SIGTERM saves a checkpoint and exits with code 75: run again with --resume.
    """
    from carl_cli.cli import console

    count = console.start(verbose, quiet, log_file, threads)
    if processes > 1:
        _in_processes(processes, count)
    if weights is None:
        _run(_config(config), out, resume, max_seconds, count)
        return
    folder = out or Path("runs") / f"{Path(weights).name}-{config.stem}"
    further = _further(
        weights=weights,
        images=config,
        cache=folder / "cache",
        segmentations=segmentations,
        steps=steps,
        learn=learn,
        learning_rate=learning_rate,
        held_out=held_out,
        patience=patience,
        max_voxels=max_voxels,
        modality=modality,
    )
    if max_voxels is not None:
        console.LOGGER.warning(
            "measured on %d voxels; try the weights on their own grid", max_voxels
        )
    _run(further.config(folder.name), folder, resume, max_seconds, count)
    if os.environ.get("RANK", "0") == "0":  # of several processes one writes
        _export(folder, folder / "weights", None, False)


def _in_processes(processes: int, threads: int) -> None:
    """The same command in several processes, which know each other from the environment."""
    from carl_cli.training.distributed import run_processes

    words = _without(_without(sys.argv[1:], "--processes"), "--threads")
    shared = max(1, threads // processes)
    raise typer.Exit(run_processes(processes, [*words, "--threads", str(shared)]))


def _without(words: list[str], option: str) -> list[str]:
    """The words of a command line without an option and its value."""
    if option in words:
        place = words.index(option)
        return words[:place] + words[place + 2 :]
    return [word for word in words if not word.startswith(f"{option}=")]


def _config(path: Path) -> TrainConfig:
    from carl_cli.training.config import load_config

    return load_config(path)


def _further(**chosen: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from carl_cli.errors import UsageError
    from carl_cli.training.finetuning import FineTuning

    try:
        return TypeAdapter(FineTuning).validate_python(chosen)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{'-'.join(map(str, first['loc']))}: {first['msg']}") from error


def _run(
    settings: TrainConfig, out: Path | None, resume: bool, max_seconds: float | None, threads: int
) -> None:
    import torch

    from carl_cli.cli import console
    from carl_cli.system import keep_freed_memory
    from carl_cli.training.loop import train

    keep_freed_memory()
    torch.set_num_threads(threads)
    folder = out or Path("runs") / settings.name
    with console.progress() as progress:
        outcome = train(
            settings,
            folder,
            resume=resume,
            max_seconds=max_seconds or math.inf,
            progress=progress,
        )
    console.LOGGER.info("%s: %s", outcome, folder)
    if outcome != "finished":
        raise typer.Exit(UNFINISHED)


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
    _export(run, folder, name, last)


def _export(run: Path, folder: Path, name: str | None, last: bool) -> None:
    from carl_cli.training.export import export as export_run

    export_run(run, folder, name, last)
    typer.echo(str(folder))


@app.command()
def example(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Without it: the names there are.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. Default: NAME.toml.")
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write one of the example configs, to be changed and trained."""
    from carl_cli.training.start import example_configs, write_example

    if name is None:
        for path in example_configs():
            typer.echo(f"{path.stem}: {path.read_text().splitlines()[0].lstrip('# ')}")
        return
    target = out or Path(f"{name}.toml")
    write_example(name, target, overwrite)
    typer.echo(str(target))


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of label maps, one a subject.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.npz).")],
    spacing_mm: Annotated[
        float, typer.Option("--spacing", min=0.1, help="Of the maps, in mm.")
    ] = 2.0,
    freesurfer: Annotated[
        bool,
        typer.Option(
            "--freesurfer",
            help="Labels are FreeSurfer's: left and right are one tissue, brains can be stripped.",
        ),
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Make label maps ready for rendered pairs (kind = "synthetic", maps = FILE)."""
    from carl_cli.training.label_maps import prepare_label_maps

    options.check_outputs([out], overwrite)
    subjects, labels = prepare_label_maps(folder, out, spacing_mm, freesurfer, overwrite)
    typer.echo(f"{out}: {labels} labels of {len(subjects)} subjects: {', '.join(subjects)}")
