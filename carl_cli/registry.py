"""Weights known by name: plain data, so that listing them imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from carl_cli.errors import WeightsError

DEFAULT = "carl-base"
EMBEDDED = (DEFAULT,)


def embedded_folder(name: str) -> Path:
    """Where embedded weights lie: in the package, or at the top of a source checkout."""
    installed = Path(__file__).parent / "_weights" / name
    return installed if installed.is_dir() else Path(__file__).parents[1] / "weights" / name


def locate(name_or_path: str) -> Path:
    """The folder of weights given by name, folder, or the model file in it.

    Raises WeightsError that lists the names there are.
    """
    if name_or_path in EMBEDDED:
        return embedded_folder(name_or_path)
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if path.is_file() and path.suffix == ".safetensors":
        return path.parent
    raise WeightsError(
        f"no weights {name_or_path!r}",
        f"give a folder, its model.safetensors, or one of: {', '.join(EMBEDDED)}",
    )
