"""A batch: the cases of a table done one by one, each on its own, and never twice.

A case is finished when its record exists, tells the fingerprint of these inputs, options
and weights, and its outputs have the hashes that it tells. The record is written last, so
a run may be killed at any moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from carl_cli.batch.claim import Claim
from carl_cli.batch.job import Job, Outcome, fingerprint, finished
from carl_cli.batch.shards import Shard
from carl_cli.batch.status import StatusRow, StatusTable, done, read_rows
from carl_cli.batch.table import Entry
from carl_cli.batch.workers import Crew, Setup
from carl_cli.errors import OutputError
from carl_cli.io.atomic import is_there
from carl_cli.weights.folder import Weights

LOGGER = logging.getLogger(__name__)
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Policy:
    """What is done about earlier results. By default they are an error."""

    resume: bool = False  # skip what is finished, and what failed
    retry_failed: bool = False  # with resume: do what failed again
    overwrite: bool = False  # do everything again


class Batch:
    """One shard of a batch. `refused`: rows that can't be cases; they count as failed."""

    def __init__(
        self,
        out_dir: Path,
        shard: Shard,
        jobs: Iterable[Job],
        refused: Iterable[Entry],
        weights: Weights,
        policy: Policy,
        listener: Callable[[StatusRow], None] | None = None,
    ) -> None:
        self.jobs = list(jobs)
        self.refused = list(refused)
        self.weights = weights
        self.policy = policy
        self.table = StatusTable(out_dir, shard, listener)
        self.claim = Claim(out_dir, shard)
        self.earlier: dict[str, StatusRow] = {}
        self.fingerprints: dict[str, str] = {}

    def run(self, setups: list[Setup], crew: Crew) -> list[StatusRow]:
        """Do what is to be done, in a process of the crew for each of the setups.

        Returns the final rows. Raises OutputError before any work when results are in the way
        or another run does this part, and later when another run has taken it over.
        """
        self._check_free()
        with self.claim:
            self.earlier = read_rows(self.claim.out_dir) if self.policy.resume else {}
            self.table.open(self._first_rows())
            self._work(setups, crew)
            self.claim.check()
            self.table.close()
        return list(self.table.rows.values())

    def _work(self, setups: list[Setup], crew: Crew) -> None:
        for row in self.table.rows.values():
            if row.state == "failed":
                LOGGER.error("%s: %s", row.id, row.error)
        crew.do(self._needed(), setups, self)

    def _check_free(self) -> None:
        if self.policy.resume or self.policy.overwrite:
            return
        taken = [p for job in self.jobs for p in job.outputs.paths().values() if is_there(p)]
        if taken:
            raise OutputError(
                f"{taken[0]} exists already",
                "finish the rest with --resume, or do everything again with --overwrite",
            )

    def _first_rows(self) -> Iterator[StatusRow]:
        for entry in self.refused:
            yield StatusRow(id=entry.name, line=entry.line, state="failed", error=entry.error)
        for job in self.jobs:
            yield StatusRow(id=job.name, line=job.line)

    def _needed(self) -> Iterator[Job]:
        """The jobs that remain. Files of the next one are read while this one is computed."""
        for job, key in ahead(lambda job: fingerprint(job, self.weights), self.jobs):
            self.claim.check()
            self.fingerprints[job.name] = key
            if not (self.policy.resume and self._settled(job, key)):
                yield job.noting(key)

    def _settled(self, job: Job, key: str) -> bool:
        record = finished(job, key)
        if record is not None:
            LOGGER.info("%s: finished already", job.name)
            self.table.set(done(job.name, job.line, record, key))
            return True
        row = self.earlier.get(job.name)
        same = row is not None and row.state == "failed" and row.fingerprint == key
        if row is None or not same or self.policy.retry_failed:
            return False
        LOGGER.error("%s: failed before: %s", job.name, row.error)
        self.table.set(row.model_copy(update={"line": job.line}))
        return True

    def started(self, job: Job) -> None:
        """See `Watcher`."""
        LOGGER.info("%s: started", job.name)
        self.table.set(StatusRow(id=job.name, line=job.line, state="running"))

    def finished(self, job: Job, outcome: Outcome) -> None:
        """See `Watcher`."""
        key = self.fingerprints[job.name]
        if outcome.record is None:
            LOGGER.error("%s: %s", job.name, outcome.error)
            row = StatusRow(
                id=job.name,
                line=job.line,
                state="failed",
                seconds=outcome.seconds,
                peak_memory_mib=outcome.peak_memory_mib,
                error=outcome.error,
                fingerprint=key,
            )
        else:
            row = done(job.name, job.line, outcome.record, key)
            LOGGER.info("%s: done in %.1f s, LNCC %s", job.name, outcome.seconds, _lncc(row))
        self.table.set(row)


def _lncc(row: StatusRow) -> str:
    figures = (row.lncc_before, row.lncc)
    return " -> ".join("unknown" if value is None else f"{value:.3f}" for value in figures)


def ahead(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[tuple[Item, Value]]:
    """Each item with its value, which a thread computes while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        pending: list[tuple[Item, Callable[[], Value]]] = []
        for item in items:
            pending.append((item, pool.submit(function, item).result))
            if len(pending) > 1:
                earlier, value = pending.pop(0)
                yield earlier, value()
        for earlier, value in pending:
            yield earlier, value()
