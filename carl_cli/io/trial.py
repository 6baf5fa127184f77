"""A file is read for trial in a process of its own first: damage may end that one, never ours.

ITK's HDF5 library can crash or run without end on a damaged file, and a damaged header can ask
for any amount of memory. A limit of memory for this process would also hit what its other
threads do meanwhile.
"""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from carl_cli.errors import InputError
from carl_cli.io.sitk_bridge import GZIP_LIMIT

SPARE_BYTES = 2**29
COPIES = 8
"""Doubles made of floats, a field and its parameters side by side: of each byte in a file."""
SECONDS, SECONDS_PER_MIB = 3, 10  # of work, far above what a sound file takes
PATIENCE = 20
"""Seconds by the clock for one of work: other processes may want the processor too."""
HUNGRY = 3  # exit code of a child that was refused memory
START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "


def try_out(path: Path, program: str) -> None:
    """Raise InputError if reading crashes, or needs more memory or work than the file explains.

    program: Python that reads the file named by `sys.argv[1]`, within `limited`. Any other
    failure of it is left to the caller's own attempt.
    """
    work = SECONDS + SECONDS_PER_MIB * path.stat().st_size // 2**20
    command = [sys.executable, "-c", START + program, json.dumps(sys.path), str(path), str(work)]
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE * work,
            check=False,
        )  # fmt: skip
        if done.returncode == HUNGRY:
            raise InputError(f"{path}: its header claims more than the file can hold")
        if done.returncode >= 0:
            return
    raise InputError(
        f"{path}: damaged: the library that reads it breaks down",
        "write it again with the program that made it",
    )


def limited(read: Callable[[Path], Any]) -> None:
    """In the child: read, within bounds that the size of the file explains."""
    path, work = Path(sys.argv[1]), int(sys.argv[2])
    faulthandler.disable()  # the parent tells of a crash
    code = 0
    try:
        if sys.platform != "win32":
            _limit_work(work)
            _limit_memory(path)
        read(path)
    except MemoryError:
        code = HUNGRY
    except Exception as error:
        code = HUNGRY if "allocate" in str(error) else 0
    sys.exit(code)


def _limit_work(seconds: int) -> None:
    """Soft and hard limit alike: the system ends the child without a core dump."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    bound = seconds if hard == resource.RLIM_INFINITY else min(seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (bound, bound))


def _limit_memory(path: Path) -> None:
    import resource

    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    bound = used + SPARE_BYTES + COPIES * GZIP_LIMIT * path.stat().st_size
    allowed = [limit for limit in (soft, hard, bound) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
