"""The measuring code of benchmarks/validation.py, on cases whose answers are known."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks import validation
from benchmarks.contest.bent import Bend, bent_pair
from benchmarks.contest.contenders import (
    FailedError,
    NotKeptError,
    Program,
    before,
    carl_digest,
    centres,
)
from benchmarks.contest.measures import figures, jacobian_determinant, score
from benchmarks.contest.moving import KINDS, moved_pair
from benchmarks.contest.pairs import SETS, Pair, PairSet
from benchmarks.contest.table import BEGIN, END, Row, markdown, replace_block

TURN = [0, 0, 1, 1, 0, 0, 0, 1, 0]
ABOUT = dict.fromkeys(("command", "weights", "digest", "carl", "antspyx"), "x")


def image(array: np.ndarray, origin: tuple[float, ...] = (5, -7, 11)) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.SetOrigin(origin)
    result.SetSpacing((1.0, 2.0, 3.0))
    result.SetDirection(TURN)
    return result


def boxes(folder: Path, step: int) -> Pair:
    """A box of 8 slices, and the same `step` slices further; labels are the images."""
    files = []
    for name, start in (("fixed", 4), ("moving", 4 + step)):
        array = np.zeros((20, 6, 6), np.uint8)
        array[start : start + 8] = 1
        files.append(folder / f"{name}.nii.gz")
        sitk.WriteImage(image(array), str(files[-1]))
    return Pair("boxes", *files, *files, labels=(1,))


def test_overlap_is_that_of_the_boxes(tmp_path: Path) -> None:
    pair = boxes(tmp_path, 2)
    assert score(pair, before(pair, tmp_path).transform) == pytest.approx(6 / 8)
    # slices lie along x here (TURN), 3 mm apart
    there = sitk.TranslationTransform(3, (6.0, 0.0, 0.0))
    found = figures(pair, there)
    assert found.score == 1
    assert (found.folded_percent, found.sdlogj) == (0, pytest.approx(0, abs=1e-12))


def test_centres_bring_a_moved_image_back(tmp_path: Path) -> None:
    pair = boxes(tmp_path, 0)
    for kind, seed in itertools.product(KINDS, (1, 2)):
        there = moved_pair(pair, kind, seed, tmp_path / "moved")
        assert score(there, before(there, tmp_path).transform) < 0.5
        if kind == KINDS[0]:
            assert score(there, centres(there, tmp_path).transform) == 1


def test_determinants_of_an_affine_and_of_a_fold() -> None:
    grid = image(np.zeros((5, 6, 7), np.uint8))
    matrix = np.array([[1.2, 0.3, 0], [-0.1, 0.9, 0.2], [0, 0.4, 1.1]])
    affine = sitk.AffineTransform(matrix.ravel().tolist(), (3.0, -2.0, 1.0))
    np.testing.assert_allclose(jacobian_determinant(affine, grid), np.linalg.det(matrix))
    mirror = sitk.AffineTransform([-1, 0, 0, 0, 1, 0, 0, 0, 1], (0, 0, 0))
    np.testing.assert_allclose(jacobian_determinant(mirror, grid), -1)


def test_a_bent_copy_shows_the_same_body_at_its_true_points() -> None:
    z, y, x = np.meshgrid(*[np.arange(30)] * 3, indexing="ij")
    ball = (z - 15) ** 2 + (y - 15) ** 2 + (x - 15) ** 2 < 100
    scan = image(np.where(ball, 60 * (x + y - z) - 900, -1000).astype(np.int16))
    scan.SetSpacing((6.0, 6.0, 6.0))
    fixed, moving, here, there = bent_pair(scan, 1)
    bend = Bend(np.random.default_rng(1))
    np.testing.assert_allclose(bend(there), here)
    shifted = there - bend.shift
    bent, straight = (difference(fixed, a, moving, b) for a, b in ((here, there), (shifted, there)))
    assert bent < 45 < 60 < straight


def difference(fixed: sitk.Image, a: np.ndarray, moving: sitk.Image, b: np.ndarray) -> float:
    """Median between the images at points a and b, HU."""
    grey = [
        [im.GetPixel(im.TransformPhysicalPointToIndex(p)) for p in points.tolist()]
        for im, points in ((fixed, a), (moving, b))
    ]
    return float(np.median(np.abs(np.subtract(*grey))))


def test_the_command_writes_table_rows_changes_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = PairSet("boxes", "Boxes", lambda _data, folder: iter([boxes(folder, 2)]))
    monkeypatch.setitem(SETS, "boxes", made)
    monkeypatch.setattr(validation, "carl", lambda _weights: centres)
    card, out = tmp_path / "README.md", tmp_path / "table.md"
    card.write_text(f"{BEGIN}\n{END}\n")
    options = ["--sets", "boxes", "--methods", "before,centres,Affine", "--kept", "--shift"]
    options += ["--cache", str(tmp_path / "cache"), "--out", str(out), "--card", str(card)]
    monkeypatch.setattr(sys, "argv", ["validation.py", *options])
    validation.main()
    record = json.loads(out.with_suffix(".json").read_text())
    # Affine was never computed, and --kept computes nothing.
    assert [(r["method"], r["score"]) for r in record["rows"]] == [
        ("before", 0.75),
        ("centres", 0.75),
    ]
    still = [c["change"] for c in record["moved"] if c["kind"] == KINDS[0]]
    margins = [c["change"] for c in record["moved"] if c["kind"] == KINDS[1]]
    assert still == [0, 0, 0]  # centres follow an image that is moved
    assert min(margins) < -0.5  # but not one that is put off centre
    assert "boxes, Dice, moved | 3 | +0.0000 | 0.0000 |" in out.read_text()
    assert card.read_text() == f"{BEGIN}\n{out.read_text()}{END}\n"


def test_a_program_runs_once_for_the_same_images(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1] + '/x', 'a').write('x'); sum(range(3_000_000))"

    def command(_pair: Pair, folder: Path) -> list[str]:
        return [sys.executable, "-c", code, str(folder)]

    def load(folder: Path) -> sitk.Transform:
        return sitk.TranslationTransform(3, [len((folder / "x").read_text()), 0, 0])

    program, pair = Program("tool", command, load), boxes(tmp_path, 2)
    with pytest.raises(NotKeptError):
        program(pair, tmp_path, compute=False)
    first, second = program(pair, tmp_path), program(pair, tmp_path, compute=False)
    assert (first.cached, second.cached) == (False, True)
    assert first.cpu_seconds == second.cpu_seconds > 0.02
    assert second.transform.TransformPoint((0, 0, 0)) == (1, 0, 0)
    assert not program(boxes(tmp_path, 3), tmp_path).cached
    assert second.warned is None
    folder = tmp_path / "tool" / pair.key
    for warnings in ([], ["Doubtful match"]):
        (folder / "record.json").write_text(json.dumps({"warnings": warnings}))
        assert program(pair, tmp_path).warned == bool(warnings)
    broken = Program("broken", lambda *_: [sys.executable, "-c", "exit('no memory')"], load)
    with pytest.raises(FailedError, match="no memory"):
        broken(pair, tmp_path)


def test_other_weights_are_another_contender(tmp_path: Path) -> None:
    digests = []
    for content in (b"a", b"b", b"a"):
        (tmp_path / "model.safetensors").write_bytes(content)
        digests.append(carl_digest(tmp_path))
    assert digests[0] == digests[2] != digests[1]


def test_the_card_gets_a_new_table_in_its_block(tmp_path: Path) -> None:
    rows = [
        Row("lungs", "0004 0006", "before", 0.5, 0.0, 0.0, None, None),
        Row("lungs", "0004 0006", "Affine", 0.6, 0.0, 0.1, 8.0, 9.0, cached=True),
        Row("lungs", "0004 0006", "carl", 0.7, 0.01, 0.2, 4.0, 5.0, warned=True),
        Row("lungs", "b a", "Affine", 0.8, 0.0, 0.1, 8.0, 9.0),
        Row("lungs", "b a", "carl", float("nan"), float("nan"), float("nan"), None, None),
    ]
    text = markdown(ABOUT, rows, [])
    assert "| Affine | 0.700 | 0.600 / 0.800 | 0.600 | 0.000 | 0.100 | 8 † |  |" in text
    assert "| carl (1 of 2) | 0.700 | 0.700 / – | 0.700 | 0.010 | 0.200 | 4 | 1 of 1 |" in text
    assert "carl at least as good as Affine: lungs yes (0.700, 0.600)" in text
    card = tmp_path / "README.md"
    card.write_text(f"# head\n{BEGIN}\nold\n{END}\ntail\n")
    for _ in range(2):
        replace_block(card, text)
    assert card.read_text() == f"# head\n{BEGIN}\n{text}{END}\ntail\n"
    card.write_text("no block")
    with pytest.raises(SystemExit, match="no block"):
        replace_block(card, text)
