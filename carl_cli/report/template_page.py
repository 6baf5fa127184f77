"""The page of a template: round by round, and each image of the group beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import Image
from carl_cli.report.index import thumbnail
from carl_cli.report.page import assemble
from carl_cli.report.scene import build_scene
from carl_cli.report.sections import footer
from carl_cli.report.strips import planes_of_fixed
from carl_cli.transforms import Transform, identity

LONGEST = 96  # voxels of a picture's volume along an axis


@dataclass(frozen=True, eq=False)
class Shown:
    """An image of the group on the template. transform: template points → its points, LPS mm."""

    name: str
    image: Image
    warped: Image
    transform: Transform


def strip_of(shown: Shown, template: Image) -> str:
    """Template, image on it and their difference, with the image's name."""
    scene = build_scene(template, shown.image, shown.warped, shown.transform, longest=LONGEST)
    return _figure(thumbnail(scene).jpeg, shown.name, f"template, {shown.name}, difference")


def planes_of(image: Image, title: str) -> str:
    """An image in its planes."""
    still = identity(image.grid.dimension)
    scene = build_scene(image, image, image, still, longest=LONGEST)
    return _figure(planes_of_fixed(scene), title, title)


def _figure(jpeg: bytes, title: str, told: str) -> str:
    data = base64.b64encode(jpeg).decode()
    return (
        f'<li class="case"><div class="strip"><img alt="{escape(told)}" '
        f'src="data:image/jpeg;base64,{data}"></div><h2>{escape(title)}</h2></li>'
    )


def write_template_page(
    path: Path,
    title: str,
    rows: Sequence[Mapping[str, float]],
    rounds: Sequence[str],
    images: Sequence[str],
) -> None:
    """rows: of the table of convergence. rounds, images: pictures as `planes_of` and `strip_of`
    make them. Raises OutputError."""
    page = assemble(
        "template.html",
        (),
        title,
        heading=escape(title),
        summary=f"{len(images)} images, {len(rows)} rounds",
        table=_table(rows),
        rounds="\n".join(rounds),
        images="\n".join(images),
        footer=footer(),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _table(rows: Sequence[Mapping[str, float]]) -> str:
    head = "".join(f'<th class="number">{escape(_words(name))}</th>' for name in rows[0])
    lines = (
        "".join(f'<td class="number">{value:.4g}</td>' for value in row.values()) for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _words(name: str) -> str:
    unit = name.endswith("_mm")
    return name.removesuffix("_mm").replace("_", " ") + (", mm" if unit else "")
