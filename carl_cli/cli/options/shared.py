"""Options that several commands share, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LOGGING = "Logging and resources"

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more on stderr.", rich_help_panel=LOGGING)
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=LOGGING),
]
LogFile = Annotated[
    Path | None,
    typer.Option("--log-file", help="Write the whole log here too.", rich_help_panel=LOGGING),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Threads to compute with. Default: what Slurm, SGE or OMP_NUM_THREADS allot, "
        "else every core this process may use.",
        rich_help_panel=LOGGING,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist already.")]
