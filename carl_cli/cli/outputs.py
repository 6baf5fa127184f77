"""Outputs checked before the work, not after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from carl_cli.errors import OutputError


def check_outputs(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise OutputError unless every path can be written: its folder is there, nothing is lost."""
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OutputError(f"{path} is a pipe or a device", "name a file")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already", "--overwrite replaces it")
        folder = path.parent
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} does not exist", f"mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"the folder {folder} can't be written to", "write elsewhere")
