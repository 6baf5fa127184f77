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
from carl_cli.evaluation.protocol import Draw, Pairs, locate_protocol, read_protocol
from carl_cli.evaluation.protocol_files import case_id, missing_files, prepared_table
from carl_cli.evaluation.protocol_pairs import drawn_pairs, pairs_of
from carl_cli.evaluation.published import OURS, beside_published, by_protocol, table_to_paste
from carl_cli.evaluation.scores import Scores
from carl_cli.evaluation.submission import half_resolution, submission_name
from carl_cli.geometry import apply_affine
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import read_transform
from carl_cli.report.record import StructureScore
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
        ("iBH", phantom.fixed, phantom.fixed_labels, phantom.fixed_points),
        ("eBH", phantom.moving, phantom.moving_labels, phantom.moving_points),
    )
    for k in range(1, 11):
        for phase, image, labels, points in sides:
            write(folder / f"copd{k}" / f"copd{k}_{phase}CT.nii.gz", image)
            mask = Image((labels.array > 0).astype(np.uint8), labels.grid)
            write(folder / f"copd{k}" / f"copd{k}_{phase}CT_lungs.nii.gz", mask)
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
    names = ["Case_00872", "Case_00817"]
    subjects(folder, phantom, "images/{}_0000.nii.gz", "labels/{}.nii.gz", names)


def stand_in_ixi(folder: Path, phantom: PhantomPair) -> None:
    names = ["IXI430-IOP-0990-T1", "IXI428-Guys-0996-T1"]
    subjects(folder, phantom, "T1/{}.nii", "T1_seg/{}.nii", names)
    for name, labels in zip(names, (phantom.fixed_labels, phantom.moving_labels), strict=True):
        mask = Image((labels.array > 0).astype(np.uint8), labels.grid)
        write(folder / "T1_mask" / f"{name}_mask.nii.gz", mask)


def stand_in_learn2reg(folder: Path, phantom: PhantomPair) -> None:
    """All images of one shape, as in the challenge, with a border of one value: 6 voxels."""
    grid = phantom.fixed.grid
    sides = ((phantom.fixed, phantom.fixed_labels), (phantom.moving, phantom.moving_labels))
    for number, (seen, labels) in zip(("0021", "0003"), sides, strict=True):
        same = resample(labels, grid, interpolator="nearest")
        write(
            folder / "Training/img" / f"img{number}.nii.gz", resample(seen, grid, background=-1000)
        )
        write(folder / "Training/label" / f"label{number}.nii.gz", same)
    (folder / "pairs_val.csv").write_text("fixed,moving\n21,3\n")


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


def ours(text: str) -> dict[str, dict[str, str]]:
    """Figure → the row of this run."""
    found = [row for row in csv.DictReader(io.StringIO(text)) if row["method"] == OURS]
    return {row["figure"]: row for row in found}


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
    rows = ours(outcome.out)
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
    outcome = carl(*command, "--dry-run")
    assert (outcome.code, outcome.out) == (0, "")
    assert not out.exists()
    outcome = carl(*command, "--weights", weights)
    assert outcome.code == 0, outcome.err
    rows = ours(outcome.out)
    before = np.linalg.norm(phantom.fixed_points - phantom.moving_points, axis=1).mean()
    assert float(rows["tre_before_mean_mm"]["mean"]) == pytest.approx(before, abs=0.01)
    forward = read_transform(next(out.glob("results/*/*xfm.h5")))
    record = json.loads(next(out.glob("results/*/*xfm.json")).read_text())
    assert record["metrics"]["landmarks"][0]["error_mm"] >= 0
    assert forward.dimension == 3


def test_the_ten_pairs_of_dirlab(phantom: PhantomPair, tmp_path: Path) -> None:
    stand_in_dirlab(tmp_path / "data", phantom)
    protocol = read_protocol(PROTOCOLS / "dirlab_copdgene.toml")
    table = prepared_table(protocol, tmp_path / "data", tmp_path / "out", as_the_paper=False)
    rows = list(csv.DictReader(table.open()))
    assert [row["id"] for row in rows] == [f"copd{k}" for k in range(1, 11)]
    written = np.loadtxt(rows[9]["moving_points"], delimiter=",", skiprows=1)
    np.testing.assert_allclose(written, phantom.moving_points, atol=0.01)
    assert rows[0]["fixed"].endswith("copd1/copd1_iBHCT.nii.gz")


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
    grid = read_image(data / "Training/img/img0021.nii.gz").grid
    assert found.shape == (3, *(n // 2 for n in grid.size_xyz))
    forward = read_transform(next(out.glob("results/*/from-img0003_to-*_mode-image_xfm.h5")))
    corner = np.array(grid.size_xyz) - 1.0
    point = apply_affine(grid.index_to_lps, corner)
    expected = apply_affine(grid.lps_to_index, forward(point)) - corner
    np.testing.assert_allclose(found[:, -1, -1, -1], expected, rtol=2e-3, atol=0.02)


def test_published_figures_stand_beside(tmp_path: Path) -> None:
    protocol = read_protocol(PROTOCOLS / "hcp.toml")
    summary = [{"figure": "dice", "cases": 3, "mean": 0.5, "low": 0.4, "high": 0.6, "median": 0.5}]
    rows = beside_published(protocol, summary)
    dice = {row["method"]: row["mean"] for row in rows if row["figure"] == "dice"}
    assert dice == {OURS: 0.5, **{name: told["dice"] for name, told in protocol.published.items()}}
    assert [row["cases"] for row in rows if row["figure"] == "hd95_mm"] == [0]
    lines = table_to_paste(protocol, rows).splitlines()
    assert lines[0] == "| HCP | dice | folded_percent |"
    assert "| EasyReg | 0.788 | – |" in lines
    assert f"| {OURS} | 0.5 | – |" in lines
    assert lines[-1] == f"Published figures: {protocol.published_in}"


def test_a_label_that_one_image_lacks_counts_as_the_authors_count_it() -> None:
    shared = StructureScore(label="1", dice_before=0.2, dice=0.6)
    scores = Scores(id="a", structures=[shared, StructureScore(label="2")])
    zero = by_protocol(read_protocol(PROTOCOLS / "hcp.toml"), scores)
    assert [(s.dice_before, s.dice) for s in zero.structures] == [(0.2, 0.6), (0.0, 0.0)]
    plain = read_protocol(PROTOCOLS / "dirlab_copdgene.toml")
    assert by_protocol(plain, scores) == scores


FACTS = {  # protocol → the start of its line of facts, the figure, what a point of the paper is
    "abdomen1k": ("- **Table 1** Abdomen1k Dice / % |J|<0: ", "dice", 0.01),
    "hcp": ("- HCP Dice / % |J|<0: ", "dice", 0.01),
    "dirlab_copdgene": ("- DirLab mTRE mm / % |J|<0: ", "tre_mean_mm", 1.0),
    "ixi_keymorph": ("- **Table 2** IXI Dice: ", "dice", 0.01),
}


@pytest.mark.parametrize("name", FACTS)
def test_quoted_figures_are_those_of_the_paper(name: str, paper_facts: str) -> None:
    """All rivals, both figures, nothing else."""
    start, figure, unit = FACTS[name]
    (line,) = [line for line in paper_facts.splitlines() if line.startswith(start)]
    told = re.findall(r"([^,:]+?) ([\d.]+)(?: / ([\d.e-]+))?(?=[,. ]|$)", line[len(start) - 1 :])
    expected = {}
    for method, value, folded in told:
        figures = {figure: float(value.rstrip(".")) * unit}
        if folded.strip("-"):
            figures["folded_percent"] = float(folded.rstrip("."))
        expected[method.strip().replace("(IO)", " (IO)")] = pytest.approx(figures)
    expected.pop("(EasyReg", None)
    assert read_protocol(PROTOCOLS / f"{name}.toml").published == expected


def test_figures_of_the_challenge_are_those_of_the_paper(paper_facts: str) -> None:
    (line,) = [li for li in paper_facts.splitlines() if li.startswith("- L2R AbdomenCTCT")]
    test, validation = (re.findall(r"([\w+*()-]+) (\d\d)\b", part) for part in line.split(";"))
    expected = {f"{name}, test set": int(value) / 100 for name, value in test}
    expected |= {n.replace("(IO)", " (IO)"): int(v) / 100 for n, v in validation}
    quoted = read_protocol(PROTOCOLS / "learn2reg_abdomenctct.toml").published
    assert {name: told["dice"] for name, told in quoted.items()} == pytest.approx(expected)


def test_the_pairs_of_abdomen1k_are_those_of_appendix_i(paper_facts: str) -> None:
    """The appendix names the moving case first: so the authors' script draws and logs them."""
    (line,) = [li for li in paper_facts.splitlines() if "**Appendix I**" in li]
    listed = read_protocol(PROTOCOLS / "abdomen1k.toml").pairs.listed
    assert [(moving, fixed) for fixed, moving in listed] == re.findall(r"(\d{5}) (\d{5})", line)
    draw = Draw(ids="{:05}", numbers=(800, 887), count=30, seed=1)
    assert drawn_pairs(draw, draw.patterns()) == list(listed)


def test_the_draw_is_that_of_the_authors() -> None:
    """Their log lists 100 pairs of 32 subjects: one order of these, and the same draw, give all."""
    listed = read_protocol(PROTOCOLS / "hcp.toml").pairs.listed
    places = drawn_pairs(
        Draw(ids="{}", numbers=(0, 31), count=100, seed=1), [str(k) for k in range(32)]
    )
    subject = dict(zip(itertools.chain(*places), itertools.chain(*listed), strict=True))
    assert (len(listed), len(subject), len(set(subject.values()))) == (100, 32, 32)
    assert [(subject[fixed], subject[moving]) for fixed, moving in places] == list(listed)


def test_what_is_drawn_from(phantom: PhantomPair, tmp_path: Path) -> None:
    """Subjects of the range that have both files; random.choice of each image, moving first."""
    protocol = read_protocol(PROTOCOLS / "ixi_keymorph.toml")
    for number in (427, 428, 430, 500, 527):
        for path in (f"T1/IXI{number}-Guys-T1.nii", f"T1_seg/IXI{number}-Guys-T1.nii"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
    (tmp_path / "T1/IXI431-Guys-T1.nii").touch()
    random.seed(1)
    names = [f"IXI{number}-Guys-T1" for number in (428, 430, 500)]
    drawn = [tuple(random.choice(names) for _ in range(2)) for _ in range(30)]
    assert pairs_of(protocol, tmp_path) == [(fixed, moving) for moving, fixed in drawn]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"no case from IXI428\* to IXI526\*") as raised:
        pairs_of(protocol, tmp_path / "none")
    assert raised.value.hint is not None
    assert "https://brain-development.org/ixi-dataset/ (CC BY-SA 3.0)" in raised.value.hint


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('ids = "IXI{name}"', "can't be filled"),
        ('ids = "IXI"', "without a place"),
        ("numbers = [526, 428]", "from 526 to 428"),
    ],
)
def test_draws_that_are_none(tmp_path: Path, wrong: str, said: str) -> None:
    good = (PROTOCOLS / "ixi_keymorph.toml").read_text()
    key = wrong.split(" = ")[0]
    pattern = rf"{key} = (\[.*?\]|\".*?\")(?=, )"
    (tmp_path / "p.toml").write_text(re.sub(rf"(?<=[{{ ]){pattern}", wrong, good, count=1))
    with pytest.raises(UsageError, match=said):
        read_protocol(tmp_path / "p.toml")


def test_preprocessing_of_the_paper() -> None:
    rules = {p.stem: read_protocol(p).preprocess.rule() for p in PROTOCOLS.glob("*.toml")}
    assert {rule.grid_rule for rule in rules.values()} == {"stretch"}
    assert not any(rule.anti_alias for rule in rules.values())
    assert rules["hcp"].shape_zyx == (130, 155, 130)
    assert rules["abdomen1k"].shape_zyx == (175, 175, 175)
    assert rules["learn2reg_abdomenctct"].crop_uniform == 5
    assert rules["dirlab_copdgene"].intensity.ct_window == (-1000, 0)
    for name in ("abdomen1k", "hcp", "ixi_keymorph", "learn2reg_abdomenctct"):
        rule = rules[name].intensity
        assert (rule.ct_window, rule.lower_percentile, rule.upper_percentile) == (None, None, 100)
        assert rule.maximum == (0.9 if name == "hcp" else 1.0)


def test_lungs_are_masked_for_the_papers_networks(phantom: PhantomPair, tmp_path: Path) -> None:
    """Air outside the mask, on the same grid; read as CT, and nothing masks the similarity."""
    stand_in_dirlab(tmp_path / "data", phantom)
    protocol = read_protocol(PROTOCOLS / "dirlab_copdgene.toml")
    table = prepared_table(protocol, tmp_path / "data", tmp_path / "out", as_the_paper=True)
    row = next(csv.DictReader(table.open()))
    assert (row["fixed_modality"], row["moving_modality"]) == ("ct", "ct")
    assert "fixed_mask" not in row
    seen, inside = read_image(row["fixed"]), phantom.fixed_labels.array > 0
    assert seen.grid.matches(phantom.fixed.grid)
    np.testing.assert_allclose(seen.array[inside], phantom.fixed.array[inside], atol=1e-3)
    assert set(np.unique(seen.array[~inside])) == {-1000}


def test_a_protocol_by_its_name() -> None:
    assert read_protocol(locate_protocol("hcp")).name == "HCP"
    with pytest.raises(InputError, match="no protocol 'oasis'") as raised:
        locate_protocol("oasis")
    assert raised.value.hint is not None
    assert all(name in raised.value.hint for name in STAND_INS)


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
    with pytest.raises(InputError, match=r"pairs\.csv") as raised:
        pairs_of(protocol, tmp_path)
    assert raised.value.hint is not None
    assert "humanconnectome.org" in raised.value.hint
    stand_in_hcp(tmp_path, phantom)
    (tmp_path / "pairs.csv").write_text("fixed,moving\n189450,751348\n")
    assert pairs_of(protocol, tmp_path) == [("189450", "751348")]
    (tmp_path / "labels" / "751348.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 files of HCP are missing: labels/751348") as raised:
        prepared_table(protocol, tmp_path, tmp_path / "out", as_the_paper=False)
    assert raised.value.hint is not None
    assert "humanconnectome.org" in raised.value.hint
    pairs = pairs_of(protocol, tmp_path)
    assert missing_files(protocol, tmp_path, pairs) == ["labels/751348.nii.gz"]
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no list of pairs"):
        pairs_of(protocol, tmp_path)
    pair = {"fixed": "./imagesTr/a.nii.gz", "moving": "./imagesTr/b.nii.gz"}
    (tmp_path / "set.json").write_text(json.dumps({"registration_val": [pair]}))
    by_json = protocol.model_copy(update={"pairs": Pairs(dataset_json="set.json")})
    assert pairs_of(by_json, tmp_path) == [("a.nii.gz", "b.nii.gz")]


def test_ids_of_cases() -> None:
    assert case_id(("copd1", "copd1")) == "copd1"
    assert case_id(("a_0001.nii.gz", "b_0002.nii.gz")) == "a_0001_b_0002"
