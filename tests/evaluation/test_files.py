"""`carl evaluate`: figures of files against closed forms, SimpleITK, nibabel and scipy."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage, stats

from carl_cli.evaluation import scores
from carl_cli.evaluation.cases import one_case
from carl_cli.evaluation.scores import row_of, score_files
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.transforms import AffineTransform, CompositeTransform, DisplacementField
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)
from tests.cli.weights_folder import untrained_weights

SPACING = (2.0, 1.5, 1.0)
SHIFT_MM = np.array([4.0, -3.0, 2.0])


class Files(NamedTuple):
    fixed: Path
    moving: Path
    fixed_seg: Path
    moving_seg: Path
    shift: Path
    back: Path
    fixed_points: Path
    moving_points: Path


def grid() -> Grid:
    return Grid((30, 32, 34), SPACING, (-20.0, 5.0, 7.0), tuple(np.eye(3).ravel()))


def boxes(shift_xyz: tuple[int, int, int]) -> np.ndarray:
    """Label 1 and 2 of 8 x 10 x 12 voxels (x, y, z), moved by whole voxels."""
    array = np.zeros(grid().shape_zyx, np.uint8)
    for label, corner in ((1, (5, 6, 7)), (2, (16, 14, 12))):
        start = np.add(corner, shift_xyz)
        x, y, z = (slice(a, a + n) for a, n in zip(start, (8, 10, 12), strict=True))
        array[z, y, x] = label
    return array


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The moving image is the fixed one moved by SHIFT_MM, two voxels along each axis."""
    folder = tmp_path_factory.mktemp("files")
    suffixes = [".nii.gz"] * 4 + [".txt"] * 2 + [".csv"] * 2
    found = Files(*(folder / f"{n}{s}" for n, s in zip(Files._fields, suffixes, strict=True)))
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(38, 36, 34)), 2)
    fixed, moving = texture[2:-2, 2:-2, 2:-2], texture[:-4, 4:, :-4]
    for path, array in ((found.fixed, fixed), (found.moving, moving)):
        write_image(path, Image((1000 * array).astype(np.float32), grid()))
    write_image(found.fixed_seg, Image(boxes((0, 0, 0)), grid()))
    write_image(found.moving_seg, Image(boxes((2, -2, 2)), grid()))
    write_transform(found.shift, AffineTransform(np.eye(3), SHIFT_MM))
    write_transform(found.back, AffineTransform(np.eye(3), -SHIFT_MM + [0, 0.3, 0.4]))
    points = np.random.default_rng(1).uniform(0, 20, (9, 3))
    errors = np.arange(9)[:, None] * np.array([0, 1, 0])
    for path, values in (
        (found.fixed_points, points),
        (found.moving_points, points + SHIFT_MM + errors),
    ):
        np.savetxt(path, values, delimiter=",", header="x,y,z", comments="")
    return found


def scored(**files: object) -> dict[str, float]:
    return row_of(score_files(one_case({"id": "1", **files}, Path("/"))))


def test_boxes_by_closed_form(files: Files) -> None:
    """Moved by 2 of 8, 10, 12 voxels: Dice (6 · 8 · 10) / (8 · 10 · 12) before, 1 after."""
    seg = {"fixed_seg": files.fixed_seg, "moving_seg": files.moving_seg}
    row = scored(**seg, transform=[str(files.shift)])
    assert row["dice_before"] == pytest.approx(480 / 960)
    assert row["hd95_before_mm"] == pytest.approx(np.linalg.norm(SHIFT_MM), rel=0.35)
    perfect = {"dice": 1.0, "hd95_mm": 0.0, "surface_mm": 0.0, "dice[1]": 1.0, "dice[2]": 1.0}
    assert {name: row[name] for name in perfect} == perfect
    assert row["folded_percent"] == 0
    assert row["sdlogj"] == pytest.approx(0, abs=1e-5)


def test_structures_equal_simpleitk_and_scipy(files: Files) -> None:
    """Half of the shift: one voxel off along each axis."""
    half = files.shift.with_name("half.txt")
    write_transform(half, AffineTransform(np.eye(3), SHIFT_MM / 2))
    row = scored(fixed_seg=files.fixed_seg, moving_seg=files.moving_seg, transform=[str(half)])
    fixed, moving = (sitk.ReadImage(str(p)) for p in (files.fixed_seg, files.moving_seg))
    there = sitk.Resample(moving, fixed, sitk.ReadTransform(str(half)), sitk.sitkNearestNeighbor)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(fixed, there)
    arrays = [np.asarray(sitk.GetArrayFromImage(image)) for image in (fixed, there)]
    for label in (1, 2):
        assert row[f"dice[{label}]"] == pytest.approx(overlap.GetDiceCoefficient(label), abs=1e-9)
        edges = [m & ~ndimage.binary_erosion(m) for m in (a == label for a in arrays)]
        away = [ndimage.distance_transform_edt(~edge, SPACING[::-1]) for edge in edges]
        distances = away[1][edges[0]], away[0][edges[1]]
        worst = max(np.percentile(d, 95) for d in distances)
        assert row[f"hd95_mm[{label}]"] == pytest.approx(worst, rel=1e-5)
        mean = np.concatenate(distances).mean()
        assert row[f"surface_mm[{label}]"] == pytest.approx(mean, rel=1e-5)


def test_landmarks_by_closed_form(files: Files) -> None:
    """Errors 0, 1, … 8 mm once the shift is undone."""
    points = {"fixed_points": files.fixed_points, "moving_points": files.moving_points}
    row = scored(transform=[str(files.shift)], fixed=files.fixed, **points)
    expected = {"mean": 4, "median": 4, "max": 8, "p95": 7.6}
    for name, value in expected.items():
        assert row[f"tre_{name}_mm"] == pytest.approx(value, abs=1e-5)
    away = np.linalg.norm(SHIFT_MM + np.arange(9)[:, None] * np.array([0, 1, 0]), axis=1)
    assert row["tre_before_mean_mm"] == pytest.approx(away.mean(), abs=1e-5)


def test_similarity_equals_scipy(files: Files) -> None:
    row = scored(fixed=files.fixed, moving=files.moving, transform=[str(files.shift)])
    a, b = (np.asanyarray(nibabel.load(p).dataobj).T for p in (files.fixed, files.moving))
    seen = np.full_like(a, b.min())
    seen[:-2, 2:, :-2] = b[2:, :-2, 2:]
    for when, other in (("_before", b), ("", seen)):
        expected = stats.pearsonr(a.ravel(), other.ravel())[0]
        assert row[f"ncc{when}"] == pytest.approx(expected, abs=1e-5)
    assert row["lncc"] > 0.8 > row["lncc_before"]
    assert row["nmi"] > row["nmi_before"]


def test_similarity_of_large_images_takes_every_second_voxel_of_the_finest_axes(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spacing 2 x 1.5 x 1 mm: a third of the voxels is reached by halving z, then y."""
    monkeypatch.setattr(scores, "MOST_VOXELS", 30 * 32 * 34 // 3)
    row = scored(fixed=files.fixed, moving=files.moving, transform=[str(files.shift)])
    a, b = (np.asanyarray(nibabel.load(p).dataobj).T for p in (files.fixed, files.moving))
    seen = np.full_like(a, b.min())
    seen[:-2, 2:, :-2] = b[2:, :-2, 2:]
    kept = (slice(None, None, 2), slice(None, None, 2), slice(None))
    for when, other in (("_before", b), ("", seen)):
        expected, whole = (
            stats.pearsonr(a[k].ravel(), other[k].ravel())[0] for k in (kept, (...,))
        )
        assert abs(expected - whole) > 1e-4
        assert row[f"ncc{when}"] == pytest.approx(expected, abs=1e-5)
    inside = np.zeros(a.shape, np.uint8)
    inside[10:20, 11:25] = 1
    mask = files.fixed.with_name("inside.nii.gz")
    write_image(mask, Image(inside, grid()))
    row = scored(fixed=files.fixed, moving=files.moving, fixed_mask=mask)
    expected = stats.pearsonr(a[10:20:2, 12:25:2].ravel(), b[10:20:2, 12:25:2].ravel())[0]
    assert row["ncc_before"] == pytest.approx(expected, abs=1e-5)


def test_inverse_consistency_inside_the_moving_image(files: Files) -> None:
    """The inverse is 0.5 mm off everywhere; points that leave the moving image don't count."""
    pair = {"fixed": files.fixed, "moving": files.moving}
    chains = {"transform": [str(files.shift)], "inverse": [str(files.back)]}
    row = scored(**pair, **chains)
    for part in ("mean", "p95", "max"):
        assert row[f"inverse_{part}_mm"] == pytest.approx(0.5, abs=1e-5)
    away = files.shift.with_name("away.txt")
    write_transform(away, AffineTransform(np.eye(3), [1e4, 0, 0]))
    nothing = scored(**pair, transform=[str(away)], inverse=[f"[{away},1]"])
    assert math.isnan(nothing["inverse_mean_mm"])


def test_folds_count_inside_the_mask(files: Files, tmp_path: Path) -> None:
    """x → 1 - 3 (x) in one half of the image: a determinant of -2 there and 1 elsewhere."""
    g = grid()
    displacement = np.zeros((*g.shape_zyx, 3), np.float32)
    displacement[..., 15:, 0] = -3 * 2.0 * np.arange(15)
    write_transform(tmp_path / "t.nii.gz", DisplacementField(g, displacement))
    right = np.zeros(g.shape_zyx, np.uint8)
    right[..., 17:] = 1
    write_image(tmp_path / "mask.nii.gz", Image(right, g))
    common = {"fixed": files.fixed, "transform": [str(tmp_path / "t.nii.gz")]}
    assert scored(**common, fixed_mask=tmp_path / "mask.nii.gz")["folded_percent"] == 100
    whole = scored(**common)
    determinant = np.gradient(2.0 * np.arange(30) + displacement[0, 0, :, 0]) / 2
    assert whole["folded_percent"] == pytest.approx(100 * np.mean(determinant <= 0))
    # Learn2Reg's clip: 1e-9 stands for a determinant of zero or less.
    assert whole["sdlogj"] == pytest.approx(np.log(np.clip(determinant, 1e-9, 1e9)).std(), rel=1e-5)


def test_what_one_segmentation_lacks_is_undefined(files: Files, tmp_path: Path) -> None:
    lone = boxes((2, -2, 2))
    lone[lone == 2] = 7
    write_image(tmp_path / "lone.nii.gz", Image(lone, grid()))
    row = scored(
        fixed_seg=files.fixed_seg, moving_seg=tmp_path / "lone.nii.gz", transform=[str(files.shift)]
    )
    for name in ("dice[2]", "dice[7]", "hd95_mm[7]", "surface_mm[2]"):
        assert math.isnan(row[name])
    assert row["dice"] == row["dice[1]"] == 1.0
    away = tmp_path / "away.txt"
    write_transform(away, AffineTransform(np.eye(3), [1e4, 0, 0]))
    gone = scored(fixed_seg=files.fixed_seg, moving_seg=files.moving_seg, transform=[str(away)])
    assert gone["dice"] == 0
    assert math.isnan(gone["hd95_mm"])


def test_what_is_no_label_map_is_told(files: Files, carl: Carl, tmp_path: Path) -> None:  # noqa: F811
    """An image has a Dice too; fractions would be cut off; one side alone has no score."""
    array = np.random.default_rng(0).integers(0, 900, grid().shape_zyx).astype(np.int16)
    write_image(tmp_path / "image.nii.gz", Image(array, grid()))
    write_image(tmp_path / "soft.nii.gz", Image(boxes((0, 0, 0)) / np.float32(3), grid()))
    write_image(tmp_path / "float.nii.gz", Image(boxes((0, 0, 0)).astype(np.float32), grid()))

    def said(*words: object) -> str:
        return str(
            carl("evaluate", "-t", files.shift, "--moving-seg", files.moving_seg, *words).err
        )

    doubt = "image.nii.gz: its voxels don't look like labels"
    assert doubt in said("--fixed-seg", tmp_path / "image.nii.gz")
    assert said("--fixed-seg", tmp_path / "float.nii.gz") == ""
    assert "soft.nii.gz: voxels with fractions" in said("--fixed-seg", tmp_path / "soft.nii.gz")
    assert "--fixed-seg is missing" in said()


def test_chains_follow_ants(files: Files) -> None:
    """-t A -t B: a fixed point meets A first; an inverse is marked."""
    turn = files.shift.with_name("turn.txt")
    matrix = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    write_transform(turn, AffineTransform(matrix, np.zeros(3)))
    points = {"fixed_points": files.fixed_points, "moving_points": files.moving_points}
    row = scored(**points, transform=[str(turn), f"[{files.shift},1]"])
    fixed = np.loadtxt(files.fixed_points, delimiter=",", skiprows=1)
    moving = np.loadtxt(files.moving_points, delimiter=",", skiprows=1)
    expected = np.linalg.norm(fixed @ matrix.T - SHIFT_MM - moving, axis=1).mean()
    assert row["tre_mean_mm"] == pytest.approx(expected, abs=1e-5)


def table_of(text: str) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in csv.DictReader(io.StringIO(text))}


def test_a_table_of_cases(carl: Carl, files: Files, tmp_path: Path) -> None:  # noqa: F811
    """Relative paths, a chain, a case whose files can't be scored; the summary has intervals."""
    broken = tmp_path / "short.csv"
    broken.write_text("x,y,z\n1,2,3\n")
    lines = ["id,fixed_seg,moving_seg,transform,fixed_points,moving_points"]
    common = f"{files.fixed_seg},{files.moving_seg}"
    lines.append(f"good,{common},{files.shift},{files.fixed_points},{files.moving_points}")
    lines.append(f"none,{common},,,")
    lines.append(f'twice,{common},"{files.shift} | [{files.shift},1]",,')
    lines.append(f"bad,{common},,{files.fixed_points},short.csv")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    outcome = carl("evaluate", tmp_path / "cases.csv", "-o", tmp_path / "out.csv")
    assert outcome.code == 6
    assert "9 fixed landmarks meet 1 moving" in outcome.err
    rows = table_of((tmp_path / "out.csv").read_text())
    assert list(rows) == ["good", "none", "twice", "bad"]
    assert [float(rows[name]["dice"]) for name in ("good", "none", "twice")] == [1.0, 0.5, 0.5]
    assert math.isnan(float(rows["none"]["tre_mean_mm"]))
    assert "landmarks" in rows["bad"]["error"]
    assert carl("evaluate", tmp_path / "cases.csv", "--format", "json").code == 6
    summary = {s["figure"]: s for s in json.loads(last_json(carl, tmp_path))["summary"]}
    assert summary["dice"]["cases"] == 3
    assert summary["dice"]["mean"] == pytest.approx(2 / 3)
    assert summary["dice"]["low"] <= 0.5 + 1e-9
    assert summary["tre_mean_mm"]["low"] is None


def last_json(carl: Carl, folder: Path) -> str:  # noqa: F811
    return carl("evaluate", folder / "cases.csv", "--format", "json").out


def test_one_case_of_the_command_line(carl: Carl, files: Files) -> None:  # noqa: F811
    """Outside a terminal the data is CSV."""
    outcome = carl(
        "evaluate", "-f", files.fixed, "-m", files.moving, "-t", files.shift,
        "--inverse", f"[{files.shift},1]", "--fixed-seg", files.fixed_seg,
        "--moving-seg", files.moving_seg,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (row,) = table_of(outcome.out).values()
    assert float(row["dice"]) == 1.0
    assert float(row["inverse_max_mm"]) == pytest.approx(0, abs=1e-4)


def test_the_reader_s_table(carl: Carl, files: Files) -> None:  # noqa: F811
    seg = ("--fixed-seg", files.fixed_seg, "--moving-seg", files.moving_seg)
    outcome = carl("evaluate", *seg, "--format", "table")
    words = dict(line.split() for line in outcome.out.splitlines())
    assert words["figure"] == "value"
    assert float(words["dice"]) == 0.5


def test_compare_two_runs(carl: Carl, tmp_path: Path) -> None:  # noqa: F811
    """Cases in another order, one of them in one run only; figures of one run only."""
    random = np.random.default_rng(3)
    a = random.normal(0.7, 0.05, 12)
    b = a + random.normal(0.02, 0.02, 12)
    first = ["id,dice,seconds,error", *(f"c{k},{v!r},1,x" for k, v in enumerate(a.tolist()))]
    second = ["id,dice,error", *(f"c{k},{v!r}," for k, v in enumerate(b.tolist()))]
    (tmp_path / "a.csv").write_text("\n".join([*first, "c99,0.1,1,"]))
    (tmp_path / "b.csv").write_text("\n".join([second[0], *reversed(second[1:])]))
    outcome = carl("evaluate", "compare", tmp_path / "a.csv", tmp_path / "b.csv")
    assert outcome.code == 0, outcome.err
    (row,) = csv.DictReader(io.StringIO(outcome.out))
    assert (row["figure"], row["cases"]) == ("dice", "12")
    assert float(row["difference"]) == pytest.approx((b - a).mean())
    assert float(row["p"]) == pytest.approx(stats.wilcoxon(b - a, method="exact").pvalue)
    assert float(row["p_holm"]) == float(row["p"])
    assert float(row["low"]) < (b - a).mean() < float(row["high"])


def test_the_folder_of_a_batch(carl: Carl, files: Files, tmp_path: Path) -> None:  # noqa: F811
    """The record's own figures and the ones of its files are the same."""
    weights = untrained_weights(tmp_path / "weights")
    (tmp_path / "pairs.csv").write_text(
        "id,fixed,moving,fixed_seg,moving_seg\n"
        f"one,{files.fixed},{files.moving},{files.fixed_seg},{files.moving_seg}\n"
    )
    out = tmp_path / "results"
    options = ("--out-dir", out, "--weights", weights, "--inverse")
    assert carl("batch", tmp_path / "pairs.csv", *options).code == 0
    outcome = carl("evaluate", out)
    assert outcome.code == 0, outcome.err
    row = table_of(outcome.out)["one"]
    record = json.loads(next(out.glob("one/*.json")).read_text())["metrics"]
    expected = np.mean([s["dice"] for s in record["structures"]])
    assert float(row["dice"]) == pytest.approx(expected, abs=1e-6)
    forward, inverse = (
        read_transform(next(out.glob(f"one/from-{a}_to-{b}_mode-image_xfm.h5")))
        for a, b in (("moving", "fixed"), ("fixed", "moving"))
    )
    points = grid().points_mm().reshape(-1, 3)
    mapped = forward(points)
    index = (mapped - grid().origin_mm) / SPACING
    shown = ((index >= 0) & (index <= np.array([29, 31, 33]))).all(axis=1)
    gap = np.linalg.norm(inverse(mapped[shown]) - points[shown], axis=1)
    assert float(row["inverse_mean_mm"]) == pytest.approx(gap.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "nothing to score"),
        (("a.csv", "-f", "b.nii"), 2, "both given"),
        (("-f", "nowhere.nii"), 3, "fixed: no such file"),
        (("nowhere.csv",), 3, "No such file"),
        (("-o", "x.txt", "-f", "a.nii"), 2, ".csv or .json"),
    ],
)
def test_what_can_not_be_scored(
    carl: Carl,  # noqa: F811
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    outcome = carl("evaluate", "score", *arguments)
    assert outcome.code == code
    assert words in outcome.err


def test_tables_that_are_none(carl: Carl, tmp_path: Path) -> None:  # noqa: F811
    cases = {
        "unknown.csv": ("id,fixd\n1,a\n", "unknown column 'fixd'"),
        "lines.csv": ("id,fixed\n1,a.nii\n2,b.nii\n", "line 3: fixed: no such file"),
        "empty.csv": ("id,fixed\n", "no case"),
        "twice.csv": ("id,fixed,Fixed\n1,a,b\n", "column 'fixed' occurs twice"),
    }
    for name, (text, words) in cases.items():
        (tmp_path / name).write_text(text)
        outcome = carl("evaluate", tmp_path / name)
        assert (outcome.code, words in outcome.err) == (3, True), outcome.err
    (tmp_path / "a.csv").write_text("id,dice\n1,0.5\n")
    (tmp_path / "b.csv").write_text("id,dice\n2,0.5\n")
    outcome = carl("evaluate", "compare", tmp_path / "a.csv", tmp_path / "b.csv")
    assert (outcome.code, "share no case" in outcome.err) == (3, True)
    (tmp_path / "a.csv").write_text("id,dice,dice\n2,0.5,0.9\n")
    outcome = carl("evaluate", "compare", tmp_path / "a.csv", tmp_path / "b.csv")
    assert (outcome.code, "'dice' occurs twice" in outcome.err) == (3, True)


def test_composite_of_the_two_maps_is_the_identity(files: Files) -> None:
    """The figures don't depend on how a map is written: chain or one composite file."""
    both = files.shift.with_name("both.h5")
    shift = AffineTransform(np.eye(3), SHIFT_MM)
    write_transform(both, CompositeTransform((shift, shift.inverse())), precision="double")
    segs = {"fixed_seg": files.fixed_seg, "moving_seg": files.moving_seg}
    chain = scored(**segs, transform=[str(files.shift), f"[{files.shift},1]"])
    assert scored(**segs, transform=[str(both)])["dice"] == chain["dice"] == 0.5
