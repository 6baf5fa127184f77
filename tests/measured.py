"""What tests measured on the files of other programs, for docs/reference/formats-measured.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

NOTES = "CARL_FORMATS"
"""Names the file to which lines are added; without it nothing is noted."""


def assert_close(
    found: ArrayLike,
    expected: ArrayLike,
    most: float,
    *,
    file: str,
    way: str,
    referee: str,
    unit: str = "mm",
) -> None:
    """Within `most`, absolutely; the largest difference is noted. way: read or written."""
    gap = float(np.abs(np.asarray(found, float) - np.asarray(expected, float)).max())
    if os.environ.get(NOTES):
        line = {"file": file, "way": way, "referee": referee, "error": gap, "unit": unit}
        with Path(os.environ[NOTES]).open("a") as notes:
            notes.write(json.dumps(line) + "\n")
    assert gap <= most, f"{file}, {way}, by {referee}: {gap:.3g} {unit}, at most {most:.3g}"
