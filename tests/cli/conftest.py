"""The command line run in this process, with its exit code, stdout and stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from carl_cli.cli.app import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Carl = Callable[..., Outcome]


@pytest.fixture
def carl(capsys: pytest.CaptureFixture[str]) -> Carl:
    """`carl("warp", "x.nii", …)` → what a shell would have seen."""

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, out, err)

    return run
