"""How the C library deals with memory that was freed."""

from __future__ import annotations

import ctypes
import platform

# Numbers of the parameters, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """From now on this process keeps large blocks it frees, for the next ones it needs.

    A network frees and asks for hundreds of megabytes from layer to layer. glibc hands each
    large block back at once, and the kernel clears every page of the next one: up to a fifth of
    the time of convolutions on a CPU. The peak stays the same, but memory is only
    given back at the end, so commands that hold whole images beside little else don't ask for
    this. Where the C library isn't glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
