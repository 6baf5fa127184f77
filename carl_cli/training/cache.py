"""Images cached once as the network sees them, so that training itself reads arrays only.

A file of the cache is named after what it was made from (paths, sizes, dates, rule), so nothing in
it is ever stale, and runs may share it; what no run uses any more can be deleted. The one module
of training that reads images; imported when there is something to cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import atomic_path, make_folder
from carl_cli.io.csv import cells_by_column, table_lines
from carl_cli.io.images.files import read_image
from carl_cli.io.resample import resample
from carl_cli.preprocessing.options import ImageOptions, Modality
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.progress import Progress, silent
from carl_cli.training.data import index_name
from carl_cli.training.tables import ImageData, ImageSet

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".mgz")
BELONGINGS = ("segmentation", "mask")
LARGEST_LABEL = 2**16 - 1


@dataclass(frozen=True)
class Entry:
    """An image with what belongs to it."""

    image: Path
    segmentation: Path | None = None
    mask: Path | None = None


def fill_cache(data: ImageData, preprocess: dict[str, Any], progress: Progress = silent) -> None:
    """Make what the cache lacks: per image its array (float16, (D, H, W), 0 to 1 but for values
    that the rule doesn't clip), labels (uint16) and mask (bool); and the index of these sets.

    Safe in several processes at once: the first one works, the others wait and find it done. Does
    nothing on a machine that has the cache but not the images. Raises InputError for a folder or
    table without images, and for files that can't be used.
    """
    if not any(one.images.exists() for one in data.sets) and index_name(data, preprocess).is_file():
        return
    rule = PreprocessRule.model_validate(preprocess or {"grid_rule": "physical"})
    make_folder(data.cache)
    with FileLock(data.cache / "lock"):
        sets = [_cached_set(data.cache, one, rule, progress) for one in data.sets]
        with atomic_path(index_name(data, preprocess)) as path:
            path.write_text(json.dumps(sets))


def _cached_set(
    cache: Path, images: ImageSet, rule: PreprocessRule, progress: Progress
) -> dict[str, Any]:
    """Under the physical rule all images of a set have the spacing of its coarsest grid, because
    two images that are registered have one spacing; it is found by a first pass."""
    entries, pairs = listed(images)
    stems = [_made(cache, entry, images.modality, rule, progress) for entry in entries]
    if rule.grid_rule == "physical":
        coarsest = max(float(np.load(cache / f"{stem}-spacing.npy")) for stem in stems)
        common = rule.model_copy(update={"min_spacing_mm": coarsest})
        stems = [_made(cache, entry, images.modality, common, progress) for entry in entries]
    return {"files": stems, "pairs": pairs, "images": [str(entry.image) for entry in entries]}


def _made(
    cache: Path, entry: Entry, modality: Modality, rule: PreprocessRule, progress: Progress
) -> str:
    """The name of the image in the cache. The image is written last: where it lies, so does what
    belongs to it."""
    stem = _key(entry, modality, rule)
    if (cache / f"{stem}.npy").is_file():
        return stem
    progress("caching images", 0.0, entry.image.name)
    image = read_image(entry.image)
    if image.grid.dimension != 3:
        raise InputError(
            f"{entry.image}: no volume; images in 2D can't be trained on", "leave it out"
        )
    seen = prepare_pair(image, image, rule, ImageOptions(modality)).fixed
    if entry.segmentation is not None:
        _save(cache / f"{stem}-labels.npy", _labels(entry.segmentation, seen.grid))
    if entry.mask is not None:
        _save(cache / f"{stem}-mask.npy", _labels(entry.mask, seen.grid) > 0)
    _save(cache / f"{stem}-spacing.npy", np.array(max(seen.grid.spacing_mm)))
    _save(cache / f"{stem}.npy", seen.array.astype(np.float16))
    return stem


def _labels(path: Path, grid: Grid) -> NDArray[np.uint16]:
    """A label map at the voxels of the network's grid."""
    stored = read_image(path)
    low, high = stored.array.min(), stored.array.max()
    if low < 0 or high > LARGEST_LABEL or np.any(stored.array % 1):
        raise InputError(f"{path}: labels from {low:g} to {high:g}, 0 to {LARGEST_LABEL} expected")
    labels = resample(stored, grid, interpolator="nearest").array.astype(np.uint16)
    if high > 0 and not labels.any():
        raise InputError(f"{path}: no label lies in the field of view of its image")
    return labels


def listed(images: ImageSet) -> tuple[list[Entry], list[tuple[int, int]]]:
    """The images of a set, and the pairs that a table names (indices; none: all against all)."""
    if images.images.is_dir():
        return _at_least_two(images.images, list(_in_folder(images))), []
    if not images.images.exists():
        raise InputError(
            f"{images.images}: no such folder or table",
            "make the table, with a column `image`, or let [data] name a folder of images",
        )
    header, *lines = table_lines(images.images) or [(0, [])]
    rows = [_cells(images.images, number, header[1], cells) for number, cells in lines]
    columns, base = set(header[1]), images.images.parent
    if "image" in columns:
        entries = [_entry(row, base, "") for row in rows]
        return _at_least_two(images.images, entries), []
    if {"fixed", "moving"} <= columns:
        sides = [(_entry(row, base, "fixed"), _entry(row, base, "moving")) for row in rows]
        number = {e: k for k, e in enumerate(dict.fromkeys(e for pair in sides for e in pair))}
        return list(number), [(number[a], number[b]) for a, b in sides]
    raise InputError(
        f"{images.images} has the columns {', '.join(sorted(columns)) or 'none'}",
        "expected: image, or fixed and moving",
    )


def _cells(table: Path, number: int, header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    try:
        return cells_by_column(header, cells)
    except InputError as error:
        raise InputError(f"{table}, line {number}: {error.message}", "correct it") from error


def _in_folder(images: ImageSet) -> Iterator[Entry]:
    beside = {}
    for name, folder in zip(BELONGINGS, (images.segmentations, images.masks), strict=True):
        beside[name] = {stem_of(path): path for path in image_files(folder)} if folder else {}
        if folder and not set(beside[name]) & {
            stem_of(path) for path in image_files(images.images)
        }:
            raise InputError(
                f"{folder} holds no file with the name of an image of {images.images}",
                "name each segmentation or mask as its image",
            )
    for path in image_files(images.images):
        yield Entry(path, *(beside[name].get(stem_of(path)) for name in BELONGINGS))


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name. Raises InputError where there is no folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES))


def stem_of(path: Path) -> str:
    """The name of an image file without its suffix."""
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _entry(row: dict[str, str], base: Path, side: str) -> Entry:
    """An absolute path stays, any other one is relative to the table's folder."""
    names = [f"{side}_{name}" if side else name for name in BELONGINGS]
    image, *rest = (row.get(name) for name in (side or "image", *names))
    if not image:
        raise InputError(f"a row of the table in {base} names no image: {row}")
    return Entry(base / image, *(base / path if path else None for path in rest))


def _at_least_two(source: Path, entries: Sequence[Entry]) -> list[Entry]:
    if len(entries) < 2:
        raise InputError(f"{source} holds {len(entries)} images, two or more are needed")
    return list(entries)


def _key(entry: Entry, modality: str, rule: PreprocessRule) -> str:
    facts = [_facts(p) for p in (entry.image, entry.segmentation, entry.mask)]
    return hashlib.sha256(f"{facts}{modality}{rule.model_dump_json()}".encode()).hexdigest()[:24]


def _facts(path: Path | None) -> tuple[str, int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: names that no file can have
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {why}", "check the table or the folder") from error
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, array)
