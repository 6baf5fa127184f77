"""Cases registered here and summed up: for `carl batch` and for each round of `carl template`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carl_cli.cli import console
from carl_cli.cli.batch_table import live_table
from carl_cli.cli.options.batch import FolderArguments, ScheduleArguments
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.register import RunArguments
from carl_cli.errors import BatchError, DoubtfulError, UsageError
from carl_cli.weights.options import NetworkOptions

if TYPE_CHECKING:
    from carl_cli.batch.job import Job
    from carl_cli.batch.run import Policy
    from carl_cli.batch.shards import Shard
    from carl_cli.batch.summary import Totals
    from carl_cli.batch.table import Entry
    from carl_cli.batch.workers import Crew, Setup
    from carl_cli.weights.folder import Weights


def do_part(
    entries: Sequence[Entry],
    shard: Shard,
    folder: FolderArguments,
    schedule: ScheduleArguments,
    method: MethodArguments,
    threads: int,
    crew: Crew,
) -> Totals | None:
    """Register the cases of a shard here, and sum up if it is all of them; None: only checked."""
    setups = _setups(method.network, threads, schedule)
    # Workers load their own; this process needs no more than what the weights say.
    weights = method.load("cpu")
    mine = shard.of(entries)
    jobs = _jobs(mine, folder, method, weights, setups)
    if method.run.dry_run:
        _check(jobs, weights)
        return None
    _check_request(jobs, weights)
    refused = [entry for entry in mine if entry.row is None]
    policy = _policy(folder, schedule)
    return _run(folder, shard, jobs, refused, weights, policy, setups, crew, entries)


def _jobs(
    entries: Sequence[Entry],
    folder: FolderArguments,
    method: MethodArguments,
    weights: Weights,
    setups: Sequence[Setup],
) -> list[Job]:
    roles = folder.roles()
    return [
        method.job(entry, entry.row, folder.out_dir, roles, weights, setups)
        for entry in entries
        if entry.row is not None
    ]


def all_finished(
    entries: Sequence[Entry], folder: FolderArguments, method: MethodArguments
) -> bool:
    """Whether every case is done with these files, options and weights."""
    from carl_cli.batch.job import fingerprint, finished
    from carl_cli.batch.workers import Setup

    weights = method.load("cpu")
    jobs = _jobs(entries, folder, method, weights, [Setup("", "cpu", 1, False)])
    return all(finished(job, fingerprint(job, weights)) for job in jobs)


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

    found = {job.name: check(job, weights) for job in jobs}
    for name, (error, warnings) in found.items():
        console.LOGGER.info("%s: %s", name, error or "can be registered")
        for text in warnings:
            console.LOGGER.warning("%s: %s", name, text)
    bad = sum(bool(error) for error, _ in found.values())
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
    crew: Crew,
    entries: Sequence[Entry],
) -> Totals:
    from carl_cli.batch.run import Batch
    from carl_cli.batch.summary import Totals

    with live_table(len(setups)) as listener:
        work = Batch(folder.out_dir, shard, jobs, refused, weights, policy, listener)
        console.LOGGER.info("%d cases, status in %s", len(work.jobs), work.table.path)
        rows = work.run(setups, crew)
    if shard.count == 1:
        return summarised(folder, entries)
    states = [row.state for row in rows]
    return Totals(states.count("done"), states.count("failed"), 0)


def summarised(folder: FolderArguments, entries: Sequence[Entry]) -> Totals:
    """The summary of all parts is written."""
    from carl_cli.batch.summary import summarise

    totals = summarise(
        folder.out_dir,
        [entry.name for entry in entries],
        _records(folder, entries),
        thumbnails=folder.thumbnails,
    )
    console.LOGGER.info("all cases, outliers first: %s", folder.out_dir / "index.html")
    return totals


def _records(folder: FolderArguments, entries: Sequence[Entry]) -> dict[str, Path]:
    """Where the record of each case is, or will be."""
    from carl_cli.batch.naming import case_outputs

    records = {
        e.name: case_outputs(folder.out_dir / e.name, e.row.fixed, e.row.moving).json
        for e in entries
        if e.row is not None
    }
    return {name: path for name, path in records.items() if path is not None}


def check_doubts(folder: FolderArguments, entries: Sequence[Entry], run: RunArguments) -> None:
    from carl_cli.batch.summary import doubtful

    names = doubtful(_records(folder, entries)) if run.strict else []
    if names:
        raise DoubtfulError(
            f"{len(names)} results are doubtful (--strict): {', '.join(names[:5])}",
            "look at them first; index.html says why",
        )


def check_complete(totals: Totals) -> None:
    """Raise BatchError unless every case is done."""
    failed, open_ = totals.failed, totals.open
    if failed or open_:
        what = f"{failed} cases failed" if failed else f"{open_} cases are not finished"
        raise BatchError(what, "errors are in the status table; --retry-failed tries them again")
