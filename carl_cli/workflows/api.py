"""What `import carl_cli` offers beyond its parts: images of any library, weights by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from carl_cli.errors import UsageError
from carl_cli.evaluation.truth import Truth
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.io.images.foreign import as_image
from carl_cli.io.resample import resample
from carl_cli.progress import Progress, silent
from carl_cli.registration import register as straight
from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.register import DEFAULT_OPTIONS, RegistrationOptions
from carl_cli.transforms import Transform
from carl_cli.weights import folder as folders
from carl_cli.weights.catalogue import ABSENT, DAMAGED, rows
from carl_cli.weights.folder import Weights
from carl_cli.weights.locate import chosen_weights, locate
from carl_cli.weights.registry import DEFAULT, suited
from carl_cli.workflows.registered import Registration

IMAGES = ("fixed_mask", "moving_mask")


def register(
    fixed: Any,
    moving: Any,
    weights: str | Path | Weights = DEFAULT,
    options: RegistrationOptions = DEFAULT_OPTIONS,
    progress: Progress = silent,
    *,
    io: bool = False,
    fixed_seg: Any = None,
    moving_seg: Any = None,
    device: str = "auto",
    **choices: Any,
) -> Registration:
    """Find the transform that brings `moving` onto `fixed`.

    Images are paths, images of carl, nibabel, SimpleITK or itk, or `(array, grid)`. weights: a
    name, a folder, `org/repo` on the Hub, or what `load_weights` returned, which stays on its
    device. io: fit the result to this pair, as the weights advise. fixed_seg, moving_seg: labels,
    for Dice in `.metrics`. choices: fields of RegistrationOptions, as `init="rigid"`.

    Raises CarlError: InputError for images that can't be used, WeightsError, UsageError.
    """
    first, second = as_image(fixed), as_image(moving)
    labels = (None if seg is None else as_image(seg) for seg in (fixed_seg, moving_seg))
    truth = Truth(next(labels), next(labels))
    ready = weights
    if not isinstance(ready, Weights):
        ready = _loaded(suited(str(weights), first.grid.dimension), device)
    chosen = replace(_chosen(options, choices), known=truth.known)
    if io and chosen.instance is None:
        chosen = replace(chosen, instance=InstanceOptions(**asdict(ready.config.instance)))
    found = straight.register(first, second, ready, chosen, progress)
    known = {f.name: getattr(found, f.name) for f in fields(found)}
    known |= {"fixed": first, "moving": second, "fixed_mask": chosen.fixed_mask}
    return Registration(**known, weights=ready, truth=truth)


def warp(
    image: Any,
    grid: Any,
    transform: Transform | None = None,
    *,
    interpolator: str = "linear",
    background: float = 0,
    dtype: DTypeLike | None = None,
) -> Image:
    """Resample an image onto a grid, or onto the grid of another image, through a transform that
    maps points of the grid to points of the image (LPS mm; None: the identity).

    interpolator "genericlabel" keeps labels; outside the image the result is `background`.
    """
    onto = grid if isinstance(grid, Grid) else as_image(grid).grid
    looks: dict[str, Any] = {"interpolator": interpolator, "background": background, "dtype": dtype}
    return resample(as_image(image), onto, transform, **looks)


def load_weights(folder: str | Path, device: str = "cpu", *, offline: bool = False) -> Weights:
    """A network ready to use, by name (`available()`), folder, or `org/repo` on the Hub.

    Raises WeightsError for weights that are absent or damaged.
    """
    return folders.load_weights(locate(str(folder), offline), device)


def available() -> list[str]:
    """Names of the weights that are on this machine, the default ones first."""
    return [row.name for row in rows() if row.state not in (ABSENT, DAMAGED)]


@lru_cache(maxsize=2)
def _loaded(name: str, device: str) -> Weights:
    """Kept for the next pair of a session."""
    return chosen_weights(name, device)


def _chosen(options: RegistrationOptions, choices: Mapping[str, Any]) -> RegistrationOptions:
    known = [f.name for f in fields(options)]
    if unknown := sorted(set(choices) - set(known)):
        raise UsageError(f"no option {unknown[0]!r}", f"choose among {', '.join(known)}")
    masks = {n: as_image(choices[n]) for n in IMAGES if choices.get(n) is not None}
    return replace(options, **{**choices, **masks})
