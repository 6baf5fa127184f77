"""`carl evaluate equivariance` and `carl evaluate shifts`: what a network does when images move."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carl_cli.cli.options import completion
from carl_cli.cli.options import shared as options
from carl_cli.cli.tables import Format, Out, check_out, deliver
from carl_cli.errors import UsageError

if TYPE_CHECKING:
    from carl_cli.preprocessing.pair import PreparedPair
    from carl_cli.weights.folder import Weights

Fixed = Annotated[Path, typer.Argument(metavar="FIXED", help="Fixed image.")]
Moving = Annotated[Path, typer.Argument(metavar="MOVING", help="Moving image.")]
Named = Annotated[
    str,
    typer.Option(
        "--weights", help="Weights, as for carl register.", autocompletion=completion.weights
    ),
]
Side = Annotated[
    int | None,
    typer.Option(
        "--side", min=16, help="Use a smaller network grid of about this many voxels a side."
    ),
]


def equivariance(
    fixed: Fixed,
    moving: Moving,
    weights: Named = "carl-base",
    side: Side = None,
    form: Format = "auto",
    out: Out = None,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
) -> None:
    """Measure how a network's map follows when the images move: in mm, layer by layer.

    Both images are moved by whole and partial voxels of the coarse network, scaled and turned:
    alike ([U,U]), and one against the other ([W,U]). change_mm is how much the displacement
    should change on average; a network that does not notice has that error.
    """
    chosen, pair = _prepared(fixed, moving, weights, side, out, overwrite, threads)

    from carl_cli.evaluation.equivariance import findings, motions, views_of

    model = chosen.config.model
    views = views_of(pair, model.align_corners)
    coarse_mm = model.coarse_scale * views.moving_spacing_mm[-1]
    tried = list(motions(model.dimension, coarse_mm))
    rows = [asdict(found) for found in findings(chosen.network, views, tried)]
    content = {"weights": chosen.config.name, "coarse_voxel_mm": coarse_mm, "findings": rows}
    deliver(form, out, rows=rows, shown=rows, content=content)


def shifts(
    fixed: Fixed,
    moving: Moving,
    fixed_seg: Annotated[Path, typer.Option("--fixed-seg", help="Labels of the fixed image.")],
    moving_seg: Annotated[Path, typer.Option("--moving-seg", help="Labels of the moving image.")],
    weights: Named = "carl-base",
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", help="Other weights to compare with, such as a displacement network's."
        ),
    ] = None,
    largest: Annotated[float, typer.Option("--to", min=0, help="Largest shift, mm.")] = 100.0,
    step: Annotated[
        float, typer.Option("--step", min=1, help="Step between two shifts, mm.")
    ] = 10.0,
    side: Side = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="The curves: .png, .svg or .pdf.")
    ] = None,
    form: Format = "auto",
    out: Out = None,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
) -> None:
    """Mean Dice against a shift of the moving image, as in Fig. 4 of the paper.

    The image moves inside a grid that is long enough: nothing is cut off, and no preprocessing
    takes the shift away. Dice without registration is listed as `none`.
    """
    from carl_cli.cli.options.shared import check_outputs
    from carl_cli.report.figure import check_figure_path

    if figure is not None:
        check_figure_path(figure)
        check_outputs([figure], overwrite)
    chosen, pair = _prepared(fixed, moving, weights, side, out, overwrite, threads)
    networks = {chosen.config.name: chosen.network}
    if baseline is not None:
        other = _same_kind(baseline, chosen)
        networks[other.config.name] = other.network

    from carl_cli.evaluation.equivariance import dice_against_shift, labels_of, views_of

    views = views_of(pair, chosen.config.model.align_corners, extra_voxels=0)
    shifts_mm = [k * step for k in range(int(largest / step) + 1)]
    labels = labels_of(pair, fixed_seg, moving_seg)
    rows = [asdict(score) for score in dice_against_shift(networks, views, labels, shifts_mm)]
    if figure is not None:
        from carl_cli.report.figure import save_curves

        save_curves(figure, rows, "shift_mm", "dice", "network")
    deliver(form, out, rows=rows, shown=rows, content={"scores": rows})


def _prepared(
    fixed: Path,
    moving: Path,
    name: str,
    side: int | None,
    out: Path | None,
    overwrite: bool,
    threads: int | None,
) -> tuple[Weights, PreparedPair]:
    from carl_cli.cli.console import start

    start(threads=threads)
    check_out(out, overwrite)

    from carl_cli.io.images.files import read_image
    from carl_cli.registration.register import DEFAULT_OPTIONS, prepare
    from carl_cli.weights.locate import chosen_weights

    weights = _smaller(chosen_weights(name, "cpu"), side)
    return weights, prepare(read_image(fixed), read_image(moving), weights, DEFAULT_OPTIONS)


def _smaller(weights: Weights, side: int | None) -> Weights:
    rule = weights.config.preprocess
    if side is None:
        return weights
    if rule.shape_zyx is not None:
        raise UsageError("--side was given, but these weights have a fixed grid", "leave it out")
    rule = rule.model_copy(update={"max_voxels": side**3})
    return weights.prepared_by(rule)


def _same_kind(name: str, chosen: Weights) -> Weights:
    """Weights that can look at the same arrays."""
    from carl_cli.weights.locate import chosen_weights

    other = chosen_weights(name, "cpu")
    ours, theirs = (
        (w.config.model.dimension, w.config.model.channels, w.config.model.coordinates)
        for w in (chosen, other)
    )
    if ours != theirs or other.config.name == chosen.config.name:
        raise UsageError(
            f"{name} and {chosen.config.name} can't be compared: {theirs} and {ours}",
            "both need the same dimension, channels and coordinates, and names of their own",
        )
    return other


def register_commands(app: Any) -> None:
    app.command()(equivariance)
    app.command()(shifts)
