"""What a record tells of the process that made it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def printable(path: str | Path) -> str:
    """The path as valid Unicode: names on disk need not be UTF-8, JSON must be."""
    return os.fsencode(path).decode("utf-8", "replace")


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions, read without importing the packages."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def peak_memory_mib() -> float | None:
    """Highest resident memory of this process so far; None where the system can't say.

    Linux keeps the figure of this program alone in VmHWM; its ru_maxrss starts at the size
    of the parent that launched it.
    """
    status = Path("/proc/self/status")
    own = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if own:
        return int(own[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command as it can be pasted into a POSIX shell; default: this process's own.

    `python -m carl_cli.cli.app` puts a file of this package where the name would stand.
    """
    words = list(sys.argv if arguments is None else arguments)
    program = Path(words[0])
    name = "carl" if program.resolve().is_relative_to(PACKAGE) else program.name
    return printable(shlex.join([name, *words[1:]]))


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
