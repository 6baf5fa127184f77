"""How many threads this process may use, and the telling of it to the libraries.

Nothing heavy is imported: limits set in the environment reach a library when it loads,
and libraries that are loaded already are told directly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from carl_cli.errors import UsageError

# What a scheduler or a user allots, in the order in which it is believed.
ALLOTMENTS = ("SLURM_CPUS_PER_TASK", "NSLOTS", "OMP_NUM_THREADS")
LIBRARY_LIMITS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def thread_count(
    requested: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Threads to compute with: the request, else the scheduler's allotment, else the machine's.

    The machine's are the cores that affinity and the cgroup quota leave to this process.
    Raises UsageError when fewer than one thread is requested.
    """
    if requested is not None:
        if requested < 1:
            raise UsageError(f"--threads {requested}: at least 1 thread is needed")
        return requested
    for name in ALLOTMENTS:
        allotted = _positive_integer(environ.get(name, ""))
        if allotted:
            return allotted
    return usable_cores()


def usable_cores() -> int:
    """Cores that this process may run on, a started share of a core counting as one."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cgroup_quota()
    return cores if quota is None else max(1, min(cores, quota))


def limit_threads(count: int) -> None:
    """Hold OpenMP, BLAS, ITK and torch to `count` threads, loaded already or not.

    OpenMP's threads sleep while they wait for each other, unless the user said otherwise. By
    default they keep their cores busy, and where another process wants these, each waits for a
    thread that can't run: two processes of two threads were two to five times slower so.
    """
    for name in LIBRARY_LIMITS:
        os.environ[name] = str(count)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
    simple_itk = sys.modules.get("SimpleITK")
    if simple_itk is not None:
        simple_itk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)


def cgroup_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Cores of the tightest CPU quota on the way up to the root, rounded up; None without one."""
    quotas = [_quota_of(folder) for folder in _cgroup_folders(root, _read(membership))]
    return min((cores for cores in quotas if cores), default=None)


def _cgroup_folders(root: Path, membership: str) -> list[Path]:
    """Folders of this process's groups and of their ancestors; lines read `id:controllers:path`."""
    folders = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            top = root / "cpu" if controllers else root
            own = top / path.strip("/")
            folders += [own, *(parent for parent in own.parents if parent.is_relative_to(top))]
    # Inside a container the group's own path is often hidden and the quota lies at the root.
    return [*folders, root, root / "cpu"]


def _quota_of(folder: Path) -> int:
    """Whole cores of one group, 0 when it has no quota. Version 2's file, else version 1's two."""
    limit, _, period = _read(folder / "cpu.max").partition(" ")
    if not period:
        limit = _read(folder / "cpu.cfs_quota_us")
        period = _read(folder / "cpu.cfs_period_us")
    quota, length = _positive_integer(limit), _positive_integer(period)
    return -(-quota // length) if quota and length else 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _positive_integer(text: str) -> int:
    """The (first) number of "4" or "4,2"; 0 for anything else ("max", "-1", "")."""
    first = text.split(",")[0].strip()
    return int(first) if first.isdigit() else 0
