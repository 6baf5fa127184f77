"""A case that can't fit into the memory that is allowed is refused before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from carl_cli.errors import InputError, OutOfMemoryError
from carl_cli.geometry import Grid
from carl_cli.io.image import read_grid
from carl_cli.memory import Allowance, gpu_memory, main_memory, resident_mib
from carl_cli.needs import Need, Plan, need_of

if TYPE_CHECKING:
    from carl_cli.case import CaseInputs, RunSettings
    from carl_cli.weights import Weights

Grids = tuple[Grid, Grid]


def check_room(plan: Plan, weights: Weights) -> None:
    """Raise OutOfMemoryError, with figures and with what would fit. Reads headers only.

    Images that can't be read or don't belong together pass: what reads them says why.
    """
    grids = _grids(plan.inputs)
    if grids is None:
        return
    need = need_of(plan, *grids, weights)
    for needed, allowed in _pairs(need, plan.settings):
        if needed > allowed.mib:
            names = f"{plan.inputs.moving} onto {plan.inputs.fixed}"
            raise OutOfMemoryError(
                f"{names} takes about {_gib(needed)}, but {allowed.source} allows "
                f"{_gib(allowed.mib)} ({_told(plan, grids, need)})",
                _hint(plan, grids, weights, needed),
            )


def room_for_both(one: Plan, other: Plan, weights: Weights) -> bool:
    """Whether files of one case may be read or written while the other one is computed."""
    grids = _grids(one.inputs), _grids(other.inputs)
    if grids[0] is None or grids[1] is None:
        return True
    needs = need_of(one, *grids[0], weights), need_of(other, *grids[1], weights)
    together = replace(needs[0], main_mib=needs[0].main_mib + needs[1].main_mib)
    return _fits(together, one.settings)


def _grids(inputs: CaseInputs) -> Grids | None:
    paths = inputs.fixed, inputs.moving
    try:
        fixed, moving = (read_grid(path, series_uid=inputs.series_uid) for path in paths)
    except (InputError, OSError):
        return None
    return (fixed, moving) if fixed.dimension == moving.dimension else None


def _pairs(need: Need, settings: RunSettings) -> Iterator[tuple[float, Allowance]]:
    """What is needed and what is allowed, of each kind of memory."""
    allowed = main_memory()
    if allowed is not None:
        if settings.workers > 1:
            shared = f"a share of {settings.workers} workers in {allowed.source}"
            allowed = Allowance(allowed.mib / settings.workers, shared)
        yield need.main_mib + _before_the_first_case(), allowed
    if need.gpu_mib:
        yield need.gpu_mib, gpu_memory(settings.device)


@lru_cache(maxsize=1)
def _before_the_first_case() -> float:
    """Libraries and weights. Later the process also holds what earlier cases have left."""
    return resident_mib()


def _fits(need: Need, settings: RunSettings) -> bool:
    return all(needed <= allowed.mib for needed, allowed in _pairs(need, settings))


def _hint(plan: Plan, grids: Grids, weights: Weights, needed_mib: float) -> str:
    """The first change that would help, the mildest first."""
    for words, changed in _changes(plan):
        if _fits(need_of(changed, *grids, weights), changed.settings):
            return f"what would fit: {words}"
    return f"ask for more memory (about {_gib(needed_mib)}), or use smaller images"


def _changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    outputs, settings = plan.outputs, plan.settings
    alone = replace(plan, settings=replace(settings, workers=1))
    yield "--workers 1", alone
    yield "--device cpu", replace(plan, settings=replace(settings, device="cpu"))
    yield "--no-io", replace(plan, options=replace(plan.options, instance=None))
    yield (
        "--no-io with --workers 1",
        replace(alone, options=replace(plan.options, instance=None)),
    )
    if outputs.forward is not None:
        others = [role for role in outputs.paths() if role not in ("forward", "json")]
        bare = replace(outputs, **dict.fromkeys(others, None))
        yield "the transform alone (carl warp makes the images)", replace(plan, outputs=bare)


def _told(plan: Plan, grids: Grids, need: Need) -> str:
    images = " and ".join(_product(grid.size_xyz) for grid in grids)
    network = _product(need.network_shape[::-1])
    fitted = ", instance optimisation" if plan.options.instance is not None else ""
    return f"images of {images} voxels, network grid of {network}{fitted}"


def _product(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _gib(mib: float) -> str:
    return f"{mib / 1024:.2f} GiB"
