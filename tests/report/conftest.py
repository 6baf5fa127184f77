"""An asymmetric head of ellipsoids, and the same head moved by a known transform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.report.advice import advise
from carl_cli.report.html import write_report
from carl_cli.report.record import (
    Environment,
    ErrorSummary,
    InputFile,
    Landmark,
    Metrics,
    OutputFile,
    RunRecord,
    Similarity,
    StructureScore,
    WeightsUsed,
)
from carl_cli.transforms import AffineTransform, CompositeTransform, DisplacementField, Transform
from tests.report.browser import Browser, missing

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1'

# centre and radii in LPS mm, brightness; the marker sits left, anterior, superior.
HEAD = ((0, 0, 0), (62, 78, 70), 90)
VENTRICLE = ((-12, 26, -8), (20, 30, 16), 40)
MARKER = ((18, -22, 16), (24, 30, 24), 200)
LPS = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
RAS = (-1.0, 0, 0, 0, -1, 0, 0, 0, 1)


def head_at(points_mm: np.ndarray) -> np.ndarray:
    """Brightness of the head at LPS points."""
    value = np.zeros(points_mm.shape[:-1])
    for centre, radii, brightness in (HEAD, VENTRICLE, MARKER):
        distance = np.linalg.norm((points_mm - centre) / np.array(radii, float), axis=-1)
        edge = np.clip((1 - distance) * 12 + 0.5, 0, 1)
        value = value * (1 - edge) + brightness * edge
    return value


def marker_at(points_mm: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm((points_mm - MARKER[0]) / np.array(MARKER[1], float), axis=-1)
    return (distance < 1).astype(np.uint8) * 7


def grid_around(size: tuple, spacing: tuple, direction: tuple = LPS, centre=(0, 0, 0)) -> Grid:
    half = (np.array(size) - 1) / 2 * spacing
    origin = np.array(centre) - np.array(direction, float).reshape(3, 3) @ half
    return Grid(size, spacing, tuple(origin.tolist()), direction)


@dataclass(frozen=True)
class Pair:
    """moving(T(x)) = fixed(x), in closed form; warped is therefore the fixed head again."""

    fixed: Image
    moving: Image
    warped: Image
    transform: Transform
    labels: tuple[Image, Image]


@pytest.fixture(scope="session")
def pair() -> Pair:
    fixed_grid = grid_around((72, 90, 80), (2.0, 2.0, 2.0), RAS)
    moving_grid = grid_around((66, 76, 44), (2.2, 2.4, 3.8), LPS, (8, 5, -10))
    transform = _known_transform(fixed_grid)
    inverse_points = _inverse_points(transform, moving_grid.points_mm())
    fixed = Image(head_at(fixed_grid.points_mm()).astype(np.int16) * 4, fixed_grid)
    moving = Image(head_at(inverse_points).astype(np.float32), moving_grid)
    labels = (
        Image(marker_at(fixed_grid.points_mm()), fixed_grid),
        Image(marker_at(inverse_points), moving_grid),
    )
    warped = Image(head_at(fixed_grid.points_mm()).astype(np.float32), fixed_grid)
    return Pair(fixed, moving, warped, transform, labels)


def _known_transform(grid: Grid) -> CompositeTransform:
    """Rotation by 10 degrees about z and a shift, after a smooth bulge."""
    angle = np.radians(10)
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    points = grid.points_mm()
    bulge = 5 * np.sin(points / 25) * np.exp(-(points**2).sum(-1, keepdims=True) / 60**2)
    field = DisplacementField(grid, bulge.astype(np.float32))
    return CompositeTransform((AffineTransform(np.array(turn), np.array([8.0, 5, -10])), field))


def _inverse_points(transform: CompositeTransform, target: np.ndarray) -> np.ndarray:
    affine, field = transform.parts
    wanted = affine.inverse()(target)
    points = wanted.copy()
    for _ in range(30):
        points -= field(points) - wanted
    return points


@pytest.fixture(scope="session")
def record(pair: Pair) -> RunRecord:
    """A record with every section filled, and names that would be markup if they could."""
    rng = np.random.default_rng(0)
    losses = (np.exp(-np.arange(50) / 10) + 0.3).tolist()
    metrics = Metrics(
        similarity_before=Similarity(lncc=0.31, ncc=0.55, nmi=1.10),
        similarity_after=Similarity(lncc=0.87, ncc=0.97, nmi=1.08),
        overlap_percent=93.4,
        folded_percent=0.3,
        sdlogj=0.112,
        inverse_consistency_mm=ErrorSummary(mean=0.3, p95=0.8, max=3.0),
        structures=[StructureScore(label=f"7 {MARKUP}", dice_before=0.5, dice=0.93, hd95_mm=2.1)],
        landmarks=[_landmark(pair, k, rng.uniform(-40, 40, 3)) for k in range(6)],
    )
    return RunRecord(
        command=f"carl register 'head {MARKUP}.nii.gz' moving.nii.gz -o t.h5",
        environment=Environment.current("cpu", threads=2),
        seed=0,
        weights=WeightsUsed(name=f"carl-base {MARKUP}", sha256="ab" * 32),
        inputs={
            "fixed": InputFile(path=f"head {MARKUP}.nii.gz", sha256="0f" * 32, size=(72, 90, 80)),
            "moving": InputFile(path="moving.nii.gz", sha256="1e" * 32, spacing=(2.2, 2.4, 3.8)),
        },
        outputs={"transform": OutputFile(path=f"t{MARKUP}.h5", sha256="2d" * 32)},
        options={"metric": MARKUP},
        timings_s={"network": 12.3, "instance optimisation": 30.2},
        peak_memory_mib=2311.0,
        metrics=metrics,
        io_loss=losses,
        warnings=[*advise(metrics), f"strange file {MARKUP}"],
    )


def _landmark(pair: Pair, number: int, fixed_mm: np.ndarray) -> Landmark:
    """A landmark whose error is its number in mm, along x."""
    target = pair.transform(fixed_mm) + np.array([number, 0, 0])
    return Landmark(
        name=f"L{number} {MARKUP}",
        fixed_mm=tuple(fixed_mm.tolist()),
        moving_mm=tuple(target.tolist()),
        error_before_mm=float(np.linalg.norm(fixed_mm - target)),
        error_mm=float(number),
    )


@pytest.fixture(scope="session")
def report_page(pair: Pair, record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report <b>.html"
    distance = np.linalg.norm(pair.fixed.grid.points_mm(), axis=-1).astype(np.float32)
    write_report(
        path,
        pair.fixed,
        pair.moving,
        pair.warped,
        pair.transform,
        record=record,
        labels=pair.labels,
        match_spread=Image(distance / 10, pair.fixed.grid),
    )
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if reason := missing():
        pytest.skip(reason)
    window = Browser(tmp_path_factory.mktemp("profile"))
    yield window
    window.close()
