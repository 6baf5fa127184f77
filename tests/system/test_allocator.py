"""Freed memory that is kept costs no page faults when it is asked for again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(40 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
PAGES = (40 << 20) // 4096


def _faults_of_the_second_block(first: str) -> int:
    command = [sys.executable, "-c", SCRIPT.format(first=first)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_second_block_is_the_first_one_again() -> None:
    keep = "from carl_cli.system import keep_freed_memory; keep_freed_memory()"
    assert _faults_of_the_second_block(keep) < PAGES / 100
    # Huge pages can be on: then 20 faults of 2 MiB each.
    assert _faults_of_the_second_block("pass") >= PAGES / 512


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from carl_cli import system

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(system.ctypes, "CDLL", lambda _: pytest.fail("asked for the C library"))
    system.keep_freed_memory()
