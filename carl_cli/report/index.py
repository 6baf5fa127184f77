"""The index page of a batch: a card for each case, the ones that stand out first."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from carl_cli.io.atomic import atomic_path
from carl_cli.report.headlines import HEADLINES, OUTLIER, badness
from carl_cli.report.page import assemble
from carl_cli.report.planes import AXIAL, focus_xyz
from carl_cli.report.record import RunRecord
from carl_cli.report.scene import Scene
from carl_cli.report.sections import footer
from carl_cli.report.strips import square_pixels, strip


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG of fixed, warped and difference, side by side. sides: the letters of the left and
    of the right edge of each; none where the directions are unknown."""

    jpeg: bytes
    sides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One case of a batch.

    report: path of its own page, relative to the index. error: why there is no result; such a
    case has no record.
    """

    name: str
    record: RunRecord | None = None
    report: str = ""
    thumbnail: Thumbnail | None = None
    error: str = ""


@dataclass(frozen=True)
class _Judged:
    case: Case
    values: tuple[float | None, ...]
    score: float
    flags: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def remarkable(self) -> bool:
        return bool(self.flags or self.warnings)


def write_index(path: str | Path, cases: Sequence[Case], *, title: str = "Batch") -> None:
    """Write the page. Raises OutputError when the file can't be written."""
    judged = sorted(_judge(cases), key=lambda j: (not j.remarkable, -j.score, j.case.name))
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
    """Failed cases come before all others; each warning weighs as much as a deviation by one."""
    if case.error:
        return _Judged(case, values, np.inf, (f"failed: {case.error}",))
    flags = [
        f"{headline.name} {headline.text(value)} stands out"
        for headline, value, worse in zip(HEADLINES, values, bad, strict=True)
        if worse > OUTLIER
    ]
    warnings = tuple(case.record.warnings) if case.record else ()
    return _Judged(case, values, max(bad) + len(warnings), tuple(flags), warnings)


def _summary(judged: Sequence[_Judged]) -> str:
    failed = sum(bool(j.case.error) for j in judged)
    flagged = sum(j.remarkable for j in judged) - failed
    counts = f"{len(judged)} cases, {failed} failed, {flagged} to look at"
    pictures = any(j.case.thumbnail for j in judged)
    return f"{counts}. Each picture: fixed, warped, their difference" if pictures else counts


def _card(judged: _Judged, place: int, shown: Sequence[int]) -> str:
    case = judged.case
    name = escape(case.name)
    # "./" keeps a name with a colon from being read as the scheme of an address.
    link = f'<a href="./{quote(case.report)}">{name}</a>' if case.report else name
    keys = "".join(f' data-key{k}="{_sort_key(judged, k)}"' for k in shown)
    said = _lines("flags", judged.flags) + _lines("warned", judged.warnings)
    numbers = "" if case.error else _numbers(judged, shown)
    return (
        f'<li class="case{" outlier" if judged.remarkable else ""}" data-place="{place}" '
        f'data-name="{name}"{keys}>{_picture(case)}<h2>{link}</h2>{said}{numbers}</li>'
    )


def _lines(kind: str, texts: Sequence[str]) -> str:
    return "".join(f'<p class="{kind}">{escape(text)}</p>' for text in texts)


def _numbers(judged: _Judged, shown: Sequence[int]) -> str:
    rows = (
        f"<dt>{escape(HEADLINES[k].name)}</dt><dd>{HEADLINES[k].text(judged.values[k])}</dd>"
        for k in shown
    )
    return f"<dl>{''.join(rows)}</dl>"


def _sort_key(judged: _Judged, k: int) -> str:
    """A number that is smaller for what should come earlier; empty when unknown."""
    value = judged.values[k]
    if value is None:
        return ""
    return repr(value if HEADLINES[k].higher_is_better else -value)


def _picture(case: Case) -> str:
    if case.thumbnail is None:
        return ""
    data = base64.b64encode(case.thumbnail.jpeg).decode()
    letters = "".join(f"<b>{escape(side)}</b>" for side in case.thumbnail.sides)
    return (
        '<div class="strip"><img alt="fixed, warped, difference" '
        f'src="data:image/jpeg;base64,{data}">{f"<span>{letters}</span>" * 3}</div>'
    )


def thumbnail(scene: Scene) -> Thumbnail:
    """The axial slice: fixed, warped and their difference."""
    index = focus_xyz(scene)[AXIAL.normal]
    fixed, warped = (AXIAL.slice(v, index).astype(np.int16) for v in (scene.fixed, scene.warped))
    difference = 127 + (fixed - warped) // 2
    tiles = [square_pixels(tile, scene.spacing_zyx[1:]) for tile in (fixed, warped, difference)]
    return Thumbnail(strip(tiles), tuple(scene.letters[AXIAL.column]) if scene.letters else ())
