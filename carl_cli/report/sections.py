"""Words and tables of the report, as HTML. Everything from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath

from carl_cli import __version__
from carl_cli.report.headlines import HEADLINES, Headline
from carl_cli.report.record import ErrorSummary, Metrics, RunRecord, Similarity, StructureScore
from carl_cli.report.tables import Cell, Markup, after, number, numbers, table


def heading(record: RunRecord | None) -> tuple[str, str]:
    """(plain title, heading as HTML): which image was brought onto which."""
    fixed, moving = (_base_name(record, role) for role in ("fixed", "moving"))
    title = f"{moving} onto {fixed}"
    return title, f'{escape(moving)} <span class="onto">(moving) onto</span> {escape(fixed)}'


def _base_name(record: RunRecord | None, role: str) -> str:
    if record is None or role not in record.inputs:
        return f"{role} image"
    return PurePath(record.inputs[role].path).name


def subtitle(record: RunRecord | None) -> str:
    if record is None:
        return ""
    parts = [
        record.started.replace("T", " ").replace("+00:00", " UTC"),
        f"on {record.environment.device}",
    ]
    if record.weights:
        parts.append(f"weights {record.weights.name}")
    if record.timings_s:
        parts.append(f"{sum(record.timings_s.values()):.1f} s")
    return escape(" · ".join(parts))


def footer() -> str:
    return f"Made by carl {escape(__version__)}. Research software, not a medical device."


def warning_list(record: RunRecord | None) -> str:
    if record is None or not record.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in record.warnings)
    return f'<div class="warning" role="alert"><ul>{items}</ul></div>'


def tiles(record: RunRecord | None) -> str:
    """The few numbers to read first."""
    if record is None:
        return ""
    found = [
        tile(headline.text(value), headline.name, _change(headline, record.metrics))
        for headline in HEADLINES
        if (value := headline.value(record.metrics)) is not None
    ]
    return f'<div class="tiles">{"".join(found)}</div>' if found else ""


def _change(headline: Headline, metrics: Metrics) -> str:
    """What the number was before, without its unit."""
    before = headline.before(metrics)
    return "" if before is None else f"{number(before, headline.digits)} → "


def tile(value: str, name: str, before: str = "") -> str:
    shown = f"<small>{escape(before)}</small>{escape(value)}"
    return f'<div class="tile"><b>{shown}</b><span>{escape(name)}</span></div>'


def sections(record: RunRecord | None) -> str:
    if record is None:
        return ""
    made = (
        _metrics(record.metrics),
        _structures(record.metrics),
        _landmarks(record.metrics),
        _convergence(record.io_loss, record.options),
        provenance(record),
    )
    return "\n".join(made)


def section(title: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{escape(title)}</h2>{content}</section>'


DEFINED = (
    "Similarity, folds and the log Jacobian on the fixed image's grid, all of it or inside its "
    "mask, with intensities as stored: the figures that carl evaluate tells of the same files."
)


def _metrics(metrics: Metrics) -> str:
    first, last = metrics.similarity_before, metrics.similarity_after
    rows = [
        [(name, ""), (number(_of(first, key)), "number"),
         after(_of(first, key), _of(last, key), 3, higher=True)]
        for key, name in (("lncc", "LNCC"), ("ncc", "NCC"), ("nmi", "NMI"))
        if _of(last, key) is not None
    ]  # fmt: skip
    single = (
        ("overlap of the fields of view, %", metrics.overlap_percent, 1),
        ("folded voxels, %", metrics.folded_percent, 4),
        ("SD of the log Jacobian", metrics.sdlogj, 4),
        ("rotation, degrees", metrics.rotation_degrees, 1),
        ("change of volume (linear part)", metrics.linear_determinant, 3),
        ("spread of the match, median, mm", metrics.match_spread_mm, 1),
        *_spread("inverse consistency", metrics.inverse_consistency_mm),
        *_spread("residual of the inverse", metrics.inverse_residual_mm),
        *_spread("landmark error", metrics.tre_mm),
    )
    rows += [
        [(name, ""), ("", "number"), (number(value, digits), "number")]
        for name, value, digits in single
        if value is not None
    ]
    if not rows:
        return ""
    head = [("", ""), *numbers("before", "after")]
    return section("Metrics", f"{table(head, rows)}<p class='quiet'>{DEFINED}</p>")


def _of(similarity: Similarity, key: str) -> float | None:
    value: float | None = getattr(similarity, key)
    return value


def _spread(name: str, spread: ErrorSummary | None) -> list[tuple[str, float | None, int]]:
    if spread is None:
        return []
    parts = (("mean", spread.mean), ("95th percentile", spread.p95), ("maximum", spread.max))
    return [(f"{name}, {part}, mm", value, 2) for part, value in parts]


STRUCTURE_FIGURES = ("dice_before", "dice", "hd95_before_mm", "hd95_mm")


def _structures(metrics: Metrics) -> str:
    if not metrics.structures:
        return ""
    head = [("structure", ""), *numbers("Dice before", "Dice", "HD95 before, mm", "HD95, mm")]
    means = {figure: metrics.mean_of(figure) for figure in STRUCTURE_FIGURES}
    scores = [*metrics.structures, StructureScore(label="mean", **means)]
    rows = [
        [
            (_structure(score), ""),
            (number(score.dice_before), "number"),
            after(score.dice_before, score.dice, 3, higher=True),
            (number(score.hd95_before_mm, 1), "number"),
            after(score.hd95_before_mm, score.hd95_mm, 1, higher=False),
        ]
        for score in scores
    ]
    return section("Segmentations", table(head, rows), "structures")


def _structure(score: StructureScore) -> Markup:
    """Its name and number, after a spot that the page's script colours as its contours."""
    spot = f'<svg data-label="{escape(score.label)}"><rect width="10" height="10"/></svg>'
    known = "" if score.label == "mean" else spot
    named = f' <span class="quiet">{escape(score.label)}</span>' if score.name else ""
    return Markup(f"{known}{escape(score.name or score.label)}{named}")


def _landmarks(metrics: Metrics) -> str:
    if not metrics.landmarks:
        return ""
    head = [("landmark", ""), *numbers("error before, mm", "error, mm")]
    rows = [
        [
            (mark.name, ""),
            (number(mark.error_before_mm, 2), "number"),
            after(mark.error_before_mm, mark.error_mm, 2, higher=False),
        ]
        for mark in metrics.landmarks
    ]
    shown = table(head, rows, ' class="jump" data-jump="{k}" title="Show in the images"')
    return section("Landmarks", shown)


def _convergence(loss: Sequence[float | None], options: Mapping[str, object]) -> str:
    points = [(step, value) for step, value in enumerate(loss) if value is not None]
    if len(points) < 2:
        return ""
    used = ", ".join(f"{k[3:]} {v}" for k, v in options.items() if k.startswith("io_"))
    caption = f"Loss from {points[0][1]:.4g} to {points[-1][1]:.4g} in {len(loss)} steps: {used}."
    return section(
        "Instance optimisation", f"{curve(points, len(loss))}<p class='quiet'>{escape(caption)}</p>"
    )


def curve(points: Sequence[tuple[int, float]], steps: int) -> str:
    """Line chart as inline SVG: steps to the right, value upwards, both ends labelled."""
    low, high = min(v for _, v in points), max(v for _, v in points)
    reach = (high - low) or 1.0
    places = " ".join(
        f"{60 + 560 * step / max(steps - 1, 1):.1f},{10 + 160 * (high - value) / reach:.1f}"
        for step, value in points
    )
    return (
        '<svg class="curve" viewBox="0 0 640 200" role="img" aria-label="Loss by step">'
        '<line x1="60" y1="10" x2="60" y2="170"/><line x1="60" y1="170" x2="620" y2="170"/>'
        f'<text x="54" y="14" text-anchor="end">{high:.4g}</text>'
        f'<text x="54" y="174" text-anchor="end">{low:.4g}</text>'
        '<text x="60" y="190">0</text>'
        f'<text x="620" y="190" text-anchor="end">step {steps - 1}</text>'
        f'<polyline points="{places}"/></svg>'
    )


def provenance(record: RunRecord) -> str:
    parts = [
        f'<pre id="command">{escape(record.command)}</pre>',
        '<p><button type="button" id="copy">Copy the command</button></p>',
        table([("input", ""), ("file", ""), ("size", ""), ("spacing, mm", ""), ("type", ""),
               ("SHA-256", "")], _input_rows(record)),
    ]  # fmt: skip
    if record.outputs:
        head = [("output", ""), ("file", ""), ("SHA-256", "")]
        rows = [
            [(role, ""), (entry.path, "path"), (entry.sha256, "hash")]
            for role, entry in record.outputs.items()
        ]
        parts.append(table(head, rows))
    facts = table([("", ""), ("", "")], [[(k, ""), (v, "path")] for k, v in _facts(record)])
    parts.append(f"<details><summary>Software, options and timings</summary>{facts}</details>")
    return section("Provenance", "".join(parts), "provenance")


def _input_rows(record: RunRecord) -> list[list[Cell]]:
    return [
        [
            (role, ""),
            (entry.path, "path"),
            (" × ".join(str(n) for n in entry.size), "dense"),
            (" × ".join(f"{s:.4g}" for s in entry.spacing), "dense"),
            (" ".join(filter(None, (entry.dtype, entry.modality))), ""),
            (entry.sha256, "hash"),
        ]
        for role, entry in record.inputs.items()
    ]


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    environment = record.environment
    facts = [("carl", environment.carl), ("Python", environment.python)]
    facts += list(environment.packages.items())
    facts += [
        ("platform", environment.platform),
        ("device", environment.device),
        ("threads", str(environment.threads)),
        ("deterministic", "yes" if environment.deterministic else "no"),
        ("seed", "–" if record.seed is None else str(record.seed)),
    ]
    if record.weights:
        facts.append(("weights", f"{record.weights.name}, SHA-256 {record.weights.sha256}"))
    if record.peak_memory_mib is not None:
        facts.append(("peak memory", f"{record.peak_memory_mib:.0f} MiB"))
    facts += [(f"time: {stage}", f"{seconds:.2f} s") for stage, seconds in record.timings_s.items()]
    facts += [(f"option: {name}", str(value)) for name, value in record.options.items()]
    return facts
