"""Label files → small arrays that pairs are rendered from (`carl train prepare`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import block_grid
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import Image, read_image
from carl_cli.io.resample import resample
from carl_cli.preprocessing.grids import oriented
from carl_cli.training.cache import image_files, stem_of
from carl_cli.workflows.grids import VALUE_BYTES, check_fits

# FreeSurfer numbering: right-hand label → left-hand label of the same structure.
MIRROR = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17}
MIRROR |= {54: 18, 57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137}

# Means of a T1-weighted image, by structure; what is not named is soft tissue.
T1 = {0: 0.0, 2: 0.80, 3: 0.52, 4: 0.14, 5: 0.16, 7: 0.76, 8: 0.50, 10: 0.64, 11: 0.55}
T1 |= {12: 0.60, 13: 0.70, 14: 0.14, 15: 0.14, 16: 0.72, 17: 0.53, 18: 0.52, 24: 0.10}
T1 |= {25: 0.40, 26: 0.55, 28: 0.70, 30: 0.35, 72: 0.14, 85: 0.66, 136: 0.40, 137: 0.40}
T1 |= {502: 0.05, 506: 0.45, 507: 0.42, 508: 0.40, 509: 0.90, 511: 0.08, 512: 0.12}
T1 |= {514: 0.60, 515: 0.12, 516: 0.95, 530: 0.40}
SOFT_TISSUE = 0.4
BRAIN_BELOW = 500
MOST_VALUES = 255
AXES = "LPS"  # of the maps, as of the grids that networks see
TABLES = ("values", "tissue", "inner", "t1", "spacing_mm", "axes")  # beside the subjects' maps


def prepare_label_maps(
    folder: Path, out: Path, spacing_mm: float, freesurfer: bool, overwrite: bool = True
) -> tuple[list[str], int]:
    """Write the label files of a folder to one .npz; returns the subjects and the label count.

    Per subject, named after its file: (z, y, x) uint8 on an isotropic grid over the same extent,
    the file's axes in the order and direction of LPS, relabelled densely. Per label: `values` (in
    the files) and `tissue`. With freesurfer also `inner` (the brain) and `t1` (mean of a T1-like
    rendering, 0 to 1), and left and right share one tissue. Raises InputError for a folder without
    maps, or with too many labels.
    """
    if out.suffix.lower() != ".npz":
        raise UsageError(f"{out}: label maps are written as .npz", "use .npz")
    images = _read(folder, spacing_mm)
    values = sorted({int(v) for image in images.values() for v in np.unique(image.array)} | {0})
    if values[0] < 0 or len(values) > MOST_VALUES + 1:
        raise InputError(
            f"{folder}: {len(values)} labels from {values[0]}, 0 to 255 of them expected"
        )
    maps = {name: _dense(_shrunk(image, spacing_mm), values) for name, image in images.items()}
    tables = _tables(values) if freesurfer else _plain_tables(values)
    with atomic_path(out, replace=overwrite) as temporary:
        tables |= {"spacing_mm": np.array(spacing_mm), "axes": np.array(AXES)}
        np.savez_compressed(temporary, **maps, **tables)  # type: ignore[arg-type]
    return list(images), len(values) - 1


def _read(folder: Path, spacing_mm: float) -> dict[str, Image]:
    """Subject → its label map, each of whole numbers in 3D."""
    files = image_files(folder)
    if not files:
        raise InputError(f"{folder} holds no label maps", "NIfTI, NRRD, MHA and MGZ are read")
    images: dict[str, Image] = {}
    for path in files:
        if stem_of(path) in (*images, *TABLES):
            raise InputError(f"{path}: its subject's name is taken", "give it another name")
        image = images[stem_of(path)] = read_image(path, allow_nan=False)
        if image.grid.dimension != 3 or np.any(image.array % 1):
            raise InputError(f"{path}: no label map", "whole numbers in 3D are expected")
        check_fits(block_grid(image.grid, spacing_mm), VALUE_BYTES)
    return images


def _shrunk(image: Image, spacing_mm: float) -> Image:
    """Nearest neighbour on a grid that covers the same extent."""
    grid = oriented(block_grid(image.grid, spacing_mm), AXES)
    return resample(image, grid, interpolator="nearest")


def _dense(image: Image, values: Sequence[int]) -> NDArray[np.uint8]:
    return np.searchsorted(values, image.array).astype(np.uint8)


def _plain_tables(values: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Every label is a tissue of its own, and nothing can be stripped."""
    count = len(values)
    return {
        "values": np.array(values, np.int64),
        "tissue": np.arange(count),
        "inner": np.zeros(count, bool),
    }


def _tables(values: Sequence[int]) -> dict[str, NDArray[Any]]:
    left = [MIRROR.get(v, v) for v in values]
    # A left-hand label that no subject has: the right-hand one stands for itself.
    tissue = [values.index(v if v in values else o) for v, o in zip(left, values, strict=True)]
    return {
        "values": np.array(values, np.int64),
        "tissue": np.array(tissue, np.int64),
        "inner": np.array([0 < v < BRAIN_BELOW for v in values]),
        "t1": np.array([T1.get(v, SOFT_TISSUE) for v in left], np.float32),
    }
