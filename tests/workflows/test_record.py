"""The JSON record of `carl register` against figures computed by other means."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli import __version__
from carl_cli.evaluation.truth import Truth
from carl_cli.io.images.files import read_image
from carl_cli.registration.register import register as register_images
from carl_cli.weights.folder import load_weights
from carl_cli.workflows.score import score
from tests.cli.conftest import Carl
from tests.conftest import rotation
from tests.workflows.conftest import PairFiles, Register

IO = ("--io", "--io-steps", 4, "--io-lr", "1e-3")


def run(
    register: Register, pair: PairFiles, weights: Path, folder: Path
) -> tuple[dict[str, Any], Path]:
    """Registered with every output; masks are the labels."""
    names = {"-o": "t.h5", "-O": "i.nrrd", "-w": "w.nii.gz", "-W": "W.mha", "--jacobian": "j.nii"}
    names |= {"--figure": "f.svg", "--report": "r.html", "--json": "r.json"}
    files = [word for option, name in names.items() for word in (option, folder / name)]
    truth = ("--fixed-seg", pair.fixed_seg, "--moving-seg", pair.moving_seg)
    points = ("--fixed-points", pair.fixed_points, "--moving-points", pair.moving_points)
    masks = ("--fixed-mask", pair.fixed_seg, "--moving-mask", pair.moving_seg)
    register(weights, *files, *truth, *points, *masks, "--seed", 4, *IO)
    return json.loads((folder / "r.json").read_text()), folder


@pytest.fixture(scope="module", params=["smooth", "attention"])
def record(
    request: pytest.FixtureRequest,
    register: Register,
    pair: PairFiles,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], Path]:
    """Of a smooth map, and of one with folds."""
    weights: Path = request.getfixturevalue(f"{request.param}_weights")
    return run(register, pair, weights, tmp_path_factory.mktemp("record"))


def test_files_are_named_and_hashed(record: tuple[dict[str, Any], Path], pair: PairFiles) -> None:
    values, folder = record
    roles = {"fixed", "moving", "fixed_mask", "moving_mask", *PairFiles._fields}
    assert set(values["inputs"]) == roles
    outputs = {"forward": "t.h5", "inverse": "i.nrrd", "warped": "w.nii.gz", "report": "r.html"}
    outputs |= {"inverse_warped": "W.mha", "jacobian": "j.nii", "figure": "f.svg"}
    assert {r: Path(f["path"]).name for r, f in values["outputs"].items()} == outputs
    assert {p.name for p in folder.iterdir()} == {*outputs.values(), "r.json"}
    for entry in [*values["inputs"].values(), *values["outputs"].values()]:
        assert hashlib.sha256(Path(entry["path"]).read_bytes()).hexdigest() == entry["sha256"]


def test_geometry_is_that_of_the_files(
    record: tuple[dict[str, Any], Path], pair: PairFiles
) -> None:
    inputs = record[0]["inputs"]
    for role in ("fixed", "moving", "fixed_seg", "moving_seg", "fixed_mask", "moving_mask"):
        entry = inputs[role]
        image = sitk.ReadImage(entry["path"])
        assert tuple(entry["size"]) == image.GetSize()
        np.testing.assert_allclose(entry["spacing"], image.GetSpacing(), rtol=1e-6)
        np.testing.assert_allclose(entry["origin"], image.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(entry["direction"], image.GetDirection(), atol=1e-6)
        assert entry["dtype"] == ("uint8" if "_" in role else "int16")
    for role in ("fixed", "moving"):
        assert inputs[role]["modality"] == "ct"
        assert inputs[role]["intensity_window"] == [-1000, 1000]


def test_the_run_is_described(record: tuple[dict[str, Any], Path]) -> None:
    values = record[0]
    assert values["seed"] == 4
    assert values["environment"]["carl"] == __version__
    assert values["environment"]["device"] == "cpu"
    assert values["environment"]["threads"] == 1
    weights = Path(values["weights"]["source"])
    model = (weights / "model.safetensors").read_bytes()
    assert values["weights"]["sha256"] == hashlib.sha256(model).hexdigest()
    options = values["options"]
    assert (options["io_steps"], options["io_lr"]) == (4, 1e-3)
    assert (options["io_metric"], options["io_scope"]) == ("lncc", "all")  # the weights' choice
    assert len(values["io_loss"]) == 5
    stages = {"reading", "preprocessing", "instance optimisation", "scoring", "writing", "pictures"}
    assert stages <= set(values["timings_s"])
    assert values["timings_s"]["instance optimisation"] > 0
    assert 50 < values["peak_memory_mib"] < 1e5


def test_dice_is_that_of_simpleitk(record: tuple[dict[str, Any], Path], pair: PairFiles) -> None:
    values, folder = record
    fixed, moving = (sitk.ReadImage(str(path)) for path in pair[2:4])
    for key, transform in (
        ("dice_before", sitk.Transform()),
        ("dice", sitk.ReadTransform(str(folder / "t.h5"))),
    ):
        warped = sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor)
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(fixed, warped)
        for structure in values["metrics"]["structures"]:
            expected = overlap.GetDiceCoefficient(int(structure["label"]))
            assert structure[key] == pytest.approx(expected, abs=2e-3)
    assert len(values["metrics"]["structures"]) == 12


def test_landmark_errors_are_those_of_simpleitk(
    record: tuple[dict[str, Any], Path], pair: PairFiles
) -> None:
    values, folder = record
    forward = sitk.ReadTransform(str(folder / "t.h5"))
    fixed, moving = (np.loadtxt(path, delimiter=",", skiprows=1) for path in pair[4:6])
    landmarks = values["metrics"]["landmarks"]
    assert len(landmarks) == len(fixed) == 12
    for a, b, landmark in zip(fixed, moving, landmarks, strict=True):
        mapped = np.array(forward.TransformPoint(a.tolist()))
        assert landmark["error_mm"] == pytest.approx(np.linalg.norm(mapped - b), abs=1e-2)
        assert landmark["error_before_mm"] == pytest.approx(np.linalg.norm(a - b), abs=1e-4)


def _inside(pair: PairFiles) -> np.ndarray:
    """The fixed mask of these runs, (z, y, x) on the fixed grid."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(pair.fixed_seg))) != 0


def test_folds_are_counted_inside_the_mask(
    record: tuple[dict[str, Any], Path], pair: PairFiles
) -> None:
    """On the fixed image's grid, from the file: SimpleITK maps the points, numpy differentiates."""
    values, folder = record
    fixed = sitk.ReadImage(str(pair.fixed))
    field = sitk.TransformToDisplacementField(
        sitk.ReadTransform(str(folder / "t.h5")),
        sitk.sitkVectorFloat64,
        fixed.GetSize(),
        fixed.GetOrigin(),
        fixed.GetSpacing(),
        fixed.GetDirection(),
    )
    shift = sitk.GetArrayFromImage(field)
    steps = zip(fixed.GetSpacing(), (2, 1, 0), strict=True)
    by_axis = np.stack([np.gradient(shift, step, axis=a) for step, a in steps], axis=-1)
    turned = by_axis @ np.reshape(fixed.GetDirection(), (3, 3)).T
    determinant = np.linalg.det(turned + np.eye(3))[_inside(pair)]
    metrics = values["metrics"]
    expected = 100 * np.mean(determinant <= 0)
    assert metrics["folded_percent"] == pytest.approx(expected, abs=0.05)
    if values["weights"]["name"] == "untrained":
        assert expected > 5
    else:
        assert metrics["sdlogj"] == pytest.approx(np.log(determinant).std(), abs=1e-3)


def test_similarity_is_measured_inside_the_mask(
    record: tuple[dict[str, Any], Path], pair: PairFiles
) -> None:
    """NCC by SimpleITK and numpy: intensities as stored, on the fixed grid, within its mask."""
    values, folder = record
    transform = sitk.ReadTransform(str(folder / "t.h5"))
    fixed, moving = (sitk.ReadImage(str(path), sitk.sitkFloat32) for path in pair[:2])
    darkest = float(sitk.GetArrayFromImage(moving).min())
    a, mask = sitk.GetArrayFromImage(fixed), _inside(pair)
    for when, through in (("before", sitk.Transform()), ("after", transform)):
        b = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, through, sitk.sitkLinear, darkest))
        inside, whole = (np.corrcoef(a[m], b[m])[0, 1] for m in (mask, np.ones_like(mask)))
        assert abs(inside - whole) > 0.02
        assert values["metrics"][f"similarity_{when}"]["ncc"] == pytest.approx(inside, abs=2e-3)


def test_register_evaluate_and_the_report_tell_the_same(
    record: tuple[dict[str, Any], Path], pair: PairFiles, carl: Carl
) -> None:
    """`carl evaluate` reads nothing but the files."""
    values, folder = record
    found = values["metrics"]
    files = ("-f", pair.fixed, "-m", pair.moving, "-t", folder / "t.h5", "-x", pair.fixed_seg)
    said = carl("evaluate", *files, "-o", folder / "scores.json", "--overwrite")
    assert said.code == 0, said.err
    scores = json.loads((folder / "scores.json").read_text())["cases"][0]
    (folder / "scores.json").unlink()
    for name in ("folded_percent", "sdlogj"):
        assert found[name] == pytest.approx(scores[name], rel=1e-4), name
    for when in ("similarity_before", "similarity_after"):
        for name in ("lncc", "ncc", "nmi"):
            assert found[when][name] == pytest.approx(scores[when][name], rel=1e-4), name
    page = (folder / "r.html").read_text()
    assert f"{found['similarity_after']['lncc']:.3f}</b><span>LNCC" in page
    assert f"{scores['sdlogj']:.3f}</b><span>SD of log Jacobian" in page


def test_overlap_is_what_simpleitk_finds_inside(
    record: tuple[dict[str, Any], Path], pair: PairFiles
) -> None:
    """Overlap by SimpleITK at every voxel."""
    values, folder = record
    transform = sitk.ReadTransform(str(folder / "t.h5"))
    fixed, moving = (sitk.ReadImage(str(path)) for path in pair[:2])
    found = values["metrics"]["overlap_percent"]
    assert found == pytest.approx(100 * _share_inside(fixed, moving, transform), abs=2)
    assert 5 < found < 100


def _share_inside(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    inside = []
    for index in np.ndindex(*fixed.GetSize()):
        point = transform.TransformPoint(fixed.TransformIndexToPhysicalPoint(index))
        there = moving.TransformPhysicalPointToContinuousIndex(point)
        inside.append(
            all(-0.5 <= i <= n - 0.5 for i, n in zip(there, moving.GetSize(), strict=True))
        )
    return float(np.mean(inside))


def test_inverse_consistency_is_forward_and_back(smooth_weights: Path, pair: PairFiles) -> None:
    fixed, moving = (read_image(path) for path in pair[:2])
    result = register_images(fixed, moving, load_weights(smooth_weights))
    found = score(fixed, moving, result, Truth(None, None)).inverse_consistency_mm
    points = result.prepared.fixed.grid.points_mm()[result.prepared.fixed.array > 0]
    error = np.linalg.norm(result.backward(result.forward(points)) - points, axis=1)
    assert found is not None
    assert found.mean == pytest.approx(error.mean(), rel=0.05)
    assert found.p95 == pytest.approx(np.percentile(error, 95), rel=0.1)
    assert error.mean() > 0.05


@pytest.mark.parametrize("angle", [25.0, 70.0])
def test_rotation_and_overlap_of_a_known_turn(
    register: Register, identity_weights: Path, pair: PairFiles, tmp_path: Path, angle: float
) -> None:
    """A network that finds nothing, started from a turn, a stretch by 1.2 and a shift."""
    matrix = 1.2 * rotation((0.0, 0.0, angle))
    image = sitk.ReadImage(str(pair.fixed))
    turn = sitk.AffineTransform(3)
    turn.SetMatrix(matrix.ravel().tolist())
    turn.SetCenter(image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()]))
    sitk.WriteTransform(turn, str(tmp_path / "turn.mat"))
    names = ("-o", tmp_path / "t.h5", "--json", tmp_path / "r.json")
    register(identity_weights, "-i", tmp_path / "turn.mat", *names)
    metrics = json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert metrics["rotation_degrees"] == pytest.approx(angle, abs=0.05)
    assert metrics["linear_determinant"] == pytest.approx(1.2**3, rel=1e-3)
    assert metrics["inverse_consistency_mm"]["max"] < 0.01
    moving = sitk.ReadImage(str(pair.moving))
    shares = [_share_inside(image, moving, t) for t in (turn, turn.GetInverse())]
    assert metrics["overlap_percent"] == pytest.approx(100 * shares[0], abs=2)
    assert abs(shares[0] - shares[1]) > 0.05


def test_the_residual_of_the_inverse_is_honest(record: tuple[dict[str, Any], Path]) -> None:
    """|forward(inverse(y)) - y| by SimpleITK between the samples: of the order of the record's."""
    values, folder = record
    if values["weights"]["name"] != "smooth":
        pytest.skip("a folded map has no inverse")
    forward = sitk.ReadTransform(str(folder / "t.h5"))
    field = sitk.ReadImage(str(folder / "i.nrrd"), sitk.sitkVectorFloat64)
    inverse = sitk.DisplacementFieldTransform(sitk.Image(field))
    random = np.random.default_rng(0)
    size = np.array(field.GetSize())
    residual = []
    for index in random.uniform(0.2 * size, 0.8 * size, (300, 3)):
        y = field.TransformContinuousIndexToPhysicalPoint(index.tolist())
        residual.append(np.linalg.norm(np.subtract(_through(forward, inverse, y), y)))
    noted = values["metrics"]["inverse_residual_mm"]
    assert 0.3 * noted["mean"] < np.mean(residual) < 2 * noted["mean"]
    assert max(residual) < 2 * noted["max"]
    assert noted["mean"] < 0.02 * np.linalg.norm(field.GetSpacing())


def _through(
    forward: sitk.Transform, inverse: sitk.Transform, point: tuple[float, ...]
) -> tuple[float, ...]:
    return forward.TransformPoint(inverse.TransformPoint(point))


def test_the_report_carries_the_same_record(record: tuple[dict[str, Any], Path]) -> None:
    values, folder = record
    page = (folder / "r.html").read_text()
    assert values["weights"]["sha256"][:12] in page
    assert values["inputs"]["moving"]["sha256"][:12] in page


def test_the_window_of_a_ct_is_recorded(
    register: Register, identity_weights: Path, tmp_path: Path
) -> None:
    """Two numbers: JSON has no tuples."""
    windows = ("--modality", "ct", "--window", -200, 300)
    register(identity_weights, "-o", tmp_path / "t.h5", "--json", tmp_path / "r.json", *windows)
    assert json.loads((tmp_path / "r.json").read_text())["options"]["window"] == [-200, 300]
