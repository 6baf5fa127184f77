"""Weights known by name: plain data."""

from __future__ import annotations

import re
from typing import NamedTuple

DEFAULT, DEFAULT_2D = "carl-base", "carl-base-2d"

# org/repo[@revision], as the Hub spells repositories.
_PART = r"(?!\S*(?:--|\.\.))[A-Za-z0-9][\w.-]{0,95}"
_HUB_NAME = re.compile(rf"({_PART}/{_PART}(?<!\.git)(?<!\.ipynb))(?:@([\w./-]+))?", re.ASCII)


class Release(NamedTuple):
    """A checkpoint on the authors' own site, usable once it has been imported."""

    name: str
    family: str
    licence: str
    url: str
    citation: str


CARL_CITATION = (
    "Greer et al., CARL: A Framework for Equivariant Image Registration, CVPR 2025, "
    "arXiv:2405.16738"
)

_RELEASES = "https://github.com/uncbiag/uniGradICON/releases/download/"

_LICENCE = "Apache-2.0"  # the LICENSE of the repository that publishes them

RELEASES = (
    Release(
        "unigradicon",
        "unigradicon",
        _LICENCE,
        _RELEASES + "unigradicon_weights/Step_2_final.trch",
        "Tian et al., uniGradICON: A Foundation Model for Medical Image Registration, "
        "MICCAI 2024, pp. 749-760, arXiv:2403.05780",
    ),
    Release(
        "multigradicon",
        "multigradicon",
        _LICENCE,
        _RELEASES + "multigradicon_weights/Step_2_final.trch",
        "Demir et al., multiGradICON: A Foundation Model for Multimodal Medical Image "
        "Registration, WBIR 2024, pp. 3-18, arXiv:2408.00221",
    ),
    # A preview, for which its authors name no paper: it is cited by the method's.
    Release(
        "unicarl",
        "unicarl",
        _LICENCE,
        _RELEASES + "v1.0.4/longleaf_unicarl_8",
        CARL_CITATION,
    ),
)


class HubName(NamedTuple):
    """A repository on the Hugging Face Hub and the branch, tag or commit that is wanted."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return self.repository + ("" if self.revision == "main" else f"@{self.revision}")


def suited(name: str, dimension: int) -> str:
    """The default weights are two, for volumes and for slices; other names stay as they are."""
    return DEFAULT_2D if name == DEFAULT and dimension == 2 else name


def release(name: str) -> Release | None:
    return next((entry for entry in RELEASES if entry.name == name), None)


def hub_name(text: str) -> HubName | None:
    """`org/repo[@revision]` in its parts, or None for another spelling."""
    found = _HUB_NAME.fullmatch(text)
    return HubName(found[1], found[2] or "main") if found else None
