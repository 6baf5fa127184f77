"""Where SimpleITK is configured and its errors become one line (io-internal)."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
        image, said = overheard(reader.Execute, (1, 2) if is_jpeg(name) else (2,))
    except RuntimeError as error:
        raise unreadable(name, error) from None
    if DAMAGE.search(said):
        raise InputError(f"{name}: damaged: {said.splitlines()[0]}", "get the file again")
    return image


def save(image: sitk.Image, path: Path, compress: bool = False) -> None:
    """Write by suffix; what libraries below ITK say goes to the log, beside our own error line.

    Raises RuntimeError, whose `cause` tells what went wrong.
    """
    overheard(lambda: sitk.WriteImage(image, str(path), useCompression=compress))


def is_jpeg(path: Path) -> bool:
    """Of damage in these, ITK tells on stdout."""
    return path.suffix.lower() in (".jpg", ".jpeg")


def overheard(call: Callable[[], Result], descriptors: Sequence[int] = (2,)) -> tuple[Result, str]:
    """What a call returns, and what C libraries wrote on stderr meanwhile; it goes to the log.

    Libraries write there whatever thread they run in, so one call is heard at a time, and those of
    other threads wait. Log handlers lose no line if they write to a descriptor of their own, as the
    command line's do.
    """
    with _one_at_a_time, _scratch() as heard:
        if sys.stderr is not None:
            sys.stderr.flush()
        with ExitStack() as stack:
            for number in descriptors:
                stack.enter_context(_descriptor_is(number, heard.fileno()))
            result = call()
        heard.seek(0)
        said = heard.read().decode("utf-8", "replace").strip()
    if said:
        log.debug("%s", said)
    return result, said


_one_at_a_time = threading.RLock()


@contextmanager
def _descriptor_is(number: int, other: int) -> Iterator[None]:
    """Where the process was started without this stream, the other is closed again afterwards."""
    try:
        before = os.dup(number)
    except OSError:
        before = None
    os.dup2(other, number)
    try:
        yield
    finally:
        if before is None:
            os.close(number)
        else:
            os.dup2(before, number)
            os.close(before)


def read_grid(path: Path, image_io: str, name: Path) -> Grid:
    """Where a file's voxels lie, by ITK's reader."""
    return grid_of(read_header(path, image_io, name))


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
