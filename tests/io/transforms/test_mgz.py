"""FreeSurfer's warps in .mgz: surfa's files read in each of their four kinds, ours read by it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_any, write_image
from carl_cli.io.ras import flip_vectors, voxel_to_ras
from carl_cli.io.transforms.files import read_transform, write_transform
from tests.cli.conftest import Carl, carl  # noqa: F401
from tests.conftest import GRIDS
from tests.fields import field_on
from tests.measured import assert_close

surfa = pytest.importorskip("surfa", reason="needs surfa")
MOVING = GRIDS["flipped"]
FILE = "FreeSurfer warp .mgz"


@pytest.fixture(autouse=True)
def old_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """surfa 0.6.3 is older than numpy 2.3."""
    monkeypatch.setattr(np, "fromstring", np.frombuffer)


def geometry(grid: Grid) -> object:
    return surfa.ImageGeometry(grid.size_xyz, vox2world=voxel_to_ras(grid))


def voxels(grid: Grid) -> np.ndarray:
    return grid.points_mm()[2:-2:5, 2:-2:5, 2:-2:5].reshape(-1, 3)


@pytest.mark.parametrize("kind", ["abs_crs", "disp_crs", "abs_ras", "disp_ras"])
@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_warps_of_surfa(tmp_path: Path, kind: str, suffix: str, any_grid: Grid) -> None:
    field, path = field_on(any_grid), tmp_path / f"w{suffix}"
    held = flip_vectors(field.displacement_mm).transpose(2, 1, 0, 3)
    formats = surfa.Warp.Format
    warp = surfa.Warp(held, geometry(MOVING), geometry(any_grid), format=formats.disp_ras)
    warp.convert(format=getattr(formats, kind)).save(str(path))
    points = voxels(any_grid)
    mapped = read_transform(path)(points)
    file = f"{FILE}, {kind}"
    assert_close(mapped, field(points), 1e-4, file=file, way="read", referee="surfa")
    np.testing.assert_allclose(read_transform(path, "synthmorph")(points), mapped)


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_ours_by_surfa(tmp_path: Path, suffix: str, any_grid: Grid) -> None:
    field, path = field_on(any_grid), tmp_path / f"w{suffix}"
    write_transform(path, field, program="synthmorph", field_grid=any_grid, moving_grid=MOVING)
    warp = surfa.load_warp(str(path))
    assert warp.format == surfa.Warp.Format.disp_ras
    held = flip_vectors(field.displacement_mm).transpose(2, 1, 0, 3)
    assert_close(warp.data, held, 1e-5, file=FILE, way="written", referee="surfa")
    for theirs, grid in ((warp.source, MOVING), (warp.target, any_grid)):
        np.testing.assert_allclose(theirs.vox2world.matrix, voxel_to_ras(grid), atol=1e-4)
        assert tuple(theirs.shape) == grid.size_xyz
    points = voxels(any_grid)
    np.testing.assert_allclose(read_transform(path)(points), field(points), atol=1e-4)


def test_three_frames_are_taken_as_named(tmp_path: Path) -> None:
    """An image of MGH says nothing: SynthMorph's displacements, EasyReg's positions."""
    field, path = field_on(MOVING), tmp_path / "w.mgz"
    points = voxels(MOVING)
    values = {"synthmorph": field.displacement_mm, "easyreg": field(MOVING.points_mm())}
    for program, numbers in values.items():
        held = flip_vectors(numbers).astype(np.float32)
        write_image(path, Image(held, MOVING, 3, channel_kind="time"))
        mapped = read_transform(f"{program}:{path}")(points)
        np.testing.assert_allclose(mapped, field(points), atol=1e-4)
    with pytest.raises(InputError, match="this is an image, not a transform"):
        read_transform(path)


def test_refusals(tmp_path: Path) -> None:
    field, path = field_on(MOVING), tmp_path / "w.mgz"
    with pytest.raises(UsageError, match="goes with both images"):
        write_transform(path, field, program="synthmorph", field_grid=MOVING)
    assert not list(tmp_path.iterdir())
    write_transform(path, field, program="synthmorph", field_grid=MOVING, moving_grid=MOVING)
    whole = gzip.decompress(path.read_bytes())
    other = whole[:-12] + (9).to_bytes(4, "big") + whole[-8:]
    length = (2).to_bytes(8, "big")
    short = whole[:-20] + length + whole[-12:-10]
    unsaid = "does not say what its numbers"
    for content, words in ((whole[:-400], unsaid), (short, unsaid), (other, "of kind 9")):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match=words):
            read_transform(path)


def test_info_and_warp(tmp_path: Path, carl: Carl) -> None:  # noqa: F811
    """A warp is told from an image by its header, wherever a file is given."""
    path, image = tmp_path / "w.mgz", tmp_path / "m.mgz"
    field = field_on(MOVING)
    write_transform(path, field, program="synthmorph", field_grid=MOVING, moving_grid=MOVING)
    numbers = np.random.default_rng(0).normal(0, 1, MOVING.shape_zyx).astype(np.float32)
    write_image(image, Image(numbers, MOVING))
    assert "warp of FreeSurfer in MGH" in carl("info", path).out
    assert "voxel_type" in carl("info", image, "--json").out
    write_transform(tmp_path / "w.nii.gz", field)
    for name in ("w.mgz", "w.nii.gz"):
        out = tmp_path / f"{name}.out.nii"
        assert carl("warp", image, "-t", tmp_path / name, "-o", out).code == 0
    first, second = (read_any(tmp_path / f"{n}.out.nii").array for n in ("w.mgz", "w.nii.gz"))
    np.testing.assert_allclose(first, second, atol=1e-3)
