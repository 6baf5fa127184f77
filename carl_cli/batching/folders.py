"""Pairs from two folders: files of the same name belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from carl_cli.batching.table import Entry, entry_of, named_once
from carl_cli.errors import InputError
from carl_cli.io.atomic import full_suffix


def pair_folders(
    fixed: Path, moving: Path, pattern: str, defaults: Mapping[str, Path] | None = None
) -> list[Entry]:
    """The n-th pair counts as line n. Raises InputError for a file without its counterpart."""
    names = _names(fixed, pattern), _names(moving, pattern)
    alone = sorted(names[0] ^ names[1])
    if alone:
        here, there = (fixed, moving) if alone[0] in names[0] else (moving, fixed)
        raise InputError(
            f"{len(alone)} files have no counterpart, the first is {here / alone[0]}",
            f"add {there / alone[0]}, narrow --pattern, or list the pairs in a table",
        )
    if not names[0]:
        raise InputError(f"{fixed}: no file matches {pattern!r}", "give another --pattern")
    filled = {role: path.absolute() for role, path in (defaults or {}).items()}
    return named_once(
        entry_of(number, {**filled, **_pair(name, fixed, moving)}, Path.cwd())
        for number, name in enumerate(sorted(names[0]), 1)
    )


def _pair(name: str, fixed: Path, moving: Path) -> dict[str, Path | str]:
    identity = name.removesuffix(full_suffix(Path(name)))
    return {"id": identity, "fixed": fixed / name, "moving": moving / name}


def _names(folder: Path, pattern: str) -> set[str]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "name the folder of the images")
    return {path.name for path in folder.glob(pattern) if not path.name.startswith(".")}
