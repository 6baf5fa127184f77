"""The -t grammar of antsApplyTransforms: an ordered list of files, inverses marked."""

from __future__ import annotations

import re
from collections.abc import Sequence

from carl_cli.errors import UsageError
from carl_cli.io.transforms.files import read_transform
from carl_cli.io.transforms.programs import Pair
from carl_cli.transforms import Transform, composed, identity

BRACKETED = re.compile(r"\[\s*(?P<path>.+?)\s*(?:,\s*(?P<flag>[^,\]]*?)\s*)?\]")
SUFFIXED = re.compile(r"(?P<path>.+),\s*(?P<flag>-?1)")
FLAGS = {None: False, "0": False, "false": False, "1": True, "true": True, "-1": True}


def parse_item(text: str) -> tuple[str, bool]:
    """`T`, `[T,1]` (ANTs) or `T,-1` (greedy) → (path, whether to invert)."""
    match = BRACKETED.fullmatch(text) or SUFFIXED.fullmatch(text)
    if match is None:
        return text, False
    flag = match["flag"].lower() if match["flag"] else None
    if flag not in FLAGS or (text[0] != "[" and flag != "-1"):
        raise UsageError(f"-t {text}: unknown mark {flag!r}", "an inverse is [FILE,1] or FILE,-1")
    return match["path"], FLAGS[flag]


def is_identity(text: str) -> bool:
    """ANTs' word for no transform, inverted or not."""
    return parse_item(text)[0].lower() == "identity"


def parse_chain(items: Sequence[str], pair: Pair | None = None) -> Transform:
    """Read the files of a chain and compose them in ANTs' order; pair: see `read_transform`.

    With `-t A -t B` a fixed point meets A first: T(x) = B(A(x)), so `-t warp -t affine` is
    what antsRegistration's outputs need.
    """
    if not items:
        raise UsageError("no transform given", "name at least one with -t")
    parts = []
    for text in [text for text in items if not is_identity(text)]:
        path, inverted = parse_item(text)
        transform = read_transform(path, pair=pair)
        parts.append(transform.inverse() if inverted else transform)
    return composed(reversed(parts)) if parts else identity(3)
