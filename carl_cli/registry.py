"""Weights known by name, and where any weights lie: nothing heavy is imported to say so."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from carl_cli.errors import WeightsError
from carl_cli.integrity import CONFIG, MODEL

DEFAULT = "carl-base"

# org/repo[@revision], as the Hub spells repositories.
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


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


def embedded() -> tuple[str, ...]:
    """Names of the weights that come with the package, the default one first."""
    names = sorted(path.parent.name for path in _embedded_root().glob(f"*/{CONFIG}"))
    return tuple(sorted(names, key=lambda name: name != DEFAULT))


def embedded_folder(name: str) -> Path:
    """Where embedded weights lie: in the package, or at the top of a source checkout."""
    return _embedded_root() / name


def _embedded_root() -> Path:
    installed = Path(__file__).parent / "_weights"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "weights"


def release(name: str) -> Release | None:
    return next((entry for entry in RELEASES if entry.name == name), None)


def imported_folder(name: str) -> Path:
    """Where a release is kept once imported: $CARL_HOME, else ~/.cache/carl."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path(_home(), ".cache")
    return Path(os.environ.get("CARL_HOME") or Path(cache) / "carl") / "weights" / name


def _home() -> str:
    """Of a user that this machine does not know, as in a container: nowhere."""
    home = os.path.expanduser("~")
    return "/nonexistent" if home == "~" else home


def hub_name(text: str) -> HubName | None:
    """`org/repo[@revision]` in its parts, or None for another spelling."""
    found = _HUB_NAME.fullmatch(text)
    return HubName(found[1], found[2] or "main") if found else None


def locate(name_or_path: str, offline: bool = False) -> Path:
    """The folder of weights given by name, folder, model file, or `org/repo[@revision]`.

    What lies here is taken first, without a look at the network; a repository of the Hub or
    a release that isn't here is downloaded, unless offline. Raises WeightsError.
    """
    if (folder := local_folder(name_or_path)) is not None:
        return folder
    entry, wanted = release(name_or_path), hub_name(name_or_path)
    if entry is None and wanted is None:
        raise WeightsError(f"no weights {name_or_path!r}", _choices())
    from carl_cli import hub

    offline = offline or hub.is_offline()
    if entry is not None:
        return _released(entry, offline)
    assert wanted is not None
    if offline:
        raise hub.absent(wanted)
    return hub.download(wanted)


def _released(entry: Release, offline: bool) -> Path:
    if offline:
        raise _not_imported(entry.name)
    from carl_cli.releases import install

    return install(entry, imported_folder(entry.name))


def local_folder(name_or_path: str) -> Path | None:
    """The folder if these weights lie on this machine, else None."""
    if name_or_path in embedded():
        return embedded_folder(name_or_path)
    if release(name_or_path):
        folder = imported_folder(name_or_path)
        return folder if (folder / CONFIG).is_file() else None
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if path.is_file():
        return _folder_of(path)
    return _cached(name_or_path)


def _cached(name: str) -> Path | None:
    wanted = hub_name(name)
    if wanted is None:
        return None
    from carl_cli import hub

    return hub.cached(wanted)


def _folder_of(path: Path) -> Path:
    if path.name == MODEL:
        return path.parent
    raise WeightsError(
        f"{path}: {MODEL} was expected, with its {CONFIG} beside it",
        "an authors' checkpoint becomes a folder by: carl weights import FILE --family NAME",
    )


def _not_imported(name: str) -> WeightsError:
    return WeightsError(
        f"{name} is not in {imported_folder(name)}",
        f"where there is a network (a login node), with the same CARL_HOME: "
        f"carl weights download {name}",
    )


def _choices() -> str:
    names = ", ".join([*embedded(), *(entry.name for entry in RELEASES)])
    return f"give a folder, its {MODEL}, org/repo[@revision] on the Hub, or one of: {names}"
