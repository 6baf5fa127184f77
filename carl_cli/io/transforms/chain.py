"""The -t grammar of antsApplyTransforms: an ordered list of files, inverses marked."""

from __future__ import annotations

from collections.abc import Sequence

from carl_cli.errors import InputError, UsageError
from carl_cli.io.transforms import is_identity, parse_item
from carl_cli.io.transforms.files import read_series, read_transform
from carl_cli.io.transforms.programs import Pair
from carl_cli.transforms import Transform, composed, identity

__all__ = ["is_identity", "parse_chain", "parse_item", "parse_series"]


def parse_chain(items: Sequence[str], pair: Pair | None = None) -> Transform:
    """Read the files of a chain and compose them in ANTs' order; pair: see `read_transform`.

    With `-t A -t B` a fixed point meets A first: T(x) = B(A(x)), so `-t warp -t affine` is
    what antsRegistration's outputs need.
    """
    if not items:
        raise UsageError("no transform given", "name at least one with -t")
    parts = []
    for text in [text for text in items if not is_identity(text)]:
        path, inverted = parse_item(text)
        transform = read_transform(path, pair=pair)
        parts.append(_inverse(transform, path) if inverted else transform)
    return composed(reversed(parts)) if parts else identity(3)


def _inverse(transform: Transform, path: str) -> Transform:
    try:
        return transform.inverse()
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


def parse_series(items: Sequence[str], pair: Pair | None = None) -> list[Transform]:
    """As `parse_chain`, for each volume of a series where a file holds one transform for each of
    them; else the one chain. Raises InputError for files of different counts."""
    parts = []
    for text in [text for text in items if not is_identity(text)]:
        path, inverted = parse_item(text)
        found = read_series(path, pair)
        parts.append([_inverse(each, path) if inverted else each for each in found])
    counts = sorted({len(part) for part in parts} - {1})
    if len(counts) > 1:
        raise InputError(f"transforms of {counts[0]} and of {counts[1]} volumes in one chain")
    chains = ([part[k % len(part)] for part in parts] for k in range(max(counts, default=1)))
    return [composed(reversed(chain)) for chain in chains]
