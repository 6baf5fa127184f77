"""The arguments of `carl register`, by theme; `carl batch` shares those of `cli/method.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from carl_cli.cli.options.shared import LogFile, Overwrite, Quiet, Threads, Verbose


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


PAIR = "The two images"
OUTPUTS = "Outputs (at least one)"
NETWORK = "Network"
INSTANCE = "Instance optimisation"
IMAGES = "Reading of the images"
START = "Starting point"
SCORES = "Scores, for the record and the report"

Modality = Literal["auto", "ct", "mr"]


@dataclass(frozen=True)
class PairArguments:
    fixed: Annotated[
        Path | None, typer.Argument(help="Image that stays: the result lies on its grid.")
    ] = None
    moving: Annotated[
        Path | None, typer.Argument(help="Image that is resampled onto the fixed one.")
    ] = None
    fixed_named: Annotated[
        Path | None, _option(PAIR, "--fixed", "-f", "--ref", help="The fixed image, by name.")
    ] = None
    moving_named: Annotated[
        Path | None, _option(PAIR, "--moving", "-m", "--flo", help="The moving image, by name.")
    ] = None


@dataclass(frozen=True)
class OutputArguments:
    forward: Annotated[
        Path | None,
        _option(
            OUTPUTS,
            "--output",
            "-o",
            help="Transform that resamples the moving image (fixed points to moving points): "
            ".h5 (exact, small), .nii.gz .nrrd .mha (dense field), .txt .mat (affine).",
        ),
    ] = None
    inverse: Annotated[
        Path | None, _option(OUTPUTS, "--inverse", "-O", help="Its numerical inverse.")
    ] = None
    warped: Annotated[
        Path | None, _option(OUTPUTS, "--warped", "-w", help="The moving image on the fixed grid.")
    ] = None
    inverse_warped: Annotated[
        Path | None,
        _option(OUTPUTS, "--inverse-warped", "-W", help="The fixed image on the moving grid."),
    ] = None
    jacobian: Annotated[
        Path | None, _option(OUTPUTS, "--jacobian", help="Jacobian determinant, fixed grid.")
    ] = None
    confidence: Annotated[
        Path | None, _option(OUTPUTS, "--confidence", help="Spread of the match in mm, fixed grid.")
    ] = None
    figure: Annotated[
        Path | None, _option(OUTPUTS, "--figure", help="Picture: .png, .svg or .pdf.")
    ] = None
    report: Annotated[
        Path | None, _option(OUTPUTS, "--report", help="Self-contained HTML page.")
    ] = None
    json: Annotated[
        Path | None, _option(OUTPUTS, "--json", help="Record of the run: figures, hashes, times.")
    ] = None
    overwrite: Overwrite = False


@dataclass(frozen=True)
class WritingArguments:
    field_spacing: Annotated[
        str,
        _option(
            OUTPUTS,
            "--field-spacing",
            help="Of dense fields: native (the image's grid), network, or millimetres.",
        ),
    ] = "native"
    precision: Annotated[
        Literal["float", "double"],
        _option(OUTPUTS, "--precision", help="Of the numbers in a transform."),
    ] = "float"


@dataclass(frozen=True)
class NetworkArguments:
    weights: Annotated[
        str,
        _option(
            NETWORK,
            "--weights",
            help="A name (carl weights list), a folder, its model file, or org/repo[@revision].",
        ),
    ] = "carl-base"
    offline: Annotated[
        bool, _option(NETWORK, "--offline", help="Weights from this machine only.")
    ] = False
    device: Annotated[str, _option(NETWORK, "--device", help="auto, cpu, cuda, cuda:N or mps.")] = (
        "auto"
    )
    seed: Annotated[int, _option(NETWORK, "--seed", help="Of all random numbers.")] = 0
    deterministic: Annotated[
        bool, _option(NETWORK, "--deterministic", help="Same bytes each time on a GPU too.")
    ] = False


@dataclass(frozen=True)
class InstanceArguments:
    """None: what the weights' config.json says."""

    io: Annotated[
        bool, _option(INSTANCE, "--io/--no-io", help="Fit the result to this very pair.")
    ] = False
    io_preset: Annotated[
        Literal["weights", "paper"] | None,
        _option(
            INSTANCE,
            "--io-preset",
            help="paper: all of the network, 50 steps of 2e-5; weights: as they advise.",
        ),
    ] = None
    io_steps: Annotated[
        int | None, _option(INSTANCE, "--io-steps", min=0, help="Steps, at most.")
    ] = None
    io_lr: Annotated[
        float | None, _option(INSTANCE, "--io-lr", help="Learning rate of a network's scope.")
    ] = None
    io_metric: Annotated[
        Literal["lncc", "lncc2", "mind"] | None,
        _option(INSTANCE, "--io-metric", help="Same contrast, inverted too, or any."),
    ] = None
    io_sigma: Annotated[
        int | None,
        _option(INSTANCE, "--io-sigma", min=1, help="Of the window of lncc and lncc2, voxels."),
    ] = None
    io_lambda: Annotated[
        float | None,
        _option(INSTANCE, "--io-lambda", help="Weight of GradICON in a network's scope."),
    ] = None
    io_smoothing: Annotated[
        float | None,
        _option(
            INSTANCE, "--io-smoothing", min=0.1, help="Of field steps, voxels: more is stiffer."
        ),
    ] = None
    io_scope: Annotated[
        Literal["all", "refine", "field"] | None,
        _option(
            INSTANCE,
            "--io-scope",
            help="The network, the network but its coarse match, or the displacement field alone.",
        ),
    ] = None


@dataclass(frozen=True)
class ImageArguments:
    modality: Annotated[
        Modality, _option(IMAGES, "--modality", help="Of both images; auto looks at the values.")
    ] = "auto"
    fixed_modality: Annotated[
        Modality | None, _option(IMAGES, "--fixed-modality", help="Of the fixed image alone.")
    ] = None
    moving_modality: Annotated[
        Modality | None, _option(IMAGES, "--moving-modality", help="Of the moving image alone.")
    ] = None
    window: Annotated[
        tuple[float, float] | None, _option(IMAGES, "--window", help="CT: LOW HIGH in HU.")
    ] = None
    percentiles: Annotated[
        tuple[float, float] | None, _option(IMAGES, "--percentiles", help="Other images: LOW HIGH.")
    ] = None
    fixed_mask: Annotated[
        Path | None,
        _option(IMAGES, "--fixed-mask", "-x", help="Where similarity counts; may stand alone."),
    ] = None
    moving_mask: Annotated[
        Path | None, _option(IMAGES, "--moving-mask", help="The same, in the moving image.")
    ] = None
    series_uid: Annotated[
        str | None, _option(IMAGES, "--series-uid", help="Which series of a DICOM folder.")
    ] = None
    time_index: Annotated[
        int | None, _option(IMAGES, "--time-index", min=0, help="Which volume of a time series.")
    ] = None


@dataclass(frozen=True)
class StartArguments:
    initial_transform: Annotated[
        Path | None, _option(START, "--initial-transform", "-i", help="Transform to start from.")
    ] = None
    init: Annotated[
        Literal["none", "centers", "moments", "rigid", "affine"],
        _option(
            START,
            "--init",
            help="rigid: any turn is found, by a search; affine: from a first pass of the network.",
        ),
    ] = "none"
    affine_only: Annotated[
        bool, _option(START, "--affine-only", help="The result's affine part only.")
    ] = False
    repair_folds: Annotated[
        bool,
        _option(OUTPUTS, "--repair-folds", help="Change the result where it folds."),
    ] = False


@dataclass(frozen=True)
class ScoreArguments:
    fixed_seg: Annotated[
        Path | None, _option(SCORES, "--fixed-seg", help="Labels of the fixed image.")
    ] = None
    moving_seg: Annotated[
        Path | None, _option(SCORES, "--moving-seg", help="Labels of the moving image.")
    ] = None
    fixed_points: Annotated[
        Path | None, _option(SCORES, "--fixed-points", help="Landmarks in the fixed image.")
    ] = None
    moving_points: Annotated[
        Path | None, _option(SCORES, "--moving-points", help="The same in the moving image.")
    ] = None


@dataclass(frozen=True)
class RunArguments:
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the inputs; compute nothing.")
    ] = False
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 8 when similarity did not improve, less than 20 % overlaps, or more "
            "than 0.1 % folds; all outputs are written.",
        ),
    ] = False
    threads: Threads = None
    verbose: Verbose = False
    quiet: Quiet = False
    log_file: LogFile = None
