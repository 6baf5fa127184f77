"""Several contrasts of a pair: what one doesn't show, another one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from carl_cli.io.images.files import Image
from carl_cli.model.coarse import attention_of, weighing
from carl_cli.model.fields import identity
from carl_cli.model.similarity import lncc, over_channels, squared_difference
from carl_cli.registration.contexts import all_contexts, contexts
from carl_cli.registration.register import Registration, register
from carl_cli.registration.register import RegistrationOptions as Options
from carl_cli.report.record import read_record
from carl_cli.weights.folder import Weights
from carl_cli.weights.locate import chosen_weights
from tests.cli.conftest import Carl
from tests.conftest import make_grid
from tests.registration.test_alignment import SIDE, anatomy, bend, inverted

MM = 2.0
GRID = make_grid((SIDE,) * 3, (MM,) * 3, (5.0, -8.0, 3.0))
Contrasts = tuple[Image, Image]  # of one image: each shows one half of the body


def _bent(unit: torch.Tensor) -> torch.Tensor:
    """Fixed → moving in unit coordinates."""
    return unit + 1.5 * (bend(unit) - unit)


def _halves(at: torch.Tensor, seed: int) -> Contrasts:
    """Organs in front, and behind those of another contrast; the rest is even."""
    organs = anatomy(at)
    even = 0.4 * torch.sigmoid((0.34 - (at - 0.5).norm(dim=1, keepdim=True)) * SIDE * 1.5)
    front = torch.sigmoid((0.5 - at[:, 1:2]) * SIDE)
    first = front * organs + (1 - front) * even
    second = (1 - front) * inverted(organs) + front * even
    draw = np.random.default_rng(seed)
    noisy = (x[0, 0].numpy() + draw.normal(0, 0.002, (SIDE,) * 3) for x in (first, second))
    a, b = (Image(x.astype(np.float32), GRID) for x in noisy)
    return a, b


@pytest.fixture(scope="module")
def pair() -> tuple[Contrasts, Contrasts]:
    grid = identity((SIDE,) * 3, False)
    back = grid
    for _ in range(30):
        back = grid - (_bent(back) - back)
    return _halves(grid, 0), _halves(back, 1)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return chosen_weights("carl-base", "cpu")


def _missed(found: Registration) -> float:
    """Mean error in mm inside the body."""
    grid = identity((SIDE,) * 3, False)
    body = ((grid - 0.5).norm(dim=1) < 0.3)[0].numpy()
    moved = _bent(grid)[0].movedim(0, -1).double().numpy()[..., ::-1] * SIDE - 0.5
    target = moved * MM + GRID.points_mm()[0, 0, 0]
    apart = np.linalg.norm(found.forward(GRID.points_mm()[body]) - target[body], axis=1)
    return float(apart.mean())


@pytest.mark.slow
def test_two_contrasts_see_what_each_alone_does_not(
    pair: tuple[Contrasts, Contrasts], weights: Weights
) -> None:
    fixed, moving = pair
    both = Options(fixed_channels=fixed[1:], moving_channels=moving[1:])
    errors = [
        _missed(register(fixed[0], moving[0], weights)),
        _missed(register(fixed[1], moving[1], weights)),
        _missed(register(fixed[0], moving[0], weights, both)),
    ]
    print("mm: first {:.2f}, second {:.2f}, both {:.2f}".format(*errors))
    assert errors[2] < 0.85 * min(errors[:2])


@pytest.mark.slow
def test_equal_contrasts_give_the_result_of_one(
    pair: tuple[Contrasts, Contrasts], weights: Weights
) -> None:
    """And a weight of 0 that of the other one; both within rounding."""
    (fixed, other), (moving, another) = pair
    one = register(fixed, moving, weights)
    twice = Options(fixed_channels=(fixed,), moving_channels=(moving,))
    silent = Options(fixed_channels=(other,), moving_channels=(another,), channel_weights="3,0")
    points = GRID.points_mm()[8:-8:4, 8:-8:4, 8:-8:4]
    for options in (twice, silent):
        found = register(fixed, moving, weights, options)
        print("mm:", np.abs(found.forward(points) - one.forward(points)).max())
        np.testing.assert_allclose(found.forward(points), one.forward(points), atol=1e-3)


def test_features_multiply_to_the_weighted_mean_of_logits(weights: Weights) -> None:
    network = attention_of(weighing(weights.network, (0.75, 0.25)))
    assert network is not None
    assert attention_of(weights.network).channel_weights is None
    images = torch.rand(2, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = [network.features(image[None])[0].flatten(1) for image in images]
        alone = [
            [network.features(image[None, k : k + 1])[0].flatten(1) for image in images]
            for k in range(2)
        ]
    logits = [a.T @ b for a, b in alone]
    torch.testing.assert_close(
        found[0].T @ found[1], 0.75 * logits[0] + 0.25 * logits[1], atol=1e-4, rtol=0
    )


def test_losses_are_weighted_means_over_contrasts() -> None:
    """Of squared differences of channels, and of local correlations."""
    a, b = torch.rand(2, 1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    shares = (0.75, 0.25)
    parts = [(a[:, k : k + 1], b[:, k : k + 1]) for k in range(2)]
    whole = squared_difference(*(all_contexts(x, 2, 1e-3, shares) for x in (a, b)))
    apart = [squared_difference(*(contexts(x, 2, 1e-3) for x in part)) for part in parts]
    torch.testing.assert_close(whole, 0.75 * apart[0] + 0.25 * apart[1])
    expected = 0.75 * lncc(*parts[0]) + 0.25 * lncc(*parts[1])
    torch.testing.assert_close(over_channels(lncc, shares)(a, b), expected)


@pytest.fixture(scope="module")
def files(
    pair: tuple[Contrasts, Contrasts], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Both contrasts of both images at twice the spacing, and each image as one of vectors."""
    folder, paths = tmp_path_factory.mktemp("contrasts"), {}
    for side, contrasts in zip(("fixed", "moving"), pair, strict=True):
        small = [sitk.GetImageFromArray(image.array[::2, ::2, ::2]) for image in contrasts]
        for image in small:
            image.SetSpacing((4.0, 4.0, 4.0))
        for name, image in (*zip("ab", small, strict=True), ("ab", sitk.Compose(small))):
            paths[side + name] = folder / f"{side}_{name}.nii.gz"
            sitk.WriteImage(image, str(paths[side + name]))
    return paths


def test_an_image_of_vectors_is_its_components(
    carl: Carl, files: dict[str, Path], tmp_path: Path
) -> None:
    """The same bytes as from files of their own. Of those the record tells how each was scaled:
    as if it were alone."""
    apart = ("--fixed-channel", files["fixedb"], "--moving-channel", files["movingb"])
    runs = {"apart": ("a", apart), "vectors": ("ab", ()), "one": ("a", ()), "other": ("b", ())}
    for name, (kind, more) in runs.items():
        line = ("register", files[f"fixed{kind}"], files[f"moving{kind}"], *more, "-q")
        line += ("--json", tmp_path / f"{name}.json")
        said = carl(*line, "--threads", 1, "-o", tmp_path / f"{name}.h5")
        assert said.code == 0, said.err
    apart_, vectors, one, _ = ((tmp_path / f"{name}.h5").read_bytes() for name in runs)
    assert apart_ == vectors != one
    told = {name: read_record(tmp_path / f"{name}.json").inputs for name in runs}
    for side in ("fixed", "moving"):
        alone, beside = told["other"][side], told["apart"][f"{side}_channel_1"]
        assert beside.intensity_window == alone.intensity_window
        assert beside.intensity_window != told["apart"][side].intensity_window
        assert (beside.size, beside.modality) == (alone.size, "mr")
    assert set(told["vectors"]) == {"fixed", "moving"}


def test_a_warped_image_of_vectors_has_all_components(
    carl: Carl, files: dict[str, Path], tmp_path: Path
) -> None:
    """Both ways, as SimpleITK resamples each component. Only the first one was written."""
    out = {name: tmp_path / name for name in ("t.h5", "i.h5", "w.nii.gz", "v.nii.gz")}
    words = [
        word for pair in zip(("-o", "-O", "-w", "-W"), out.values(), strict=True) for word in pair
    ]
    said = carl("register", files["fixedab"], files["movingab"], "-q", "--threads", 1, *words)
    assert said.code == 0, said.err
    ways = (("moving", "fixed", "t.h5", "w.nii.gz"), ("fixed", "moving", "i.h5", "v.nii.gz"))
    for source, onto, transform, warped in ways:
        found = sitk.ReadImage(str(out[warped]))
        assert found.GetNumberOfComponentsPerPixel() == 2
        reference = sitk.ReadImage(str(files[f"{onto}a"]))
        for k, name in enumerate("ab"):
            image = sitk.ReadImage(str(files[source + name]))
            least = float(sitk.GetArrayViewFromImage(image).min())
            held = sitk.ReadTransform(str(out[transform]))
            expected = sitk.Resample(image, reference, held, sitk.sitkLinear, least)
            gap = sitk.GetArrayFromImage(sitk.VectorIndexSelectionCast(found, k) - expected)
            assert np.abs(gap).max() < 1e-4 * np.ptp(sitk.GetArrayFromImage(image)), name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--fixed-channel", "fixedb"], "1 further contrasts of the fixed image meet 0"),
        (
            ["--fixed-channel", "fixedb", "--moving-channel", "movingb", "--channel-weights", "1"],
            "for 2 channels",
        ),
        (["--channel-weights", "1,-1"], "0 or more"),
        (["--channel-weights", "1,x"], "0 or more"),
        (
            [
                "--fixed-channel",
                "fixedb",
                "--moving-channel",
                "movingb",
                "--io",
                "--io-scope",
                "all",
            ],
            "takes one contrast",
        ),
        (
            ["--fixed-channel", "fixedb", "--moving-channel", "movingb", "--weights", "U"],
            "take one contrast",
        ),
    ],
)
def test_contrasts_that_do_not_fit_are_refused(
    carl: Carl,
    files: dict[str, Path],
    identity_weights: Path,
    tmp_path: Path,
    options: list[str],
    told: str,
) -> None:
    known = {**files, "U": identity_weights}
    line = ("register", files["fixeda"], files["movinga"], "-o", tmp_path / "t.h5")
    said = carl(*line, *(known.get(option, option) for option in options))
    assert said.code == 2
    assert told in said.err
    assert not (tmp_path / "t.h5").exists()
