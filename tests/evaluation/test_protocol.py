"""Protocols, end to end on small synthetic stand-ins laid out like the real data sets."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import map_coordinates, zoom

from carl_cli.errors import InputError, UsageError
from carl_cli.evaluation.protocol import (
    Draw,
    case_id,
    pairs_of,
    prepared_table,
    read_protocol,
)
from carl_cli.evaluation.submission import half_resolution, submission_name
from carl_cli.evaluation.tables import beside_published
from carl_cli.geometry import apply_affine
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import read_transform
from carl_cli.transforms import AffineTransform
from carl_cli.workflows.phantom import PhantomPair, make_phantom
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)
from tests.cli.weights_folder import untrained_weights
from tests.conftest import make_grid, rotation

PROTOCOLS = Path(__file__).parents[2] / "examples" / "protocols"


@pytest.fixture(scope="module")
def phantom() -> PhantomPair:
    return make_phantom(seed=1, voxel_mm=18.0, points=12)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_weights(tmp_path_factory.mktemp("weights"))


def write(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


def stand_in_dirlab(folder: Path, phantom: PhantomPair) -> None:
    """Ten times the same pair; landmarks as voxel numbers from 1, tabs between."""
    sides = (
        ("eBH", phantom.fixed, phantom.fixed_points),
        ("iBH", phantom.moving, phantom.moving_points),
    )
    for k in range(1, 11):
        for phase, image, points in sides:
            write(folder / f"copd{k}" / f"copd{k}_{phase}CT.nii.gz", image)
            index = apply_affine(image.grid.lps_to_index, points) + 1
            path = folder / f"copd{k}" / f"copd{k}_300_{phase}_xyz_r1.txt"
            np.savetxt(path, index, delimiter="\t", fmt="%.4f")


def subjects(folder: Path, phantom: PhantomPair, image: str, labels: str, names: list[str]) -> None:
    """Both sides of the phantom under the names of two subjects."""
    sides = ((phantom.fixed, phantom.fixed_labels), (phantom.moving, phantom.moving_labels))
    for name, (seen, segmentation) in zip(names, sides, strict=True):
        write(folder / image.format(name), seen)
        write(folder / labels.format(name), segmentation)


def stand_in_hcp(folder: Path, phantom: PhantomPair) -> None:
    subjects(folder, phantom, "images/{}.nii.gz", "labels/{}.nii.gz", ["189450", "751348"])


def stand_in_abdomen1k(folder: Path, phantom: PhantomPair) -> None:
    names = ["Case_00802", "Case_00801"]
    subjects(folder, phantom, "images/{}_0000.nii.gz", "labels/{}.nii.gz", names)


def stand_in_ixi(folder: Path, phantom: PhantomPair) -> None:
    names = ["IXI430-IOP-0990-T1", "IXI428-Guys-0996-T1"]
    subjects(folder, phantom, "T1/{}.nii", "T1_seg/{}.nii", names)
    for name, labels in zip(names, (phantom.fixed_labels, phantom.moving_labels), strict=True):
        mask = Image((labels.array > 0).astype(np.uint8), labels.grid)
        write(folder / "T1_mask" / f"{name}_mask.nii.gz", mask)


def stand_in_learn2reg(folder: Path, phantom: PhantomPair) -> None:
    """All images of one shape, as in the challenge."""
    names = ["AbdomenCTCT_0021_0000.nii.gz", "AbdomenCTCT_0003_0000.nii.gz"]
    grid = phantom.fixed.grid
    sides = ((phantom.fixed, phantom.fixed_labels), (phantom.moving, phantom.moving_labels))
    for name, (seen, labels) in zip(names, sides, strict=True):
        write(folder / "imagesTr" / name, resample(seen, grid, background=-1000))
        write(folder / "labelsTr" / name, resample(labels, grid, interpolator="nearest"))
    pair = {"fixed": f"./imagesTr/{names[0]}", "moving": f"./imagesTr/{names[1]}"}
    content = {"name": "AbdomenCTCT", "registration_val": [pair]}
    (folder / "AbdomenCTCT_dataset.json").write_text(json.dumps(content))


STAND_INS: dict[str, Callable[[Path, PhantomPair], None]] = {
    "hcp": stand_in_hcp,
    "abdomen1k": stand_in_abdomen1k,
    "learn2reg_abdomenctct": stand_in_learn2reg,
    "ixi_keymorph": stand_in_ixi,
    "dirlab_copdgene": stand_in_dirlab,
}


def shortened(name: str, folder: Path) -> Path:
    """The protocol with its first pair alone; of a draw, with a seed that draws the first of two
    cases as moving and the second as fixed."""
    text = (PROTOCOLS / f"{name}.toml").read_text()
    text = re.sub(r"(listed = \[\s*\[.*?\]).*?\n\]", r"\1]", text, flags=re.DOTALL)
    text = text.replace("count = 30, seed = 1", "count = 1, seed = 4")
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def test_every_protocol_has_a_stand_in_and_the_readme_names_it() -> None:
    names = {path.stem for path in PROTOCOLS.glob("*.toml")}
    assert names == set(STAND_INS)
    text = (PROTOCOLS / "README.md").read_text()
    assert all(f"`{name}.toml`" in text for name in names)


@pytest.mark.parametrize("name", ["hcp", "abdomen1k", "ixi_keymorph", "learn2reg_abdomenctct"])
def test_labels_end_to_end(
    carl: Carl,  # noqa: F811
    phantom: PhantomPair,
    weights: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """Dice before is that of the stand-in; the run again does nothing; one CSV row a figure."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    STAND_INS[name](data, phantom)
    short = shortened(name, tmp_path)
    command = ("evaluate", "protocol", short, "--data", data, "--out-dir", out)
    outcome = carl(*command, "--weights", weights)
    assert outcome.code == 0, outcome.err
    rows = {row["figure"]: row for row in csv.DictReader(io.StringIO(outcome.out))}
    assert set(read_protocol(PROTOCOLS / f"{name}.toml").figures) == set(rows)
    (case,) = csv.DictReader((out / "scores.csv").open())
    labels = [phantom.fixed_labels, phantom.moving_labels]
    there = resample(labels[1], labels[0].grid, interpolator="nearest").array
    shared = set(np.unique(labels[0].array)) & set(np.unique(labels[1].array)) - {0}
    expected = [
        2 * np.sum((labels[0].array == k) & (there == k))
        / (np.sum(labels[0].array == k) + np.sum(there == k))
        for k in shared
    ]  # fmt: skip
    assert float(case["dice_before"]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert float(rows["dice_before"]["mean"]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert rows["dice"]["cases"] == "1"


def test_landmarks_end_to_end(
    carl: Carl,  # noqa: F811
    phantom: PhantomPair,
    weights: Path,
    tmp_path: Path,
) -> None:
    """Voxel numbers from 1 come out as the phantom's landmarks; one pair instead of ten."""
    data, out = tmp_path / "data", tmp_path / "out"
    stand_in_dirlab(data, phantom)
    short = shortened("dirlab_copdgene", tmp_path)
    command = ("evaluate", "protocol", short, "--data", data, "--out-dir", out)
    outcome = carl(*command, "--weights", weights, "--preprocess", "protocol", "--dry-run")
    assert outcome.out.strip() == str(out / "pairs.csv")
    outcome = carl(*command, "--weights", weights)
    assert outcome.code == 0, outcome.err
    rows = {row["figure"]: row for row in csv.DictReader(io.StringIO(outcome.out))}
    before = np.linalg.norm(phantom.fixed_points - phantom.moving_points, axis=1).mean()
    assert float(rows["tre_before_mean_mm"]["mean"]) == pytest.approx(before, abs=0.01)
    forward = read_transform(next(out.glob("results/*/*xfm.h5")))
    record = json.loads(next(out.glob("results/*/*xfm.json")).read_text())
    assert record["metrics"]["landmarks"][0]["error_mm"] >= 0
    assert forward.dimension == 3


def test_the_ten_pairs_of_dirlab(phantom: PhantomPair, tmp_path: Path) -> None:
    stand_in_dirlab(tmp_path / "data", phantom)
    protocol = read_protocol(PROTOCOLS / "dirlab_copdgene.toml")
    table = prepared_table(protocol, tmp_path / "data", tmp_path / "out")
    rows = list(csv.DictReader(table.open()))
    assert [row["id"] for row in rows] == [f"copd{k}" for k in range(1, 11)]
    written = np.loadtxt(rows[9]["moving_points"], delimiter=",", skiprows=1)
    np.testing.assert_allclose(written, phantom.moving_points, atol=0.01)
    assert rows[0]["fixed"].endswith("copd1/copd1_eBHCT.nii.gz")


def test_what_the_challenge_computes(tmp_path: Path) -> None:
    """Its evaluation, with scipy and nibabel: labels warped by the enlarged field are those that
    carl's own resampling gives, in grids that are oblique and flipped. Inside: at the ends zoom's
    splines bend what is straight, a little less with each voxel."""
    flip = np.diag([-1.0, -1.0, 1.0])
    fixed_grid = make_grid((24, 20, 28), (2.0, 2.5, 1.8), (1, 2, 3), rotation((5, -8, 12)) @ flip)
    moving_grid = make_grid((24, 20, 28), (2.0, 2.5, 1.8), (0, 0, 0), flip)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (28, 20, 24)], indexing="ij"), -1)
    labels = 1 + (index // 7).sum(-1) % 5
    moving = Image(labels.astype(np.uint8), moving_grid)
    write_image(tmp_path / "moving.nii.gz", moving)
    transform = AffineTransform(rotation((3, 6, -4)) * 0.95, np.array([2.0, -1.0, 3.0]))
    half = half_resolution(transform, fixed_grid, moving_grid)
    assert (half.shape, half.dtype) == ((3, 12, 10, 14), np.float16)

    field = np.array([zoom(part.astype(np.float32), 2, order=2) for part in half])
    identity = np.meshgrid(*[np.arange(n) for n in (24, 20, 28)], indexing="ij")
    stored = np.asarray(nibabel.load(tmp_path / "moving.nii.gz").dataobj)
    warped = map_coordinates(stored, identity + field, order=0)
    ours = resample(moving, fixed_grid, transform, interpolator="nearest").array.T
    inner = (slice(4, -4),) * 3
    points = fixed_grid.points_mm()
    true = apply_affine(moving_grid.lps_to_index, transform(points)).transpose(2, 1, 0, 3)
    places = np.moveaxis(identity + field, 0, -1)
    assert np.abs(places - true)[inner].max() < 0.05
    # Whoever rounds a place that close to a voxel's face may take the neighbour.
    # scipy ends an image at the last centres, not half a voxel beyond.
    clear = (np.abs(true - np.floor(true) - 0.5) > 0.05).all(axis=-1)
    clear &= ((true >= 0.05) & (true <= np.array(ours.shape) - 1.05)).all(axis=-1)
    np.testing.assert_array_equal(warped[inner][clear[inner]], ours[inner][clear[inner]])


def test_names_of_a_submission() -> None:
    names = ("AbdomenCTCT_0021_0000.nii.gz", "AbdomenCTCT_0003_0000.nii.gz")
    assert submission_name(*names) == "disp_0021_0003.npz"
    assert submission_name("img0022.nii.gz", "img0035.nii.gz") == "disp_0022_0035.npz"
    with pytest.raises(InputError, match="four digits"):
        submission_name("a.nii", "b.nii")


def test_the_submission_of_a_run(
    carl: Carl,  # noqa: F811
    phantom: PhantomPair,
    weights: Path,
    tmp_path: Path,
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    stand_in_learn2reg(data, phantom)
    file = PROTOCOLS / "learn2reg_abdomenctct.toml"
    outcome = carl(
        "evaluate", "protocol", file, "--data", data, "--out-dir", out, "--weights", weights
    )
    assert outcome.code == 0, outcome.err
    found = np.load(out / "submission" / "task_03" / "disp_0021_0003.npz")["arr_0"]
    grid = read_image(data / "imagesTr" / "AbdomenCTCT_0021_0000.nii.gz").grid
    assert found.shape == (3, *(n // 2 for n in grid.size_xyz))
    forward = read_transform(
        next(out.glob("results/*/from-AbdomenCTCT00030000_to-*_mode-image_xfm.h5"))
    )
    corner = np.array(grid.size_xyz) - 1.0
    point = apply_affine(grid.index_to_lps, corner)
    expected = apply_affine(grid.lps_to_index, forward(point)) - corner
    np.testing.assert_allclose(found[:, -1, -1, -1], expected, rtol=2e-3, atol=0.02)


def test_published_figures_stand_beside(tmp_path: Path) -> None:
    text = (PROTOCOLS / "hcp.toml").read_text() + '\n[published."some method"]\ndice = 0.25\n'
    (tmp_path / "p.toml").write_text(text)
    summary = [{"figure": "dice", "cases": 3, "mean": 0.5, "low": 0.4, "high": 0.6, "median": 0.5}]
    rows = {r["figure"]: r for r in beside_published(read_protocol(tmp_path / "p.toml"), summary)}
    assert (rows["dice"]["mean"], rows["dice"]["some method"]) == (0.5, 0.25)
    assert rows["hd95_mm"]["cases"] == 0
    assert np.isnan(rows["hd95_mm"]["some method"])


def test_figures_are_those_of_the_authors_logs() -> None:
    """(uncbiag/uniGradICON at 9f05090, evaluations/evaluation_results/*/*/aggregate_results.json.)
    CARL's own are second-hand, and say so: the paper's tables could not be had."""
    logged = {
        "hcp": {
            "SyN (ANTs)": 77.26988,
            "uniGradICON": 76.20717,
            "uniGradICON, IO": 78.28689,
            "CARL, second-hand": 79.6,
        },
        "abdomen1k": {"CARL, second-hand": 75.7},
        "dirlab_copdgene": {"uniGradICON": 2.78970, "uniGradICON, IO": 1.78206},
    }
    for path in PROTOCOLS.glob("*.toml"):
        quoted = read_protocol(path).published
        known = logged.get(path.stem, {})
        scale = 1 if path.stem == "dirlab_copdgene" else 100
        values = {name: scale * next(iter(told.values())) for name, told in quoted.items()}
        assert values == pytest.approx(known, abs=0.006)


def test_the_draw_is_that_of_the_authors() -> None:
    """Their log lists 100 pairs of 32 subjects: one order of these, and the same draw, give all."""
    listed = read_protocol(PROTOCOLS / "hcp.toml").pairs.listed
    places = Draw(ids="{}", numbers=(0, 31), count=100, seed=1).pairs([str(k) for k in range(32)])
    subject = dict(zip(itertools.chain(*places), itertools.chain(*listed), strict=True))
    assert (len(listed), len(subject), len(set(subject.values()))) == (100, 32, 32)
    assert [(subject[fixed], subject[moving]) for fixed, moving in places] == list(listed)


def test_what_is_drawn_from(phantom: PhantomPair, tmp_path: Path) -> None:
    """Cases of the range that have both files; random.choice of each image, moving first."""
    protocol = read_protocol(PROTOCOLS / "abdomen1k.toml")
    for number in (799, 801, 802, 850, 888):
        for path in (f"images/Case_{number:05}_0000.nii.gz", f"labels/Case_{number:05}.nii.gz"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
    (tmp_path / "images/Case_00803_0000.nii.gz").touch()
    random.seed(1)
    names = ["Case_00801", "Case_00802", "Case_00850"]
    drawn = [tuple(random.choice(names) for _ in range(2)) for _ in range(30)]
    assert pairs_of(protocol, tmp_path) == [(fixed, moving) for moving, fixed in drawn]
    rows = list(csv.DictReader(prepared_table(protocol, tmp_path, tmp_path / "out").open()))
    assert len({row["id"] for row in rows}) == 30
    assert rows[0]["fixed"].endswith(f"images/{drawn[0][1]}_0000.nii.gz")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no case from Case_00800 to Case_00887"):
        pairs_of(protocol, tmp_path / "none")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('ids = "Case_{name}"', "can't be filled"),
        ('ids = "Case"', "without a place"),
        ("numbers = [887, 800]", "from 887 to 800"),
    ],
)
def test_draws_that_are_none(tmp_path: Path, wrong: str, said: str) -> None:
    good = (PROTOCOLS / "abdomen1k.toml").read_text()
    key = wrong.split(" = ")[0]
    pattern = rf"{key} = (\[.*?\]|\".*?\")(?=, )"
    (tmp_path / "p.toml").write_text(re.sub(rf"(?<=[{{ ]){pattern}", wrong, good, count=1))
    with pytest.raises(UsageError, match=said):
        read_protocol(tmp_path / "p.toml")


def test_preprocessing_of_the_paper() -> None:
    preprocess = read_protocol(PROTOCOLS / "abdomen1k.toml").preprocess
    assert preprocess is not None
    rule = preprocess.rule()
    assert (rule.grid_rule, rule.shape_zyx) == ("stretch", (175, 175, 175))
    assert (rule.intensity.ct_window, rule.intensity.lower_percentile) == (None, None)


def test_protocols_that_are_none(tmp_path: Path) -> None:
    good = (PROTOCOLS / "hcp.toml").read_text()
    (tmp_path / "key.toml").write_text(good.replace("figures", "figurs"))
    with pytest.raises(UsageError, match="figur"):
        read_protocol(tmp_path / "key.toml")
    (tmp_path / "two.toml").write_text(good.replace("[pairs]", '[pairs]\ndataset_json = "x"'))
    with pytest.raises(UsageError, match="give one of"):
        read_protocol(tmp_path / "two.toml")
    with pytest.raises(InputError, match="No such file"):
        read_protocol(tmp_path / "none.toml")


def test_data_that_is_not_there(phantom: PhantomPair, tmp_path: Path) -> None:
    text = shortened("hcp", tmp_path).read_text()
    listed = re.compile(r"listed = .*?\]\]\n", re.DOTALL)
    (tmp_path / "table.toml").write_text(listed.sub('table = "pairs.csv"\n', text))
    protocol = read_protocol(tmp_path / "table.toml")
    with pytest.raises(InputError, match=r"pairs\.csv"):
        pairs_of(protocol, tmp_path)
    stand_in_hcp(tmp_path, phantom)
    (tmp_path / "pairs.csv").write_text("fixed,moving\n189450,751348\n")
    assert pairs_of(protocol, tmp_path) == [("189450", "751348")]
    (tmp_path / "labels" / "751348.nii.gz").unlink()
    with pytest.raises(InputError, match="1 files of the data set are missing"):
        prepared_table(protocol, tmp_path, tmp_path / "out")
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no list of pairs"):
        pairs_of(protocol, tmp_path)


def test_ids_of_cases() -> None:
    assert case_id(("copd1", "copd1")) == "copd1"
    assert case_id(("a_0001.nii.gz", "b_0002.nii.gz")) == "a_0001_b_0002"
