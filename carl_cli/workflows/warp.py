"""Files resampled through a chain of transforms: what `carl warp` does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.atomic import full_suffix, is_there
from carl_cli.io.images.dicom import check_series_uid
from carl_cli.io.images.dicom_write import check_volume
from carl_cli.io.images.files import WRITABLE, Image, one_volume, read_any, write_image
from carl_cli.io.images.image import looks_like_labels
from carl_cli.io.resample import (
    interpolator_name,
    is_for_labels,
    resample,
    resample_mass,
    round_and_clip,
    with_turned_header,
)
from carl_cli.io.tensors import Reorientation, resample_tensors
from carl_cli.io.transforms.chain import is_identity, parse_series
from carl_cli.io.transforms.programs import Pair
from carl_cli.io.transforms.sitk import covering
from carl_cli.preprocessing.intensity import AIR_HU, NO_MASS_HU, detect_modality
from carl_cli.transforms import CompositeTransform, InverseField, Transform, identity, log_residual
from carl_cli.workflows.dicom_series import DicomSeries
from carl_cli.workflows.direction import check_direction

log = logging.getLogger(__name__)

IMAGE_TYPES = {"0": "scalar", "2": "tensor", "3": "time-series", "4": "multichannel"}
"""ANTs' numbers and words for what a file may hold."""
OUTPUT_TYPES = {
    "char": "int8", "uchar": "uint8", "short": "int16", "ushort": "uint16", "int": "int32",
    "uint": "uint32", "float": "float32", "double": "float64",
}  # fmt: skip
NUMPY_TYPES = (*OUTPUT_TYPES.values(), "int64", "uint64")
RESIDUAL_POINTS = 40


@dataclass(frozen=True)
class Resampling:
    """How voxels are made. output_type None keeps the input's; image_type None what it holds.

    reorientation: of diffusion tensors; None is their default, ppd. header_only: voxels stay, a
    rigid transform turns the header. intensity_conservation: times the Jacobian determinant,
    counted from the background.
    """

    interpolator: str = "linear"
    background: float = 0.0
    output_type: str | None = None
    image_type: str | None = None
    reorientation: Reorientation | None = None
    header_only: bool = False
    intensity_conservation: bool = False

    def __post_init__(self) -> None:
        interpolator_name(self.interpolator)
        if self.image_type not in (None, *IMAGE_TYPES, *IMAGE_TYPES.values()):
            names = ", ".join(IMAGE_TYPES.values())
            raise UsageError(f"no input image type {self.image_type!r}", f"choose one of {names}")

    @property
    def dtype(self) -> np.dtype[np.generic] | None:
        """Raises UsageError for a name that is neither ANTs' nor numpy's."""
        if self.output_type in (None, "input"):
            return None
        name = OUTPUT_TYPES.get(str(self.output_type), self.output_type)
        if name not in NUMPY_TYPES:
            names = ", ".join(("input", *OUTPUT_TYPES, *NUMPY_TYPES))
            raise UsageError(f"no voxel type {self.output_type!r}", f"choose one of {names}")
        return np.dtype(name)


def warp_files(
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    grid: Grid,
    transforms: Sequence[str],
    resampling: Resampling,
    series_uid: str | None = None,
    dicom_series: DicomSeries | None = None,
    fixed: Path | None = None,
    strict: bool = False,
    overwrite: bool = True,
) -> None:
    """Resample each input onto `grid` (fixed, LPS mm) and write it to its output.

    transforms: antsApplyTransforms' -t items; the first in the list meets the fixed points
    first; a file may hold one for each volume of a series. None at all is the identity.
    dicom_series: where the one input goes as DICOM too.
    fixed: the image of `grid`, which FSL's transforms go with, as with the first input.
    Raises InputError, UsageError, OutputError.
    """
    check_series_uid(series_uid, inputs)
    if dicom_series:
        dicom_series.check(inputs, outputs)
    dtype = resampling.dtype
    items = [item for item in transforms if not is_identity(item)]
    pair = Pair(fixed, inputs[0])
    found = parse_series(items, pair) if items else []
    check_direction(found, grid, inputs[0], series_uid)
    sampled = [sampled_inverses(chain, grid) for chain in found]
    chains: list[Transform | None] = [*sampled] or [None]
    for source, target in zip(inputs, outputs, strict=True):
        image = as_type(
            read_any(source, series_uid=series_uid, strict=strict), resampling.image_type
        )
        if not resampling.header_only:
            _warn_of_labels(image, resampling.interpolator)
        warped = _each_resampled(image, grid, chains, resampling, dtype)
        if dicom_series:
            check_volume(warped)  # before another output is written
        write_image(target, warped, replace=overwrite)
        log.info("%s", target)
        if dicom_series:
            dicom_series.write(warped, source, series_uid)


def _each_resampled(
    image: Image,
    grid: Grid,
    chains: Sequence[Transform | None],
    resampling: Resampling,
    dtype: np.dtype[np.generic] | None,
) -> Image:
    """chains: one, or one for each volume of a series."""
    if len(chains) == 1:
        return _resampled(image, grid, chains[0], resampling, dtype)
    volumes = image.channels if image.channel_kind == "time" else 1
    if volumes != len(chains):
        raise InputError(
            f"{image.source}: {volumes} volumes, the transforms are for {len(chains)}",
            "give the series that they were found on",
        )
    if resampling.header_only:
        raise UsageError(
            "--header-only was given with a transform for each volume",
            "leave it out: a series has one header",
        )
    parts = [
        _resampled(one_volume(image, k), grid, chain, resampling, dtype)
        for k, chain in enumerate(chains)
    ]
    array = np.stack([part.array for part in parts], axis=-1)
    return replace(image, array=array, grid=grid)


def _resampled(
    image: Image,
    grid: Grid,
    chain: Transform | None,
    resampling: Resampling,
    dtype: np.dtype[np.generic] | None,
) -> Image:
    if resampling.header_only:
        turned = image if chain is None else with_turned_header(image, chain)
        return replace(turned, array=round_and_clip(image.array, dtype or image.array.dtype))
    name, background = resampling.interpolator, resampling.background
    if resampling.intensity_conservation:
        _check_mass(image, background)
        onto = chain or identity(grid.dimension)
        return resample_mass(image, grid, onto, no_mass=background, interpolator=name, dtype=dtype)
    if image.channel_kind != "tensor":
        if resampling.reorientation:
            raise UsageError(
                f"--reorient {resampling.reorientation}: {image.source} holds no tensors",
                "leave the option out",
            )
        return resample(image, grid, chain, interpolator=name, background=background, dtype=dtype)
    turning = resampling.reorientation or "ppd"
    warped = resample_tensors(
        image, grid, chain, reorientation=turning, interpolator=name, background=background
    )
    return replace(warped, array=round_and_clip(warped.array, dtype or warped.array.dtype))


def _check_mass(image: Image, no_mass: float) -> None:
    if image.channel_kind == "tensor":
        raise UsageError(f"{image.source}: tensors have no mass", "leave the option out")
    if no_mass > AIR_HU[1] and detect_modality(image.array) == "ct":
        raise UsageError(
            f"{image.source} is CT in Hounsfield units, where {no_mass:g} is not without mass",
            f"add -f {NO_MASS_HU:g}: mass is counted from the background",
        )


def _warn_of_labels(image: Image, interpolator: str) -> None:
    """Means of labels are labels of something else, or of nothing."""
    if not is_for_labels(interpolator) and looks_like_labels(image):
        log.warning(
            "%s: its voxels look like labels, and %s interpolation makes others of them; "
            "-n genericlabel keeps them",
            image.source, interpolator,
        )  # fmt: skip


def output_paths(inputs: Sequence[Path], output: Path) -> list[Path]:
    """Where each input goes: the named file, or a folder with one file of the same name each.

    Raises UsageError for several inputs and a file, and for inputs of one name; OutputError for a
    name that no file can have.
    """
    folder = is_there(output) and output.is_dir()
    if len(inputs) == 1 and not folder:
        return [output]
    if not folder:
        raise UsageError(
            f"{len(inputs)} inputs, but {output} is not an existing folder",
            f"with several inputs -o is a folder: mkdir {output}",
        )
    names = [_output_name(path) for path in inputs]
    if len(set(names)) < len(names):
        raise UsageError("two inputs have the same file name", "warp them into two folders")
    return [output / name for name in names]


def _output_name(path: Path) -> str:
    suffix = full_suffix(path)
    return path.name if suffix.lower() in WRITABLE else path.name.removesuffix(suffix) + ".nii.gz"


def as_type(image: Image, image_type: str | None) -> Image:
    """Check what an image holds against what was announced; None takes it as it is."""
    image_type = IMAGE_TYPES.get(image_type or "", image_type)
    if image_type == "scalar" and image.channels > 1:
        raise InputError(
            f"{image.source}: {image.channels} {_plural(image)}, one scalar volume was expected",
            "leave -e out, or choose -e time-series or -e multichannel",
        )
    if image_type == "tensor" and image.channel_kind != "tensor":
        raise InputError(
            f"{image.source}: {image.channels} {_plural(image)}, tensors were expected: "
            "NIfTI with 5 axes, 6 numbers (xx, xy, yy, xz, yz, zz) and intent 1005",
            "ANTs' ImageMath 3 OUT 4DTensorTo3DTensor IN makes one of six volumes",
        )
    if image.channels == 1 or image_type in (None, "scalar", "tensor"):
        return image
    return replace(image, channel_kind="time" if image_type == "time-series" else "vector")


def _plural(image: Image) -> str:
    return "time points" if image.channel_kind == "time" else "components"


def sampled_inverses(chain: Transform, grid: Grid) -> Transform:
    """The chain with each field's inverse sampled where the points of `grid` meet it.

    What the sampled inverse leaves, |F(F⁻¹(y)) - y| in mm at the mapped points of `grid`,
    goes to the log; see `log_residual`.
    """
    held = covering(chain, grid)
    if not any(isinstance(part, InverseField) for part in chain.parts):
        return chain
    points = _spread_points(grid)
    for part, sampled in zip(reversed(chain.parts), reversed(held), strict=True):
        mapped = sampled(points)
        if isinstance(part, InverseField):
            residual_mm = np.linalg.norm(part.field(mapped) - points, axis=-1)
            log_residual(residual_mm, "numerical inverse of a field")
        points = mapped
    return CompositeTransform(held)


def _spread_points(grid: Grid) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(N, D) LPS positions of voxels, at most RESIDUAL_POINTS along each axis."""
    axes = [np.unique(np.linspace(0, n - 1, RESIDUAL_POINTS).round()) for n in grid.size_xyz]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return apply_affine(grid.index_to_lps, index.reshape(-1, grid.dimension))
