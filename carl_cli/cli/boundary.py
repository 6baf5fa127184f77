"""The one place where failures become an error line, a hint and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from carl_cli.errors import as_carl_error

EXIT_INTERRUPTED = 130
EXIT_SIGNAL = 128
EXIT_BUG = 1
REMINDER_SECONDS = 0.5


class Terminated(BaseException):
    """SIGTERM or SIGHUP, which a scheduler or a closed terminal sends: what is open gets closed,
    half-written files go away."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code_of(call: Callable[[], object]) -> int:
    """Run the call; say on stderr what went wrong; return the exit code of the process."""
    code = _outcome(call)
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    return code


def _outcome(call: Callable[[], object]) -> int:
    try:
        with _ending_by_signal():
            call()
        sys.stdout.flush()
    except SystemExit as stop:
        return _code_of_exit(stop)
    except KeyboardInterrupt:
        return _interrupted()
    except Terminated as end:
        _say("\nerror", f"ended by {end}")
        return EXIT_SIGNAL + end.number
    except BrokenPipeError:
        return _reader_gone()
    except Exception as failure:
        return _report(failure)
    return 0


@contextmanager
def _ending_by_signal() -> Iterator[None]:
    """Signals that would kill the process at once raise Terminated in it instead, and Ctrl-C
    raises KeyboardInterrupt until it is heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = {n: signal.getsignal(n) for name in names if (n := getattr(signal, name, None))}
    # nohup ignores SIGHUP, a shell's & ignores SIGINT, and then so do we
    usual = (signal.SIG_DFL, signal.default_int_handler)
    taken = {number: handler for number, handler in before.items() if handler in usual}
    for number in taken:
        signal.signal(number, _raise_end)
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in taken.items():
            signal.signal(number, handler)


def _raise_end(number: int, _frame: FrameType | None) -> None:
    """Code that was interrupted may swallow the exception, as libraries do that call Python back:
    it is raised again and again until it is on its way out."""

    def remind(_alarm: int, _frame: FrameType | None) -> None:
        if not _on_its_way(sys.exc_info()[1]):
            raise _end_by(number)

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, remind)
        signal.setitimer(signal.ITIMER_REAL, REMINDER_SECONDS, REMINDER_SECONDS)
    raise _end_by(number)


def _end_by(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def _on_its_way(handled: BaseException | None) -> bool:
    """Whether what is cleaned up at this moment is cleaned up because of the signal."""
    while handled is not None and not isinstance(handled, (Terminated, KeyboardInterrupt)):
        handled = handled.__context__
    return handled is not None


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
    with suppress(OSError):  # a full disk behind stderr costs the words, not the exit code
        print(f"{label}: {text}", file=sys.stderr)


def _let_go(stream: TextIO) -> None:
    """What a stream can't take must not be tried again at exit: the code would become 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    """`carl … | head` closed the pipe: no message."""
    return EXIT_BUG
