"""The HTML report of one registration: a single file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import apply_affine
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import Image
from carl_cli.io.label_names import LabelName
from carl_cli.report.page import assemble, binary_block, json_block
from carl_cli.report.planes import (
    FOLD_COLOUR,
    JACOBIAN_MAP,
    MATCH_SPREAD_MAP,
    focus_xyz,
    grid_spacing_mm,
    jacobian_limit,
    planes_of,
    spread_limit_mm,
)
from carl_cli.report.record import Landmark, RunRecord, record_json
from carl_cli.report.scene import Scene, build_scene
from carl_cli.report.sections import footer, heading, sections, subtitle, tiles, warning_list
from carl_cli.transforms import Transform

LIMIT_BYTES = 5_000_000
LONGEST_AXIS = 128
PALETTE = ("#ffb000", "#35b8ff", "#57d7a4", "#ff6f91", "#c792ff", "#f4f06c", "#ff8d4d", "#8fd3ff")
"""Of labels for which no table has a colour."""
NO_DATA, FOLDED, LOWEST, HIGHEST = 255, 0, 1, 253
"""Codes of a coloured map: LOWEST … HIGHEST run over its scale."""


def write_report(
    path: str | Path,
    fixed: Image,
    moving: Image,
    warped: Image,
    transform: Transform,
    *,
    record: RunRecord | None = None,
    jacobian: Image | None = None,
    match_spread: Image | None = None,
    labels: tuple[Image | None, Image | None] = (None, None),
    names: Mapping[int, LabelName] = MappingProxyType({}),
    limit_bytes: int = LIMIT_BYTES,
    replace: bool = True,
) -> None:
    """Write the page; volumes are made coarser until it is smaller than `limit_bytes`.

    warped: moving on the fixed grid. transform: fixed to moving points, LPS mm. jacobian and
    match_spread: on grids in the fixed frame; the latter is the spread of the network's match
    in mm, small where it is sure. labels: segmentations of fixed and of
    moving, each in its own frame; names: of the labels that the record has none for. Landmarks,
    metrics and provenance come from the record.
    Raises OutputError when the file can't be written.
    """
    longest = LONGEST_AXIS
    while True:
        scene = build_scene(
            fixed,
            moving,
            warped,
            transform,
            jacobian=jacobian,
            match_spread=match_spread,
            labels=labels,
            longest=longest,
        )
        text = page_of(scene, record, names).encode()
        if len(text) <= limit_bytes or longest <= 32:
            break
        longest = max(32, int(0.95 * longest * (limit_bytes / len(text)) ** (1 / 3)))
    with atomic_path(Path(path), replace=replace) as temporary:
        temporary.write_bytes(text)


def page_of(
    scene: Scene,
    record: RunRecord | None,
    names: Mapping[int, LabelName] = MappingProxyType({}),
) -> str:
    """The whole page as text."""
    volumes = {"fixed": scene.fixed, "before": scene.before, "warped": scene.warped}
    volumes |= {"jacobian": jacobian_codes(scene.jacobian)}
    if scene.match_spread is not None:
        volumes["match_spread"] = match_spread_codes(scene.match_spread)
    for name, labels in (
        ("fixedLabels", scene.fixed_labels),
        ("warpedLabels", scene.warped_labels),
    ):
        if labels is not None:
            volumes[name] = labels
    shift, unit = _shift(scene)
    blocks = [binary_block(name, volume) for name, volume in volumes.items()]
    blocks += [
        binary_block("mapped", shift),
        json_block("scene", _description(scene, record, list(volumes), unit, names)),
    ]
    if record is not None:
        blocks.append(json_block("record", record_json(record)))
    title, heading_html = heading(record)
    return assemble(
        "report.html",
        ("volumes.js", "drawing.js", "pointer.js", "report.js"),
        title,
        heading=heading_html,
        subtitle=subtitle(record),
        warnings=warning_list(record),
        tiles=tiles(record),
        sections=sections(record),
        footer=footer(),
        data="\n".join(blocks),
    )


def _description(
    scene: Scene,
    record: RunRecord | None,
    packed: list[str],
    unit: float,
    names: Mapping[int, LabelName],
) -> dict[str, Any]:
    landmarks = record.metrics.landmarks if record else []
    has = [
        name
        for name, present in (
            ("match_spread", scene.match_spread is not None),
            ("labels", bool(scene.label_values)),
            ("landmarks", bool(landmarks)),
        )
        if present
    ]
    flat = scene.grid.dimension == 2
    return {
        "size": [*scene.grid.size_xyz, 1][:3],
        "spacing": list(scene.spacing_zyx[::-1]),
        "indexToLps": scene.grid.index_to_lps[:-1].tolist(),
        "letters": scene.letters,
        "focus": focus_xyz(scene),
        "planes": [
            {
                "name": "image" if flat else plane.name,
                "normal": plane.normal,
                "column": plane.column,
                "row": plane.row,
                "rowsUp": plane.rows_up,
            }
            for plane in planes_of(scene)
        ],
        "lattice": list(scene.mapped.shape[2::-1]),
        "components": scene.mapped.shape[-1],
        "shiftUnit": unit,
        "gridSpacing": grid_spacing_mm(scene),
        "centred": scene.centred,
        "labels": _labels(scene, record, names),
        "packed": packed,
        "has": has,
        "maps": _maps(scene),
        "landmarks": [_landmark(scene, mark) for mark in landmarks],
    }


def _labels(
    scene: Scene, record: RunRecord | None, names: Mapping[int, LabelName]
) -> list[dict[str, str]]:
    """Of each value in the packed volumes, from 1 on: the label, its name and its colour."""
    scores = record.metrics.structures if record else []
    known = {str(label): name for label, name in names.items()}
    known |= {score.label: LabelName(score.name, score.colour) for score in scores if score.name}
    found = [(str(value), known.get(str(value), LabelName(""))) for value in scene.label_values]
    return [
        {"label": label, "name": name, "colour": colour or PALETTE[k % len(PALETTE)]}
        for k, (label, (name, colour)) in enumerate(found)
    ]


def _shift(scene: Scene) -> tuple[NDArray[np.int16], float]:
    """Displacement of the lattice's nodes along the display axes, in units of `unit` mm."""
    sizes = scene.mapped.shape[:-1]
    ends = (np.array(scene.fixed.shape) - 1) * scene.spacing_zyx
    axes = [np.linspace(0, end, size) for end, size in zip(ends, sizes, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    shift = scene.mapped - nodes[..., : scene.mapped.shape[-1]]
    unit = max(float(np.abs(shift).max()) / 32767, 1e-6)
    return np.rint(shift / unit).astype("<i2"), unit


def jacobian_codes(jacobian: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bytes on a logarithmic scale, 1 in the middle; FOLDED for zero and below."""
    limit = jacobian_limit(jacobian)
    with np.errstate(divide="ignore", invalid="ignore"):
        height = np.log(np.maximum(jacobian, 0)) / np.log(limit)
    codes = _codes((height + 1) / 2)
    codes[jacobian <= 0] = FOLDED
    return codes


def match_spread_codes(spread_mm: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bytes from 0 mm to the end of the scale."""
    return _codes(spread_mm / spread_limit_mm(spread_mm))


def _codes(part: NDArray[Any]) -> NDArray[np.uint8]:
    """0…1 becomes LOWEST … HIGHEST; undefined values NO_DATA."""
    scaled = LOWEST + np.clip(np.nan_to_num(part), 0, 1) * (HIGHEST - LOWEST)
    return np.where(np.isnan(part), NO_DATA, np.rint(scaled)).astype(np.uint8)


def _maps(scene: Scene) -> dict[str, Any]:
    limit = jacobian_limit(scene.jacobian)
    folded = bool((scene.jacobian <= 0).any())
    scale = {"first": LOWEST, "last": HIGHEST, "extra": ""}
    maps = {
        "jacobian": scale
        | {
            "name": "Jacobian determinant (1 = volume kept)",
            "low": f"≤ {1 / limit:.2g}",
            "high": f"≥ {limit:.3g}",
            "extra": "folded" if folded else "",
            "limit": limit,
            "colours": _colour_table(JACOBIAN_MAP),
        }
    }
    if scene.match_spread is not None:
        maps["match_spread"] = scale | {
            "name": "Spread of the match, mm",
            "low": "0 (sure)",
            "high": f"≥ {spread_limit_mm(scene.match_spread):g}",
            "colours": _colour_table(MATCH_SPREAD_MAP),
        }
    return maps


def _colour_table(name: str) -> str:
    """256 RGBA colours for the codes, as base64; no data is transparent."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    table = np.zeros((256, 4))
    table[LOWEST : HIGHEST + 1] = colormaps[name](np.linspace(0, 1, HIGHEST - LOWEST + 1))
    table[FOLDED] = to_rgba(FOLD_COLOUR)
    return base64.b64encode(np.rint(table * 255).astype(np.uint8).tobytes()).decode()


def _landmark(scene: Scene, mark: Landmark) -> dict[str, Any]:
    index = apply_affine(scene.grid.lps_to_index, np.array(mark.fixed_mm))
    position = [*index.tolist(), 0.0][:3]
    last = np.array(scene.fixed.shape[::-1]) - 1
    voxel = np.clip(np.rint(position), 0, last).astype(int).tolist()
    return {"position": position, "voxel": voxel, "error": mark.error_mm}
