"""A damaged header must not make a library allocate more than its file can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carl_cli.io.sitk_bridge import GZIP_LIMIT

SPARE_BYTES = 2**29
COPIES = 8
"""Doubles made of floats, a field and its parameters side by side: of each byte in a file."""


@contextmanager
def bounded_memory(path: Path) -> Iterator[None]:
    """Within, this process gets no more memory than the file could ever need (where the system
    can limit it); an allocation beyond fails with MemoryError or RuntimeError."""
    try:
        import resource

        statm = Path("/proc/self/statm").read_text()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.split()[0]) * resource.getpagesize()
    bound = used + SPARE_BYTES + COPIES * GZIP_LIMIT * path.stat().st_size
    allowed = [limit for limit in (soft, hard, bound) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
