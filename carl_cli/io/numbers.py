"""Numbers in text files, as every other reader takes them.

Python takes 1_0 for 10 and the digits of other scripts for 0 to 9, which nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite


def as_number(word: str) -> float:
    """Raises ValueError."""
    return float(_plain(word))


def as_whole(word: str) -> int:
    """Raises ValueError, for a number of thousands of digits too."""
    return int(_plain(word))


def as_numbers(words: Iterable[str]) -> list[float]:
    """Raises ValueError."""
    return [as_number(word) for word in words]


def is_number(word: str, finite: bool) -> bool:
    try:
        return isfinite(as_number(word)) or not finite
    except ValueError:
        return False


def _plain(word: str) -> str:
    if "_" in word or not word.isascii():
        raise ValueError(f"{word[:20]!r} is no number")
    return word
