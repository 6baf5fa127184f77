"""`carl batch`: a table of pairs → one `Batch` → its summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from carl_cli.batch.table import OPTIONS
from carl_cli.cli import console
from carl_cli.cli.batch_table import live_table
from carl_cli.cli.options.batch import FolderArguments, ScheduleArguments, TableArguments
from carl_cli.cli.options.grouping import grouped
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.register import RunArguments
from carl_cli.cli.options.slurm import ClusterArguments, check_cluster, submit
from carl_cli.errors import BatchError, DoubtfulError, InputError, UsageError
from carl_cli.weights.options import NetworkOptions

if TYPE_CHECKING:
    from carl_cli.batch.job import Job
    from carl_cli.batch.run import Policy
    from carl_cli.batch.shards import Shard
    from carl_cli.batch.table import Entry
    from carl_cli.batch.workers import Setup
    from carl_cli.weights.folder import Weights


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
    of the command fills empty cells.

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
    entries = _entries(table, method)
    if schedule.summary:
        _summarise(folder, entries)
        _check_doubts(folder, entries, method.run)
        return
    method = _suited(method, entries)
    if cluster.executor == "slurm" and not method.run.dry_run:
        submit(cluster, len(entries), table, folder, schedule, method)
        return
    from carl_cli.batch.shards import chosen_shard

    shard = chosen_shard(schedule.shard)
    setups = _setups(method.network, threads, schedule)
    # Workers load their own; this process needs no more than what the weights say.
    weights = method.load("cpu")
    mine = shard.of(entries)
    roles = folder.roles()
    jobs = [
        method.job(entry, entry.row, folder.out_dir, roles, weights, setups)
        for entry in mine
        if entry.row is not None
    ]
    if method.run.dry_run:
        _check(jobs, weights)
        return
    _check_request(jobs, weights)
    refused = [entry for entry in mine if entry.row is None]
    _run(folder, shard, jobs, refused, weights, _policy(folder, schedule), setups, entries)
    _check_doubts(folder, mine, method.run)


def _suited(method: MethodArguments, entries: Sequence[Entry]) -> MethodArguments:
    """With the default weights for the first case that can be read: others are told why not."""
    for entry in entries:
        if entry.row is not None:
            with suppress(InputError):
                return method.suited_to(entry.row.fixed)
    return method


def _entries(table: TableArguments, method: MethodArguments) -> list[Entry]:
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


def _setups(network: NetworkOptions, threads: int, schedule: ScheduleArguments) -> list[Setup]:
    """What each worker computes with: a share of the threads, a GPU of its own."""
    from carl_cli.batch.workers import Setup
    from carl_cli.model.devices import chosen_device, worker_devices
    from carl_cli.weights.locate import locate

    workers = schedule.workers
    devices = worker_devices(chosen_device(network.device), workers, schedule.share_gpu)
    share = max(1, threads // workers)
    folder = str(locate(network.weights, network.offline))
    return [Setup(folder, name, share, network.deterministic) for name in devices]


def _policy(folder: FolderArguments, schedule: ScheduleArguments) -> Policy:
    from carl_cli.batch.run import Policy

    resume = schedule.resume or schedule.retry_failed
    if resume and folder.overwrite:
        raise UsageError("--resume and --overwrite were both given", "give one of them")
    return Policy(resume, schedule.retry_failed, folder.overwrite)


def _check_request(jobs: Sequence[Job], weights: Weights) -> None:
    """A choice that no case could be computed with ends the batch before it starts."""
    from carl_cli.workflows.checks import check_request

    for job in jobs:
        check_request(job.inputs, job.outputs, weights, job.options, job.settings)


def _check(jobs: Sequence[Job], weights: Weights) -> None:
    from carl_cli.batch.job import check

    errors = {job.name: check(job, weights) for job in jobs}
    for name, error in errors.items():
        console.LOGGER.info("%s: %s", name, error or "can be registered")
    bad = sum(bool(error) for error in errors.values())
    if bad:
        raise BatchError(f"{bad} of {len(jobs)} cases can't be registered", "correct their inputs")


def _run(
    folder: FolderArguments,
    shard: Shard,
    jobs: Sequence[Job],
    refused: Sequence[Entry],
    weights: Weights,
    policy: Policy,
    setups: list[Setup],
    entries: Sequence[Entry],
) -> None:
    from carl_cli.batch.run import Batch

    with live_table(len(setups)) as listener:
        work = Batch(folder.out_dir, shard, jobs, refused, weights, policy, listener)
        console.LOGGER.info("%d cases, status in %s", len(work.jobs), work.table.path)
        rows = work.run(setups)
    if shard.count == 1:
        _summarise(folder, entries)
        return
    states = [row.state for row in rows]
    _conclude(states.count("done"), states.count("failed"), 0)


def _summarise(folder: FolderArguments, entries: Sequence[Entry]) -> None:
    from carl_cli.batch.summary import summarise

    totals = summarise(
        folder.out_dir,
        [entry.name for entry in entries],
        _records(folder, entries),
        thumbnails=folder.thumbnails,
    )
    console.LOGGER.info("all cases, outliers first: %s", folder.out_dir / "index.html")
    _conclude(totals.done, totals.failed, totals.open)


def _records(folder: FolderArguments, entries: Sequence[Entry]) -> dict[str, Path]:
    """Where the record of each case is, or will be."""
    from carl_cli.batch.naming import case_outputs

    records = {
        e.name: case_outputs(folder.out_dir / e.name, e.row.fixed, e.row.moving).json
        for e in entries
        if e.row is not None
    }
    return {name: path for name, path in records.items() if path is not None}


def _check_doubts(folder: FolderArguments, entries: Sequence[Entry], run: RunArguments) -> None:
    from carl_cli.batch.summary import doubtful

    names = doubtful(_records(folder, entries)) if run.strict else []
    if names:
        raise DoubtfulError(
            f"{len(names)} results are doubtful (--strict): {', '.join(names[:5])}",
            "look at them first; index.html says why",
        )


def _conclude(done: int, failed: int, open_: int) -> None:
    typer.echo(f"done {done}")
    typer.echo(f"failed {failed}")
    if open_:
        typer.echo(f"unfinished {open_}")
    if failed or open_:
        what = f"{failed} cases failed" if failed else f"{open_} cases are not finished"
        raise BatchError(what, "errors are in the status table; --retry-failed tries them again")
