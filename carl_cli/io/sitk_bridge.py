"""Where SimpleITK is configured and its errors become one line (io-internal).

A file is read for trial in a child process first: damage may end the child, never this one.

ITK's HDF5 library can crash or run without end on a damaged file, and a damaged header can ask
for any amount of memory. A limit of memory for this process would also hit what its other
threads do meanwhile.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid

GZIP_LIMIT = 1100
"""No deflate stream grows more than 1032 times: a header that claims more is damaged."""

DAMAGE = re.compile(r"corrupt|premature|uncompress failed", re.IGNORECASE)
"""Words by which the libraries below ITK tell of damage while they go on reading."""
ADDRESS = re.compile(r"\(0x[0-9a-f]+\)")

log = logging.getLogger(__name__)
Result = TypeVar("Result")

sitk.ProcessObject.GlobalWarningDisplayOff()  # its warnings print past our log


def grid_of(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    """Grid of the first two or three axes of an image or of a reader's header."""
    size = image.GetSize()
    axes = min(len(size), 3)
    direction = np.reshape(image.GetDirection(), (len(size), len(size)))[:axes, :axes]
    spacing, origin = image.GetSpacing()[:axes], image.GetOrigin()[:axes]
    return Grid(tuple(size[:axes]), spacing, origin, tuple(map(float, direction.ravel())))


def read_header(path: Path, image_io: str, name: Path) -> sitk.ImageFileReader:
    """A reader that knows the header of `path`; `name` stands in the error line."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        overheard(reader.ReadImageInformation)
    except RuntimeError as error:
        raise unreadable(name, error) from None
    return reader


def execute(reader: sitk.ImageReaderBase, name: Path) -> sitk.Image:
    """The voxels. Raises InputError for what the reader, or a library below it, calls damaged."""
    try:
        image, said = overheard(reader.Execute)
    except RuntimeError as error:
        raise unreadable(name, error) from None
    if DAMAGE.search(said):
        raise InputError(f"{name}: damaged: {said.splitlines()[0]}", "get the file again")
    return image


def overheard(call: Callable[[], Result]) -> tuple[Result, str]:
    """What a call returns, and what C libraries wrote on stderr meanwhile; it goes to the log."""
    sys.stderr.flush()
    with _scratch() as heard:
        ours = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            result = call()
        finally:
            os.dup2(ours, 2)
            os.close(ours)
            heard.seek(0)
            said = heard.read().decode("utf-8", "replace").strip()
            if said:
                log.debug("%s", said)
    return result, said


def read_grid(path: Path, image_io: str, name: Path) -> Grid:
    """Where a file's voxels lie, by ITK's reader."""
    return grid_of(read_header(path, image_io, name))


def written_quietly(write: Callable[[], None]) -> None:
    """Run a writer of ITK; what HDF5 prints about a full disk, also when it closes the file that
    it could not write, goes to the log. Raises RuntimeError with ITK's words."""

    def attempt() -> str:
        try:
            write()
        except RuntimeError as error:
            traceback.clear_frames(error.__traceback__)  # closes the writer's file, here
            return str(error)
        return ""

    reason, _ = overheard(attempt)
    if reason:
        raise RuntimeError(reason)


def _scratch() -> IO[bytes]:
    """In memory where the system has such files: the disk may be what is in trouble."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("heard"), "w+b")
    return tempfile.TemporaryFile()


def unreadable(name: Path, error: RuntimeError) -> InputError:
    """InputError with the cause out of ITK's many lines."""
    return InputError(f"{name}: can't be read: {cause(error)}", "check that the file is whole")


def cause(error: Exception) -> str:
    """The telling line of ITK's message, without its source paths and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line] or lines[-1:]
    words = ADDRESS.sub("", telling[0].split("): ", 1)[-1])
    return words.replace("sitk::ERROR: ", "").strip()


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
        raise InputError(
            f"{path}: the file is damaged: the library that reads it breaks down",
            "get the file again",
        )
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
