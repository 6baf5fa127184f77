"""Every failure that the user can mend, with the exit code that scripts test.

Raise the most specific kind with one line that names what was found and what was
expected; `hint` says what to do (a kind may have one that usually fits). `carl_cli.cli` turns
them into an error line.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, TypeVar

Choice = TypeVar("Choice")

# torch's CPU allocator and ITK report exhausted memory as a plain RuntimeError.
_MEMORY_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",  # of a file that is mapped
    "out of memory",
    "failed to allocate memory",
    "std::bad_alloc",
)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class CarlError(Exception):
    """Base of all expected failures. `exit_code` is what the process returns."""

    exit_code = 1
    usual_hint = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint


class UsageError(CarlError):
    """The command line contradicts itself or names an unknown choice."""

    exit_code = 2


class InputError(CarlError):
    """A file or its geometry can't be used."""

    exit_code = 3
    usual_hint = "check that the file is whole and of the right kind, or get it again"


class WeightsError(CarlError):
    """Weights are missing, damaged or of another architecture."""

    exit_code = 4
    usual_hint = "get the weights again (carl weights download NAME), or name another folder"


class OutOfMemoryError(CarlError):
    """The case does not fit into the memory that is allowed."""

    exit_code = 5


class BatchError(CarlError):
    """Some cases of a batch failed."""

    exit_code = 6


class OutputError(CarlError):
    """An output could not be written."""

    exit_code = 7
    usual_hint = "free some space, or write to another folder"


class DoubtfulError(CarlError):
    """All outputs are written, but the result does not look right (asked for by --strict)."""

    exit_code = 8


class DivergedError(CarlError):
    """The loss of a training stopped being a number."""

    exit_code = 9


def as_carl_error(failure: Exception) -> CarlError | None:
    """The failure in our own terms, or None when it is a bug."""
    if isinstance(failure, CarlError):
        return failure
    if _is_out_of_memory(failure):
        hint = "use a smaller image, --device cpu, or a machine with more memory"
        return OutOfMemoryError("out of memory", hint)
    if isinstance(failure, OSError):
        return _of_system(failure)
    return None


def _of_system(failure: OSError) -> CarlError | None:
    """Files are written through `io.atomic`, which tells of its own: the others were read."""
    where = f"{failure.filename}: " if failure.filename else ""
    if failure.errno in _DISK_ERRORS:
        return OutputError(f"{where}{failure.strerror}", "free some space or write elsewhere")
    if not where:
        return None
    if isinstance(failure, FileExistsError | NotADirectoryError):
        return OutputError(f"{where}a file, where a folder was expected", "choose another name")
    hint = "check the path and its permissions"
    return InputError(f"{where}can't be read: {failure.strerror}", hint)


def _is_out_of_memory(failure: Exception) -> bool:
    if isinstance(failure, MemoryError):
        return True
    text = str(failure).lower()
    return isinstance(failure, RuntimeError) and any(words in text for words in _MEMORY_WORDS)


_BOUNDS = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def told(problem: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """One of pydantic's complaints in a line: the name, what was found, what was expected.

    names: what a field is called, where that is not the name of the field.
    """
    place = ".".join(str(part) for part in problem["loc"])
    place = (names or {}).get(place, place)
    kind, found = problem["type"], problem["input"]
    if kind in ("missing", *_UNKNOWN):
        return f"{place} is {'missing' if kind == 'missing' else 'unknown'}"
    text = problem["msg"].removeprefix("Value error, ")
    if kind not in ("value_error", "assertion_error"):
        text = _expected(problem)
        place += f" {found!r}" if place and isinstance(found, str | int | float) else ""
    return f"{place}: {text}" if place else text


def _expected(problem: Mapping[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        return "choose " + context["expected"].replace("'", "")
    if kind in _BOUNDS:
        return "expected " + _BOUNDS[kind].format(**context)
    text: str = problem["msg"].replace("Input should be", "expected").partition(", unable")[0]
    text = text.replace("a valid integer", "a whole number")
    return text[:1].lower() + text[1:]


def chosen(what: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    """The choice with this name. Raises UsageError that names them all."""
    if name not in choices:
        raise UsageError(f"no {what} {name!r}", f"choose one of {', '.join(choices)}")
    return choices[name]
