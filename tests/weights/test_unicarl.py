"""uniCARL from the authors' file to a registered pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from carl_cli.errors import WeightsError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, from_sitk, to_sitk
from carl_cli.model.network import EncoderConfig, ModelConfig, UNetConfig, build_network
from carl_cli.model.published import _translate, fits
from carl_cli.model.similarity import by_name
from carl_cli.preprocessing.pair import prepare_pair
from carl_cli.weights import checkpoints
from carl_cli.weights.checkpoints import authors_rule, import_checkpoint
from carl_cli.weights.files import stored_config
from tests.model.reference import CONFIGS, drawn_state, reference_outputs
from tests.weights.conftest import Carl
from tests.workflows.conftest import PairFiles, pair  # noqa: F401 (a fixture)

SIDE = 32
SMALL = ModelConfig(
    encoder=EncoderConfig(width=8, blocks=3, padding=8, dilations=(1, 1, 1), halvings=2),
    refine_scales=(2, 2, 1),
    refine_unets=(4, 4, 1),
    refine_blurs=(5, 3, 2),
    unet=UNetConfig(down=(4, 6), up=(4, 5)),
    extrapolation="reflected",
)
MATCHER = "netPsi.netPsi." + "netPhi.net.net." + "netPhi.net." * 2


def published_state(model: ModelConfig) -> dict[str, torch.Tensor]:
    """A thin network's numbers by the authors' names, with the layers that they never call."""
    torch.manual_seed(1)
    network = build_network(model)
    for name, parameter in network.named_parameters():
        if "last" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    ours = network.state_dict()
    state = {f"netPsi.netPsi.{theirs}": ours[key] for theirs, key in _translate(network)}
    unused = {f"{MATCHER}net.cross{k}.mlp1.bias": torch.zeros(128) for k in (1, 2)}
    return state | unused


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported as the authors' file is, but for a thin network on a small grid."""
    folder = tmp_path_factory.mktemp("unicarl")
    torch.save(published_state(SMALL), folder / "longleaf_unicarl_8")
    family = replace(checkpoints.FAMILIES["unicarl"], models=(SMALL,), shape_zyx=(SIDE,) * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(checkpoints.FAMILIES, "unicarl", family)
        import_checkpoint(folder / "longleaf_unicarl_8", "unicarl", folder / "own")
    return folder / "own"


def test_the_family_is_the_network_of_the_parity_test() -> None:
    assert checkpoints.FAMILIES["unicarl"].models == (CONFIGS["unicarl3d"],)


def test_every_name_of_their_file_is_known(parity_dir: Path) -> None:
    """Names and shapes only: the 142 million numbers are for the parity test."""
    shapes = json.loads((parity_dir / "unicarl_state_dict.json").read_text())["state_dict"]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        network = build_network(checkpoints.FAMILIES["unicarl"].models[0])
        assert fits(network, state)
        del state[next(key for key in state if key.endswith("convs0.bias"))]
        assert not fits(network, state)


def test_what_the_folder_says(small_weights: Path) -> None:
    config = stored_config(small_weights)
    assert config["family"] == "unicarl"
    assert config["preprocess"]["shape_zyx"] == [SIDE] * 3
    assert config["instance"]["metric"] == "lncc2"
    assert config["instance"]["sigma"] == 4
    assert config["instance"]["variance_floor"] == 1e-4
    assert "arXiv:2405.16738" in config["citation"]
    assert (small_weights / "README.md").read_text().count("arXiv:2405.16738") == 1


def test_all_outputs_and_a_fit_with_masks(
    small_weights: Path,
    carl_here: Carl,
    pair: PairFiles,  # noqa: F811
    tmp_path: Path,
) -> None:
    names = {"-o": "t.h5", "-O": "i.nii.gz", "-w": "w.nii.gz", "--match-spread": "c.nii.gz"}
    files = [word for key, name in names.items() for word in (key, tmp_path / name)]
    masks = ("--fixed-mask", pair.fixed_seg, "--moving-mask", pair.moving_seg)
    fit = ("--io", "--io-steps", 2, "--io-lr", "1e-3", "--json", tmp_path / "r.json")
    order = ("register", pair.fixed, pair.moving, "--weights", small_weights, "--threads", 1)
    done = carl_here(*order, "-q", *files, *masks, *fit)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["options"]["io_metric"] == "lncc2"
    assert len(record["io_loss"]) == 3
    assert min(record["io_loss"][1:]) < record["io_loss"][0]
    fixed, moving = (sitk.ReadImage(str(path), sitk.sitkFloat64) for path in pair[:2])
    transform = sitk.ReadTransform(str(tmp_path / "t.h5"))
    by_sitk = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "w.nii.gz"), sitk.sitkFloat64))
    inside = sitk.Resample(moving * 0 + 1, fixed, transform, sitk.sitkLinear, 0.0)
    where = sitk.GetArrayFromImage(sitk.BinaryErode(inside > 0.999)) > 0
    assert where.sum() > 1000
    assert np.abs(ours - by_sitk)[where].max() < 1e-3 * np.ptp(by_sitk) + 0.5  # stored as integers
    spread = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "c.nii.gz")))
    assert 0 < spread.min() <= spread.max() < 1000


def test_a_batch_gives_the_transform_of_the_single_run(
    small_weights: Path,
    carl_here: Carl,
    pair: PairFiles,  # noqa: F811
    tmp_path: Path,
) -> None:
    common = ("--weights", small_weights, "--threads", 1, "-q")
    single = carl_here("register", pair.fixed, pair.moving, "-o", tmp_path / "t.h5", *common)
    (tmp_path / "pairs.csv").write_text(f"id,fixed,moving\nab,{pair.fixed},{pair.moving}\n")
    done = carl_here("batch", tmp_path / "pairs.csv", "-o", tmp_path / "out", *common)
    assert (single.returncode, done.returncode) == (0, 0)
    (written,) = (tmp_path / "out").rglob("*.h5")
    assert written.read_bytes() == (tmp_path / "t.h5").read_bytes()


def test_images_are_prepared_as_their_code_does(
    make_image: Callable[..., Image], any_grid: Grid
) -> None:
    """Their steps by SimpleITK, NumPy and torch: axes to the left, back and bottom, slices of
    one value and one more cut, the 1st and the 99th of a hundred to 0 and 1, stretched."""
    black = sitk.ConstantPad(to_sitk(make_image(any_grid)), [2, 0, 1], [0, 3, 2], -50.0)
    turned = sitk.DICOMOrient(black, "LPI")
    array = sitk.GetArrayFromImage(turned)
    spans = []
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        varying = np.flatnonzero(np.ptp(array, axis=others) > 0)
        spans.append(slice(varying[0] + 1, varying[-1]))
    cut = array[tuple(spans)]
    ordered = np.sort(cut, axis=None)
    low, high = (ordered[int(part * cut.size) - 1] for part in (0.01, 0.99))
    scaled = torch.from_numpy(np.clip((cut - low) / (high - low), 0, 1))[None, None]
    expected = torch.nn.functional.interpolate(scaled, (20, 24, 28), mode="trilinear")[0, 0]
    image, rule = from_sitk(black), authors_rule("unicarl", (20, 24, 28))
    found = prepare_pair(image, image, rule).fixed
    # They take the nearest value, NumPy's percentiles lie between two: neighbours in order.
    neighbours = max(np.diff(ordered)[[*range(cut.size // 100 - 3, cut.size // 100 + 3)]])
    assert abs(found.intensity[0] - low) <= 3 * neighbours
    gap = max(abs(found.intensity[0] - low), abs(found.intensity[1] - high)) / (high - low)
    assert np.abs(found.array - expected.numpy()).max() < 2 * gap + 1e-5


def test_their_squared_lncc_has_another_floor() -> None:
    """An image and itself: without a floor all windows correlate fully, with one each by
    variance / (variance + floor)."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(1, 1, 24, 24, 24, generator=generator) * 0.04
    loss = {floor: by_name("lncc2", 4, floor)(a, a).item() for floor in (1e-5, 1e-4)}
    variance = a.var().item()  # that of every window, far from the border
    inner = torch.zeros_like(a)
    inner[:, :, 10:14, 10:14, 10:14] = 1
    for floor in loss:
        expected = 1 - (variance / (variance + floor)) ** 2
        found = by_name("lncc2", 4, floor)(a, a, inner).item()
        assert found == pytest.approx(expected, rel=0.1)
    assert loss[1e-5] < loss[1e-4]


@pytest.mark.slow
def test_the_whole_network_imports_and_keeps_the_reference_map(
    parity_dir: Path, tmp_path: Path
) -> None:
    torch.save(drawn_state("unicarl3d", parity_dir), tmp_path / "longleaf_unicarl_8")
    import_checkpoint(tmp_path / "longleaf_unicarl_8", "unicarl", tmp_path / "own")
    from carl_cli.weights.folder import load_weights

    expected = reference_outputs("unicarl3d", parity_dir)
    fixed, moving = (expected[key].squeeze()[None, None] for key in ("fixed", "moving"))
    with torch.inference_mode():
        phi = load_weights(tmp_path / "own").network(fixed, moving).on_grid(fixed.shape[2:])
    assert (phi[0, :, ::4, ::4, ::4] - expected["phi_AB"]).abs().max() < 1e-4


def test_another_network_is_refused(parity_dir: Path, tmp_path: Path) -> None:
    torch.save(published_state(SMALL), tmp_path / "file")
    with pytest.raises(WeightsError, match="the checkpoint lacks netPhi"):
        import_checkpoint(tmp_path / "file", "unicarl", tmp_path / "own")
