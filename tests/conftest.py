"""Fixtures shared by all tests: where real data stands, and small images with hard geometry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.transforms import AffineTransform

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("CARL_TEST_DATA", REPOSITORY / "../shared/data")).resolve()


def missing(what: str) -> NoReturn:
    """Skip for want of data; fail where CARL_REQUIRE_DATA=1 says that it must be there."""
    stop = pytest.fail if os.environ.get("CARL_REQUIRE_DATA") == "1" else pytest.skip
    stop(what)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Real images, for tests that need real anatomy."""
    if not REAL_DATA.is_dir():
        missing(f"{REAL_DATA} is absent: set CARL_TEST_DATA to the folder with real data")
    return REAL_DATA


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images where there are any, else stand-ins by the same names."""
    from tests import standins

    if REAL_DATA.is_dir():
        return REAL_DATA
    try:
        return standins.build(tmp_path_factory.mktemp("standins"))
    except FileNotFoundError as absent:
        missing(f"pydicom or nibabel is installed without its test files: {absent.filename}")


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Outputs of the reference implementation; tests/data/README.md says which."""
    return REPOSITORY / "tests/data/parity"


@pytest.fixture(scope="session")
def paper_facts() -> str:
    """The paper's tables and pairs as a list; CARL_PAPER, default ../shared/paper."""
    path = Path(os.environ.get("CARL_PAPER", REPOSITORY / "../shared/paper")) / "README.md"
    if not path.is_file():
        pytest.skip(f"{path} is absent: set CARL_PAPER to the folder with the paper's facts")
    return path.read_text(encoding="utf-8")


def rotation(degrees_xyz: tuple[float, float, float]) -> np.ndarray:
    """(3, 3) rotation about x, then y, then z."""
    a, b, c = np.deg2rad(degrees_xyz)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def make_grid(
    size_xyz: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: np.ndarray | None = None,
) -> Grid:
    """3D grid whose middle lies at `centre_mm`."""
    direction = np.eye(3) if direction is None else direction
    half_mm = (np.array(size_xyz) - 1) / 2 * np.array(spacing_mm)
    origin = np.array(centre_mm) - direction @ half_mm
    return Grid(
        size_xyz, spacing_mm, tuple(map(float, origin)), tuple(map(float, direction.ravel()))
    )


GRIDS: dict[str, Grid] = {
    "plain": make_grid((30, 28, 26), (2.0, 2.0, 2.0)),
    "anisotropic": make_grid((40, 36, 12), (1.2, 1.4, 4.5), (2.0, -3.0, 1.0)),
    "flipped": make_grid(
        (28, 30, 24), (2.0, 1.8, 2.2), (-1.0, 2.0, 3.0), np.diag([-1.0, 1.0, -1.0])
    ),
    "oblique": make_grid((27, 31, 23), (1.9, 1.7, 2.6), (1.0, 1.0, -2.0), rotation((12, -20, 33))),
    "permuted": make_grid(
        (24, 30, 28), (2.3, 1.9, 2.1), (3.0, -2.0, 1.0), np.eye(3)[[2, 0, 1]] * [1.0, -1.0, 1.0]
    ),
}


@pytest.fixture(params=sorted(GRIDS))
def any_grid(request: pytest.FixtureRequest) -> Grid:
    """Each of the hard geometries in turn: about one 60 mm head seen by five scanners."""
    grid: Grid = GRIDS[request.param]
    return grid


@pytest.fixture
def grids() -> dict[str, Grid]:
    """All hard geometries by name."""
    return dict(GRIDS)


def smooth_value(points_mm: np.ndarray) -> np.ndarray:
    """Closed-form intensity at LPS points (..., 3), in about [0, 1000]: no axis is symmetric."""
    x, y, z = np.moveaxis(np.asarray(points_mm, float), -1, 0)
    waves = np.sin(x / 9 + 0.3) + np.cos(y / 11 - 0.2) + np.sin(z / 13 + x / 40)
    return 500.0 + 150.0 * waves + 1.5 * x - 1.1 * y + 0.7 * z


@pytest.fixture
def intensity() -> Callable[[np.ndarray], np.ndarray]:
    """The closed form that `make_image` samples: LPS points (..., 3) → intensities."""
    return smooth_value


@pytest.fixture
def make_image() -> Callable[..., Image]:
    """make_image(grid, dtype="float32"): the closed-form intensity sampled on a grid."""

    def build(grid: Grid, dtype: str = "float32") -> Image:
        values = smooth_value(grid.points_mm())
        if np.issubdtype(np.dtype(dtype), np.integer):
            values = np.rint(values)
        return Image(values.astype(dtype), grid)

    return build


@pytest.fixture
def make_labels() -> Callable[..., Image]:
    """make_labels(grid, labels, dtype): balls of the given labels around fixed LPS points."""

    def build(grid: Grid, labels: tuple[int, ...] = (1, 2, 3), dtype: str = "uint8") -> Image:
        points = grid.points_mm()
        array = np.zeros(grid.shape_zyx, dtype)
        for k, label in enumerate(labels):
            centre = 9.0 * np.array([np.cos(2.1 * k), np.sin(2.1 * k), 0.4 * k - 0.5])
            array[np.linalg.norm(points - centre, axis=-1) < 8.0] = label
        return Image(array, grid)

    return build


@pytest.fixture
def affine() -> AffineTransform:
    """Rotation, shear and scaling that no transposition or sign leaves alone."""
    shear = np.array([[1.1, 0.05, 0.0], [0.0, 0.95, -0.08], [0.02, 0.0, 1.03]])
    return AffineTransform(rotation((7, -11, 5)) @ shear, np.array((6.0, -4.0, 3.0)))
