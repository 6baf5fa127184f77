"""Transforms made by other programs, read here; ours, applied by them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ants
import nibabel
import nitransforms
import numpy as np
import pandas
import pytest
from picsl_greedy import Greedy3D

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.chain import parse_chain
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.transforms import AffineTransform, Transform, dense
from tests.conftest import GRIDS, smooth_value
from tests.fields import TRANSLATION, field_on, inner_points, waves
from tests.measured import assert_close

FIXED, MOVING = GRIDS["oblique"], GRIDS["flipped"]
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


class Case(NamedTuple):
    """A pair on disk, and what ANTs and greedy made of it."""

    folder: Path
    ants_chain: list[str]
    ants_composite: str
    greedy_warp: str
    greedy_affine: str

    @property
    def fixed(self) -> str:
        return str(self.folder / "fixed.nii.gz")

    @property
    def moving(self) -> str:
        return str(self.folder / "moving.nii.gz")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("programs")
    points = MOVING.points_mm()
    moved = points + 0.7 * waves(points) + [2.0, -1.0, 1.5]
    write_image(folder / "fixed.nii.gz", Image(_float(smooth_value(FIXED.points_mm())), FIXED))
    write_image(folder / "moving.nii.gz", Image(_float(smooth_value(moved)), MOVING))
    before = Path.cwd()
    os.chdir(folder)
    yield Case(folder, *_ants(folder), *_greedy(folder))
    os.chdir(before)


def _float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _ants(folder: Path) -> tuple[list[str], str]:
    pair = [ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving")]
    few = {"reg_iterations": (10, 5), "random_seed": 1}
    chain = ants.registration(*pair, "SyN", outprefix=str(folder / "a_"), **few)
    whole = ants.registration(
        *pair, "SyN", outprefix=str(folder / "c_"), write_composite_transform=True, **few
    )
    return chain["fwdtransforms"], whole["fwdtransforms"]


def _greedy(folder: Path) -> tuple[str, str]:
    greedy, pair = Greedy3D(), "-i fixed.nii.gz moving.nii.gz -m SSD -threads 1"
    greedy.execute(f"{pair} -a -dof 12 -n 20x10 -o affine.mat")
    greedy.execute(f"{pair} -it affine.mat -n 10x5 -s 2vox 1vox -o warp.nii.gz")
    return str(folder / "warp.nii.gz"), str(folder / "affine.mat")


def inside_moving(transform: Transform) -> np.ndarray:
    """Where the mapped voxel lies between moving voxel centres: at borders tools differ by rule."""
    index = apply_affine(MOVING.lps_to_index, transform(FIXED.points_mm()))
    return np.asarray(((index > 0) & (index < np.array(MOVING.size_xyz) - 1)).all(axis=-1))


def assert_same_image(ours: np.ndarray, theirs: np.ndarray, where: np.ndarray) -> None:
    """Within 1e-3 of the range."""
    assert where.mean() > 0.3
    assert np.abs(ours - theirs)[where].max() < 1e-3 * np.ptp(theirs[where])


def warped(case: Case, transform: Transform) -> np.ndarray:
    return resample(read_image(case.moving), FIXED, transform).array.astype(float)


def by_ants(case: Case, files: list[str]) -> np.ndarray:
    fixed, moving = (ants.image_read(path) for path in (case.fixed, case.moving))
    return ants.apply_transforms(fixed, moving, files).numpy().T


def by_greedy(case: Case, files: str) -> np.ndarray:
    out = case.folder / "greedy_out.nii.gz"
    Greedy3D().execute(f"-rf {case.fixed} -rm {case.moving} {out} -r {files} -threads 1")
    return read_image(out).array.astype(float)


def test_a_chain_of_ants(case: Case) -> None:
    assert [Path(f).name for f in case.ants_chain] == ["a_1Warp.nii.gz", "a_0GenericAffine.mat"]
    chain = parse_chain(case.ants_chain)
    assert_same_image(warped(case, chain), by_ants(case, case.ants_chain), inside_moving(chain))


def test_a_composite_of_ants(case: Case) -> None:
    chain = read_transform(case.ants_composite)
    assert_same_image(
        warped(case, chain), by_ants(case, [case.ants_composite]), inside_moving(chain)
    )


def test_points_through_files_of_ants(case: Case) -> None:
    points = inner_points(FIXED)
    table = pandas.DataFrame(points, columns=list("xyz"))
    for files in (case.ants_chain, [case.ants_composite]):
        theirs = ants.apply_transforms_to_points(3, table, files)[list("xyz")].to_numpy()
        file, ours = "ANTs 1Warp.nii.gz, 0GenericAffine.mat, .h5", parse_chain(files)(points)
        assert_close(ours, theirs, 1e-3, file=file, way="read", referee="ANTs")
        assert np.linalg.norm(theirs - points, axis=1).max() > 1


def test_our_inverse_is_close_to_that_of_ants(case: Case) -> None:
    """Their 1InverseWarp is only approximately the inverse of 1Warp: a tenth of a voxel."""
    inverse_warp = str(case.folder / "a_1InverseWarp.nii.gz")
    points = inner_points(MOVING, margin=8)
    ours = parse_chain(case.ants_chain).inverse()(points)
    theirs = parse_chain([f"[{case.ants_chain[1]},1]", inverse_warp])(points)
    assert np.percentile(np.linalg.norm(ours - theirs, axis=1), 95) < 0.2


def test_a_chain_of_greedy(case: Case) -> None:
    chain = read_transform(case.greedy_affine, "greedy") @ read_transform(case.greedy_warp)
    theirs = by_greedy(case, f"{case.greedy_warp} {case.greedy_affine}")
    assert_same_image(warped(case, chain), theirs, inside_moving(chain))


def test_our_files_through_ants_and_greedy(case: Case, affine: AffineTransform) -> None:
    chain = affine @ field_on(FIXED)
    for name in ("ours.h5", "ours.nii.gz", "ours.mha", "ours.nrrd"):
        write_transform(case.folder / name, chain)
        theirs = by_ants(case, [str(case.folder / name)])
        assert_same_image(warped(case, chain), theirs, inside_moving(chain))
    write_transform(case.folder / "ours_warp.nii.gz", field_on(FIXED))
    write_transform(case.folder / "ours_affine.txt", affine, program="greedy")
    theirs = by_greedy(case, f"{case.folder}/ours_warp.nii.gz {case.folder}/ours_affine.txt")
    assert_same_image(warped(case, chain), theirs, inside_moving(chain))


def test_a_coarser_field_through_their_tools(case: Case) -> None:
    """A field of 4 mm on a grid of 2 mm: sampled alike by everybody."""
    coarse = Grid((16, 16, 17), (4.0, 4.0, 4.0), (-30.0, -29.0, -31.0), tuple(np.eye(3).ravel()))
    field = dense(field_on(coarse), coarse)
    write_transform(case.folder / "coarse.nii.gz", field)
    index = apply_affine(coarse.lps_to_index, FIXED.points_mm())
    held = ((index > 0) & (index < np.array(coarse.size_xyz) - 1)).all(axis=-1)
    where = inside_moving(field) & held
    path = str(case.folder / "coarse.nii.gz")
    assert_same_image(warped(case, field), by_ants(case, [path]), where)
    assert_same_image(warped(case, field), by_greedy(case, path), where)


def test_a_landmark_in_the_image_is_where_the_points_say(case: Case) -> None:
    """A bright spot in the moving image, warped, lies where its inverse-mapped position is."""
    chain = parse_chain(case.ants_chain)
    spot = np.array([3.0, -4.0, 5.0])
    distance = np.linalg.norm(MOVING.points_mm() - spot, axis=-1)
    image = Image(_float(1000 * np.exp(-((distance / 5) ** 2))), MOVING)
    result = resample(image, FIXED, chain).array.astype(float)
    centre = (FIXED.points_mm() * result[..., None]).sum(axis=(0, 1, 2)) / result.sum()
    assert np.linalg.norm(centre - chain.inverse()(spot)) < 0.5
    assert np.linalg.norm(centre - chain(spot)) > 2


def test_a_greedy_affine_is_not_guessed(case: Case) -> None:
    with pytest.raises(InputError) as refused:
        read_transform(case.greedy_affine)
    assert "greedy:affine.mat" in refused.value.hint
    with pytest.raises(InputError, match="not the 4x4 text"):
        read_transform(case.ants_chain[1], "greedy")


def ras(points: np.ndarray) -> np.ndarray:
    return points * [-1.0, -1.0, 1.0]


def three_volumes(path: Path, values_ras: np.ndarray, grid: Grid) -> Path:
    """(z, y, x, 3) as FreeSurfer's tools save it: a series of three volumes, no intent."""
    data = np.transpose(values_ras, (2, 1, 0, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, FLIP @ grid.index_to_lps), path)
    return path


def test_easyreg_holds_positions_in_ras(tmp_path: Path, any_grid: Grid) -> None:
    points = any_grid.points_mm()
    path = three_volumes(tmp_path / "easy.nii.gz", ras(points + waves(points)), any_grid)
    inner = inner_points(any_grid)
    ours = read_transform(path, "easyreg")(inner)
    expected = field_on(any_grid)(inner)
    assert_close(ours, expected, 1e-4, file="EasyReg field", way="read", referee="nibabel")
    with pytest.raises(InputError, match="intent 0"):
        read_transform(path)


def test_synthmorph_holds_displacements_in_ras(tmp_path: Path, any_grid: Grid) -> None:
    displacement = ras(waves(any_grid.points_mm()))
    path = three_volumes(tmp_path / "synth.nii.gz", displacement, any_grid)
    inner = inner_points(any_grid)
    ours = read_transform(path, "synthmorph")(inner)
    np.testing.assert_allclose(ours, field_on(any_grid)(inner), atol=1e-4)


def test_our_fields_in_their_conventions(
    tmp_path: Path, any_grid: Grid, affine: AffineTransform
) -> None:
    chain, points = affine @ field_on(any_grid), any_grid.points_mm()
    write_transform(tmp_path / "e.nii.gz", chain, program="easyreg", field_grid=any_grid)
    write_transform(tmp_path / "s.nii.gz", chain, program="synthmorph", field_grid=any_grid)
    for name, values in (("e", ras(chain(points))), ("s", ras(chain(points) - points))):
        stored = nibabel.load(tmp_path / f"{name}.nii.gz")
        assert stored.shape == (*any_grid.size_xyz, *((3,) if name == "e" else (1, 3)))
        np.testing.assert_allclose(stored.affine, FLIP @ any_grid.index_to_lps, atol=1e-4)
        numbers = np.asarray(stored.dataobj).reshape(*any_grid.size_xyz, 3).transpose(2, 1, 0, 3)
        np.testing.assert_allclose(numbers, values, atol=1e-4)


def test_an_lta_maps_the_moving_image_to_the_fixed_one(
    tmp_path: Path, affine: AffineTransform
) -> None:
    """nitransforms reads src → dst; what resamples is the inverse of that."""
    path = tmp_path / "t.lta"
    write_transform(path, affine, program="lta", field_grid=FIXED, moving_grid=MOVING)
    points = inner_points(FIXED, 20)
    ours = read_transform(path, "lta")(points)
    np.testing.assert_allclose(ours, affine(points), atol=1e-6)
    source_to_target = nitransforms.io.lta.FSLinearTransformArray.from_filename(path)
    matrix = np.asarray(source_to_target["xforms"][0]["m_L"])
    assert int(source_to_target["type"]) == 1
    expected = np.linalg.inv(FLIP @ affine.homogeneous @ FLIP)
    np.testing.assert_allclose(matrix, expected, atol=1e-5)
    theirs = ras(apply_affine(np.linalg.inv(matrix.astype(float)), ras(points)))
    for way, mapped in (("written", affine(points)), ("read", ours)):
        file = "FreeSurfer .lta"
        assert_close(theirs, mapped, 1e-3, file=file, way=way, referee="nitransforms")


def test_an_lta_between_voxels(tmp_path: Path, affine: AffineTransform) -> None:
    """Type 0 needs both geometries; the same map as its RAS_TO_RAS form."""
    path = tmp_path / "t.lta"
    write_transform(path, affine, program="lta", field_grid=FIXED, moving_grid=MOVING)
    ras_matrix = np.linalg.inv(FLIP @ affine.homogeneous @ FLIP)
    to_voxels = np.linalg.inv(FLIP @ FIXED.index_to_lps) @ ras_matrix @ FLIP @ MOVING.index_to_lps
    text = path.read_text().replace("type      = 1", "type      = 0")
    before, after = text.split("1 4 4\n")
    rows = "\n".join(" ".join(f"{v:.12g}" for v in row) for row in to_voxels)
    rest = "\n".join(after.split("\n")[4:])
    path.write_text(f"{before}1 4 4\n{rows}\n{rest}")
    points = inner_points(FIXED, 20)
    np.testing.assert_allclose(read_transform(path, "lta")(points), affine(points), atol=1e-5)
    path.write_text(path.read_text().replace("type      = 0", "type      = 14"))
    with pytest.raises(InputError, match="LTA of type 14"):
        read_transform(path, "lta")


LTA_DAMAGE = {
    "two transforms": ("nxforms   = 1", "nxforms   = 2", "2 transforms"),
    "no affine": ("1.000000000000000e+00\nsrc", "2.000000000000000e+00\nsrc", "no affine matrix"),
    "a geometry that is not valid": ("valid = 1", "valid = 0", "its src is not valid"),
    "a line that the other geometry has": ("xras", "xxxx", "no 'xras'"),
    "an underscore": ("voxelsize = ", "voxelsize = 1_", "is no number"),
}


@pytest.mark.parametrize("name", LTA_DAMAGE)
def test_an_lta_is_read_whole(tmp_path: Path, affine: AffineTransform, name: str) -> None:
    """The first transform counted, the last row did not, a line was taken from the other image."""
    path = tmp_path / "t.lta"
    write_transform(path, affine, program="lta", field_grid=FIXED, moving_grid=MOVING)
    old, new, words = LTA_DAMAGE[name]
    text = path.read_text().replace("type      = 1", "type      = 0")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        read_transform(path)


def test_what_a_program_can_not_hold_is_said(tmp_path: Path, affine: AffineTransform) -> None:
    with pytest.raises(UsageError, match="only an affine"):
        write_transform(tmp_path / "a.mat", affine @ field_on(FIXED), program="greedy")
    with pytest.raises(UsageError, match="needs a grid"):
        write_transform(tmp_path / "a.nii.gz", affine, program="easyreg")
    with pytest.raises(UsageError, match="both images"):
        write_transform(tmp_path / "a.lta", affine, program="lta", field_grid=FIXED)


def test_a_greedy_affine_is_ras(tmp_path: Path) -> None:
    shift = AffineTransform(np.eye(3), np.array(TRANSLATION))
    write_transform(tmp_path / "g.mat", shift, program="greedy")
    stored = np.loadtxt(tmp_path / "g.mat")
    np.testing.assert_array_equal(stored[:3, 3], (-6.0, 4.0, 3.0))
