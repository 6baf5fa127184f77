"""Self-contained HTML: assets put together, data packed, everything else forbidden."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray


def asset(name: str) -> str:
    """Text of a file of carl_cli/report/assets."""
    return (files("carl_cli.report") / "assets" / name).read_text(encoding="utf-8")


def assemble(template: str, scripts: tuple[str, ...], title: str, **parts: str) -> str:
    """Fill a template of the assets; `parts` are HTML already, `title` is plain text.

    The page may run its own script and style, known by their hashes, and show pictures that
    it carries. It may load, send and frame nothing.
    """
    script = "\n".join(asset(name) for name in scripts)
    style = asset("style.css")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = Template(asset("head.html")).substitute(
        policy=policy, style=style, title=html.escape(title)
    )
    return Template(asset(template)).substitute(head=head, script=script, **parts)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_block(name: str, value: Any) -> str:
    """Data for the page's script; no value can end the element that holds it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{safe}</script>'


def binary_block(name: str, array: NDArray[Any]) -> str:
    """Bytes of an array, gzipped, for the browser's own decompressor."""
    packed = gzip.compress(np.ascontiguousarray(array).tobytes(), 9, mtime=0)
    text = base64.b64encode(packed).decode()
    return f'<script type="application/octet-stream" id="{name}">{text}</script>'
