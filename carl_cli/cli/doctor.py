"""`carl doctor`: is this installation sound, and what has it to work with?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carl_cli.errors import CarlError

REPORT = (
    "send these lines, the command, its log (-v --log-file log.txt) and its record "
    "(--json run.json); look through them first: paths may hold names"
)


def doctor(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where to measure the speed of writing.")
    ] = Path(),
) -> None:
    """Check this installation and machine: versions, devices, threads, caches, self-test.

    Prints one line for each finding, and what to send with a bug report; exits with 1 when
    something is at fault.
    """
    from carl_cli.workflows.doctor import diagnose

    faults = 0
    for finding in diagnose(folder):
        faults += bool(finding.fault)
        mark = f"  ← {finding.fault}" if finding.fault else ""
        typer.echo(f"{finding.name:<24} {finding.found}{mark}")
    typer.echo(f"{'for a bug report':<24} {REPORT}")
    if faults:
        raise CarlError(f"{faults} of these findings need attention", "see the lines with ←")
