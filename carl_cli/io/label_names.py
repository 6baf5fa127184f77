"""Names and colours of labels: the tables that segmentation programs keep beside their images, or
in the header of the image itself."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from carl_cli.errors import InputError
from carl_cli.io.atomic import full_suffix, regular
from carl_cli.io.csv import check_named_once

log = logging.getLogger(__name__)

HINT = (
    "give a table of FreeSurfer or ITK-SNAP, a .tsv or .csv with columns index and name, nnU-Net's "
    "dataset.json, or a NIfTI file of TotalSegmentator's --ml"
)
# Number, name, red, green, blue, as FreeSurfer has it; and number, red, green, blue, three more
# numbers and the name in quotes, as ITK-SNAP has it. One line each: a match that went on over the
# next ones would take for ever on an empty page.
FREESURFER = re.compile(r"\s*(\d+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\d+)(?:\s+\d+)?\s*")
ITK_SNAP = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)(?:\s+[\d.]+){3}\s+"(.*)"\s*')
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
NUMBER = re.compile(r"-?[0-9]{1,10}")  # a label's, as far as images hold them
UNREADABLE = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, csv.Error,
    ElementTree.ParseError,
)  # fmt: skip


class LabelName(NamedTuple):
    """colour: #rrggbb; empty: unknown."""

    name: str
    colour: str = ""


Pairs = Iterable[tuple[Any, LabelName]]
"""Number and name as a file has them: the number may be anything yet."""


def read_label_names(path: Path) -> dict[int, LabelName]:
    """Label → name of every label of a table but the background, 0. Raises InputError."""
    try:
        pairs = list(_read(regular(path)))
        found = dict(_checked(number, named) for number, named in pairs)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", HINT) from error
    except UNREADABLE as error:
        raise InputError(f"{path}: no table of label names", HINT) from error
    if len(found) < len(pairs):
        log.warning("%s: a label stands there twice, its last name counts", path)
    found.pop(0, None)
    if not found:
        raise InputError(f"{path} names no labels", HINT)
    return found


def _checked(number: Any, named: LabelName) -> tuple[int, LabelName]:
    """Raises ValueError and the like for what is no number or no name."""
    if not NUMBER.fullmatch(str(number)):
        raise ValueError("no label")
    named.name.encode()  # half a character can't be written into a report
    return int(number), named


def _read(path: Path) -> Pairs:
    suffix = full_suffix(path).lower()
    if suffix in (".nii", ".nii.gz"):
        return _of_header(path)
    text = path.read_text(encoding="utf-8-sig")
    if suffix == ".json":
        return _of_nnunet(json.loads(text)["labels"])
    if suffix in (".tsv", ".csv"):
        rows = csv.DictReader(text.splitlines(), delimiter="," if suffix == ".csv" else "\t")
        check_named_once(path, rows.fieldnames or [])
        return _of_table(rows)
    lines = text.splitlines()
    snap = [match.groups() for line in lines if (match := ITK_SNAP.fullmatch(line))]
    freesurfer = [match.groups() for line in lines if (match := FREESURFER.fullmatch(line))]
    found = [(k, LabelName(name, _hex(rgb))) for k, *rgb, name in snap]
    return found or [(k, LabelName(name, _hex(rgb))) for k, name, *rgb in freesurfer]


def _of_header(path: Path) -> Pairs:
    """The LabelTable that TotalSegmentator and Caret leave in an extension of the header."""
    import nibabel

    try:
        extensions: Any = nibabel.load(path).header.extensions  # type: ignore[attr-defined]
    except OSError:
        raise
    except Exception as error:  # nibabel raises many kinds
        raise ValueError(str(error)) from error
    texts = [bytes(e.get_content()).rstrip(b"\0").strip() for e in extensions if e.get_code() == 0]
    tables = [ElementTree.fromstring(text) for text in texts if b"<LabelTable>" in text]
    return [
        (
            label.attrib["Key"],
            LabelName(
                label.text or "",
                _hex(255 * float(label.attrib[part]) for part in ("Red", "Green", "Blue")),
            ),
        )
        for table in tables
        for label in table.iter("Label")
    ]


def _of_nnunet(labels: dict[str, Any]) -> Pairs:
    """Name → number in version 2, number → name before; regions, lists of numbers, are left out."""
    numbered = {k: v for k, v in labels.items() if not isinstance(v, list)}
    by_number = all(isinstance(value, str) for value in numbered.values())
    pairs = ((k, v) if by_number else (v, k) for k, v in numbered.items())
    return [(number, LabelName(name)) for number, name in pairs]


def _of_table(rows: Iterable[dict[str, str]]) -> Pairs:
    """BIDS: columns index, name and color."""
    colours = ((row, row.get("color") or "") for row in rows)
    return [
        (row["index"], LabelName(row["name"], text if COLOUR.fullmatch(text) else ""))
        for row, text in colours
    ]


def _hex(rgb: Iterable[Any]) -> str:
    return "#" + "".join(f"{min(max(round(float(part)), 0), 255):02x}" for part in rgb)
