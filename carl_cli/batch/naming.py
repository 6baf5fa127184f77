"""Names of cases and of their files: the words of BIDS for transforms between two spaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carl_cli.io.atomic import full_suffix

if TYPE_CHECKING:
    from carl_cli.workflows.request import CaseOutputs

LONGEST = 64
ALWAYS = ("forward", "json")
FILE_NAMES = {
    "forward": "from-{moving}_to-{fixed}_mode-image_xfm.h5",
    "inverse": "from-{fixed}_to-{moving}_mode-image_xfm.h5",
    "warped": "{moving}_space-{fixed}_warped.nii.gz",
    "inverse_warped": "{fixed}_space-{moving}_warped.nii.gz",
    "jacobian": "from-{moving}_to-{fixed}_jacobian.nii.gz",
    "match_spread": "from-{moving}_to-{fixed}_matchspread.nii.gz",
    "figure": "from-{moving}_to-{fixed}_figure.png",
    "report": "from-{moving}_to-{fixed}_report.html",
    "json": "from-{moving}_to-{fixed}_mode-image_xfm.json",
}
"""Role → name. As in BIDS, an image moves `from` its own space `to` that of the other."""


def labels(fixed: Path, moving: Path) -> tuple[str, str]:
    """Letters and digits of the two file names; their roles where that tells nothing apart."""
    found = _label(fixed), _label(moving)
    same = found[0].casefold() == found[1].casefold()
    return ("fixed", "moving") if same or not all(found) else found


def _label(path: Path) -> str:
    stem = path.name.removesuffix(full_suffix(path))
    return "".join(c for c in stem if c.isascii() and c.isalnum())[:LONGEST]


def default_name(fixed: Path, moving: Path) -> str:
    """Of a case whose row gives no id."""
    first, second = labels(fixed, moving)
    return f"{second}_to_{first}"


def case_outputs(
    folder: Path, fixed: Path, moving: Path, roles: tuple[str, ...] = (), linear: bool = False
) -> CaseOutputs:
    """Where a case's files go: always the transform and the record, and what else is wanted.

    roles: of CaseOutputs, and "split" for the transform in two parts, of which a linear one has no
    warp.
    """
    from carl_cli.workflows.request import CaseOutputs, split_files

    words = dict(zip(("fixed", "moving"), labels(fixed, moving), strict=True))
    names = {role: name.format(**words) for role, name in FILE_NAMES.items()}
    wanted = {role: folder / names[role] for role in (*ALWAYS, *roles) if role != "split"}
    if "split" in roles:
        wanted |= split_files(folder / f"{Path(names['forward']).stem}_", linear)
    return CaseOutputs(**wanted)
