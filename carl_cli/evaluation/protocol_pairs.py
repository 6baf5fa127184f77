"""The pairs of a protocol: from its own list, a draw, or a file of the data set."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from carl_cli.errors import InputError
from carl_cli.evaluation.protocol import Draw, Pair, Protocol
from carl_cli.io.atomic import regular


def pairs_of(protocol: Protocol, data: Path) -> list[Pair]:
    """(fixed, moving) ids, in order. Raises InputError for a list that can't be read."""
    source = protocol.pairs
    if source.listed:
        return list(source.listed)
    if source.drawn:
        return drawn_pairs(source.drawn, _pool(protocol, source.drawn, data))
    path = data / (source.table or source.dataset_json)
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
        found = _of_json(text, source.json_key) if source.dataset_json else _of_csv(text)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}",
            f"the protocol takes its pairs from it; {protocol.obtain.told}",
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path}: no list of pairs: {error!r}", "see the protocol") from error
    if not found:
        raise InputError(f"{path}: no pairs", "see the protocol")
    return found


def drawn_pairs(draw: Draw, pool: Sequence[str]) -> list[Pair]:
    """The moving image is drawn first. A pair may come twice, and be one image twice."""
    chance = random.Random(draw.seed)
    drawn = [[chance.choice(pool) for _ in range(2)] for _ in range(draw.count)]
    return [(fixed, moving) for moving, fixed in drawn]


def _pool(protocol: Protocol, draw: Draw, data: Path) -> list[str]:
    """Ids of the cases that have both an image and a segmentation, by number."""
    files, patterns = protocol.files, draw.patterns()
    found = [sorted(_ids(files.fixed, data, pattern)) for pattern in patterns]
    segmented = files.fixed_seg or files.fixed
    pool = [ids[0] for ids in found if ids and (data / segmented.format(fixed=ids[0])).exists()]
    if not pool:
        raise InputError(
            f"{data}: no case from {patterns[0]} to {patterns[-1]}",
            f"see how the protocol wants the files laid out; {protocol.obtain.told}",
        )
    return pool


def _ids(template: str, data: Path, pattern: str) -> Iterator[str]:
    before, _, after = template.partition("{fixed}")
    for path in data.glob(f"{before}{pattern}{after}"):
        yield path.relative_to(data).as_posix().removeprefix(before).removesuffix(after)


def _of_csv(text: str) -> list[Pair]:
    return [
        (row["fixed"].strip(), row["moving"].strip()) for row in csv.DictReader(text.splitlines())
    ]


def _of_json(text: str, key: str) -> list[Pair]:
    return [(Path(p["fixed"]).name, Path(p["moving"]).name) for p in json.loads(text)[key]]
