"""What commands say on stderr, and what they refuse to overwrite."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from carl_cli.cli import console
from carl_cli.cli.options.shared import check_outputs
from carl_cli.errors import OutputError

SPEAK = """
import logging, warnings
from carl_cli.cli import console
console.start({settings})
log = logging.getLogger("carl_cli.io.images.files")
log.debug("a detail"); log.info("a fact"); log.warning("a doubt")
warnings.warn("from a library"); warnings.warn("old", DeprecationWarning)
with console.progress() as progress:
    for step in range(4):
        progress("network", step / 3); progress("transform", step / 3, "loss 0.5")
print("data")
"""


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (
            "",
            ["a fact", "warning: a doubt", "warning: from a library", "network", "transform"],
        ),
        (
            "verbose=True",
            [
                "a detail",
                "a fact",
                "warning: a doubt",
                "warning: from a library",
                "network",
                "transform",
            ],
        ),
        ("quiet=True", ["warning: a doubt", "warning: from a library"]),
    ],
)
def test_log_lines_go_to_stderr_and_data_to_stdout(settings: str, lines: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAK.format(settings=settings)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "data\n"
    assert done.stderr.splitlines() == lines


def test_a_progress_bar_only_on_a_terminal() -> None:
    """On a pseudo-terminal the stages are drawn, with escape codes."""
    drawn = drawn_on_a_terminal(SPEAK.format(settings=""))
    assert "\x1b[" in drawn
    assert "network" in drawn
    assert "loss 0.5" in drawn


@pytest.mark.parametrize(
    ("fraction", "elapsed_s", "told"),
    [(0.01, 5, ""), (0.25, 30, "1:30 left"), (0.9, 9, "0:01 left"), (1.0, 5, "")],
)
def test_the_time_left_is_what_the_rest_takes_at_the_same_rate(
    fraction: float, elapsed_s: float, told: str
) -> None:
    assert console._time_left(fraction, elapsed_s) == told


def test_a_stage_under_way_says_how_long_it_will_take() -> None:
    under_way = """
import time
from carl_cli.cli import console
console.start()
with console.progress() as progress:
    progress("network", 0.0)
    time.sleep(0.3)
    progress("network", 0.1, "matching")
"""
    assert re.search(r"0:0[2-9] left.*matching", drawn_on_a_terminal(under_way))


ON_A_TERMINAL = """
import logging, sys
from carl_cli.cli import console
console.start()
log = logging.getLogger("carl_cli.io.images.files")
with console.progress() as progress:
    progress("network", 0.5)
    assert console.LOGGER.handlers[0].stream is sys.stderr  # the one that rich has put there
    log.warning("a doubt")
log.warning("a doubt"); log.warning("another")
"""


def drawn_on_a_terminal(code: str) -> str:
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    drawn = b""
    try:
        while chunk := os.read(mine, 4096):
            drawn += chunk
    except OSError:  # Linux's way of saying that the other end is closed
        pass
    os.close(mine)
    assert process.wait() == 0, drawn
    return drawn.decode()


def test_a_warning_has_a_line_of_its_own_and_is_said_once() -> None:
    drawn = drawn_on_a_terminal(ON_A_TERMINAL)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    lines = [line.split("\r")[-1].strip() for line in plain.splitlines()]
    assert [line for line in lines if "doubt" in line or "another" in line] == [
        "warning: a doubt",
        "warning: another",
    ]


def test_the_log_file_holds_everything(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    settings = f"quiet=True, log_file=__import__('pathlib').Path({str(log)!r})"
    subprocess.run(
        [sys.executable, "-c", SPEAK.format(settings=settings)], check=True, capture_output=True
    )
    text = log.read_text()
    assert "DEBUG carl_cli.io.images.files: a detail" in text
    assert "WARNING carl_cli: from a library" in text


def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        console.start(log_file=tmp_path / "absent" / "run.log")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """`console.start` sets process-wide state; undo it after each test."""
    logger, shown = logging.getLogger("carl_cli"), warnings.showwarning
    before = logger.handlers, logger.level, logger.propagate
    environment = dict(os.environ)
    yield
    logger.handlers, logger.level, logger.propagate = before
    warnings.showwarning = shown
    os.environ.clear()
    os.environ.update(environment)


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    old = tmp_path / "old.nii.gz"
    old.write_text("x")
    check_outputs([tmp_path / "new.nii.gz"], overwrite=False)
    check_outputs([old], overwrite=True)
    with pytest.raises(OutputError, match=r"old\.nii\.gz exists already") as failure:
        check_outputs([tmp_path / "new.nii.gz", old], overwrite=False)
    assert "--overwrite" in failure.value.hint
    with pytest.raises(OutputError, match="does not exist"):
        check_outputs([tmp_path / "absent" / "new.nii.gz"], overwrite=True)


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    with pytest.raises(OutputError, match="can't be written to"):
        check_outputs([tmp_path / "new.nii.gz"], overwrite=False)
