"""The page of a template: its table, and pictures the right way up."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from carl_cli.io.images.files import Image
from carl_cli.report.template_page import Shown, planes_of, strip_of, write_template_page
from carl_cli.transforms import identity
from tests.conftest import make_grid

MARKUP = "a<b>&c"
GRID = make_grid((20, 30, 40), (4.0, 2.0, 2.0))


def bright_above() -> Image:
    """Bright towards the head and to the patient's left."""
    points = GRID.points_mm()
    values = np.where((points[..., 2] > 10) & (points[..., 0] > 5), 1000.0, 100.0)
    return Image(values.astype(np.float32), GRID)


def pictures(html: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/jpeg;base64,([^\"]+)", html)
    return [imread(io.BytesIO(base64.b64decode(text)), format="jpg") for text in found]


def test_the_planes_of_a_template_stand_head_up() -> None:
    """80 x 60 x 80 mm: axial 160 pixels wide and 120 high, coronal 160 high, sagittal as high."""
    (picture,) = pictures(planes_of(bright_above(), "t"))
    grey = picture[..., 0].astype(float)
    assert grey.shape == (160, 160 + 160 + 120)
    coronal, sagittal = grey[:, 160:320], grey[:, 320:]
    assert coronal[:50, 100:].mean() > 200 > 60 > coronal[80:].mean()
    assert sagittal[:50].mean() > 200 > 60 > sagittal[80:].mean()


def test_the_page_tells_the_rounds_and_every_image(tmp_path: Path) -> None:
    image = bright_above()
    strip = strip_of(Shown(MARKUP, image, image, identity(3)), image)
    rows = [{"round": 1, "mean_displacement_mm": 2.3456}, {"round": 2, "mean_displacement_mm": 0.1}]
    path = tmp_path / "t_report.html"
    write_template_page(path, MARKUP, rows, [planes_of(image, "before round 1")], [strip])
    text = path.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert text.count("a&lt;b&gt;&amp;c") >= 3
    assert '<th class="number">mean displacement, mm</th>' in text
    assert '<td class="number">2.346</td>' in text
    assert "1 images, 2 rounds" in text
    shown = pictures(text)
    assert len(shown) == 2
    difference = shown[1][:, 2 * shown[1].shape[1] // 3 :, 0].astype(float)
    np.testing.assert_allclose(difference, 127, atol=3)
