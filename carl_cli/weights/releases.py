"""Checkpoints on the authors' own site: brought here by https, hashed on the way."""

from __future__ import annotations

import errno
import logging
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from carl_cli.errors import OutputError, WeightsError
from carl_cli.progress import Progress, silent
from carl_cli.weights.registry import Release

log = logging.getLogger(__name__)

_BLOCK_BYTES = 2**18
_TIMEOUT_S = 30
_TMPDIR = "free some, or set TMPDIR to a folder with space"


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to a connection that anybody on the way could change."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def install(entry: Release, folder: Path, progress: Progress = silent) -> Path:
    """Download a release and import it into a weights folder. Raises WeightsError."""
    from carl_cli.weights.checkpoints import import_checkpoint

    log.info("%s, licence %s; please cite: %s", entry.url, entry.licence, entry.citation)
    with downloaded(entry.url, progress) as file:
        origin = {"imported_from": entry.url, "bytes": file.stat().st_size}
        try:
            import_checkpoint(file, entry.family, folder, provenance=origin)
        except OutputError as error:
            raise WeightsError(error.message, "set CARL_HOME to a folder of yours") from error
    return folder


@contextmanager
def downloaded(url: str, progress: Progress = silent) -> Iterator[Path]:
    """A temporary file with what lies at an https address. Raises WeightsError."""
    _require_https(url)
    with tempfile.TemporaryDirectory(prefix="carl-") as scratch:
        target = Path(scratch) / Path(url).name
        try:
            _fetch(url, target, progress)
        except (OSError, HTTPException) as error:  # URLError is an OSError
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WeightsError(f"no space left in {scratch}", _TMPDIR) from error
            raise _in_words(url, error) from error
        yield target


def _fetch(url: str, target: Path, progress: Progress) -> None:
    opener = urllib.request.build_opener(_OnlyHttps)
    with opener.open(url, timeout=_TIMEOUT_S) as response, target.open("wb") as stream:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        while block := response.read(_BLOCK_BYTES):
            stream.write(block)
            done += len(block)
            progress("download", done / total if total else 0.0, f"{done / 1e6:.0f} MB")
    if done < total:
        raise HTTPException(f"{done} of {total} bytes arrived")


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise WeightsError(f"{url}: only https is followed", "download it yourself, then import it")


def _in_words(url: str, error: Exception) -> WeightsError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    if isinstance(error, urllib.error.HTTPError):
        reason = f"the server answered {error.code}"
    return WeightsError(
        f"{url}: {reason}",
        "download it where there is a network, then: carl weights import FILE --family NAME",
    )
