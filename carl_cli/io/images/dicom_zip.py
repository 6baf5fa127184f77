"""Zips of DICOM files, unpacked for as long as they are read."""

from __future__ import annotations

import errno
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carl_cli.errors import InputError
from carl_cli.io.sitk_bridge import GZIP_LIMIT


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder where a zip's files lie until the end of the block; anything else as it is.
    Raises InputError for a zip that is damaged, locked or claims too much."""
    if path.suffix.lower() != ".zip":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="carl-dicom-") as folder:
        _unzip(path, Path(folder))
        yield Path(folder)


def _unzip(path: Path, folder: Path) -> None:
    """Members get numbers for names, so that no name can lead out of the folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if sum(m.file_size for m in members) > GZIP_LIMIT * path.stat().st_size:
                raise InputError(f"{path}: claims to unpack to more than a zip can hold")
            for number, member in enumerate(members):
                with archive.open(member) as source, open(folder / f"{number:06}", "wb") as target:
                    shutil.copyfileobj(source, target)
    except (
        zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, ValueError,
        zlib.error, lzma.LZMAError,
    ) as error:  # fmt: skip
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Their words name a member, and with it a patient.
        why = "it wants a password" if "password" in str(error) else "it is damaged"
        raise InputError(f"{path}: can't be unpacked: {why}", "get the zip again") from None
