"""Every failure ends as an error line, a hint and the right exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import SimpleITK

from carl_cli import errors
from carl_cli.cli import boundary
from tests.cli.conftest import Carl


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Carl:
    """Makes `carl cite` raise what the test wants."""

    def make(failure: BaseException) -> None:
        def cite() -> None:
            raise failure

        module = types.ModuleType("carl_cli.cli.about")
        module.cite = cite  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "carl_cli.cli.about", module)

    return make


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.InputError, 3),
        (errors.WeightsError, 4),
        (errors.OutOfMemoryError, 5),
        (errors.BatchError, 6),
        (errors.OutputError, 7),
    ],
)
def test_expected_failures(carl: Carl, failing, kind, code) -> None:  # type: ignore[no-untyped-def]
    failing(kind("found 3 axes, expected 4", "give the other file"))
    outcome = carl("cite")
    assert outcome == (code, "", "error: found 3 axes, expected 4\nhint: give the other file\n")


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (MemoryError(), 5, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 5, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 5, "out of memory"),
        (RuntimeError("ITK ERROR: Failed to allocate memory for image."), 5, "out of memory"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/f.nii"),
            7,
            "/x/f.nii: No space left",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/x/f.nii"), 7, "Read-only file system"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("two\nlines"), 1, "error: ValueError: two lines\nhint: this is a bug in carl"),
        (RuntimeError("shape mismatch"), 1, "this is a bug"),
        (FileNotFoundError(2, "No such file", "/y"), 3, "/y: can't be read: No such file"),
        (FileExistsError(17, "File exists", "/y"), 7, "/y: a file, where a folder was expected"),
        (PermissionError(13, "Permission denied", "/y"), 3, "/y: can't be read: Permission denied"),
        (FileNotFoundError(2, "No such file"), 1, "this is a bug"),
    ],
)
def test_other_failures(carl: Carl, failing, failure, code, words) -> None:  # type: ignore[no-untyped-def]
    failing(failure)
    outcome = carl("cite")
    assert outcome.code == code
    assert words in outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(carl: Carl, failing, how, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("CARL_DEBUG", "1" if how == "environment" else "0")
    failing(ValueError("odd"))
    outcome = carl(*(["--debug"] if how == "option" else []), "cite")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "in cite" in outcome.err


@pytest.mark.parametrize("args", [["bogus"], ["cite", "--bogus"], ["cite", "surplus"]])
def test_usage_errors_are_2(carl: Carl, args: list[str]) -> None:
    outcome = carl(*args)
    assert outcome.code == 2
    assert args[-1] in outcome.err
    assert outcome.out == ""


def test_version_and_help_are_data(carl: Carl) -> None:
    from carl_cli import __version__

    assert carl("--version") == (0, f"carl {__version__}\n", "")
    assert carl("-h").out == carl("--help").out != ""


def test_a_closed_pipe_is_quiet() -> None:
    """As `carl cite | true`: no traceback, and not a success."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(_carl("cite"), stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_on_stdout_is_an_output_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is a Linux device")
    with open("/dev/full", "w") as full:
        done = subprocess.run(_carl("cite"), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 7
    assert done.stderr.startswith("error: No space left on device\n")


def test_a_full_disk_on_stderr_costs_the_words_and_not_the_code(tmp_path: Path) -> None:
    """Python ends with 120 where the last words don't fit."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is a Linux device")
    for words, code in ((("info", tmp_path / "absent.nii"), 3), (("cite",), 7)):
        with open("/dev/full", "w") as full:
            done = subprocess.run(_carl(*map(str, words)), stdout=full, stderr=full)
        assert done.returncode == code


def test_an_interrupt_from_outside_is_130() -> None:
    script = (
        "import sys, types, time\n"
        "module = types.ModuleType('carl_cli.cli.about')\n"
        "def cite():\n    print('started', flush=True); time.sleep(60)\n"
        "module.cite = cite; sys.modules['carl_cli.cli.about'] = module\n"
        "from importlib.machinery import ModuleSpec\n"
        "module.__spec__ = ModuleSpec('carl_cli.cli.about', None)\n"
        "from carl_cli.cli.app import main; main(['cite'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores it, and so would these tests' children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "\nerror: interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_end_that_is_swallowed_comes_again(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """A library that drops the exception doesn't make the run go on; cleaning up is let alone."""
    monkeypatch.setattr(boundary, "REMINDER_SECONDS", 0.05)
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}[number]
    before = signal.signal(number, usual)
    done: list[str] = []

    def run() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(20)
        except BaseException:
            done.append("swallowed")
        try:
            time.sleep(20)
            done.append("went on")
        finally:
            time.sleep(0.3)
            done.append("cleaned up")

    assert boundary.exit_code_of(run) == code
    assert done == ["swallowed", "cleaned up"]
    time.sleep(0.2)  # and then there is peace
    assert signal.signal(number, before) == usual


def _carl(*args: str) -> list[str]:
    return [sys.executable, "-m", "carl_cli.cli.app", *args]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("info", "a.tfm"), 0),
        (("convert", "a.tfm", "-o", "b.txt"), 0),
        (("report", "a.tfm", "-o", "b.html"), 3),
    ],
)
def test_a_file_is_refused_where_it_is_read(
    carl: Carl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], code: int
) -> None:
    """What the system says of permissions beforehand makes no wrong usage of a file."""
    SimpleITK.WriteTransform(SimpleITK.AffineTransform(3), str(tmp_path / "a.tfm"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda _, mode, **__: mode != os.R_OK)
    outcome = carl(*command)
    assert outcome.code == code, outcome.err
