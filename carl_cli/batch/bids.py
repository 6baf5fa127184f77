"""Pairs from a BIDS dataset: each of its images is registered to one atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carl_cli.batch.folders import entries_of
from carl_cli.batch.table import Entry
from carl_cli.errors import InputError, UsageError

SUFFIXES = (".nii", ".nii.gz")
WANTED = "T1w"


def pair_dataset(
    dataset: Path,
    atlas: Path,
    filters: Sequence[str] = (),
    defaults: Mapping[str, Path] | None = None,
) -> list[Entry]:
    """filters: entity=value, as in session=01 or suffix=T2w (T1w if none is given).

    Raises InputError for a folder that is no dataset and when nothing matches, UsageError for
    filters that BIDS does not know or when pybids is not installed.
    """
    wanted = {"suffix": WANTED, **dict(map(_parsed, filters))}
    found = _images(_layout(dataset), wanted)
    if not found:
        told = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise InputError(f"{dataset}: no image with {told}", "choose others with --bids-filter")
    return entries_of({path.name: (atlas, path) for path in found}, defaults)


def _parsed(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"--bids-filter {text}", "give entity=value, as in session=01")
    return name, value


def _layout(dataset: Path) -> Any:
    try:
        from bids import BIDSLayout
    except ImportError as error:
        raise UsageError(
            "pybids is not installed", "pip install 'carl-registration[bids]'"
        ) from error
    try:
        return BIDSLayout(dataset)
    except Exception as error:  # its kinds of errors change from version to version
        text = " ".join(str(error).split())
        raise InputError(
            f"{dataset} is not a BIDS dataset: {text}",
            "give the folder with dataset_description.json",
        ) from error


def _images(layout: Any, wanted: Mapping[str, str]) -> list[Path]:
    try:
        names = layout.get(return_type="filename", extension=list(SUFFIXES), **wanted)
    except ValueError as error:
        text = " ".join(str(error).split())
        raise UsageError(f"--bids-filter: {text}", "use entities of BIDS") from error
    return sorted(map(Path, names))
