"""Labels and landmarks of a pair, which guide or score its registration. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from carl_cli.geometry import Array
from carl_cli.io.images.files import Image


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a pair, fixed and moving: labels on grids of their own, landmarks (N, D) in
    LPS mm."""

    labels: tuple[Image, Image] | None = None
    points: tuple[Array, Array] | None = None
