"""Files of a weights folder, and whether they are what its config.json says. Without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carl_cli.errors import WeightsError
from carl_cli.io.atomic import sha256_of

CONFIG = "config.json"
MODEL = "model.safetensors"
CARD = "README.md"


def digest_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises WeightsError if it can't be read."""
    check_regular(path)
    try:
        return sha256_of(path)
    except OSError as error:
        hint = "name a folder that holds it" if isinstance(error, FileNotFoundError) else ""
        raise WeightsError(f"{path}: {error.strerror}", hint) from error


def check_regular(path: Path) -> None:
    """A pipe would be waited for; what is absent is told of where it is opened. Raises
    WeightsError."""
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is not a file")


def stored_config(folder: Path) -> dict[str, Any]:
    """config.json as it stands there, unchecked. Raises WeightsError if it is no JSON object."""
    path = folder / CONFIG
    check_regular(path)
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}", "name a folder that holds it") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: an object was expected")
    return values


def stored_hashes(folder: Path) -> dict[str, str]:
    """File name → SHA-256 as config.json gives them. Raises WeightsError."""
    hashes = stored_config(folder).get("files", {})
    if isinstance(hashes, dict) and all(isinstance(value, str) for value in hashes.values()):
        return hashes
    raise WeightsError(f"{folder / CONFIG}: files: names and SHA-256 were expected")


def check_files(folder: Path, expected: Mapping[str, str]) -> str:
    """Compare each file with its SHA-256; returns that of the model file.

    Raises WeightsError for a file that is missing, damaged, or outside the folder.
    """
    for name, digest in expected.items():
        if Path(name).name != name or "\0" in name:
            raise WeightsError(f"{folder / CONFIG}: {name!r} does not lie in the folder")
        _compare(folder / name, digest)
    return expected.get(MODEL) or digest_of(folder / MODEL)


def _compare(path: Path, digest: str) -> None:
    found = digest_of(path)
    if found != digest:
        raise WeightsError(
            f"{path} is damaged: SHA-256 {found[:12]}…, expected {digest[:12]}…",
            "download or copy the weights again (carl weights download NAME --force)",
        )
