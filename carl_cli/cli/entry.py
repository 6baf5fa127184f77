"""Where `carl` begins: inside the error boundary before anything heavy is imported, so that also
an early Ctrl-C ends in words, and with three standard streams whatever the caller has closed."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

from carl_cli.cli.boundary import exit_code_of


def main() -> NoReturn:
    """Run `carl` with the arguments of the process and exit."""
    _have_streams()
    raise SystemExit(exit_code_of(_run))


def _run() -> None:
    from carl_cli.cli.app import run

    run(None)


def _have_streams() -> None:
    """A file that is opened in the place of a closed stream would get what is written there.

    File names are bytes, and what is no text in them is printed as it is.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


if __name__ == "__main__":
    main()
