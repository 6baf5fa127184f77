"""Transform files that are not read as they are: what they are, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

from carl_cli.io.atomic import full_suffix
from carl_cli.io.images.mif import SUFFIXES as MIF

START = 4096
SIGNS = {
    rb"^MGH_GPUIT_BSP": (
        "a B-spline of plastimatch",
        "plastimatch xf-convert --input {name} --output field.nrrd --output-type vf",
    ),
    rb"^MNI Transform File": ("a transform of MINC", "name it .xfm"),
    rb"^#.*(3dvolreg|3dAllineate|3dWarp)": ("a matrix of AFNI", "say so: afni:{name}"),
    rb"nxforms\s*=": ("an LTA of FreeSurfer", "say so: lta:{name}"),
    rb"ThinPlateSpline\w*_": (
        "a thin-plate spline of 3D Slicer",
        "in Slicer: Transforms, Convert, to a displacement field",
    ),
}
SUFFIXES = {
    ".m3z": ("a warp of FreeSurfer", "mri_warp_convert --inm3z {name} --outitk field.nii.gz"),
    **dict.fromkeys(MIF, ("an image of MRtrix", "if it holds a warp, say so: mrtrix:{name}")),
    ".trk": ("a file of streamlines, not a transform", "carl points carries them"),
    ".head": ("AFNI's own format", "3dAFNItoNIFTI -prefix field.nii.gz {name}"),
    ".brik": ("AFNI's own format", "3dAFNItoNIFTI -prefix field.nii.gz {name}"),
}
MATRIX = (
    "a 4x4 text matrix",
    "say whose: greedy:{name}, niftyreg:{name} or mrtrix:{name} (RAS, fixed to moving), or "
    "carl convert --from fsl -r FIXED -m MOVING {name} (FLIRT)",
)


def recognised(path: Path) -> tuple[str, str] | None:
    """(what the file is, what to do), None if nobody knows."""
    with path.open("rb") as file:
        start = file.read(START)
    found = SUFFIXES.get(full_suffix(path).lower())
    for sign, told in SIGNS.items():
        if re.search(sign, start, re.MULTILINE):
            found = told
    if found is None and _is_matrix(start):
        found = MATRIX
    return None if found is None else (found[0], found[1].format(name=path.name))


def _is_matrix(start: bytes) -> bool:
    lines = [line for line in start.split(b"\n") if not line.startswith(b"#")]
    try:
        return len([float(word) for word in b" ".join(lines).decode("ascii").split()]) == 16
    except ValueError:
        return False
