"""What a point file holds besides its points, so that it can be written again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from carl_cli.geometry import Array

Frame = Literal["LPS", "RAS"]


@dataclass(frozen=True)
class Document:
    """numbers: (N, D) as they stand in the file; frame: what the file says they are, None when
    it says nothing; rewrite: the same file with other numbers; labels: names where it has any."""

    numbers: Array
    frame: Frame | None
    rewrite: Callable[[Array], bytes]
    labels: tuple[str, ...] = ()


def number(value: float) -> str:
    """Ten digits: a nanometre within a metre, which is below float32's."""
    return f"{value:.10g}"
