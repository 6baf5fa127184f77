"""Shell completion of command and option names, through the lazy group."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def completions(line: str) -> list[str]:
    """What bash would be offered for the last word of the line."""
    words = line.split(" ")
    environment = {
        "_CARL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "carl_cli.cli.app"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("carl doc", ["doctor"]),
        ("carl doctor --fo", ["--folder"]),
        ("carl zzz", []),
        ("carl register a b --weights carl-", ["carl-base", "carl-base-2d"]),
        ("carl batch a --weights multi", ["multigradicon"]),
        ("carl demo --weights zzz", []),
        ("carl warp a -n genericl", ["genericlabel"]),
        ("carl warp a -n bspline[3", ["bspline[3]"]),
    ],
)
def test_completion(line: str, offered: list[str]) -> None:
    assert completions(line) == offered


def test_every_interpolation_that_is_offered_is_known() -> None:
    from carl_cli.cli.options.completion import INTERPOLATIONS
    from carl_cli.io.resample import interpolator_name

    for name in INTERPOLATIONS:
        interpolator_name(name)  # raises UsageError for others
