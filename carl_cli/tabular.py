"""Cells of tables that people open in a spreadsheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula, which may call programs."""


def inert(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with text that would become a formula marked as text, by an apostrophe."""
    return {key: _inert(value) for key, value in row.items()}


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
