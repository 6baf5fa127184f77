"""Labels and landmarks that guide: what was held out improves too, by figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.evaluation.metrics import dice
from carl_cli.io.images.files import Image
from carl_cli.io.resample import resample
from carl_cli.model.fields import identity
from carl_cli.registration.known import Known
from carl_cli.registration.register import Registration, register
from carl_cli.registration.register import RegistrationOptions as Options
from carl_cli.weights.folder import Weights
from carl_cli.weights.locate import chosen_weights
from tests.cli.conftest import Carl
from tests.conftest import make_grid
from tests.registration.test_alignment import SIDE, bend
from tests.workflows.conftest import PairFiles

MM = 2.0
GRID = make_grid((SIDE,) * 3, (MM,) * 3, (5.0, -8.0, 3.0))
Points = NDArray[np.float64]


def _bent(unit: torch.Tensor) -> torch.Tensor:
    """Fixed → moving in unit coordinates: `bend` twice as far, some ten millimetres."""
    return unit + 2 * (bend(unit) - unit)


def _back(unit: torch.Tensor) -> torch.Tensor:
    found = unit
    for _ in range(40):
        found = unit - (_bent(found) - found)
    return found


def _lps(unit: torch.Tensor) -> Points:
    """(1, 3, N) unit coordinates → (N, 3) LPS mm."""
    index = unit[0].T.double().numpy()[:, ::-1] * SIDE - 0.5
    return np.asarray(index * MM + GRID.points_mm()[0, 0, 0])


def _away(at: torch.Tensor) -> torch.Tensor:
    """From the middle of the body, 1 at its surface."""
    radii = torch.tensor([0.30, 0.36, 0.33]).view(1, 3, *[1] * (at.dim() - 2))
    return ((at - 0.5) / radii).norm(dim=1)


def _places(count: int) -> torch.Tensor:
    """(1, 3, count) inside the body."""
    draw = 0.5 + 0.6 * (
        torch.rand(1, 3, 40 * count, generator=torch.Generator().manual_seed(2)) - 0.5
    )
    return draw[:, :, _away(draw)[0] < 0.9][:, :, :count]


def _plain(at: torch.Tensor, seed: int) -> Image:
    """A body without organs: inside it the image tells nothing."""
    body = torch.sigmoid((1 - _away(at)) * 12)[0].numpy()
    noise = np.random.default_rng(seed).normal(0, 0.01, body.shape)
    return Image((body + noise).astype(np.float32), GRID)


def _organs(at: torch.Tensor, parity: int) -> Image:
    """Twenty balls of 8 mm, labels 1 to 20; parity: only the odd (1) or even (0) ones."""
    labels = np.zeros(GRID.shape_zyx, np.uint8)
    for k, centre in enumerate(_places(20)[0].T):
        if k % 2 == parity:
            inside = (at - centre.view(1, 3, 1, 1, 1)).norm(dim=1)[0].numpy() < 4 / SIDE
            labels[inside] = k + 1
    return Image(labels, GRID)


@pytest.fixture(scope="module")
def grids() -> tuple[torch.Tensor, torch.Tensor]:
    """The fixed voxels' places in the body, and the moving ones'."""
    grid = identity((SIDE,) * 3, False)
    return grid, _back(grid)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return chosen_weights("carl-base", "cpu")


@pytest.fixture(scope="module")
def plain(grids: tuple[torch.Tensor, torch.Tensor]) -> tuple[Image, Image]:
    return _plain(grids[0], 0), _plain(grids[1], 1)


@pytest.fixture(scope="module")
def alone(plain: tuple[Image, Image], weights: Weights) -> Registration:
    return register(*plain, weights)


def test_landmarks_bring_others_closer(
    plain: tuple[Image, Image], alone: Registration, weights: Weights
) -> None:
    """Half of forty guide; the others miss by less than half of what they did."""
    fixed = _places(40)
    pairs = _lps(fixed), _lps(_bent(fixed))
    half = Known(points=(pairs[0][::2], pairs[1][::2]))
    guided = register(*plain, weights, Options(guide_points=0.1, known=half))

    def missed(found: Registration, first: int) -> float:
        a, b = (each[first::2] for each in pairs)
        return float(np.linalg.norm(found.forward(a) - b, axis=1).mean())

    print("held out, mm:", missed(alone, 1), "->", missed(guided, 1), "guides:", missed(guided, 0))
    assert missed(guided, 1) < 0.5 * missed(alone, 1)
    assert missed(guided, 0) < 1.0


def test_labels_bring_others_closer(
    plain: tuple[Image, Image],
    grids: tuple[torch.Tensor, torch.Tensor],
    alone: Registration,
    weights: Weights,
) -> None:
    guides, held = ([_organs(at, parity) for at in grids] for parity in (0, 1))
    known = Known(labels=(guides[0], guides[1]))
    guided = register(*plain, weights, Options(guide_labels=1.0, known=known))

    def overlap(found: Registration, labels: list[Image]) -> float:
        warped = resample(labels[1], GRID, found.forward, interpolator="nearest")
        return dice(labels[0].array, warped.array).mean

    print(
        "held out, Dice:",
        overlap(alone, held),
        "->",
        overlap(guided, held),
        "guides:",
        overlap(alone, guides),
        "->",
        overlap(guided, guides),
    )
    assert overlap(guided, held) > overlap(alone, held) + 0.1
    assert overlap(guided, guides) > overlap(alone, guides) + 0.1


def test_the_command_line_guides_instance_optimisation(
    carl: Carl, pair: PairFiles, identity_weights: Path, tmp_path: Path
) -> None:
    """SimpleITK finds the landmarks of 9 mm voxels within 2 mm, which the images alone don't do."""
    paths = pair.fixed_points, pair.moving_points
    points = [np.loadtxt(path, delimiter=",", skiprows=1) for path in paths]
    files = ("--fixed-points", paths[0], "--moving-points", paths[1])
    line = ("register", pair.fixed, pair.moving, "--weights", identity_weights, *files, "-q")
    fit = ("--threads", 1, "--init", "moments", "--io", "--io-scope", "field", "--io-steps", 10)

    def missed(name: str, *options: object) -> float:
        said = carl(*line, *fit, *options, "-o", tmp_path / name)
        assert said.code == 0, said.err
        transform = sitk.ReadTransform(str(tmp_path / name))
        reached = [transform.TransformPoint(p) for p in points[0].tolist()]
        return float(np.linalg.norm(reached - points[1], axis=1).mean())

    alone, guided = missed("alone.h5"), missed("guided.h5", "--guide-points", 0.1)
    print(f"guides: {alone:.2f} -> {guided:.2f} mm")
    assert guided < 2 < 5 < alone


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--guide-points", 1], "--fixed-points"),
        (["--guide-labels", 1], "--fixed-seg"),
        (["--guide-labels", 1, "SEG", "--transform", "rigid"], "--transform rigid"),
        (["--guide-labels", 1, "SEG", "--io", "--io-scope", "all"], "--io-scope field"),
        (["--guide-labels", 1, "SEG"], "no alignment"),
    ],
)
def test_a_guide_that_could_not_act_is_refused(
    carl: Carl,
    pair: PairFiles,
    identity_weights: Path,
    tmp_path: Path,
    options: list[object],
    told: str,
) -> None:
    segs = ["--fixed-seg", pair.fixed_seg, "--moving-seg", pair.moving_seg]
    given = [v for option in options for v in (segs if option == "SEG" else [option])]
    line = ("register", pair.fixed, pair.moving, "--weights", identity_weights)
    said = carl(*line, "-o", tmp_path / "t.h5", *given)
    assert said.code == 2
    assert told in said.err
    assert not (tmp_path / "t.h5").exists()


def test_labels_that_are_not_shared_are_refused(
    plain: tuple[Image, Image], weights: Weights
) -> None:
    one, two = (Image(np.full(GRID.shape_zyx, k, np.uint8), GRID) for k in (1, 2))
    with pytest.raises(InputError, match="share no label"):
        register(*plain, weights, Options(guide_labels=1.0, known=Known(labels=(one, two))))
