"""The figure: read back as pixels and as text."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carl_cli.errors import OutputError, UsageError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.report.figure import save_figure
from carl_cli.report.planes import FOLD_COLOUR
from carl_cli.transforms import DisplacementField, identity
from tests.report.conftest import Pair


def saved(pair: Pair, path: Path, **changes: object) -> Path:
    save_figure(path, pair.fixed, pair.moving, pair.warped, pair.transform, **changes)
    return path


def texts(svg: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg.read_text())


def test_svg_says_what_it_shows(pair: Pair, tmp_path: Path) -> None:
    words = texts(saved(pair, tmp_path / "figure.svg"))
    for expected in ("axial", "coronal", "sagittal", "fixed", "difference before", "warped"):
        assert expected in words
    letters = [word for word in words if word in "RLAPSI"]
    assert len(letters) == 7 * 3 * 4
    assert {letter: letters.count(letter) for letter in "RLAPSI"} == {
        "R": 14,
        "L": 14,
        "A": 14,
        "P": 14,
        "S": 14,
        "I": 14,
    }


def test_letters_stand_on_their_sides(pair: Pair, tmp_path: Path) -> None:
    """In the axial tile R is left of L and A above P (SVG's y runs down)."""
    text = saved(pair, tmp_path / "figure.svg").read_text()
    pattern = r"translate\(([\d.]+) ([\d.]+)\)[^>]*>\s*(?:<[^>]*>\s*)*?([RLAPSI])</text>"
    found = re.findall(pattern, text) or re.findall(
        r'<text[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>([RLAPSI])</text>', text
    )
    places = {letter: (float(x), float(y)) for x, y, letter in found[:4]}
    assert places["R"][0] < places["A"][0] < places["L"][0]
    assert places["A"][1] < places["R"][1] < places["P"][1]


def test_difference_after_is_flatter_than_before(pair: Pair, tmp_path: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(saved(pair, tmp_path / "figure.png"))[..., :3]
    rows = np.array_split(pixels[40:-40, 60:-130], 7)
    spread = [float(row.std()) for row in rows]
    assert spread[4] < spread[3]


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_formats_and_same_bytes_twice(
    pair: Pair, tmp_path: Path, suffix: str, magic: bytes
) -> None:
    first = saved(pair, tmp_path / f"a{suffix}").read_bytes()
    second = saved(pair, tmp_path / f"b{suffix}", labels=(None, None)).read_bytes()
    assert first.startswith(magic)
    assert first == second


def squeezed(grid: Grid, share: float) -> DisplacementField:
    """A ball is drawn together: the determinant in its middle is (1 - share)³."""
    places = grid.points_mm() - grid.points_mm().reshape(-1, 3).mean(0)
    weight = np.exp(-((places / 44.0) ** 2).sum(-1, keepdims=True))
    return DisplacementField(grid, (-share * places * weight).astype(np.float32))


@pytest.mark.parametrize(("share", "folds"), [(0.55, False), (1.5, True)])
def test_only_folds_have_the_colour_of_folds(
    pair: Pair, tmp_path: Path, share: float, folds: bool
) -> None:
    """A determinant of 0.09 lies beyond the scale, but it is no fold."""
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    changed = replace(pair, transform=squeezed(pair.fixed.grid, share))
    pixels = imread(saved(changed, tmp_path / "figure.png"))[..., :3]
    row = np.array_split(pixels[:, : -pixels.shape[1] // 6], 7)[-1]
    alike = int((np.abs(row - to_rgb(FOLD_COLOUR)).max(-1) < 0.02).sum())
    assert (alike > 30) if folds else (alike == 0)


def test_contours_change_the_picture(pair: Pair, tmp_path: Path) -> None:
    plain = saved(pair, tmp_path / "plain.svg")
    contoured = saved(pair, tmp_path / "contoured.svg", labels=pair.labels)
    assert any("outline of fixed" in word for word in texts(plain))
    assert not any("outline of fixed" in word for word in texts(contoured))


def test_flat_pair(tmp_path: Path) -> None:
    grid = Grid((30, 20), (1.0, 2.0), (0.0, 0.0), (1.0, 0, 0, 1))
    image = Image(np.arange(600).reshape(20, 30).astype(np.uint16), grid)
    save_figure(tmp_path / "flat.svg", image, image, image, identity(2))
    words = texts(tmp_path / "flat.svg")
    assert "coronal" not in words
    assert not set(words) & set("RLAPSI")


def test_refusals(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"figure\.bmp"):
        saved(pair, tmp_path / "figure.bmp")
    with pytest.raises(OutputError):
        saved(pair, tmp_path / "absent" / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_imported_late() -> None:
    code = "import sys, carl_cli.report.figure; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
