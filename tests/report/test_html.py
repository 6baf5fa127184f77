"""The page as text: size, packing, escaping, and numbers against the volumes."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from carl_cli.errors import OutputError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.report.html import jacobian_codes, write_report
from carl_cli.report.page import assemble, json_block
from carl_cli.report.record import RunRecord
from carl_cli.report.scene import build_scene
from carl_cli.report.sections import curve, sections, tiles
from carl_cli.transforms import identity
from tests.report.conftest import MARKUP, Pair, grid_around


def block(page: Path, name: str) -> str:
    found = re.search(rf'<script type="[^"]*" id="{name}">([^<]*)</script>', page.read_text())
    assert found
    return found[1]


def volume(page: Path, name: str, dtype: str = "uint8") -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(block(page, name))), dtype)


def test_volumes_are_those_of_the_scene(report_page: Path, pair: Pair) -> None:
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform, labels=pair.labels)
    described = json.loads(block(report_page, "scene"))
    assert described["size"] == [72, 90, 80]
    assert described["packed"][:3] == ["fixed", "before", "warped"]
    for name, expected in (
        ("fixed", scene.fixed),
        ("before", scene.before),
        ("warped", scene.warped),
        ("fixedLabels", scene.fixed_labels),
    ):
        np.testing.assert_array_equal(volume(report_page, name), expected.ravel())


def test_packed_displacement_gives_back_the_transform(report_page: Path, pair: Pair) -> None:
    described = json.loads(block(report_page, "scene"))
    lx, ly, lz = described["lattice"]
    shift = volume(report_page, "mapped", "<i2").reshape(lz, ly, lx, 3) * described["shiftUnit"]
    to_lps = np.array(described["indexToLps"])
    corner = to_lps @ [*(np.array(described["size"]) - 1), 1]  # the grid is aligned with LPS
    np.testing.assert_allclose(
        shift[0, 0, 0], pair.transform(to_lps[:, 3]) - to_lps[:, 3], atol=0.01
    )
    np.testing.assert_allclose(shift[-1, -1, -1], pair.transform(corner) - corner, atol=0.01)


def test_landmarks_are_in_voxels_of_the_display_grid(report_page: Path, record: RunRecord) -> None:
    described = json.loads(block(report_page, "scene"))
    to_lps = np.array(described["indexToLps"])
    for shown, mark in zip(described["landmarks"], record.metrics.landmarks, strict=True):
        np.testing.assert_allclose(to_lps @ [*shown["position"], 1], mark.fixed_mm, atol=1e-9)
        assert shown["error"] == mark.error_mm


def test_jacobian_scale_is_logarithmic_with_one_in_the_middle() -> None:
    values = np.array([[[-1.0, 0.0, 0.5, 1.0, 2.0, 9.0, np.nan]]], np.float32)
    codes = jacobian_codes(np.clip(values, -1, 2)).ravel().tolist()
    assert codes == [0, 0, 1, 127, 253, 253, 255]


@pytest.mark.parametrize("limit", [400_000, 1_500_000])
def test_noise_is_made_coarser_until_it_fits(tmp_path: Path, limit: int) -> None:
    grid = grid_around((130, 130, 130), (1.0, 1.0, 1.0))
    noise = np.random.default_rng(0).integers(0, 255, (130, 130, 130)).astype(np.uint8)
    image = Image(noise, grid)
    write_report(tmp_path / "r.html", image, image, image, identity(3), limit_bytes=limit)
    assert limit / 3 < (tmp_path / "r.html").stat().st_size <= limit


def test_default_page_of_the_hardest_images_is_below_five_megabytes(tmp_path: Path) -> None:
    grid = grid_around((128, 128, 128), (1.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    images = [Image(rng.integers(0, 65535, (128, 128, 128)).astype(np.uint16), grid) for _ in "123"]
    write_report(tmp_path / "r.html", *images, identity(3))
    assert (tmp_path / "r.html").stat().st_size <= 5_000_000


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_in_the_page_points_anywhere(report_page: Path) -> None:
    elements = _Elements(report_page.read_text()).found
    assert not {"img", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements}
    for _, attributes in elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"


def test_markup_in_names_stays_text(report_page: Path) -> None:
    text = report_page.read_text()
    assert MARKUP not in text
    assert "<script>window" not in text
    assert text.count("&lt;img src=x onerror=&quot;window.hacked=1&quot;&gt;") >= 10


def test_json_can_not_end_its_element() -> None:
    made = json_block("x", {"a": "</script><!-- & \u2028"})
    assert made.count("<") == 2
    assert (
        json.loads(made[made.index(">") + 1 : -len("</script>")])["a"] == "</script><!-- & \u2028"
    )


def test_dollars_in_names_are_not_placeholders() -> None:
    parts = dict.fromkeys(
        ("heading", "summary", "options", "cards", "footer"), "$title ${script} $1"
    )
    assert "$title ${script} $1" in assemble("index.html", ("index.js",), "$policy", **parts)


def test_sections_follow_the_record(record: RunRecord) -> None:
    text = sections(record)
    for heading in ("Metrics", "Segmentations", "Landmarks", "Instance optimisation"):
        assert f"<h2>{heading}</h2>" in text
    assert '<td class="number better">0.870</td>' in text  # LNCC rose
    assert '<td class="number worse">1.080</td>' in text  # NMI fell
    assert "2.50 mm" in tiles(record)  # the mean of 0…5 mm
    bare = record.model_copy(update={"metrics": type(record.metrics)(), "io_loss": []})
    assert re.findall("<h2>(.*?)</h2>", sections(bare)) == ["Provenance"]
    assert tiles(bare) == ""
    assert sections(None) == tiles(None) == ""


def test_curve_goes_through_its_points() -> None:
    svg = curve([(0, 4.0), (1, 2.0), (3, 0.0)], steps=4)
    points = re.search('points="([^"]*)"', svg)[1].split()
    assert points == ["60.0,10.0", "246.7,90.0", "620.0,170.0"]
    assert "nan" not in curve([(0, 1.0), (1, 1.0)], steps=2)


def test_no_half_page(tmp_path: Path) -> None:
    grid = Grid((8, 8), (1.0, 1.0), (0.0, 0.0), (1.0, 0, 0, 1))
    image = Image(np.arange(64, dtype=np.uint8).reshape(8, 8), grid)
    with pytest.raises(OutputError):
        write_report(tmp_path / "absent" / "r.html", image, image, image, identity(2))
    assert list(tmp_path.iterdir()) == []
