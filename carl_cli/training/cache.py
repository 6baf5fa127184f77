"""Images cached once as the network sees them, so that training itself reads arrays only.

The one module of training that reads images; imported when there is something to cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.io.atomic import atomic_path
from carl_cli.io.csv import table_lines
from carl_cli.io.images.files import read_image
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.progress import Progress, silent

PAIRS = "pairs.npy"
ARRAY = re.compile(r"image-\d{5,}\.npy|pairs\.npy", re.ASCII)
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc")


def fill_cache(
    images: Path, cache: Path, preprocess: dict[str, Any], progress: Progress = silent
) -> None:
    """Write image-00000.npy … (float16, (D, H, W), [0, 1]) and, for a table of pairs,
    pairs.npy. What was cached before from the same files and rule is kept.

    Raises InputError for a folder or table without images, and where a file that no cache made
    has the name of an array.
    """
    rule = PreprocessRule.model_validate(preprocess or {"grid_rule": "physical"})
    paths, pairs = listed(images)
    cache.mkdir(parents=True, exist_ok=True)
    key = _key(paths, rule)
    index = cache / "index.json"
    known = _index(index)
    if known.get("key") == key:
        return
    names = [f"image-{number:05d}.npy" for number in range(len(paths))]
    _make_way(cache, known.get("arrays", []))
    arrays = [*names, *([PAIRS] if pairs else [])]
    _note(index, {"arrays": arrays})  # without a key: what is cut short is made again
    for number, (name, path) in enumerate(zip(names, paths, strict=True)):
        progress("caching images", number / len(paths), path.name)
        image = read_image(path)
        array = prepare_pair(image, image, rule).fixed.array
        _save(cache / name, array.astype(np.float16))
    if pairs:
        _save(cache / PAIRS, np.array(pairs, np.int64))
    _note(index, {"key": key, "arrays": arrays, "images": [str(p) for p in paths]})


def _index(path: Path) -> dict[str, Any]:
    """What a cache says of itself; empty for one that is absent or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    arrays = found.get("arrays") if isinstance(found, dict) else None
    ours = isinstance(arrays, list) and all(ARRAY.fullmatch(str(name)) for name in arrays)
    return found if ours else {}


def _make_way(cache: Path, known: list[str]) -> None:
    """Remove the arrays of an earlier cache, as its index names them, and no other file.

    Raises InputError where somebody else's file would be read as one of the cache's.
    """
    for name in known:
        (cache / name).unlink(missing_ok=True)
    foreign = sorted([*cache.glob("image-*.npy"), *cache.glob(PAIRS)])
    if foreign:
        raise InputError(
            f"{foreign[0]} is there, and {cache / 'index.json'} does not name it",
            "name a folder of its own as cache, or remove the file",
        )


def _note(index: Path, facts: dict[str, Any]) -> None:
    with atomic_path(index) as temporary:
        temporary.write_text(json.dumps(facts))


def listed(images: Path) -> tuple[list[Path], list[tuple[int, int]]]:
    """Image files of a folder or a table, and the pairs that a table names (indices)."""
    if images.is_dir():
        paths = sorted(p for p in images.iterdir() if p.name.lower().endswith(SUFFIXES))
        return _at_least_two(images, paths), []
    if not images.is_file():
        raise InputError(f"{images}: no such folder or table")
    lines = table_lines(images)
    header, rows = (lines[0][1], lines[1:]) if lines else ([], [])
    if not rows:
        raise InputError(f"{images} names no images", "list them below the names of the columns")
    if "image" in header:
        return _at_least_two(images, [p for (p,) in _named(images, header, rows, "image")]), []
    if {"fixed", "moving"} <= set(header):
        names = [(a, b) for a, b in _named(images, header, rows, "fixed", "moving")]
        paths = sorted({p for pair in names for p in pair})
        places = {path: number for number, path in enumerate(paths)}
        return paths, [(places[a], places[b]) for a, b in names]
    raise InputError(
        f"{images} has the columns {', '.join(header)}", "expected: image, or fixed and moving"
    )


def _named(
    table: Path, header: list[str], rows: list[tuple[int, list[str]]], *columns: str
) -> Iterator[list[Path]]:
    """The files that each line names in these columns, checked."""
    for number, cells in rows:
        problem = _problem(header, cells, columns)
        if problem:
            raise InputError(f"{table}, line {number}: {problem}", "mend the line")
        yield [Path(cells[header.index(name)]) for name in columns]


def _problem(header: list[str], cells: list[str], columns: Sequence[str]) -> str:
    if len(cells) != len(header):
        return f"{len(cells)} cells, the header has {len(header)}"
    wanted = [cells[header.index(name)] for name in columns]
    if not all(wanted):
        return "a cell is empty"
    absent = [name for name in wanted if not os.path.isfile(name)]
    return f"no such file: {absent[0]}" if absent else ""


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
