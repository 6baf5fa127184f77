"""What this process may use of the machine: threads, memory, and how freed memory is kept.

The machine, affinity, cgroups (version 1 and 2), `ulimit` and Slurm each set limits. Nothing heavy
is imported: limits set in the environment reach a library when it loads, and libraries that are
loaded already are told directly.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from carl_cli.errors import UsageError

MIB = 1 << 20
PACKAGE = Path(__file__).parent
UNLIMITED = 1 << 60  # cgroups of version 1 write a huge number where there is no limit
CGROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")

# What a scheduler or a user allots, in the order in which it is believed.
ALLOTMENTS = ("SLURM_CPUS_PER_TASK", "NSLOTS", "OMP_NUM_THREADS")
LIBRARY_LIMITS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

MOST_THREADS = 4096

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def thread_count(
    requested: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Threads to compute with: the request, else the scheduler's allotment, else the machine's.

    The machine's are the cores that affinity and the cgroup quota leave to this process.
    Raises UsageError when fewer than one thread is requested, or more than any machine has.
    """
    if requested is not None:
        if not 1 <= requested <= MOST_THREADS:
            raise UsageError(f"--threads {requested}", f"give a number from 1 to {MOST_THREADS}")
        return requested
    for name in ALLOTMENTS:
        allotted = _first_number(environ.get(name, ""))
        if allotted:
            return min(allotted, MOST_THREADS)
    return usable_cores()


def usable_cores() -> int:
    """Cores that this process may run on; a started share of a core counts as one."""
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
    thread that can't run: two processes of two threads were two to five times slower that way.
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


def cgroup_quota(root: Path = CGROUPS, process: Path = PROCESS) -> int | None:
    """Cores of the tightest CPU quota on the way up to the root, rounded up; None without one."""
    quotas = [_quota_of(folder) for folder in _cgroup_folders(root, process, "cpu")]
    return min((cores for cores in quotas if cores), default=None)


class Allowance(NamedTuple):
    """mib: what the process may fill in all; source: what limits it, in the user's words."""

    mib: float
    source: str


def main_memory(
    environ: Mapping[str, str] = os.environ,
    cgroups: Path = CGROUPS,
    process: Path = PROCESS,
    machine: Path = Path("/proc/meminfo"),
) -> Allowance | None:
    """The tightest limit of this process's resident memory; None where nothing tells."""
    limits = [
        *_machine(machine),
        *_of_cgroups(cgroups, process),
        *_of_slurm(environ),
        *_of_address_space(process),
    ]
    return min(limits, default=None)


def gpu_memory(device: str) -> Allowance:
    """What is free on a GPU, with what this process holds of it."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device)
    return Allowance((free + own) / MIB, f"{device} with {total / MIB / 1024:.1f} GiB")


def resident_mib(process: Path = PROCESS) -> float:
    """What this process has filled; 0 where nothing tells."""
    return _kibibytes(_text(process / "status"), "VmRSS") / 1024


def keep_freed_memory() -> None:
    """From now on this process keeps large blocks it frees, for the next ones it needs.

    A network frees and asks for hundreds of megabytes from layer to layer. glibc hands each
    large block back at once, and the kernel clears every page of the next one: up to a fifth of
    the time of convolutions on a CPU. The peak stays the same, but memory is only given back at
    the end, so commands that hold whole images beside little else don't ask for this. Where the
    C library isn't glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """What `keep_freed_memory` has kept so far goes back to the system."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _cgroup_folders(root: Path, process: Path, controller: str) -> list[Path]:
    """The groups of this process and their ancestors; lines read `id:controllers:path`."""
    folders = [root, root / controller]  # inside a container the group's own path is often hidden
    for line in _text(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            top = root / controller if controllers else root
            own = top / path.strip("/")
            folders += [own, *(parent for parent in own.parents if parent.is_relative_to(top))]
    return list(dict.fromkeys(folders))


def _quota_of(folder: Path) -> int:
    """Whole cores of one group, 0 when it has no quota. Version 2's file, else version 1's two."""
    limit, _, period = _text(folder / "cpu.max").partition(" ")
    if not period:
        limit = _text(folder / "cpu.cfs_quota_us")
        period = _text(folder / "cpu.cfs_period_us")
    quota, length = _first_number(limit), _first_number(period)
    return -(-quota // length) if quota and length else 0


def _machine(path: Path) -> Iterator[Allowance]:
    text = _text(path)
    total = _kibibytes(text, "MemTotal") + _kibibytes(text, "SwapTotal")
    if total:
        yield Allowance(total / 1024, "this machine's memory")


def _of_slurm(environ: Mapping[str, str]) -> Iterator[Allowance]:
    """In MiB; 0 asks for all of a node. Without a cgroup Slurm itself kills what exceeds it."""
    node = _first_number(environ.get("SLURM_MEM_PER_NODE", ""))
    core = _first_number(environ.get("SLURM_MEM_PER_CPU", ""))
    cores = _first_number(environ.get("SLURM_CPUS_ON_NODE", ""))
    if node or core * cores:
        yield Allowance(float(node or core * cores), "Slurm (--mem)")


def _of_address_space(process: Path) -> Iterator[Allowance]:
    """ulimit -v: what is still free of it, beside what is resident now."""
    try:
        import resource
    except ImportError:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        status = _text(process / "status")
        taken = _kibibytes(status, "VmSize") - _kibibytes(status, "VmRSS")
        yield Allowance(limit / MIB - taken / 1024, "ulimit -v")


def _of_cgroups(root: Path, process: Path) -> Iterator[Allowance]:
    """Of a group's limit, what its other processes have filled is gone; file caches are not."""
    own = resident_mib(process)
    for folder in _cgroup_folders(root, process, "memory"):
        limit = _first_number(_text(folder / "memory.max"))
        limit = limit or _first_number(_text(folder / "memory.limit_in_bytes"))
        if 0 < limit < UNLIMITED:
            others = max(_filled_mib(folder) - own, 0)
            yield Allowance(limit / MIB - others, "the cgroup of this process")


def _filled_mib(folder: Path) -> float:
    """Memory of a group that is no cache of files."""
    found = re.search(r"^(?:anon|total_rss) (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
    return int(found[1]) / MIB if found else 0.0


def _kibibytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _first_number(text: str) -> int:
    """The (first) number of "4" or "4,2"; 0 for anything else ("max", "-1", "")."""
    first = text.split(",")[0].strip()
    return int(first) if re.fullmatch(r"[0-9]{1,20}", first) else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def shipped(installed: str, checkout: str) -> Path:
    """A folder that comes with carl: inside the package, or in a source checkout."""
    inside = PACKAGE / installed
    return inside if inside.is_dir() else PACKAGE.parent / checkout
