"""The transform as an affine and a warp: antsApplyTransforms and SimpleITK the referees."""

from __future__ import annotations

import json
from pathlib import Path

import ants
import numpy as np
import pytest
import SimpleITK as sitk

from tests.batch.conftest import Study, digests, states
from tests.cli.conftest import Carl
from tests.workflows.conftest import PairFiles, Register
from tests.workflows.test_outputs import PART_OF_RANGE, array_of, read_by_sitk, shown

NAMES = ("0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz")
MOVED_MM = 10  # by the median of the small network's map


@pytest.fixture(scope="module", params=["native", "25"])
def prefix(
    request: pytest.FixtureRequest,
    register: Register,
    smooth_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Of the two files; t.h5, the one file, and w.nrrd by it lie beside them."""
    folder = tmp_path_factory.mktemp("split")
    beside = ("-o", folder / "t.h5", "-w", folder / "w.nrrd", "--field-spacing", request.param)
    register(smooth_weights, *beside, "--ants-prefix", folder / "p")
    return str(folder / "p")


def chain(prefix: str) -> sitk.Transform:
    """Warp first, then the affine."""
    return sitk.CompositeTransform([read_by_sitk(Path(prefix + name)) for name in NAMES[:2]])


def voxels(image: sitk.Image) -> list[tuple[float, ...]]:
    index = np.random.default_rng(0).integers(0, image.GetSize(), (300, 3)).tolist()
    return [image.TransformIndexToPhysicalPoint(place) for place in index]


def test_the_two_files_are_the_one_transform(prefix: str, pair: PairFiles) -> None:
    """At the fixed voxels, by SimpleITK; and the affine alone is most of the motion."""
    whole, parts = read_by_sitk(Path(prefix).with_name("t.h5")), chain(prefix)
    affine = read_by_sitk(Path(prefix + NAMES[0]))
    points = voxels(sitk.ReadImage(str(pair.fixed)))
    expected = np.array([whole.TransformPoint(point) for point in points])
    found = np.array([parts.TransformPoint(point) for point in points])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    moved = np.linalg.norm(expected - points, axis=1)
    left = np.linalg.norm(expected - [affine.TransformPoint(p) for p in points], axis=1)
    assert np.median(moved) > MOVED_MM
    assert np.median(left) < 0.5 * np.median(moved)
    assert affine.Downcast().GetName() == "AffineTransform"


def test_ants_warps_by_the_two_files_as_carl_by_the_one(prefix: str, pair: PairFiles) -> None:
    fixed, moving = (ants.image_read(str(path)) for path in pair[:2])
    warped = ants.apply_transforms(
        fixed, moving, [prefix + NAMES[1], prefix + NAMES[0]], interpolator="linear"
    ).numpy().T  # fmt: skip
    where = shown(pair.moving, pair.fixed, chain(prefix))
    ours = array_of(Path(prefix).with_name("w.nrrd"))
    assert where.mean() > 0.3
    np.testing.assert_allclose(ours[where], warped[where], atol=PART_OF_RANGE * np.ptp(warped))


def test_the_inverse_warp_undoes_the_warp(prefix: str, pair: PairFiles) -> None:
    """By SimpleITK: |warp(inverse(y)) - y| at the voxels of the inverse, where it was solved, and
    |inverse(warp(x)) - x| with -t [affine,1] at fixed voxels, between them."""
    affine, warp, inverse_warp = (read_by_sitk(Path(prefix + name)) for name in NAMES)
    fixed = sitk.ReadImage(str(pair.fixed))
    own = voxels(sitk.ReadImage(prefix + NAMES[2]))
    back = [inverse_warp.TransformPoint(point) for point in own]
    index = np.array([fixed.TransformPhysicalPointToContinuousIndex(point) for point in back])
    inside = ((index > 0) & (index < np.array(fixed.GetSize()) - 1)).all(axis=1)
    assert inside.mean() > 0.2
    again = np.array([warp.TransformPoint(point) for point in back])
    assert np.linalg.norm(again - own, axis=1)[inside].max() < 0.01
    around = sitk.CompositeTransform([inverse_warp, affine.GetInverse(), chain(prefix)])
    points = voxels(fixed)
    residual = np.subtract([around.TransformPoint(point) for point in points], points)
    assert np.linalg.norm(residual, axis=1).mean() < 0.25  # of voxels of 9 mm


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_a_linear_transform_has_no_warp(
    register: Register, smooth_weights: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "t.tfm"
    register(smooth_weights, "-o", out, "--split", "--transform", kind)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.tfm", "t0GenericAffine.mat"]
    one, two = (sitk.ReadTransform(str(tmp_path / n)) for n in ("t.tfm", "t0GenericAffine.mat"))
    for point in np.random.default_rng(0).uniform(-100, 100, (10, 3)).tolist():
        np.testing.assert_allclose(one.TransformPoint(point), two.TransformPoint(point), atol=1e-6)


def test_without_o_the_warped_image_is_that_of_the_two_files(
    register: Register, smooth_weights: Path, pair: PairFiles, carl: Carl, tmp_path: Path
) -> None:
    prefix = str(tmp_path / "p_")
    register(
        smooth_weights, "--ants-prefix", prefix, "-w", tmp_path / "w.nrrd", "--field-spacing", 40
    )
    both = ("-t", prefix + NAMES[1], "-t", prefix + NAMES[0])
    air = array_of(pair.moving).min()
    line = ("warp", pair.moving, "-r", pair.fixed, *both, "-f", air, "-o", tmp_path / "w2.nrrd")
    assert carl(*line).code == 0
    np.testing.assert_allclose(
        array_of(tmp_path / "w.nrrd"), array_of(tmp_path / "w2.nrrd"), atol=1.0
    )


def test_the_files_are_known_like_any_other(
    carl: Carl, smooth_weights: Path, pair: PairFiles, tmp_path: Path
) -> None:
    """Named before and after the run, kept unless --overwrite, and told in the record."""
    line = ["register", *pair[:2], "-o", tmp_path / "t.h5", "--split", "--weights", smooth_weights]
    line += ["--json", tmp_path / "t.json", "--threads", 1]
    taken = tmp_path / f"t{NAMES[2]}"
    taken.write_text("mine")
    refused = carl(*line)
    assert (refused.code, list(tmp_path.iterdir())) == (7, [taken])
    assert f"{taken} exists already" in refused.err
    said = carl(*line, "--overwrite")
    assert said.code == 0
    assert all(f"{tmp_path / ('t' + name)}: " in said.err for name in NAMES)
    outputs = json.loads((tmp_path / "t.json").read_text())["outputs"]
    assert {Path(outputs[role]["path"]).name for role in outputs} == {
        "t.h5",
        *("t" + n for n in NAMES),
    }
    alone = carl("register", *pair[:2], "-w", tmp_path / "w.nrrd", "--split")
    assert alone.code == 2
    assert "--split was given without -o" in alone.err
    same = carl(*line[:3], "--ants-prefix", tmp_path / "q", "-w", tmp_path / "q1Warp.nii.gz",
                "--weights", smooth_weights)  # fmt: skip
    assert same.code == 2
    assert "is named twice" in same.err


@pytest.mark.slow
def test_a_batch_writes_them_and_resumes(study: Study, tmp_path: Path) -> None:
    """A row that is linear has no warp; a lost file is made again, and nothing else."""
    table = study.table(
        "id,fixed,moving,transform", "ab,a.nii.gz,b.nii.gz,", "bc,b.nii.gz,c.nii.gz,rigid"
    )
    out = tmp_path / "out"
    assert study.batch(table, out, "--split", "--no-warped").code == 0
    made = {path.name.rpartition("_")[2] for path in (out / "ab").iterdir()}
    assert {*NAMES} <= made
    assert [p.name for p in (out / "bc").glob("*_[01]*")] == [
        "from-c_to-b_mode-image_xfm_" + NAMES[0]
    ]
    before = digests(out, "*/*_[01]*")
    lost = next((out / "ab").glob("*_1Warp*"))
    lost.unlink()
    untouched = (out / "bc" / f"from-c_to-b_mode-image_xfm_{NAMES[0]}").stat().st_mtime_ns
    assert study.batch(table, out, "--split", "--no-warped", "--resume").code == 0
    assert digests(out, "*/*_[01]*") == before
    assert (out / "bc" / f"from-c_to-b_mode-image_xfm_{NAMES[0]}").stat().st_mtime_ns == untouched
    assert set(states(out / "shards/1-of-1/status.csv").values()) == {"done"}
