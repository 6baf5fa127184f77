"""The arguments that `carl template` has and `carl batch` lacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from carl_cli.cli.options.described import CHANNELS, option
from carl_cli.cli.options.shared import Overwrite

GROUP = "The images"
TEMPLATE = "The template"


@dataclass(frozen=True)
class GroupArguments:
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES...",
            help="Images, a folder of them, or a table (CSV, TSV) with the columns image and, if "
            "wanted, id, labels, mask, and channel1, channel2, … for further contrasts.",
        ),
    ] = None
    pattern: Annotated[str, option(GROUP, "--pattern", help="Which files of a folder to take.")] = (
        "*.nii.gz"
    )
    bids: Annotated[
        Path | None, option(GROUP, "--bids", help="BIDS dataset of the images (pybids).")
    ] = None
    bids_filter: Annotated[
        list[str] | None,
        option(
            GROUP,
            "--bids-filter",
            help="Which of its images to take: entity=value; repeatable. Default: suffix=T1w.",
        ),
    ] = None
    labels: Annotated[
        list[Path] | None,
        option(
            GROUP,
            "--labels",
            help="Labels of the images, carried to the template and voted on: a folder of files "
            "with the images' names, or repeated in their order.",
        ),
    ] = None
    channel: Annotated[
        list[Path] | None,
        option(
            CHANNELS,
            "--channel",
            help="Another contrast of all images, in their spaces: a folder of files with the "
            "images' names. May be repeated.",
        ),
    ] = None


@dataclass(frozen=True)
class TemplateArguments:
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The template. Beside it, by its name: _channel1, …, _variance, _labels, "
            "_transforms, _convergence.csv, _pairs.csv, _report.html, and the rounds in _work.",
        ),
    ]
    initial: Annotated[
        list[Path] | None,
        option(
            TEMPLATE,
            "--initial",
            help="Image to start from, whose grid the template gets; repeated, of further "
            "channels. Default: the one of the images whose extents are nearest to the mean.",
        ),
    ] = None
    rounds: Annotated[
        int, option(TEMPLATE, "--rounds", min=1, help="Most rounds of registrations.")
    ] = 4
    tolerance: Annotated[
        float,
        option(
            TEMPLATE,
            "--tolerance",
            min=0,
            metavar="MM",
            help="Once the mean map of the second or a later round moves the template by less, the "
            "next round is the last.",
        ),
    ] = 0.3
    average: Annotated[
        Literal["mean", "robust"],
        option(
            TEMPLATE,
            "--average",
            help="Mean of intensities, or a robust one (Huber's), which a single odd image hardly "
            "changes.",
        ),
    ] = "mean"
    sharpen: Annotated[
        float,
        option(
            TEMPLATE,
            "--sharpen",
            min=0,
            help="Unsharp masking after each round, over one voxel; try 0.5. 0 is none.",
        ),
    ] = 0.0
    overwrite: Overwrite = False
