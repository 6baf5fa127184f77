"""Bounds on what huggingface_hub lets a server do: it would wait for ever for an answer, sleep as
long as it is told to, and make file names of headers, paths included."""

from __future__ import annotations

import re
from typing import Any

from carl_cli.errors import WeightsError

SECONDS = 10.0
"""How long a server may be silent where huggingface_hub sets no limit, as it does elsewhere; it
asks again five times."""
LONGEST_WAIT_S = 120
NAMING_HEADERS = ("etag", "x-linked-etag", "x-repo-commit")
"""Their values become names of files in the cache."""
_FILE_NAME = re.compile(r'(?:W/)?"?\w[\w.:+-]{0,200}"?', re.ASCII)


def bound_client() -> None:
    """Every connection of huggingface_hub in this process; versions before 1.0 can't be bounded."""
    import huggingface_hub

    if not hasattr(huggingface_hub, "set_client_factory"):
        return
    from huggingface_hub.utils._http import default_client_factory

    def factory() -> Any:
        client = default_client_factory()
        client.event_hooks["request"].append(_limit_silence)
        client.event_hooks["response"].append(_check_headers)
        return client

    huggingface_hub.set_client_factory(factory)


def _limit_silence(request: Any) -> None:
    """Calls for the list of files come with no limit at all."""
    limits = request.extensions.get("timeout") or {}
    kinds = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = {
        kind: SECONDS if limits.get(kind) is None else limits[kind] for kind in kinds
    }


def _check_headers(response: Any) -> None:
    """Raise WeightsError for a wait without end, and for what is no name of a file."""
    wait = response.headers.get("Retry-After", "")
    if wait.isascii() and wait.isdigit() and int(wait[:9]) > LONGEST_WAIT_S:
        raise WeightsError(
            f"{response.url.host} wants no request for {wait[:9]} seconds "
            f"(it answered {response.status_code})",
            "try again later",
        )
    for name in NAMING_HEADERS:
        value = response.headers.get(name)
        if value is not None and not _FILE_NAME.fullmatch(value):
            raise WeightsError(
                f"{response.url.host} does not answer as a Hub does: its {name} names no file",
                "check HF_ENDPOINT and the proxy",
            )
