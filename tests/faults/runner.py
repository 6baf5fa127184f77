"""`carl` run as a process: the real one, or a fork of a server that has imported it already."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 10.0
MORE_BYTES = 3 * 2**30
"""What a command may allocate for a file of some kilobytes, address space included."""


@dataclass(frozen=True)
class Ended:
    """code: negative for a signal. grown_bytes: memory above that of the server. struck: the
    signal that was asked for met it alive. steps: from line to line, as far as they were traced."""

    code: int
    late: bool
    out: str
    err: str
    grown_bytes: int = 0
    struck: bool = False
    steps: tuple[str, ...] = ()


def installed() -> list[str]:
    """The `carl` that was installed beside this Python, else the module of this checkout."""
    script = shutil.which("carl", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", "carl_cli.cli.app"]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    quiet = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return {**os.environ, **quiet, **more}


def process(args: list[object], folder: Path, seconds: float = 120.0, **more: str) -> Ended:
    """`carl args` as a process of its own, to its end."""
    command = [*installed(), *map(str, args)]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return Ended(-9, True, "", (late.stderr or b"").decode("utf-8", "replace"))
    out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    return Ended(done.returncode, False, out, err)


class Server:
    """A client of `tests.faults.server`. Started anew when it should have died."""

    def __init__(self, heavy: bool = False) -> None:
        self.command = [sys.executable, "-m", "tests.faults.server", *(["--heavy"] * heavy)]
        self.child = self._start()

    def _start(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            self.command,
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", "the server did not start"
        return child

    def run(
        self,
        args: list[object],
        folder: Path,
        seconds: float = SECONDS,
        more_bytes: int | None = MORE_BYTES,
        blow: tuple[int, int, float] | None = None,
        traced: Path | None = None,
    ) -> Ended:
        question = {
            "args": [str(arg) for arg in args],
            "folder": str(folder),
            "seconds": seconds,
            "more_bytes": more_bytes,
            "blow": blow,
            "traced": None if traced is None else str(traced),
        }
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps(question) + "\n")
        self.child.stdin.flush()
        return Ended(**json.loads(self.child.stdout.readline()))

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
