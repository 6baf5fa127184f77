"""`carl` in processes that are forked from one which has loaded everything already.

Each has its own environment, folder and streams, as one started from a shell has; but its
start takes milliseconds. Only huggingface_hub, which reads the environment as it is imported,
is imported after the fork, with what it needs in memory already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn


class Outcome(NamedTuple):
    returncode: int
    stdout: str
    stderr: str = ""


class Forks:
    """The parent of all: `run` has it fork once."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self.process = process
        self.scratch = scratch

    def run(
        self,
        args: list[str],
        environment: dict[str, str],
        folder: Path,
        user: int = 0,
        terminal: str | None = None,
    ) -> Outcome:
        """user: a number to become, 0 to stay. terminal: what stderr is, in place of a file."""
        streams = [str(self.scratch / name) for name in ("out", "err")]
        order = {"args": args, "environment": environment, "folder": str(folder), "user": user}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        opened = [streams[0], terminal or streams[1]]
        self.process.stdin.write(json.dumps({**order, "streams": opened}) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return Outcome(code, *(Path(path).read_text() for path in streams[: 1 if terminal else 2]))


@contextmanager
def started(scratch: Path, repository: Path) -> Iterator[Forks]:
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    with process:
        yield Forks(process, scratch)
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    import encodings.idna  # noqa: F401 (another user may not see where Python lies)

    import safetensors.torch  # noqa: F401
    from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download  # noqa: F401

    import carl_cli.cli.weights
    import carl_cli.training.export  # noqa: F401

    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(order: dict[str, object]) -> NoReturn:
    from carl_cli.cli.app import main

    streams, environment = order["streams"], order["environment"]
    assert isinstance(streams, list)
    assert isinstance(environment, dict)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(order["folder"]))
    if user := order["user"]:
        os.setuid(int(str(user)))
    code = 1
    try:
        main(list(order["args"]))  # type: ignore[call-overload]
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
