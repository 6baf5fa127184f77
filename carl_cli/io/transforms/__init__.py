"""One module for each dialect of transform files; `carl_cli.io.transforms.files` chooses."""

from __future__ import annotations

from typing import Literal, get_args

Program = Literal[
    "greedy", "easyreg", "synthmorph", "lta", "fsl", "niftyreg", "spm", "mrtrix", "afni", "minc"
]
"""Whose conventions a file follows, where the file itself does not say."""


def split_program(text: str) -> tuple[Program | None, str]:
    """`greedy:affine.mat` → (greedy, affine.mat); a plain path has no program."""
    name, colon, path = text.partition(":")
    known = [program for program in get_args(Program) if program == name]
    return (known[0], path) if known and colon else (None, text)
