"""Images that are readable and yet strange: refused in words, or registered to finite numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import DoubtfulError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, to_sitk
from carl_cli.io.transforms.files import read_transform
from tests.conftest import make_grid, smooth_value
from tests.faults.judge import fingerprint
from tests.faults.runner import Ended, Server

GRID = make_grid((20, 18, 16), (4.0, 4.0, 4.0))
SECONDS = 120.0
Change = Callable[[sitk.Image], sitk.Image]


def picture(grid: Grid = GRID) -> sitk.Image:
    return to_sitk(Image(smooth_value(grid.points_mm()).astype(np.float32), grid))


def voxel(value: float) -> Change:
    def change(image: sitk.Image) -> sitk.Image:
        image[5, 6, 7] = value
        return image

    return change


def turned(image: sitk.Image) -> sitk.Image:
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def rgb(image: sitk.Image) -> sitk.Image:
    byte = sitk.Cast(sitk.RescaleIntensity(image), sitk.sitkUInt8)
    return sitk.Compose(byte, byte, byte)


def series(image: sitk.Image) -> sitk.Image:
    return sitk.JoinSeries([image, image])


def run(server: Server, folder: Path, fixed: Path, moving: Path, *options: object) -> Ended:
    """Register with all outputs that voxels can spoil; inputs stay as they were."""
    before = {str(p): fingerprint(p.parent)[str(p)] for p in (fixed, moving)}
    out = folder / "out"
    out.mkdir()
    wanted = ("-o", out / "t.h5", "-O", out / "i.h5", "-w", out / "w.nii.gz", "--jacobian",
              out / "j.mha", "--json", out / "r.json")  # fmt: skip
    ended = server.run(
        ["register", fixed, moving, *options, *wanted, "--threads", 1], folder, SECONDS
    )
    assert not ended.late
    assert "Traceback" not in ended.err
    assert {str(p): fingerprint(p.parent)[str(p)] for p in (fixed, moving)} == before
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []
    if ended.code != 0:
        assert list(out.iterdir()) == []
    return ended


def refused(ended: Ended, *words: str) -> None:
    assert ended.code == 3, ended.err
    error, hint = ended.err.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    for word in words:
        assert word in error


def finite(folder: Path) -> None:
    for name in ("w.nii.gz", "j.mha"):
        assert np.isfinite(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "out" / name)))).all()
    for name in ("t.h5", "i.h5"):
        points = read_transform(folder / "out" / name)(GRID.points_mm()[::5, ::5, ::5])
        assert np.isfinite(points).all()


REFUSED: dict[str, tuple[Change, str]] = {
    "nothing but NaN": (lambda image: image * np.nan, "every voxel is NaN"),
    "infinite": (voxel(-np.inf), "1 voxels are infinite"),
    "constant": (lambda image: image * 0 + 7, ""),
    "rgb": (rgb, "3 components"),
    "two dimensions": (lambda image: image[:, :, 3], " dimensions"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_refused(heavy: Server, weights: Path, tmp_path: Path, name: str, side: str) -> None:
    change, words = REFUSED[name]
    paths = {role: tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")}
    for role, path in paths.items():
        sitk.WriteImage(change(picture()) if role == side else picture(), str(path))
    ended = run(heavy, tmp_path, paths["fixed"], paths["moving"], "--weights", weights)
    refused(ended, words, paths[side].name)


def test_a_fixed_time_series(heavy: Server, weights: Path, tmp_path: Path) -> None:
    """Of a moving one the mean is taken: tests/workflows/test_strange_images.py."""
    paths = tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"
    for path, image in zip(paths, (series(picture()), picture()), strict=True):
        sitk.WriteImage(image, str(path))
    refused(run(heavy, tmp_path, *paths, "--weights", weights), "2 volumes", "fixed.nii.gz")


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"ElementSpacing = 4 4 4", b"ElementSpacing = 4 0 4"),
        (b"ElementSpacing = 4 4 4", b"ElementSpacing = 4 -4 4"),
        (b"ElementSpacing = 4 4 4", b"ElementSpacing = 4 nan 4"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 0 1 0 0 1 0"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 0 0 0 0 0 0 0 0 0"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 .4 0 0 1 0 0 0 1"),
        (b"DimSize = 20 18 16", b"DimSize = 30000 30000 30000"),
        (b"DimSize = 20 18 16", b"DimSize = 20 18 0"),
    ],
)
def test_headers_that_make_no_sense(
    heavy: Server, weights: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    fixed, moving = tmp_path / "fixed.mha", tmp_path / "moving.mha"
    sitk.WriteImage(picture(), str(fixed))
    sitk.WriteImage(picture(), str(moving))
    patched(moving, old, new)
    refused(run(heavy, tmp_path, fixed, moving, "--weights", weights), "moving.mha")


def test_an_image_and_itself(heavy: Server, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.nii.gz"
    sitk.WriteImage(picture(), str(path))
    assert run(heavy, tmp_path, path, path, "--weights", weights).code == 0
    finite(tmp_path)


@pytest.mark.parametrize("size", [(20, 18, 1), (2, 2, 2), (20, 1, 16)])
def test_hardly_an_image(
    heavy: Server, weights: Path, tmp_path: Path, size: tuple[int, int, int]
) -> None:
    """Refused, or registered to finite numbers."""
    paths = [tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")]
    for path in paths:
        sitk.WriteImage(picture(make_grid(size, (4.0, 4.0, 4.0))), str(path))
    ended = run(heavy, tmp_path, *paths, "--weights", weights)
    if ended.code:
        refused(ended)
    else:
        finite(tmp_path)


@pytest.mark.slow
def test_a_sheet(heavy: Server, weights: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")]
    grid = make_grid((2000, 2000, 3), (0.1, 0.1, 5.0))
    for path in paths:
        values = np.add.outer(np.zeros(3), np.add.outer(np.arange(2000), np.arange(2000)) % 701)
        sitk.WriteImage(to_sitk(Image(values.astype(np.int16), grid)), str(path))
    ended = heavy.run(
        ["register", *paths, "--weights", weights, "-o", tmp_path / "t.h5", "--threads", 1],
        tmp_path,
        600.0,
        None,
    )
    assert (ended.code, ended.late) == (0, False), ended.err


def test_images_that_do_not_meet(heavy: Server, weights: Path, tmp_path: Path) -> None:
    """Far apart in space: each lies around its own middle, so that it can still be registered;
    through an initial transform that leads nowhere it can't."""
    paths = [tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")]
    grids = (GRID, make_grid((20, 18, 16), (4.0, 4.0, 4.0), (3000.0, 0.0, 0.0)))
    for path, grid in zip(paths, grids, strict=True):
        centred = Grid(grid.size_xyz, grid.spacing_mm, GRID.origin_mm, grid.direction)
        image = picture(centred)
        image.SetOrigin(grid.origin_mm)
        sitk.WriteImage(image, str(path))
    nowhere = tmp_path / "nowhere.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (-9000.0, 0.0, 0.0)), str(nowhere))
    refused(run(heavy, tmp_path, *paths, "--weights", weights, "-i", nowhere), "field of view")


MASKS: dict[str, Callable[[], sitk.Image]] = {
    "empty": lambda: sitk.Cast(picture() * 0, sitk.sitkUInt8),
    "elsewhere": lambda: sitk.Cast(
        picture(make_grid((5, 5, 5), (4.0, 4.0, 4.0), (900.0, 0.0, 0.0))) * 0 + 1, sitk.sitkUInt8
    ),
    "flat": lambda: sitk.Cast(picture()[:, :, 4] * 0 + 1, sitk.sitkUInt8),
    "nan": lambda: voxel(np.nan)(picture()),
    "series": lambda: series(sitk.Cast(picture() * 0 + 1, sitk.sitkUInt8)),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_wrong_masks(heavy: Server, weights: Path, tmp_path: Path, name: str, side: str) -> None:
    paths = [tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")]
    for path in paths:
        sitk.WriteImage(picture(), str(path))
    mask = tmp_path / "mask.nii.gz"
    sitk.WriteImage(MASKS[name](), str(mask))
    refused(
        run(heavy, tmp_path, *paths, "--weights", weights, f"--{side}-mask", mask), "mask.nii.gz"
    )


def test_strict_fails_after_writing(heavy: Server, weights: Path, tmp_path: Path) -> None:
    """The untrained network makes things worse: a warning and 0; with --strict the same, and 8."""
    paths = [tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")]
    sitk.WriteImage(picture(), str(paths[0]))
    sitk.WriteImage(turned(picture()), str(paths[1]))
    codes = {}
    for options in ([], ["--strict"]):
        out = tmp_path / f"t{len(options)}.h5"
        call = ["register", *paths, "--weights", weights, "-o", out, "--threads", 1, *options]
        codes[len(options)] = heavy.run(call, tmp_path, SECONDS)
    assert [codes[k].code for k in (0, 1)] == [0, DoubtfulError.exit_code], codes
    assert "warning: " in codes[0].err
    error, hint = codes[1].err.strip().splitlines()[-2:]
    assert error.startswith("error: the result is doubtful (--strict): ")
    assert hint.startswith("hint: ")
    assert (tmp_path / "t0.h5").read_bytes() == (tmp_path / "t1.h5").read_bytes()
