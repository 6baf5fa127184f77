"""One module for each dialect of transform files; `carl_cli.io.transforms.files` chooses."""

from typing import Literal

Program = Literal[
    "greedy", "easyreg", "synthmorph", "lta", "fsl", "niftyreg", "spm", "mrtrix", "afni", "minc"
]
"""Whose conventions a file follows, where the file itself does not say."""
