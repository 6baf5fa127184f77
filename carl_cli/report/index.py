"""The index page of a batch: a card for each case, the ones that stand out first."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from carl_cli.io.atomic import atomic_path
from carl_cli.report.headlines import HEADLINES, OUTLIER, badness
from carl_cli.report.page import assemble
from carl_cli.report.planes import AXIAL, focus_xyz
from carl_cli.report.record import RunRecord
from carl_cli.report.scene import Scene
from carl_cli.report.sections import footer

THUMBNAIL_PIXELS = 110


@dataclass(frozen=True)
class Case:
    """One case of a batch.

    report: path of its own page, relative to the index. thumbnail: JPEG bytes from
    `thumbnail`. error: why there is no result; such a case has no record.
    """

    name: str
    record: RunRecord | None = None
    report: str = ""
    thumbnail: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class _Judged:
    case: Case
    values: tuple[float | None, ...]
    score: float
    flags: tuple[str, ...]


def write_index(path: str | Path, cases: Sequence[Case], *, title: str = "Batch") -> None:
    """Write the page. Raises OutputError when the file can't be written."""
    judged = sorted(_judge(cases), key=lambda j: (-j.score, j.case.name))
    shown = [k for k, _ in enumerate(HEADLINES) if any(j.values[k] is not None for j in judged)]
    options = "".join(
        f'<option value="{k}">{escape(HEADLINES[k].name)}, worst first</option>' for k in shown
    )
    page = assemble(
        "index.html",
        ("index.js",),
        title,
        heading=escape(title),
        summary=escape(_summary(judged)),
        options=options,
        cards="\n".join(_card(j, place, shown) for place, j in enumerate(judged)),
        footer=footer(),
    )
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _judge(cases: Sequence[Case]) -> list[_Judged]:
    rows = [
        tuple(h.value(c.record.metrics) if c.record else None for h in HEADLINES) for c in cases
    ]
    columns = [badness([row[k] for row in rows], headline) for k, headline in enumerate(HEADLINES)]
    return [
        _verdict(case, row, [column[number] for column in columns])
        for number, (case, row) in enumerate(zip(cases, rows, strict=True))
    ]


def _verdict(case: Case, values: tuple[float | None, ...], bad: list[float]) -> _Judged:
    """Failed cases come before all others; warnings break ties among the unremarkable."""
    if case.error:
        return _Judged(case, values, np.inf, (case.error,))
    flags = [
        f"{headline.name} {headline.text(value)} stands out"
        for headline, value, worse in zip(HEADLINES, values, bad, strict=True)
        if worse > OUTLIER
    ]
    warnings = case.record.warnings if case.record else []
    return _Judged(case, values, max(bad) + len(warnings), (*flags, *warnings))


def _summary(judged: Sequence[_Judged]) -> str:
    failed = sum(bool(j.case.error) for j in judged)
    flagged = sum(bool(j.flags) for j in judged) - failed
    counts = f"{len(judged)} cases, {failed} failed, {flagged} to look at"
    pictures = any(j.case.thumbnail for j in judged)
    return f"{counts}. Each picture: fixed, warped, their difference" if pictures else counts


def _card(judged: _Judged, place: int, shown: Sequence[int]) -> str:
    case = judged.case
    name = escape(case.name)
    # "./" keeps a name with a colon from being read as the scheme of an address.
    link = f'<a href="./{quote(case.report)}">{name}</a>' if case.report else name
    numbers = "".join(
        f"<dt>{escape(HEADLINES[k].name)}</dt><dd>{HEADLINES[k].text(judged.values[k])}</dd>"
        for k in shown
    )
    keys = "".join(f' data-key{k}="{_sort_key(judged, k)}"' for k in shown)
    flags = "".join(f'<p class="flags">{escape(text)}</p>' for text in judged.flags)
    return (
        f'<li class="case{" outlier" if judged.flags else ""}" data-place="{place}" '
        f'data-name="{name}"{keys}>{_picture(case)}<h2>{link}</h2>{flags}<dl>{numbers}</dl></li>'
    )


def _sort_key(judged: _Judged, k: int) -> str:
    """A number that is smaller for what should come earlier; empty when unknown."""
    value = judged.values[k]
    if value is None:
        return ""
    return repr(value if HEADLINES[k].higher_is_better else -value)


def _picture(case: Case) -> str:
    if not case.thumbnail:
        return ""
    data = base64.b64encode(case.thumbnail).decode()
    return f'<img alt="fixed, warped, difference" src="data:image/jpeg;base64,{data}">'


def thumbnail(scene: Scene) -> bytes:
    """JPEG of the axial slice: fixed, warped and their difference."""
    from matplotlib.image import imsave

    index = focus_xyz(scene)[AXIAL.normal]
    fixed, warped = (AXIAL.slice(v, index).astype(np.int16) for v in (scene.fixed, scene.warped))
    difference = 127 + (fixed - warped) // 2
    tiles = [_square_pixels(tile, scene) for tile in (fixed, warped, difference)]
    stream = io.BytesIO()
    strip = np.concatenate(tiles, axis=1).astype(np.uint8)
    imsave(stream, strip, cmap="gray", vmin=0, vmax=255, format="jpg", pil_kwargs={"quality": 80})
    return stream.getvalue()


def _square_pixels(tile: NDArray[np.int16], scene: Scene) -> NDArray[np.int16]:
    """Nearest pixels, so that a millimetre is as wide as it is high."""
    extent = np.array(tile.shape) * scene.spacing_zyx[1:]
    counts = np.maximum(np.rint(THUMBNAIL_PIXELS * extent / extent.max()), 1).astype(int)
    rows, columns = (
        (np.arange(count) + 0.5) * size // count
        for count, size in zip(counts, tile.shape, strict=True)
    )
    picked: NDArray[np.int16] = tile[np.ix_(rows.astype(int), columns.astype(int))]
    return picked
