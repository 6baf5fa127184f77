"""Tables of the report as HTML: cells, and the better or worse of two values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

Cell = tuple[str, str]
"""Plain text, or Markup, and the class of the cell."""


class Markup(str):
    """HTML already; other text is escaped."""


def _safe(text: str) -> str:
    return text if isinstance(text, Markup) else escape(text)


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[Cell], rows: Iterable[Sequence[Cell]], row_attributes: str = "") -> str:
    """`row_attributes` may hold {k}, the number of the row."""
    top = "".join(f'<th class="{kind}">{escape(text)}</th>' for text, kind in head)
    body = "".join(
        f"<tr{row_attributes.format(k=k)}>"
        + "".join(f'<td class="{kind}">{_safe(text)}</td>' for text, kind in row)
        + "</tr>"
        for k, row in enumerate(rows)
    )
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def numbers(*names: str) -> list[Cell]:
    return [(name, "number") for name in names]


def after(before: float | None, value: float | None, digits: int, higher: bool) -> Cell:
    """The value after registration, coloured by whether it became better."""
    if before is None or value is None or before == value:
        return number(value, digits), "number"
    better = (value > before) == higher
    return number(value, digits), "number better" if better else "number worse"
