"""Pairs from two folders: files whose names say the same belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from carl_cli.batch.table import Entry, entry_of, named_once
from carl_cli.errors import InputError, UsageError
from carl_cli.io.atomic import full_suffix

ID = "{id}"


def pair_folders(
    fixed: Path,
    moving: Path,
    patterns: tuple[str, str],
    defaults: Mapping[str, Path] | None = None,
) -> list[Entry]:
    """The n-th pair counts as line n. Raises InputError for a file without its counterpart.

    patterns: of fixed and moving files, relative to their folders; with {id} in them what
    stands there is the same in both files of a pair, without it the whole names are.
    """
    _check_patterns(patterns)
    sides = _keyed(fixed, patterns[0]), _keyed(moving, patterns[1])
    alone = sorted(sides[0].keys() ^ sides[1].keys())
    if alone:
        owner, other, pattern = (
            (sides[0], moving, patterns[1])
            if alone[0] in sides[0]
            else (sides[1], fixed, patterns[0])
        )
        partner = other / (pattern.replace(ID, alone[0]) if ID in pattern else alone[0])
        raise InputError(
            f"{len(alone)} files have no counterpart, the first is {owner[alone[0]]}",
            f"add {partner}, narrow --pattern, or list the pairs in a table",
        )
    pairs = {key: (sides[0][key], sides[1][key]) for key in sorted(sides[0])}
    return entries_of(pairs, defaults)


def pair_atlas(
    atlas: Path, folder: Path, pattern: str, defaults: Mapping[str, Path] | None = None
) -> list[Entry]:
    """Every image of a folder is registered to one fixed image."""
    images = _keyed(folder, pattern)
    return entries_of({key: (atlas, image) for key, image in images.items()}, defaults)


def entries_of(
    pairs: Mapping[str, tuple[Path, Path]], defaults: Mapping[str, Path] | None = None
) -> list[Entry]:
    """Key → fixed and moving file; the key without a file's suffix names the case."""
    filled = {role: path.absolute() for role, path in (defaults or {}).items()}
    return named_once(
        entry_of(number, {**filled, "id": _stem(key), "fixed": a, "moving": b}, Path.cwd())
        for number, (key, (a, b)) in enumerate(pairs.items(), 1)
    )


def _stem(key: str) -> str:
    return key.removesuffix(full_suffix(Path(key))) if "." in key else key


def _check_patterns(patterns: tuple[str, str]) -> None:
    marked = [ID in pattern for pattern in patterns]
    if any(marked) and not all(marked):
        raise UsageError(f"{ID} stands in one pattern only", "give it in both, or in neither")
    if patterns[0] != patterns[1] and not any(marked):
        raise UsageError(
            "fixed and moving files have different patterns",
            f"put {ID} where the name of the case stands in both: '{ID}_T1w.nii.gz'",
        )


def _keyed(folder: Path, pattern: str) -> dict[str, Path]:
    """What stands at {id}, else the name, of every file that matches → the file, sorted."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "name the folder of the images")
    found: dict[str, Path] = {}
    for path in _matching(folder, pattern.replace(ID, "*")):
        key = _key(path.relative_to(folder), pattern)
        if key is None or path.name.startswith("."):
            continue
        if key in found:
            raise InputError(f"{found[key]} and {path} are both called {key}", "narrow the pattern")
        found[key] = path
    if not found:
        raise InputError(f"{folder}: no file matches {pattern!r}", "give another --pattern")
    return found


def _matching(folder: Path, glob: str) -> list[Path]:
    """Sorted. Raises UsageError for a pattern that pathlib does not take."""
    try:
        return sorted(folder.glob(glob))
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"pattern {glob!r}: {str(error).lower()}",
            "patterns are relative to the folder, as in 'sub-*/*_T1w.nii.gz'",
        ) from error


def _key(path: Path, pattern: str) -> str | None:
    if ID not in pattern:
        return path.name
    first, *rest = pattern.split(ID)
    expression = _expression(first) + "([^/]+)" + r"\1".join(map(_expression, rest))
    match = re.fullmatch(expression, path.as_posix())
    return None if match is None else match[1]


def _expression(glob: str) -> str:
    """Stars and question marks stay within a name; all else means itself."""
    return re.escape(glob).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
