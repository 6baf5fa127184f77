"""Where weights lie, by name, folder, file or repository; nothing heavy is imported to say so."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carl_cli.errors import WeightsError
from carl_cli.system import shipped
from carl_cli.weights import hub
from carl_cli.weights.files import CONFIG, MODEL
from carl_cli.weights.registry import DEFAULT, RELEASES, Release, hub_name, release
from carl_cli.weights.releases import install

if TYPE_CHECKING:
    from carl_cli.weights.folder import Weights


def embedded() -> tuple[str, ...]:
    """Names of the weights that come with the package, the default one first."""
    names = sorted(path.parent.name for path in _embedded_root().glob(f"*/{CONFIG}"))
    return tuple(sorted(names, key=lambda name: name != DEFAULT))


def embedded_folder(name: str) -> Path:
    """Where embedded weights lie: in the package, or at the top of a source checkout."""
    return _embedded_root() / name


@cache
def advised(name: str) -> dict[str, Any]:
    """The instance optimisation that embedded weights ask for, by field; what they leave out has
    the defaults of `InstanceDefaults`. Empty where the package came without them."""
    try:
        config = json.loads((embedded_folder(name) / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}  # help must not fail; using them will say what is wrong
    found: dict[str, Any] = config.get("instance", {})
    return found


def _embedded_root() -> Path:
    return shipped("_weights", "weights")


def imported_folder(name: str) -> Path:
    """Where a release is kept once imported: $CARL_HOME, else ~/.cache/carl."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path(_home(), ".cache")
    return Path(os.environ.get("CARL_HOME") or Path(cache) / "carl") / "weights" / name


def _home() -> str:
    """Of a user that this machine does not know, as in a container: nowhere."""
    home = os.path.expanduser("~")
    return "/nonexistent" if home == "~" else home


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


def chosen_weights(
    name: str, device: str = "auto", deterministic: bool = False, offline: bool = False
) -> Weights:
    """Weights by name, folder or repository, loaded on a device by name. Imports torch.

    Raises WeightsError (absent or damaged) and UsageError (no such device).
    """
    from carl_cli.model.devices import chosen_device, set_deterministic
    from carl_cli.weights.folder import load_weights

    set_deterministic(deterministic)
    return load_weights(locate(name, offline), chosen_device(device))
