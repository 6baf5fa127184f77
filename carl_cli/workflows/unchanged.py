"""Whether the inputs of a case stayed as they were while they were read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from carl_cli.errors import InputError
from carl_cli.io.atomic import sha256_of
from carl_cli.workflows.request import CaseInputs

State = list[tuple[int, ...]]


def hashes_of(inputs: CaseInputs) -> dict[str, str]:
    """Role → SHA-256. Raises InputError for a file that is gone."""
    try:
        return {role: sha256_of(path) for role, path in inputs.paths().items()}
    except OSError as error:
        raise InputError(
            f"{error.filename}: {error.strerror} while it was read", "leave the inputs alone"
        ) from error


def states_of(inputs: CaseInputs) -> dict[Path, State]:
    """What differs once a file has been written to or replaced; of a folder, all its files'."""
    return {path: _state(path) for path in inputs.paths().values()}


def _state(path: Path) -> State:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        found = [file.stat() for file in files if file.exists()]
    except OSError:
        return []
    return [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in found]


def check_unchanged(inputs: CaseInputs, before: Mapping[Path, State]) -> None:
    """Raises InputError."""
    for path, state in states_of(inputs).items():
        if state != before[path]:
            raise InputError(f"{path} was changed while it was read", "run it again")
