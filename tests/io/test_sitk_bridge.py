"""What C libraries say on descriptor 2 is heard by the call that they said it in."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

import pytest

from carl_cli.io.sitk_bridge import overheard


def test_two_threads_and_a_log_handler(capfd: pytest.CaptureFixture[str]) -> None:
    """Overlapping calls: each hears its own, the log is whole, descriptor 2 stays as it was."""
    before = os.fstat(2)
    stream = os.fdopen(os.dup(2), "w", buffering=1)
    logger = logging.Logger("other")
    logger.addHandler(logging.StreamHandler(stream))
    heard: dict[str, str] = {}
    inside, done = threading.Event(), threading.Event()

    def library(name: str) -> int:
        inside.set()
        for _ in range(20):
            os.write(2, f"{name}\n".encode())
            done.wait(0.005)
        return 1

    def listen(name: str) -> None:
        heard[name] = overheard(lambda: library(name))[1]

    threads = [threading.Thread(target=listen, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    inside.wait()
    for k in range(40):
        logger.warning("line %d", k)
        done.wait(0.005)
    for thread in threads:
        thread.join()
    stream.close()
    assert {name: set(said.split()) for name, said in heard.items()} == {
        "one": {"one"}, "two": {"two"},
    }  # fmt: skip
    assert capfd.readouterr().err.splitlines() == [f"line {k}" for k in range(40)]
    assert os.path.samestat(os.fstat(2), before)


LOUD = """
import logging, os, threading
from carl_cli.cli.console import start
from carl_cli.io.sitk_bridge import overheard
start()
inside, said = threading.Event(), threading.Event()
def library():
    os.write(2, b"from C")
    inside.set()
    said.wait()
thread = threading.Thread(target=overheard, args=(library,))
thread.start()
inside.wait()
logging.getLogger("carl_cli.batch").info("from another thread")
said.set()
thread.join()
"""


def test_the_log_of_the_command_line_is_complete() -> None:
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, check=True)
    assert done.stderr == "from another thread\n"


def test_a_call_within_a_call(capfd: pytest.CaptureFixture[str]) -> None:
    def outer() -> str:
        os.write(2, b"before ")
        said = overheard(lambda: os.write(2, b"within"))[1]
        os.write(2, b"after")
        return said

    assert overheard(outer) == ("within", "before after")
    assert capfd.readouterr().err == ""


def test_a_failure_gives_stderr_back(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        os.write(2, b"details")
        raise RuntimeError("it failed")

    with pytest.raises(RuntimeError, match="it failed"):
        overheard(fail)
    os.write(2, b"heard by all")
    assert capfd.readouterr().err == "heard by all"
