"""`carl batch`: a table of pairs → one `Batch` → its summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from carl_cli.batch.table import OPTIONS
from carl_cli.cli import console
from carl_cli.cli.batch_work import check_complete, check_doubts, do_part, summarised
from carl_cli.cli.options.batch import FolderArguments, ScheduleArguments, TableArguments
from carl_cli.cli.options.grouping import grouped
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.slurm import ClusterArguments, check_cluster, submit
from carl_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from carl_cli.batch.summary import Totals
    from carl_cli.batch.table import Entry


def _with_columns(command: Callable[..., None]) -> Callable[..., None]:
    """The help names every column that a table may have."""
    columns = ", ".join(("id", *OPTIONS))
    command.__doc__ = str(command.__doc__).replace("COLUMNS", columns)
    return command


@grouped
@_with_columns
def batch(
    table: TableArguments,
    folder: FolderArguments,
    schedule: ScheduleArguments,
    cluster: ClusterArguments,
    method: MethodArguments,
) -> None:
    """Register the pairs of a table, each into a folder of its own.

    Columns: fixed, moving; optional COLUMNS.

    Relative paths start at the table's folder. window and percentiles hold two numbers. An option
    of the command fills empty cells. Columns of several contrasts are numbered: fixed_channel1,
    moving_channel1, fixed_channel2, moving_channel2.

    A case that fails never stops the others: the exit code is 6 then, and the status and the
    summary say why. A run that was killed continues with --resume.

    Examples:

        carl batch pairs.csv --out-dir results --report
        carl batch pairs.csv --out-dir results --report --resume
        carl batch --atlas template.nii.gz --moving-dir subjects -o results
        carl batch pairs.csv -o results --executor slurm --tasks 8 --mem 8G
    """
    run_batch(table, folder, schedule, cluster, method)


def run_batch(
    table: TableArguments,
    folder: FolderArguments,
    schedule: ScheduleArguments,
    cluster: ClusterArguments,
    method: MethodArguments,
) -> None:
    """`carl batch` for those who have its options already: tasks on a cluster."""
    threads = method.begin()
    check_cluster(cluster, folder, schedule)
    entries = read_entries(table, method)
    if schedule.summary:
        _conclude(summarised(folder, entries))
        check_doubts(folder, entries, method.run)
        return
    method = _suited(method, entries)
    if cluster.executor == "slurm" and not method.run.dry_run:
        submit(cluster, len(entries), table, folder, schedule, method)
        return
    from carl_cli.batch.shards import chosen_shard
    from carl_cli.batch.workers import Crew

    shard = chosen_shard(schedule.shard)
    with Crew() as crew:
        totals = do_part(entries, shard, folder, schedule, method, threads, crew)
    if totals is not None:
        _conclude(totals)
        check_doubts(folder, shard.of(entries), method.run)


def _suited(method: MethodArguments, entries: Sequence[Entry]) -> MethodArguments:
    """With the default weights for the first case that can be read: others are told why not."""
    for entry in entries:
        if entry.row is not None:
            with suppress(InputError):
                return method.suited_to(entry.row.fixed)
    return method


def read_entries(table: TableArguments, method: MethodArguments) -> list[Entry]:
    """Every bad line is told before any work. Raises InputError unless they may be cases."""
    entries = [_agreeing(entry, method) for entry in _read(table, method.paths())]
    bad = [entry for entry in entries if entry.row is None]
    if not bad or table.keep_going:
        return entries
    for entry in bad:
        console.LOGGER.error("line %d: %s", entry.line, entry.error)
    raise InputError(
        f"{len(bad)} of {len(entries)} pairs can't be used; nothing was started",
        "correct these lines, or count them as failed cases with --keep-going",
    )


def _agreeing(entry: Entry, method: MethodArguments) -> Entry:
    """The entry, refused if its options contradict each other or those of the command."""
    from carl_cli.batch.table import refused

    try:
        # Without options of its own it is the command's, which has been checked.
        if entry.row is not None and (own := entry.row.options):
            method.but(own).check()
    except UsageError as error:
        return refused(entry.line, f"{error.message}: {error.hint}")
    return entry


def _read(table: TableArguments, defaults: Mapping[str, Path]) -> list[Entry]:
    from carl_cli.batch.bids import pair_dataset
    from carl_cli.batch.folders import pair_atlas, pair_folders
    from carl_cli.batch.table import read_table

    patterns = table.fixed_pattern or table.pattern, table.moving_pattern or table.pattern
    given = (table.pairs, table.fixed_dir, table.moving_dir, table.atlas, table.bids)
    match given:
        case (Path() as pairs, None, None, None, None):
            return read_table(pairs, defaults)
        case (None, Path() as fixed, Path() as moving, None, None):
            return pair_folders(fixed, moving, patterns, defaults)
        case (None, None, Path() as moving, Path() as atlas, None):
            return pair_atlas(atlas, moving, patterns[1], defaults)
        case (None, None, None, Path() as atlas, Path() as dataset):
            return pair_dataset(dataset, atlas, table.bids_filter or (), defaults)
    raise UsageError(
        "it is not clear which pairs are meant",
        "give a table, or --moving-dir with --fixed-dir or --atlas, or --bids with --atlas",
    )


def _conclude(totals: Totals) -> None:
    typer.echo(f"done {totals.done}")
    typer.echo(f"failed {totals.failed}")
    if totals.open:
        typer.echo(f"unfinished {totals.open}")
    check_complete(totals)
