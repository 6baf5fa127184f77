"""What a case is: the files that go in, the files that come out, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from carl_cli.io.transforms import is_identity, parse_item, split_program
from carl_cli.preprocessing.options import option_group
from carl_cli.weights.options import Seed
from carl_cli.workflows.grids import COARSEST_MM, FINEST_MM

if TYPE_CHECKING:
    from carl_cli.registration.register import RegistrationOptions


def listed(given: Any) -> Any:
    """A table's cell and the library may name one file by its path."""
    return [str(given)] if isinstance(given, str | Path) else given


@option_group
class CaseInputs:
    """Paths of the two images and of what belongs to them. Masks and segmentations may have grids
    of their own; points are in LPS or RAS as their file says."""

    fixed: Path
    moving: Path
    fixed_mask: Annotated[
        Path | None,
        Field(
            description="Which voxels of the fixed image may be used (not 0); a lesion is left out "
            "by 0 inside it. May be given alone."
        ),
    ] = None
    moving_mask: Annotated[Path | None, Field(description="The same in the moving image.")] = None
    fixed_channel: Annotated[
        list[str] | None,
        BeforeValidator(listed),
        Field(
            description="Another contrast in the fixed image's space, on any grid, matched beside "
            "it. May be repeated; --moving-channel gives its counterpart."
        ),
    ] = None
    moving_channel: Annotated[
        list[str] | None,
        BeforeValidator(listed),
        Field(description="The same in the moving image's space, in the same order."),
    ] = None
    initial_transform: Annotated[
        list[str] | None,
        BeforeValidator(listed),
        Field(
            description="Transform to start from, [T,1] or T,-1 for its inverse, or identity. May "
            "be repeated: points of the fixed image meet the first one first, as with carl warp -t."
        ),
    ] = None
    fixed_seg: Annotated[Path | None, Field(description="Labels of the fixed image.")] = None
    moving_seg: Annotated[Path | None, Field(description="Labels of the moving image.")] = None
    fixed_points: Annotated[Path | None, Field(description="Landmarks in the fixed image.")] = None
    moving_points: Annotated[
        Path | None, Field(description="The same landmarks in the moving image.")
    ] = None
    label_names: Annotated[
        Path | None,
        Field(
            description="Names of the labels: a table of FreeSurfer or ITK-SNAP, .tsv, .csv, "
            "nnU-Net's dataset.json, or a NIfTI file of TotalSegmentator's --ml."
        ),
    ] = None
    series_uid: Annotated[
        str | None, Field(description="Which series of a DICOM folder to read.")
    ] = None
    time_index: Annotated[
        int | None,
        Field(
            ge=0,
            description="Which volume of a time series to read; of a moving one by default "
            "the mean of all.",
        ),
    ] = None
    strict: bool = False  # images that no orthogonal grid holds are refused, not resampled

    def paths(self) -> dict[str, Path]:
        """Role → file; initial transforms without their marks and the prefix that names a program.

        Raises UsageError for a mark that is unknown.
        """
        plain = [Path(split_program(parse_item(item)[0])[1]) for item in self.initial_items]
        roles = [f"initial_transform_{k}" for k in range(1, len(plain) + 1)]
        first = {"initial_transform": plain[0]} if plain else {}
        channels = {
            f"{side}_channel_{k}": path
            for side, paths in zip(("fixed", "moving"), self.channels, strict=True)
            for k, path in enumerate(paths, 1)
        }
        return _paths(self) | first | dict(zip(roles[1:], plain[1:], strict=True)) | channels

    @property
    def channels(self) -> tuple[list[Path], list[Path]]:
        """Further contrasts of the fixed and of the moving image."""
        fixed, moving = (
            [Path(name) for name in names or []]
            for names in (self.fixed_channel, self.moving_channel)
        )
        return fixed, moving

    @property
    def initial_items(self) -> list[str]:
        """Of the initial transform, in the order of antsApplyTransforms; `identity` left out."""
        return [item for item in self.initial_transform or [] if not is_identity(item)]


ReportPath = Annotated[Path | None, Field(description="Self-contained HTML page.")]
RecordPath = Annotated[
    Path | None, Field(description="Record of the run: figures, hashes and times.")
]


@option_group
class CaseOutputs:
    """Paths of what is wanted. forward: fixed → moving points; inverse the other way.

    split_affine, split_warp: the forward transform as two files, affine ∘ warp; split_inverse_warp:
    the inverse of that warp alone (`split_files`).
    """

    forward: Annotated[
        Path | None,
        Field(
            description="Transform that resamples the moving image (fixed points to moving "
            "points): .h5 (exact, small), .nii.gz .nrrd .mha (dense field), .txt .mat (affine)."
        ),
    ] = None
    inverse: Annotated[Path | None, Field(description="Numerical inverse of the transform.")] = None
    split_affine: Path | None = None
    split_warp: Path | None = None
    split_inverse_warp: Path | None = None
    warped: Annotated[Path | None, Field(description="The moving image on the fixed grid.")] = None
    inverse_warped: Annotated[
        Path | None, Field(description="The fixed image on the moving grid.")
    ] = None
    jacobian: Annotated[
        Path | None, Field(description="Jacobian determinant on the fixed grid.")
    ] = None
    match_spread: Annotated[
        Path | None,
        Field(description="Spread of the match in mm on the fixed grid; large where it is unsure."),
    ] = None
    figure: Annotated[Path | None, Field(description="Picture: .png, .svg or .pdf.")] = None
    report: ReportPath = None
    json: RecordPath = None

    def paths(self) -> dict[str, Path]:
        return _paths(self)


@option_group
class SeriesOutputs:
    """Paths of what is wanted of a time series."""

    aligned: Annotated[
        Path | None, Field(description="The series on its reference, in its own type of voxels.")
    ] = None
    transforms: Annotated[
        Path | None,
        Field(
            description="A transform for each volume (reference points to points of the volume) "
            "in one .h5, which carl warp -t applies to a series."
        ),
    ] = None
    table: Annotated[
        Path | None,
        Field(
            description="Table of the motion, .csv: mm, degrees and framewise displacement of each "
            "volume."
        ),
    ] = None
    report: ReportPath = None
    json: RecordPath = None

    def paths(self) -> dict[str, Path]:
        return _paths(self)


SPLIT_FILES = {
    "split_affine": "0GenericAffine.mat",
    "split_warp": "1Warp.nii.gz",
    "split_inverse_warp": "1InverseWarp.nii.gz",
}
"""Role → how ANTs calls it, after a prefix."""


def split_files(prefix: str | Path, linear: bool) -> dict[str, Path]:
    """Role → file of a transform in two parts, of which a linear one has the first alone."""
    named = {role: Path(f"{prefix}{name}") for role, name in SPLIT_FILES.items()}
    return {"split_affine": named["split_affine"]} if linear else named


def _paths(named: CaseInputs | CaseOutputs | SeriesOutputs) -> dict[str, Path]:
    values = {f.name: getattr(named, f.name) for f in fields(named)}
    return {role: path for role, path in values.items() if isinstance(path, Path)}


def _known_spacing(text: str) -> str:
    if text not in ("native", "network"):
        try:
            spacing_mm = float(text)
        except ValueError:
            spacing_mm = math.nan
        if not FINEST_MM <= spacing_mm <= COARSEST_MM:
            raise ValueError(
                f"native, network or {FINEST_MM:g} to {COARSEST_MM:g} millimetres expected, "
                f"found {text}"
            )
    return text


@option_group
class WritingOptions:
    field_spacing: Annotated[
        str,
        AfterValidator(_known_spacing),
        Field(
            description="Spacing of dense fields: native (the image's), network, or millimetres."
        ),
    ] = "native"
    precision: Annotated[
        Literal["float", "double"], Field(description="Precision of the numbers in a transform.")
    ] = "float"

    header_only: Annotated[
        bool,
        Field(
            description="Turn the header of a warped image instead of resampling its voxels: "
            "exact, for --transform rigid."
        ),
    ] = False
    intensity_conservation: Annotated[
        bool,
        Field(
            description="Multiply a warped image by the Jacobian determinant: mass is kept, "
            "counted from 0 (CT: from -1000 HU). Integers become float32."
        ),
    ] = False

    @property
    def field_spacing_mm(self) -> float | None:
        """None for native and network."""
        return None if self.field_spacing in ("native", "network") else float(self.field_spacing)


@option_group
class RunSettings(WritingOptions):
    """How outputs are written, and what the record tells of the run."""

    device: str = "cpu"
    threads: Annotated[int, Field(ge=1)] = 1
    seed: Seed = 0
    deterministic: bool = False
    workers: Annotated[int, Field(ge=1)] = 1  # processes that share the machine's memory
    noted: Mapping[str, Any] = field(default_factory=dict)  # the options, for the record
    overwrite: bool = True  # whether files may stand in the place of outputs when they are written


DEFAULT_SETTINGS = RunSettings()


@dataclass(frozen=True)
class Plan:
    """What is to be read, done and written; as in `run_case`."""

    inputs: CaseInputs
    outputs: CaseOutputs
    options: RegistrationOptions
    settings: RunSettings
