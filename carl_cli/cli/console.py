"""What the command line says on stderr: log lines, warnings, progress. Data goes to stdout."""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from carl_cli.errors import OutputError
from carl_cli.progress import Progress, silent
from carl_cli.system import limit_threads, thread_count

LOGGER = logging.getLogger("carl_cli")
LEAST_DONE = 0.05
LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ carl_cli")


def start(
    verbose: bool = False,
    quiet: bool = False,
    log_file: Path | None = None,
    threads: int | None = None,
) -> int:
    """First call of every command: logging and thread limits. Returns the thread count.

    Library modules log with `logging.getLogger(__name__)`; what they warn about is shown too.
    Raises UsageError for a thread count below 1, OutputError when the log can't be written.
    """
    _keep_stderr_apart()
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    LOGGER.handlers = [_terminal_handler(verbose, quiet)]
    if log_file is not None:
        LOGGER.addHandler(_file_handler(log_file))
    for handler in LOGGER.handlers:
        handler.addFilter(_Once())
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # positional, as Python calls it
    count = thread_count(threads)
    limit_threads(count)
    return count


def _keep_stderr_apart() -> None:
    """Python writes to a descriptor of its own: what C libraries write to descriptor 2 is caught
    (`io.sitk_bridge.overheard`), and lines of other threads would go with it."""
    with suppress(AttributeError, OSError):  # no stderr, or one without a descriptor
        if sys.stderr.fileno() == 2:
            own, encoding = os.dup(2), sys.stderr.encoding
            sys.stderr = open(own, "w", 1, encoding, "backslashreplace")  # noqa: SIM115


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress callback: a bar on a terminal, otherwise one log line for each stage."""
    if LOGGER.handlers and LOGGER.handlers[0].level > logging.INFO:
        yield silent
    elif sys.stderr.isatty():
        with _progress_bar() as callback:
            yield callback
    else:
        yield _stage_lines()


def may_redraw() -> bool:
    """Whether something that changes may be shown: on a terminal, unless more or less was asked."""
    return sys.stderr.isatty() and LOGGER.handlers[0].level == logging.INFO


@contextmanager
def only_problems() -> Iterator[None]:
    """While something else tells how the work goes on: only warnings and errors, above it.

    A log file gets every line as before.
    """
    handler = LOGGER.handlers[0]
    level = handler.level
    handler.setLevel(logging.WARNING)
    try:
        with _above():
            yield
    finally:
        handler.setLevel(level)


@contextmanager
def _above() -> Iterator[None]:
    """Log lines go above what rich redraws, each on a line of its own: rich has put a stream of
    its own in the place of stderr."""
    handler = LOGGER.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    stream = handler.setStream(sys.stderr)
    try:
        yield
    finally:
        handler.setStream(stream or handler.stream)


class _Once(logging.Filter):
    """Lets a warning through once: a file that is read three times is warned of once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        new = text not in self._said
        self._said.add(text)
        return new


class _ShortFormatter(logging.Formatter):
    """Plain text; warnings and worse carry their name, as the error line does."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _terminal_handler(verbose: bool, quiet: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_ShortFormatter())
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    return handler


class _LogFile(logging.FileHandler):
    """A log that can't be written any more is told of once; it does not end the run."""

    complete = True

    def handleError(self, record: logging.LogRecord) -> None:
        if self.complete:
            self.complete = False
            reason = sys.exc_info()[1]
            print(f"warning: the log {self.baseFilename} is incomplete: {reason}", file=sys.stderr)


def _file_handler(path: Path) -> logging.Handler:
    _check_log(path)
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as failure:
        raise OutputError(f"the log {path} can't be written: {failure.strerror}") from failure
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _check_log(path: Path) -> None:
    """Raise OutputError for what is there and is no log: lines would be added to it."""
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISCHR(kind)):
            raise OutputError(f"the log {path} is no file", "name a file")
        start = b"" if stat.S_ISCHR(kind) else path.open("rb").read(64)
    except FileNotFoundError:
        return
    except OSError as failure:
        raise OutputError(f"the log {path} can't be written: {failure.strerror}") from failure
    if start and not LOG_LINE.match(start):
        raise OutputError(f"{path} is there and is not a log of carl", "name another --log-file")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    _filename: str,
    _lineno: int,
    _file: TextIO | None = None,
    _line: str | None = None,
) -> None:
    if issubclass(category, UserWarning | RuntimeWarning):
        LOGGER.warning("%s", message)


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    texts = (TextColumn("{task.fields[left]}"), TextColumn("{task.fields[detail]}"))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *texts)
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, fraction: float, detail: str = "", /) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0, detail="", left="")
            left = _time_left(fraction, bar.tasks[tasks[stage]].elapsed or 0.0)
            bar.update(tasks[stage], completed=fraction, detail=detail, left=left)

        with _above():
            yield report


def _time_left(fraction: float, elapsed_s: float) -> str:
    """Empty as long as too little is done to tell, and at the end. A stage's shares follow its time
    closely enough that the whole of it tells more than its last steps."""
    if not LEAST_DONE <= fraction < 1:
        return ""
    minutes, seconds = divmod(round(elapsed_s * (1 - fraction) / fraction), 60)
    return f"{minutes}:{seconds:02d} left"


def _stage_lines() -> Progress:
    seen: set[str] = set()

    def report(stage: str, _fraction: float, _detail: str = "", /) -> None:
        if stage not in seen:
            seen.add(stage)
            LOGGER.info("%s", stage)

    return report
