"""`carl weights`: what there is, where it lies, whether it is sound, and how to get it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_cli.cli.options import shared as options
from carl_cli.cli.options.grouping import application

if TYPE_CHECKING:
    from carl_cli.weights import registry

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name of the list, org/repo or org/repo@revision, or a folder."
    ),
]

app = application(
    help="List, download, check, import and publish weights. Wherever --weights is asked for: a "
    "name of the list, a folder, its model file, or org/repo or org/repo@revision on the Hugging "
    "Face Hub.",
)


@app.command("list")
def list_weights() -> None:
    """List all known weights: family, size, licence, state and folder."""
    from carl_cli.weights.catalogue import rows

    table = [("NAME", "FAMILY", "SIZE", "LICENCE", "STATE", "WHERE")]
    for row in rows():
        size = f"{row.bytes / 1e6:.1f} MB" if row.bytes else "-"
        table.append((row.name, row.family, size, row.licence, row.state, row.where))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


@app.command()
def info(name: Name) -> None:
    """Print the config.json of a weights folder."""
    import json

    from carl_cli.weights.files import stored_config

    folder = _here(name)
    typer.echo(json.dumps({**stored_config(folder), "folder": str(folder)}, indent=2))


@app.command()
def path(name: Name) -> None:
    """Print the folder of weights that are on this machine."""
    typer.echo(str(_here(name)))


@app.command()
def download(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Download again, even if they are here already.")
    ] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring weights to this machine and print their folder.

    From the Hub to its cache (HF_HOME, HF_ENDPOINT and HF_TOKEN are honoured); the authors'
    releases to $CARL_HOME or ~/.cache/carl, imported.
    """
    from carl_cli.cli import console
    from carl_cli.errors import WeightsError
    from carl_cli.weights import locate, registry

    console.start(verbose, quiet)
    entry, wanted = registry.release(name), registry.hub_name(name)
    if name in locate.embedded():
        folder = locate.embedded_folder(name)
    elif entry is not None:
        folder = _released(entry, force)
    elif wanted is not None:
        folder = _from_hub(wanted, force, quiet)
    else:
        raise WeightsError(f"no weights {name!r} to download", "see: carl weights list")
    typer.echo(str(folder))


@app.command()
def verify(name: Name) -> None:
    """Hash the files, run the network on a small pair, compare with config.json."""
    from carl_cli.errors import WeightsError
    from carl_cli.weights.folder import load_weights
    from carl_cli.weights.selftest import check_figures, figures

    weights = load_weights(_here(name))
    config = weights.config
    hashed = "as config.json says" if config.files else "config.json has none to compare with"
    typer.echo(f"{config.name}: SHA-256 {weights.sha256}, {hashed}")
    try:
        found = figures(weights.network, config.model)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{weights.source}: the network does not run: {reason}") from None
    if config.self_test:
        gap = check_figures(found, config.self_test, weights.source)
        typer.echo(f"test pair: within {gap:.0e} of the figures in config.json")
    else:
        typer.echo("test pair: the network runs; config.json has no figures to compare with")


@app.command()
def push(
    source: Annotated[
        str,
        typer.Argument(metavar="FOLDER|RUN", help="Weights folder, or folder of a training run."),
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/REPO[@BRANCH]")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="Message of the commit.")] = "",
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Write weights to a repository on the Hub, and print the name of the commit.

    They are verified first; of a training run, the best network is exported. Repository and
    branch are made where they are missing. A token that may write is taken from HF_TOKEN, or from
    `hf auth login`.
    """
    from carl_cli.cli import console
    from carl_cli.errors import UsageError
    from carl_cli.training.export import weights_or_run
    from carl_cli.weights.publish import publish, require_login
    from carl_cli.weights.registry import hub_name

    console.start(verbose, quiet)
    wanted = hub_name(repository)
    if wanted is None:
        raise UsageError(f"{repository} is not the name of a repository", "give org/repo[@branch]")
    _progress_bars(quiet)
    require_login()
    message = message or f"Weights of carl from {source}"
    with weights_or_run(source, wanted.repository.split("/")[1]) as folder:
        typer.echo(str(publish(folder, wanted, private, message)))


@app.command("import")
def import_weights(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="State dict of torch.save, or its https address.")
    ],
    family: Annotated[
        str,
        typer.Option(
            "--family", help="carl, unigradicon, multigradicon or unicarl.", show_default=False
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Weights folder to write.")],
    shape: Annotated[
        str | None,
        typer.Option("--shape", help="Grid it was trained on, Z,Y,X voxels; needed for CARL."),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a weights folder of an authors' checkpoint, with the authors' preprocessing.

    Only tensors are read from the file (torch.load with weights_only); code in it never runs.
    """
    from contextlib import nullcontext

    from carl_cli.weights.releases import downloaded

    _require_free(folder, overwrite)
    shape_zyx = _shape(shape)
    is_address = "://" in file
    origin = {"imported_from": file} if is_address else None
    with downloaded(file) if is_address else nullcontext(Path(file)) as local:
        from carl_cli.weights.checkpoints import import_checkpoint

        import_checkpoint(local, family, folder, shape_zyx, origin)
    typer.echo(str(folder))


def _require_free(folder: Path, overwrite: bool) -> None:
    from carl_cli.errors import OutputError
    from carl_cli.weights.files import CONFIG

    if (folder / CONFIG).exists() and not overwrite:
        raise OutputError(f"{folder} holds weights already", "use --overwrite to replace them")


def _shape(text: str | None) -> tuple[int, ...] | None:
    from carl_cli.errors import UsageError

    if text is None:
        return None
    parts = text.split(",")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--shape {text}", "give sizes separated by commas, as in 128,128,128")
    return tuple(map(int, parts))


def _here(name: str) -> Path:
    from carl_cli.weights.locate import locate

    return locate(name, offline=True)


def _released(entry: registry.Release, force: bool) -> Path:
    from carl_cli.cli import console
    from carl_cli.weights import locate
    from carl_cli.weights.files import stored_config
    from carl_cli.weights.releases import install

    there = locate.local_folder(entry.name)
    if there is not None and not force:
        return there
    with console.progress() as progress:
        folder = install(entry, locate.imported_folder(entry.name), progress)
    origin = stored_config(folder)["provenance"]
    console.LOGGER.info("%d bytes, SHA-256 %s", origin["bytes"], origin["sha256"])
    return folder


def _from_hub(wanted: registry.HubName, force: bool, quiet: bool) -> Path:
    from carl_cli.weights import hub

    _progress_bars(quiet)
    return hub.download(wanted, force)


def _progress_bars(quiet: bool) -> None:
    """huggingface_hub draws its own, also where nobody sees them."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
