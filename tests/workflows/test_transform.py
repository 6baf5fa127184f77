"""compose, invert, convert, info, jacobian and points, from arguments to files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from carl_cli.io.images.dicom_write import write_dicom_series
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.io.transforms.programs import Pair
from carl_cli.transforms import AffineTransform, DisplacementField, jacobian_determinant
from tests.cli.conftest import Carl, carl  # noqa: F401
from tests.conftest import GRIDS
from tests.fields import TRANSLATION, field_on, inner_points
from tests.transforms.test_folds import bumpy

GRID = GRIDS["oblique"]


@pytest.fixture
def files(tmp_path: Path, affine: AffineTransform, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with fixed.nii.gz, moving.nii.gz, warp.nii.gz, affine.mat and chain.h5."""
    monkeypatch.chdir(tmp_path)
    for name in ("fixed", "moving"):
        grid = GRIDS["oblique" if name == "fixed" else "anisotropic"]
        write_image(f"{name}.nii.gz", Image(np.zeros(grid.shape_zyx, np.uint8), grid))
    write_transform("warp.nii.gz", field_on(GRID))
    write_transform("affine.mat", affine)
    write_transform("chain.h5", affine @ field_on(GRID))
    return tmp_path


def test_compose_keeps_the_exact_parts(carl: Carl, files: Path, affine: AffineTransform) -> None:  # noqa: F811
    assert carl("compose", "-t", "warp.nii.gz", "-t", "affine.mat", "-o", "both.h5").code == 0
    both = read_transform("both.h5")
    points = inner_points(GRID)
    np.testing.assert_allclose(both(points), affine(field_on(GRID)(points)), atol=1e-4)
    shown = carl("info", "both.h5", "--json")
    types = [p["type"] for p in json.loads(shown.out)["parts_first_to_act_first"]]
    assert types == ["displacement field", "affine"]


def test_compose_on_another_grid(carl: Carl, files: Path, affine: AffineTransform) -> None:  # noqa: F811
    items = ["-t", "warp.nii.gz", "-t", "[affine.mat,1]"]
    assert carl("compose", *items, "-r", "fixed.nii.gz", "-o", "d.nii.gz").code == 0
    dense = read_transform("d.nii.gz")
    assert isinstance(dense, DisplacementField)
    assert dense.grid.matches(GRID, 1e-2)
    points = GRID.points_mm()
    expected = affine.inverse()(field_on(GRID)(points))
    np.testing.assert_allclose(dense(points), expected, atol=1e-3)


def test_the_average_of_affines_is_log_euclidean(carl: Carl, files: Path) -> None:  # noqa: F811
    """Written as an affine; the inverse of the first cancels it."""
    assert carl("average", "affine.mat", "[affine.mat,1]", "-o", "none.mat").code == 0
    points = inner_points(GRID)
    np.testing.assert_allclose(read_transform("none.mat")(points), points, atol=1e-6)


def test_the_average_with_a_field_is_the_mean_displacement(
    carl: Carl,  # noqa: F811
    files: Path,
    affine: AffineTransform,
) -> None:
    """On the grid of the first that bends, in any order; on that of --reference if it is given."""
    assert carl("average", "affine.mat", "chain.h5", "warp.nii.gz", "-o", "mean.h5").code == 0
    points = GRID.points_mm()
    warped = field_on(GRID)(points)
    expected = (affine(points) + affine(warped) + warped) / 3
    mean = read_transform("mean.h5")
    assert isinstance(mean, DisplacementField)
    assert mean.grid.matches(GRID)
    np.testing.assert_allclose(mean(points), expected, atol=1e-4)
    items = ("warp.nii.gz", "[warp.nii.gz,1]", "-r", "moving.nii.gz")
    assert carl("average", *items, "-o", "mean.nii.gz").code == 0
    points = inner_points(GRID)
    there_and_back = (field_on(GRID)(points) + field_on(GRID).inverse()(points)) / 2
    on_other = read_transform("mean.nii.gz")
    assert isinstance(on_other, DisplacementField)
    assert on_other.grid.matches(GRIDS["anisotropic"], 1e-2)
    np.testing.assert_allclose(on_other(points), there_and_back, atol=0.25)


def test_invert_reports_what_is_left(carl: Carl, files: Path) -> None:  # noqa: F811
    run = carl("invert", "chain.h5", "-r", "moving.nii.gz", "-o", "inverse.nii.gz")
    assert run.code == 0
    numbers = dict(line.split() for line in run.out.splitlines())
    assert float(numbers["residual_mm_p99_at_voxels"]) < 5e-3
    assert float(numbers["residual_mm_p99_between_voxels"]) < 0.1
    forward, backward = read_transform("chain.h5"), read_transform("inverse.nii.gz")
    points = GRIDS["anisotropic"].points_mm()
    measured = np.linalg.norm(forward(backward(points)) - points, axis=-1)
    assert np.percentile(measured, 99) == pytest.approx(
        float(numbers["residual_mm_p99_at_voxels"]), abs=1e-3
    )
    wrong_way = np.linalg.norm(backward(points) - forward(points), axis=-1)
    assert wrong_way.max() > 5


@pytest.mark.parametrize("output", ["inverse.nii.gz", "inverse.h5", "inverse.nrrd"])
def test_invert_without_a_reference(carl: Carl, files: Path, output: str) -> None:  # noqa: F811
    """The grid is the field's own, extended over what the field reaches."""
    assert carl("invert", "warp.nii.gz", "-o", output).code == 0
    forward, backward = read_transform("warp.nii.gz"), read_transform(output)
    points = inner_points(GRID)
    np.testing.assert_allclose(backward(forward(points)), points, atol=0.1)


def test_invert_an_affine_exactly(carl: Carl, files: Path, affine: AffineTransform) -> None:  # noqa: F811
    assert carl("invert", "affine.mat", "-o", "back.mat").code == 0
    points = inner_points(GRID)
    np.testing.assert_allclose(read_transform("back.mat")(affine(points)), points, atol=1e-9)


def test_convert_with_a_coarser_spacing(carl: Carl, files: Path) -> None:  # noqa: F811
    arguments = ["-r", "fixed.nii.gz", "--field-spacing", "5", "--intent", "1006"]
    assert carl("convert", "chain.h5", "-o", "coarse.nii.gz", *arguments).code == 0
    header = nibabel.load("coarse.nii.gz").header
    assert int(header["intent_code"]) == 1006
    np.testing.assert_allclose(header["pixdim"][1:4], 5.0)


def test_convert_between_programs(carl: Carl, files: Path, affine: AffineTransform) -> None:  # noqa: F811
    assert carl("convert", "affine.mat", "--to", "greedy", "-o", "greedy.txt").code == 0
    assert carl("convert", "greedy.txt", "-o", "again.tfm").code == 3
    assert carl("convert", "greedy.txt", "--from", "greedy", "-o", "again.tfm").code == 0
    points = inner_points(GRID)
    np.testing.assert_allclose(read_transform("again.tfm")(points), affine(points), atol=1e-6)


def test_repaired_folds(carl: Carl, files: Path) -> None:  # noqa: F811
    write_transform("folded.h5", bumpy(GRID, 3.6))
    assert "folded_voxels 0" not in carl("jacobian", "folded.h5", "-o", "j1.nii.gz").out
    run = carl("convert", "folded.h5", "--repair-folds", "-o", "smooth.h5")
    assert run.code == 0
    assert "voxels repaired" in run.err
    assert "folded_voxels 0\n" in carl("jacobian", "smooth.h5", "-o", "j2.nii.gz").out


def test_jacobian_and_its_logarithm(carl: Carl, files: Path) -> None:  # noqa: F811
    run = carl("jacobian", "chain.h5", "-r", "moving.nii.gz", "-o", "j.nii.gz")
    assert carl("jacobian", "chain.h5", "-r", "moving.nii.gz", "-o", "l.nii.gz", "--log").code == 0
    expected = jacobian_determinant(read_transform("chain.h5"), GRIDS["anisotropic"])
    np.testing.assert_allclose(read_image("j.nii.gz").array, expected, atol=1e-4)
    np.testing.assert_allclose(read_image("l.nii.gz").array, np.log(expected), atol=1e-4)
    numbers = dict(line.split() for line in run.out.splitlines())
    assert float(numbers["smallest"]) == pytest.approx(expected.min(), rel=1e-4)
    assert float(numbers["sd_of_log"]) == pytest.approx(np.log(expected).std(), rel=1e-3)


def test_points_need_no_knowledge_of_the_direction(carl: Carl, files: Path) -> None:  # noqa: F811
    points = inner_points(GRID, 5)
    np.savetxt("fixed.txt", points)
    chain = ["-t", "warp.nii.gz", "-t", "affine.mat"]
    assert carl("points", "fixed.txt", *chain, "--from", "fixed", "-o", "moving.txt").code == 0
    run = carl("points", "moving.txt", *chain, "--from", "moving", "-o", "back.txt")
    assert "residual" in run.err
    np.testing.assert_allclose(
        np.loadtxt("moving.txt"), read_transform("chain.h5")(points), atol=1e-3
    )
    np.testing.assert_allclose(np.loadtxt("back.txt"), points, atol=5e-3)
    assert carl("points", "fixed.txt", *chain, "-o", "no.txt").code == 2


def test_info_says_what_a_field_is(carl: Carl, files: Path) -> None:  # noqa: F811
    facts = json.loads(carl("info", "warp.nii.gz", "--json").out)
    part = facts["parts_first_to_act_first"][0]
    assert facts["format"].endswith("NIfTI intent 1007 (VECTOR)")
    assert facts["frame_on_disk"] == "LPS"
    assert part["size_xyz"] == list(GRID.size_xyz)
    assert part["folded_voxels"] == 0
    length = np.linalg.norm(field_on(GRID).displacement_mm, axis=-1)
    assert part["displacement_mm_max"] == pytest.approx(length.max(), rel=1e-5)
    np.testing.assert_allclose(part["spacing_mm"], GRID.spacing_mm, rtol=1e-6)


def test_info_of_an_h5_knows_which_tools_read_it(carl: Carl, files: Path) -> None:  # noqa: F811
    facts = json.loads(carl("info", "chain.h5", "--json").out)
    assert facts["precision"] == "float"
    assert facts["types_in_file_order"] == [
        "CompositeTransform",
        "AffineTransform",
        "DisplacementFieldTransform",
    ]
    assert facts["read_by"]["nitransforms"].startswith("read; ")


def test_info_of_images_and_points(carl: Carl, files: Path) -> None:  # noqa: F811
    image = json.loads(carl("info", "fixed.nii.gz", "--json").out)
    assert image["kind"] == "image"
    assert image["voxel_type"] == "uint8"
    (files / "p.csv").write_text("x,y,z\n1,2,3\n-4,5,6\n")
    points = json.loads(carl("info", "p.csv", "--json").out)
    assert points["count"] == 2
    assert points["smallest_mm_lps"] == [-4, 2, 3]


def test_orientations_by_nibabel(carl: Carl, files: Path) -> None:  # noqa: F811
    for name, grid in GRIDS.items():
        write_image(f"{name}.nii.gz", Image(np.zeros(grid.shape_zyx, np.uint8), grid))
        codes = nibabel.aff2axcodes(nibabel.load(f"{name}.nii.gz").affine)
        shown = json.loads(carl("info", f"{name}.nii.gz", "--json").out)
        assert shown["orientation"] == "".join(codes)


def test_failures_have_their_codes_and_leave_no_file(carl: Carl, files: Path) -> None:  # noqa: F811
    before = sorted(p.name for p in files.iterdir())
    assert carl("convert", "absent.h5", "-o", "a.h5").code == 3
    assert carl("convert", "affine.mat", "-o", "a.nii.gz").code == 2
    assert carl("convert", "chain.h5", "-o", "nowhere/a.h5").code == 7
    assert carl("convert", "chain.h5", "-o", "warp.nii.gz").code == 7
    assert carl("convert", "chain.h5", "-o", "a.h5", "--field-spacing", "-1").code == 2
    assert sorted(p.name for p in files.iterdir()) == before


def test_a_translation_keeps_its_sign_through_every_command(carl: Carl, files: Path) -> None:  # noqa: F811
    write_transform("t.tfm", AffineTransform(np.eye(3), np.array(TRANSLATION)))
    assert carl("convert", "t.tfm", "-r", "fixed.nii.gz", "-o", "t.nii.gz").code == 0
    assert carl("convert", "t.nii.gz", "-o", "t.h5").code == 0
    assert carl("convert", "t.h5", "-o", "t.mha").code == 0
    assert carl("convert", "t.mha", "-o", "t6.nii.gz", "--intent", "1006").code == 0
    assert (
        carl("compose", "-t", "[t.tfm,1]", "-t", "t6.nii.gz", "-t", "t.mha", "-o", "c.h5").code == 0
    )
    points = inner_points(GRID, 20, 8)
    np.testing.assert_allclose(read_transform("c.h5")(points), points + TRANSLATION, atol=1e-4)


@pytest.mark.parametrize("source", ["chain.h5", "affine.mat", "warp.nii.gz"])
def test_the_ways_that_info_names_lead_there_and_back(
    carl: Carl,  # noqa: F811
    files: Path,
    source: str,
) -> None:
    """Every command is run as it stands, and what it writes is the same map."""
    facts = json.loads(carl("info", source, "--json").out)
    points = GRID.points_mm()[3:-3:4, 3:-3:4, 3:-3:4].reshape(-1, 3)
    expected = read_transform(source)(points)
    pair = Pair(Path("fixed.nii.gz"), Path("moving.nii.gz"))
    assert len(facts["for_others"]) == 7
    for tool, command in facts["for_others"].items():
        words = (
            command.replace("FIXED", str(pair.fixed)).replace("MOVING", str(pair.moving)).split()
        )
        assert words.pop(0) == "carl"
        assert carl(*words, "--overwrite").code == 0, (tool, words)
        program = words[words.index("--to") + 1] if "--to" in words else None
        again = read_transform(words[-1], program, pair)(points)
        np.testing.assert_allclose(again, expected, atol=2e-3, err_msg=tool)


def test_info_of_a_named_file(carl: Carl, files: Path, affine: AffineTransform) -> None:  # noqa: F811
    write_transform("g.mat", affine, program="greedy")
    facts = json.loads(carl("info", "greedy:g.mat", "--json").out)
    assert facts["format"] == "greedy"
    assert "greedy:g.mat --to fsl" in facts["for_others"]["FSL"]
    assert carl("convert", "greedy:g.mat", "-o", "g.h5").code == 0
    assert "greedy:g.mat" in carl("info", "g.mat").err


def test_info_of_a_dicom_registration(carl: Carl, files: Path, affine: AffineTransform) -> None:  # noqa: F811
    for name in ("fixed", "moving"):
        image = Image(np.zeros(GRID.shape_zyx, np.int16), GRID)
        write_dicom_series(Path(f"{name}_series"), image)
    pair = ("-r", "fixed_series", "-m", "moving_series")
    assert carl("convert", "affine.mat", *pair, "-o", "reg.dcm").code == 0
    facts = json.loads(carl("info", "reg.dcm", "--json").out)
    assert facts["format"] == "DICOM registration object"
    assert carl("convert", "reg.dcm", "-o", "back.mat").code == 0
    points = inner_points(GRID)
    np.testing.assert_allclose(read_transform("back.mat")(points), affine(points), atol=1e-5)
    assert carl("convert", "affine.mat", "-o", "no.dcm").code == 2
    write_transform("t.x5", affine)
    assert json.loads(carl("info", "t.x5", "--json").out)["format"] == "X5 transform"
