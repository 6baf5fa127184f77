"""What weights there are and how they stand: plain files, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from carl_cli.errors import WeightsError
from carl_cli.weights import hub, locate, registry
from carl_cli.weights.files import MODEL, check_files, stored_config, stored_hashes

# Hashing is about 0.4 GB/s: bigger files would make a list slow, and use checks them anyway.
_HASH_AT_ONCE_BYTES = 2**26

VERIFIED, UNCHECKED, DAMAGED, ABSENT = "verified", "checked at use", "DAMAGED", "not here"


class Row(NamedTuple):
    """One line of `carl weights list`. bytes: of the model file, 0 where it isn't here."""

    name: str
    family: str
    bytes: int
    licence: str
    state: str
    where: str


def rows() -> Iterator[Row]:
    """Embedded weights, the authors' releases, and what the cache of the Hub holds."""
    for name in locate.embedded():
        yield _row(name, locate.embedded_folder(name))
    for entry in registry.RELEASES:
        folder = locate.local_folder(entry.name)
        yield _row(entry.name, folder) if folder else _absent(entry)
    for wanted, folder in hub.cached_snapshots():
        yield _row(f"{wanted.repository}@{wanted.revision[:12]}", folder)


def _row(name: str, folder: Path) -> Row:
    try:
        config = stored_config(folder)
        size = (folder / MODEL).stat().st_size
    except (WeightsError, OSError):
        return Row(name, "?", 0, "?", DAMAGED, str(folder))
    family, licence = str(config.get("family", "?")), str(config.get("licence", "?"))
    return Row(name, family, size, licence, state_of(folder, size), str(folder))


def state_of(folder: Path, size: int) -> str:
    """Whether the files are what config.json says, as far as that is quick to tell."""
    try:
        hashes = stored_hashes(folder)
        if size > _HASH_AT_ONCE_BYTES or MODEL not in hashes:
            return UNCHECKED
        check_files(folder, hashes)
    except WeightsError:
        return DAMAGED
    return VERIFIED


def _absent(entry: registry.Release) -> Row:
    return Row(entry.name, entry.family, 0, entry.licence, ABSENT, f"download: {entry.url}")
