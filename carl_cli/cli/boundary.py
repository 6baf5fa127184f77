"""The one place where failures become an error line, a hint and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from carl_cli.errors import as_carl_error

EXIT_INTERRUPTED = 130
EXIT_BUG = 1


def exit_code_of(call: Callable[[], object]) -> int:
    """Run the call; say on stderr what went wrong; return the exit code of the process."""
    try:
        call()
        sys.stdout.flush()
    except SystemExit as stop:
        return _code_of_exit(stop)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        return _reader_gone()
    except Exception as failure:
        return _report(failure)
    return 0


def _report(failure: Exception) -> int:
    known = as_carl_error(failure)
    if os.environ.get("CARL_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(failure)
    if known is None:
        _say("error", f"{type(failure).__name__}: {_one_line(failure)}")
        _say("hint", "this is a bug in carl; `carl --debug …` or CARL_DEBUG=1 shows the traceback")
        return EXIT_BUG
    _say("error", known.message)
    if known.hint:
        _say("hint", known.hint)
    return known.exit_code


def _one_line(failure: Exception) -> str:
    return " ".join(str(failure).split())


def _say(label: str, text: str) -> None:
    print(f"{label}: {text}", file=sys.stderr)


def _code_of_exit(stop: SystemExit) -> int:
    """Typer has already spoken, except that it is silent about an interruption."""
    if stop.code == EXIT_INTERRUPTED:
        return _interrupted()
    if isinstance(stop.code, str):
        _say("error", stop.code)
        return EXIT_BUG
    return stop.code or 0


def _interrupted() -> int:
    _say("\nerror", "interrupted")
    return EXIT_INTERRUPTED


def _reader_gone() -> int:
    """`carl … | head` closed the pipe: no message, and nothing more to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BUG
