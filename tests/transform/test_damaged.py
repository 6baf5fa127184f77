"""Files that break the library that reads them end in one error, not in a dead process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from carl_cli.errors import InputError
from carl_cli.io.bounded import try_out
from carl_cli.io.transform import read_transform

REGRESSIONS = Path(__file__).parents[1] / "faults" / "regressions"


def test_a_file_that_crashes_hdf5() -> None:
    with pytest.raises(InputError, match=r"crash_in_hdf5.h5: .*breaks down"):
        read_transform(REGRESSIONS / "crash_in_hdf5.h5")


def test_a_crash_and_a_hunger_stay_in_the_child(tmp_path: Path) -> None:
    path = tmp_path / "small.h5"
    path.write_bytes(b"0" * 100)
    here = os.getpid()

    def crash() -> None:
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(InputError, match="breaks down"):
        try_out(path, crash)
    with pytest.raises(InputError, match="claims more"):
        try_out(path, lambda: bytearray(3 * 2**30))


def test_other_failures_are_left_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "small.h5"
    path.write_bytes(b"0" * 100)

    def refuse() -> None:
        raise ValueError("not this one")

    try_out(path, refuse)
    try_out(path, lambda: None)
