"""What Typer says of a command line that it can't read, in words that tell what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

Usage: Any = typer.BadParameter.__mro__[1]  # Typer keeps the name of its UsageError to itself
REWORDED = (
    (r"Value error, ", ""),
    (r"Input should be a valid integer.*", "a whole number was expected."),
    (r"Input should be a valid number.*", "a number was expected."),
    (r"Input should be (greater|less) than or equal to (\S+)", r"it must be \2 or \1."),
    (r"Got unexpected extra argument\(s\) \((.*)\)",
     r"Nothing was expected here: \1. Files beside the inputs go behind an option, as in "
     "-o FILE, and a path with spaces between quotation marks."),
    (r"(No such option: -[a-zA-Z])$", r"\1. --help-all lists those that there are."),
)  # fmt: skip


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Reword what Typer raises within."""
    try:
        yield
    except Usage as error:
        for found, plain in REWORDED:
            error.message = re.sub(found, plain, error.message)
        raise
