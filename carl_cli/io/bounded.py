"""A file is read for trial in a child process first: damage may end the child, never this one.

ITK's HDF5 library can crash or run without end on a damaged file, and a damaged header can ask
for any amount of memory. A limit of memory for this process would also hit what its other
threads do meanwhile.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from pathlib import Path

from carl_cli.errors import InputError
from carl_cli.io.sitk_bridge import GZIP_LIMIT

SPARE_BYTES = 2**29
COPIES = 8
"""Doubles made of floats, a field and its parameters side by side: of each byte in a file."""
SECONDS, SECONDS_PER_MIB = 5, 10  # of work, far above what a sound file takes
HUNGRY = 3  # exit code of a child that was refused memory


def try_out(path: Path, read: Callable[[], object]) -> None:
    """Raise InputError if `read` crashes, or needs more memory or work than the file explains.

    Any other failure of `read` is left to the caller's own attempt. Nothing is tried where
    processes can't fork (Windows).
    """
    if sys.platform == "win32":
        return
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _end(path, read)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise InputError(f"{path}: damaged: the library that reads it breaks down", "Make it anew")
    if os.WEXITSTATUS(status) == HUNGRY:
        raise InputError(f"{path}: its header claims more than the file can hold")


def _end(path: Path, read: Callable[[], object]) -> None:
    """In the child: read, and leave without any of the parent's own endings."""
    code = 0
    faulthandler.disable()  # the parent tells of a crash
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _limit_work(path)
        _limit_memory(path)
        read()
    except MemoryError:
        code = HUNGRY
    except BaseException as error:  # nothing may return into the parent's code
        code = HUNGRY if "allocate" in str(error) else 0
    os._exit(code)


def _limit_work(path: Path) -> None:
    """Soft and hard limit alike: the system ends the child without a core dump."""
    import resource

    bound = SECONDS + SECONDS_PER_MIB * path.stat().st_size // 2**20
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
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
