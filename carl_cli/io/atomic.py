"""Outputs appear whole or not at all, and files are known by their hash."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from carl_cli.errors import CarlError, InputError, OutputError
from carl_cli.io.images.nifti_header import is_whole

TWO_PART_SUFFIXES = (".nii.gz", ".mrk.json", ".img.gz", ".mif.gz")


def full_suffix(path: Path) -> str:
    """ ".nii.gz" for "sub.01.nii.gz": the part of the name that picks the format."""
    name = path.name.lower()
    two_part = next((s for s in TWO_PART_SUFFIXES if name.endswith(s)), None)
    return path.name[-len(two_part) :] if two_part else path.suffix


@contextmanager
def atomic_path(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`.

    The temporary name keeps the full suffix, because writers choose the format by it, in small
    letters, as ITK knows no others. After
    any failure, an interruption included, the temporary file is removed and a file that
    stood at `path` is untouched. Raises OutputError for a folder that can't be written, for
    any OSError inside the block, for a NIfTI file that a full disk has cut and, unless
    `replace`, for a file that stands at `path` by then, whoever put it there.
    """
    path = Path(path)
    _check_folder(path)
    temporary = path.with_name(f".{secrets.token_hex(6)}.partial{full_suffix(path).lower()}")
    try:
        yield temporary
        _check_whole(temporary, path)
        if replace:
            os.replace(temporary, path)
        else:
            _put(temporary, path)
    except CarlError:
        raise
    except OSError as error:
        cause = error.strerror or str(error)
        raise OutputError(
            f"{path}: can't be written: {cause}", "free space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path) -> None:
    """Rename to a name that nobody has. Links are refused where a name is taken, renames are not;
    file systems without links leave a moment between the look and the renaming. A network file
    system that asks its server twice is told that the name is taken, by the link that it made."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if not path.samefile(temporary):
            raise _taken(path) from None
    except OSError:
        if path.exists():
            raise _taken(path) from None
        os.replace(temporary, path)


def _taken(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists already: it was made while this run worked", "--overwrite replaces it"
    )


def is_there(path: Path) -> bool:
    """Whether something stands where an output goes. Raises OutputError for what can be no name of
    a file, as one that is too long."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}", "name another") from None
    return True


def regular(path: Path) -> Path:
    """The path. Raises InputError for what is there and no file: a pipe would be waited for."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file")
    return path


def make_folder(folder: Path) -> Path:
    """The folder and those above it, unless they are there. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} can't be made: {error.strerror}", "choose another folder"
        ) from error
    return folder


def _check_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist", "create it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder, a file name was expected", "name a file in it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} is read-only", "choose another folder")


def _check_whole(temporary: Path, path: Path) -> None:
    if full_suffix(path).lower() in (".nii", ".nii.gz") and not is_whole(temporary):
        raise OutputError(f"{path}: only a part of it could be written", "free space on the disk")


def sha256_of(path: str | Path) -> str:
    """Hash of a file's bytes; of a folder, the hash of its files' sorted hashes.

    File names do not enter: a DICOM folder that was renamed or anonymised by name only
    keeps its hash. Raises OSError for a file that can't be read.
    """
    path = Path(path)
    if path.is_dir():
        parts = sorted(sha256_of(p) for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
