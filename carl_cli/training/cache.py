"""Images cached once as the network sees them, so that training itself reads arrays only.

The one module of training that reads images; imported when there is something to cache.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import read_image
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.progress import Progress, silent

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc")


def fill_cache(
    images: Path, cache: Path, preprocess: dict[str, Any], progress: Progress = silent
) -> None:
    """Write image-00000.npy … (float16, (D, H, W), [0, 1]) and, for a table of pairs,
    pairs.npy. What was cached before from the same files and rule is kept.

    Raises InputError for a folder or table without images.
    """
    rule = PreprocessRule.model_validate(preprocess or {"grid_rule": "physical"})
    paths, pairs = listed(images)
    cache.mkdir(parents=True, exist_ok=True)
    key = _key(paths, rule)
    index = cache / "index.json"
    if index.is_file() and json.loads(index.read_text())["key"] == key:
        return
    for stale in cache.glob("*.npy"):
        stale.unlink()
    for number, path in enumerate(paths):
        progress("caching images", number / len(paths), path.name)
        image = read_image(path)
        array = prepare_pair(image, image, rule).fixed.array
        _save(cache / f"image-{number:05d}.npy", array.astype(np.float16))
    if pairs:
        _save(cache / "pairs.npy", np.array(pairs, np.int64))
    with atomic_path(index) as temporary:  # last: a cache without it is made again
        temporary.write_text(json.dumps({"key": key, "images": [str(p) for p in paths]}))


def listed(images: Path) -> tuple[list[Path], list[tuple[int, int]]]:
    """Image files of a folder or a table, and the pairs that a table names (indices)."""
    if images.is_dir():
        paths = sorted(p for p in images.iterdir() if p.name.lower().endswith(SUFFIXES))
        return _at_least_two(images, paths), []
    if not images.is_file():
        raise InputError(f"{images}: no such folder or table")
    with images.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = set(rows[0]) if rows else set()
    if "image" in columns:
        return _at_least_two(images, [Path(row["image"]) for row in rows]), []
    if {"fixed", "moving"} <= columns:
        names = [(Path(row["fixed"]), Path(row["moving"])) for row in rows]
        paths = sorted({p for pair in names for p in pair})
        return paths, [(paths.index(a), paths.index(b)) for a, b in names]
    raise InputError(
        f"{images} has the columns {', '.join(sorted(columns)) or 'none'}",
        "expected: image, or fixed and moving",
    )


def _at_least_two(source: Path, paths: Sequence[Path]) -> list[Path]:
    if len(paths) < 2:
        raise InputError(f"{source} holds {len(paths)} images, two or more are needed")
    return list(paths)


def _key(paths: list[Path], rule: PreprocessRule) -> str:
    facts = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.exists()]
    return hashlib.sha256(f"{facts}{rule.model_dump_json()}".encode()).hexdigest()


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, array)
