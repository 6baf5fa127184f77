"""One module for each dialect of transform files; `carl_cli.io.transforms.files` chooses."""

from __future__ import annotations

import re
from typing import Literal, get_args

from carl_cli.errors import UsageError

Program = Literal[
    "greedy", "easyreg", "synthmorph", "lta", "fsl", "niftyreg", "spm", "mrtrix", "afni", "minc"
]
"""Whose conventions a file follows, where the file itself does not say."""


def split_program(text: str) -> tuple[Program | None, str]:
    """`greedy:affine.mat` → (greedy, affine.mat); a plain path has no program."""
    name, colon, path = text.partition(":")
    known = [program for program in get_args(Program) if program == name]
    return (known[0], path) if known and colon else (None, text)


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
