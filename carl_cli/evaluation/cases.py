"""Which files belong to a case: from a table, or from the records that a batch left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from carl_cli.errors import InputError
from carl_cli.io.csv import ExistingFile, cell_told, cells_by_column, header_of, table_lines
from carl_cli.io.transforms import split_program
from carl_cli.io.transforms.chain import parse_item
from carl_cli.report.record import InputFile, OutputFile, RunRecord, read_record
from carl_cli.report.saved import located

CHAIN_SEPARATOR = "|"
RECORDS = "*/*_mode-image_xfm.json"


def _chain(value: Any, info: ValidationInfo) -> tuple[str, ...]:
    """Items as for -t, separated by |; relative paths start at the table's folder."""
    items = value.split(CHAIN_SEPARATOR) if isinstance(value, str) else value
    folder: Any = info.context
    return tuple(_placed(item.strip(), folder) for item in items)


def _placed(item: str, folder: Path) -> str:
    path, inverted = parse_item(item)
    program, plain = split_program(path)
    there = folder / Path(plain).expanduser()
    if not there.exists():
        raise ValueError(f"no such file: {there}")
    named = f"{program}:{there}" if program else str(there)
    return f"[{named},1]" if inverted else named


Chain = Annotated[str | tuple[str, ...], AfterValidator(_chain)]


class CaseFiles(BaseModel):
    """One case. The fields up to `moving_points` are the columns that a table may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str = ""
    fixed: ExistingFile | None = None
    moving: ExistingFile | None = None
    transform: Chain = ()  # fixed points → moving points; empty: the identity
    inverse: Chain = ()  # moving points → fixed points
    fixed_mask: ExistingFile | None = None
    fixed_seg: ExistingFile | None = None
    moving_seg: ExistingFile | None = None
    fixed_points: ExistingFile | None = None
    moving_points: ExistingFile | None = None
    series_uid: str | None = None  # this and the next as in the record of a registration
    time_index: int | None = None


COLUMNS = tuple(CaseFiles.model_fields)[:10]


def one_case(values: Mapping[str, Any], folder: Path) -> CaseFiles:
    """Checked files of one case. Raises InputError naming the first that can't be used."""
    try:
        return CaseFiles.model_validate(dict(values), context=folder)
    except ValidationError as error:
        raise InputError(cell_told(error.errors()[0]), "check the names of the files") from None


def cases_of(source: Path) -> list[CaseFiles]:
    """The cases of a CSV table, or of the folder that `carl batch` wrote.

    Raises InputError, naming every line that can't be used.
    """
    cases = _of_batch(source) if source.is_dir() else _of_table(source)
    names = [case.id for case in cases]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{source}: two cases are called {twice[0]!r}", "give each its own id")
    return cases


def _of_table(path: Path) -> list[CaseFiles]:
    lines = table_lines(path)
    header = header_of(path, lines)
    unknown = [name for name in header if name not in COLUMNS]
    if len(lines) < 2 or unknown:
        found = f"unknown column {unknown[0]!r}" if unknown else "no case"
        raise InputError(f"{path}: {found}", f"columns are {', '.join(COLUMNS)}")
    cases, problems = [], []
    for number, cells in lines[1:]:
        try:
            cases.append(_row(number, header, cells, path.absolute().parent))
        except InputError as error:
            problems.append(f"line {number}: {error.message}")
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}", "correct these lines")
    return cases


def _row(number: int, header: Sequence[str], cells: Sequence[str], folder: Path) -> CaseFiles:
    return one_case({"id": str(number - 1), **cells_by_column(header, cells)}, folder)


def _of_batch(folder: Path) -> list[CaseFiles]:
    records = sorted(folder.glob(RECORDS))
    if not records:
        raise InputError(f"{folder} holds no results of carl batch", "give its --out-dir")
    return [_recorded(path) for path in records]


def _recorded(path: Path) -> CaseFiles:
    record = read_record(path)
    files = dict(_files(record, path))
    volume = {name: record.options.get(name) for name in ("series_uid", "time_index")}
    return one_case({"id": path.parent.name, **files, **volume}, Path.cwd())


def _files(record: RunRecord, path: Path) -> Iterator[tuple[str, str]]:
    """Column → where the file of that role is now."""
    roles = {"forward": "transform", "inverse": "inverse"}
    files: dict[str, InputFile | OutputFile] = {**record.inputs, **record.outputs}
    for role, file in files.items():
        column = roles.get(role, role)
        if column in COLUMNS:
            yield column, str(located(file.path, path) or file.path)
