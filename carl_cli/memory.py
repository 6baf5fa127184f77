"""How much memory this process may fill: what the system, the cgroup, ulimit and Slurm leave it.

Nothing heavy is imported, except for the memory of a GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
UNLIMITED = 1 << 60  # cgroups of version 1 write a huge number where there is no limit
CGROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")


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
    """The tightest limit of this process's resident memory; None where nobody can say."""
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
    """What this process has filled; 0 where nobody can say."""
    return _kibibytes(_text(process / "status"), "VmRSS") / 1024


def _machine(path: Path) -> Iterator[Allowance]:
    text = _text(path)
    total = _kibibytes(text, "MemTotal") + _kibibytes(text, "SwapTotal")
    if total:
        yield Allowance(total / 1024, "this machine's memory")


def _of_slurm(environ: Mapping[str, str]) -> Iterator[Allowance]:
    """In MiB; 0 asks for all of a node. Without a cgroup Slurm itself kills what exceeds it."""
    node = _integer(environ.get("SLURM_MEM_PER_NODE", ""))
    core = _integer(environ.get("SLURM_MEM_PER_CPU", ""))
    cores = _integer(environ.get("SLURM_CPUS_ON_NODE", ""))
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
    for folder in _folders(root, _text(process / "cgroup")):
        limit = _integer(_text(folder / "memory.max"))
        limit = limit or _integer(_text(folder / "memory.limit_in_bytes"))
        if 0 < limit < UNLIMITED:
            others = max(_filled_mib(folder) - own, 0)
            yield Allowance(limit / MIB - others, "the cgroup of this process")


def _filled_mib(folder: Path) -> float:
    """Memory of a group that is no cache of files."""
    found = re.search(r"^(?:anon|total_rss) (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
    return int(found[1]) / MIB if found else 0.0


def _folders(root: Path, membership: str) -> list[Path]:
    """The groups of this process and their ancestors; lines read `id:controllers:path`."""
    folders = [root, root / "memory"]  # inside a container the own path is often hidden
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / controllers
            own = top / path.strip("/")
            folders += [own, *(parent for parent in own.parents if parent.is_relative_to(top))]
    return list(dict.fromkeys(folders))


def _kibibytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _integer(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
