"""The status table of a shard: read while it grows, cut off anywhere, quick at any length."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import pytest

from carl_cli.batch.shards import Shard
from carl_cli.batch.status import StatusRow, StatusTable, read_rows
from carl_cli.batch.summary import ABANDONED_S, summarise
from carl_cli.errors import OutputError

ERROR = 'b.nii.gz: "no, such" file; café'


@pytest.fixture
def table(tmp_path: Path) -> StatusTable:
    found = StatusTable(tmp_path, Shard())
    found.open(StatusRow(id=name, line=k) for k, name in enumerate("abc", 2))
    return found


def test_the_last_line_of_a_case_counts_and_in_the_end_it_is_the_only_one(
    tmp_path: Path, table: StatusTable
) -> None:
    table.set(StatusRow(id="b", line=3, state="running"))
    table.set(StatusRow(id="b", line=3, state="failed", error=ERROR, seconds=1.5))
    table.set(StatusRow(id="a", line=2, state="running"))
    assert read_rows(tmp_path) == table.rows
    assert len(table.path.read_text().splitlines()) == 1 + 3 + 3
    table.close()
    assert read_rows(tmp_path) == table.rows
    with table.path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["id"], line["state"]) for line in lines] == [
        ("a", "running"),
        ("b", "failed"),
        ("c", "waiting"),
    ]
    assert lines[1]["error"] == ERROR


def test_cut_off_anywhere_in_its_last_line_it_tells_of_the_line_before(
    tmp_path: Path, table: StatusTable
) -> None:
    before = read_rows(tmp_path)
    whole = table.path.read_bytes()
    table.set(StatusRow(id="b", line=3, state="failed", error=ERROR, seconds=1.5))
    longer = table.path.read_bytes()
    for length in range(len(whole), len(longer)):
        table.path.write_bytes(longer[:length])
        assert read_rows(tmp_path) == before
    table.path.write_bytes(longer)
    assert read_rows(tmp_path)["b"].state == "failed"


def test_a_change_costs_the_same_in_a_long_table(tmp_path: Path) -> None:
    """Rewritten whole, 5,000 rows took 78 ms for each change."""
    table = StatusTable(tmp_path, Shard())
    table.open(StatusRow(id=f"case{k}", line=k) for k in range(5000))
    start = time.process_time()
    for k in range(100):
        table.set(StatusRow(id=f"case{k}", line=k, state="running"))
    assert (time.process_time() - start) / 100 < 0.005


def test_a_line_that_can_not_be_written_is_an_error(table: StatusTable) -> None:
    table.path.unlink()
    table.path.mkdir()
    with pytest.raises(OutputError, match=r"status\.csv: can't be written"):
        table.set(StatusRow(id="b", line=3, state="running"))


@pytest.mark.parametrize("text", ["", "\0\n", "name;state\nb;done\n", "id,line\nb,many\n", "\xff"])
def test_a_table_edited_into_something_else_counts_as_none(
    tmp_path: Path, table: StatusTable, text: str
) -> None:
    table.path.write_bytes(text.encode("latin-1"))
    assert read_rows(tmp_path) == {}


def test_a_summary_leaves_alone_what_another_one_writes(tmp_path: Path, table: StatusTable) -> None:
    """Of 32, in groups of eight at once, two ended with code 7: their files were removed."""
    writing, left = (tmp_path / f".{name}.partial.csv" for name in ("writing", "left"))
    for path in (writing, left):
        path.touch()
    past = time.time() - ABANDONED_S - 1
    os.utime(left, (past, past))
    summarise(tmp_path, list("abc"), {})
    assert (writing.exists(), left.exists()) == (True, False)
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 4
