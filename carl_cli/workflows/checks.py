"""What can be found wrong with a request before any work is done for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from carl_cli.errors import InputError, UsageError
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images.dicom import check_series_uid
from carl_cli.io.images.files import WRITABLE as IMAGES
from carl_cli.io.images.files import read_contrasts
from carl_cli.io.transforms.fields import WRITABLE as FIELDS
from carl_cli.io.transforms.files import AFFINE
from carl_cli.report.figure import FIGURE_SUFFIXES
from carl_cli.workflows.request import DEFAULT_SETTINGS

if TYPE_CHECKING:
    from carl_cli.registration.register import RegistrationOptions
    from carl_cli.weights.folder import Weights
    from carl_cli.workflows.request import CaseInputs, CaseOutputs, WritingOptions

TRANSFORMS = ("forward", "inverse")
WARPS = ("split_warp", "split_inverse_warp")


def check_request(
    inputs: CaseInputs,
    outputs: CaseOutputs,
    weights: Weights,
    options: RegistrationOptions,
    writing: WritingOptions = DEFAULT_SETTINGS,
) -> None:
    """Raise UsageError for choices that could only fail after the network has run."""
    _check_warped(outputs, options, writing)
    _check_both_sides(inputs)
    _check_weights(inputs, options)
    check_series_uid(inputs.series_uid, inputs.paths().values())
    _check_guides(inputs, weights, options)
    if inputs.label_names and not (inputs.fixed_seg and inputs.moving_seg):
        raise UsageError(
            "--label-names was given without labels", "add --fixed-seg and --moving-seg"
        )
    for role, path in outputs.paths().items():
        check_suffix(role, path, options.linear is not None)
    check_distinct(inputs.paths(), outputs.paths())
    if outputs.match_spread is not None and weights.config.model.coarse != "attention":
        raise UsageError("these weights give no map of the match", "leave out --match-spread")


def _check_warped(
    outputs: CaseOutputs, options: RegistrationOptions, writing: WritingOptions
) -> None:
    asked = ("header_only", "intensity_conservation")
    given = ["--" + name.replace("_", "-") for name in asked if getattr(writing, name)]
    if len(given) == 2:
        raise UsageError(
            f"{given[0]} and {given[1]} were both given",
            f"leave out {given[1]}: a header changes no volume",
        )
    if given and outputs.warped is None and outputs.inverse_warped is None:
        raise UsageError(f"{given[0]} was given without a warped image", "add -w warped.nii.gz")
    if writing.header_only and options.linear != "rigid":
        raise UsageError(
            f"--header-only was given with --transform {options.linear or 'deformable'}",
            "add --transform rigid: a header holds rotation and translation alone",
        )


def _check_both_sides(inputs: CaseInputs) -> None:
    """Only both sides' segmentations or landmarks together give a score."""
    for name in ("seg", "points"):
        given = [getattr(inputs, f"{side}_{name}") for side in ("fixed", "moving")]
        if (given[0] is None) != (given[1] is None):
            missing = "--moving-" if given[1] is None else "--fixed-"
            raise UsageError(f"{missing}{name} is missing", "both sides are needed for a score")


def _check_weights(inputs: CaseInputs, options: RegistrationOptions) -> None:
    """As many as contrasts. The image is read only where the number is right for no scalar one:
    each component of vectors is a contrast. What can't be read is told when its turn comes."""
    further = len(inputs.fixed_channel or ())
    try:
        options.shares(1 + further)
    except UsageError:
        with suppress(InputError):
            parts = read_contrasts(inputs.fixed, series_uid=inputs.series_uid, average=True)
            options.shares(len(parts) + further)


def _check_guides(inputs: CaseInputs, weights: Weights, options: RegistrationOptions) -> None:
    """A guide needs what guides, and something that it can pull: a deformable map that is moved."""
    for guide, files in (("labels", "seg"), ("points", "points")):
        if getattr(options, f"guide_{guide}") is None:
            continue
        if getattr(inputs, f"fixed_{files}") is None:
            raise UsageError(
                f"--guide-{guide} was given without --fixed-{files} and --moving-{files}",
                "give both files, or leave it out",
            )
        if options.linear is not None:
            raise UsageError(
                f"--guide-{guide} and --transform {options.linear} were both given",
                f"leave out --guide-{guide}: only a deformable result is guided",
            )
        fit = options.instance
        if fit is not None and fit.scope != "field":
            raise UsageError(
                f"--guide-{guide} and --io-scope {fit.scope} were both given",
                "add --io-scope field: a network's weights are not guided",
            )
        if fit is None and weights.config.alignment is None:
            raise UsageError(
                f"--guide-{guide}: the weights {weights.config.name} have no alignment to guide",
                "add --io --io-scope field",
            )


def check_suffix(role: str, path: Path, linear: bool) -> None:
    suffix = full_suffix(path).lower()
    if role in TRANSFORMS and suffix in AFFINE and not linear:
        raise UsageError(
            f"{path}: a {suffix} file holds only an affine transform",
            "add --transform affine (--affine-only), rigid or similarity, or use .h5 or .nii.gz",
        )
    allowed = {
        **dict.fromkeys(TRANSFORMS, (".h5", *FIELDS, *AFFINE)),
        **dict.fromkeys(WARPS, FIELDS),
        "split_affine": AFFINE,
        "figure": FIGURE_SUFFIXES,
        "report": (".html", ".htm"),
        "json": (".json",),
        "transforms": (".h5",),
        "table": (".csv",),
    }.get(role, IMAGES)
    if suffix not in allowed:
        raise UsageError(
            f"{path}: unknown suffix for the {role.replace('_', ' ')} output",
            f"use {' '.join(allowed)}",
        )


def check_distinct(inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """No output takes the place of another one, or of what it is made from."""
    taken = {path.resolve(): role for role, path in inputs.items()}
    for role, path in outputs.items():
        other = taken.setdefault(path.resolve(), role)
        if other != role:
            raise UsageError(
                f"{path} is named twice: as {other.replace('_', ' ')} and {role.replace('_', ' ')}",
                "give every output a name of its own",
            )
