"""`carl evaluate protocol`: a published experiment, from the data set's files to the figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carl_cli.cli.options.described import described_as
from carl_cli.cli.options.grouping import Some, grouped
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.register import InstanceArguments, RunArguments
from carl_cli.cli.tables import Form, deliver
from carl_cli.errors import BatchError
from carl_cli.registration.options import StartOptions
from carl_cli.weights.options import NetworkOptions
from carl_cli.workflows.request import CaseInputs

if TYPE_CHECKING:
    from carl_cli.evaluation.protocol import Protocol
    from carl_cli.evaluation.scores import Scores


@dataclass(frozen=True)
class ProtocolArguments:
    name: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL",
            help="abdomen1k, dirlab_copdgene, hcp, ixi_keymorph, learn2reg_abdomenctct, or a TOML "
            "file of your own.",
        ),
    ]
    data: Annotated[Path, typer.Option("--data", help="Folder of the data set.")]
    out_dir: Annotated[
        Path, typer.Option("--out-dir", help="Folder for the table, the results and the scores.")
    ]
    preprocess: Annotated[
        Literal["weights", "protocol"],
        typer.Option(
            "--preprocess",
            help="As the weights want it, or as the protocol (the paper's networks) has it.",
        ),
    ] = "weights"
    prepare_only: Annotated[
        bool,
        typer.Option("--prepare-only", help="Write the table for carl batch and compute nothing."),
    ] = False
    initial_transform: Annotated[Path | None, described_as(CaseInputs, "initial_transform")] = None
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="Form on stdout; auto: a table on a terminal, CSV elsewhere."
        ),
    ] = "auto"


@grouped
def protocol(
    what: ProtocolArguments,
    network: NetworkOptions,
    instance: InstanceArguments,
    start: StartOptions,
    run: RunArguments,
) -> None:
    """Run a published experiment: register its pairs, score them, print the figures.

    The protocol says how the data set is laid out and which pairs are meant. Writes pairs.csv,
    the results as carl batch does, scores.csv, and table.md with the published figures beside
    this run's; a challenge's files where the protocol has one. What is finished is not done
    again. --dry-run lists the files that are missing, and says where they can be had. On a
    cluster: --prepare-only, then carl batch OUT/pairs.csv --out-dir OUT/results --inverse, then
    this command again.
    """
    first = what.initial_transform
    files: Some[CaseInputs] = Some({} if first is None else {"initial_transform": first})
    method = MethodArguments(network=network, instance=instance, start=start, files=files, run=run)
    threads = method.begin()

    from carl_cli.evaluation.protocol import locate_protocol, read_protocol
    from carl_cli.evaluation.protocol_files import prepared_table

    described = read_protocol(locate_protocol(what.name))
    if run.dry_run:
        _list_missing(described, what.data)
        return
    as_the_paper = what.preprocess == "protocol"
    table = prepared_table(described, what.data, what.out_dir, as_the_paper)
    if what.prepare_only:
        typer.echo(str(table))
        return
    failed = _register(described, what, method, table, threads)
    _tell(described, what)
    if failed:
        raise BatchError(f"{failed} pairs failed", "the reasons are in OUT/results/shards")


def _list_missing(described: Protocol, data: Path) -> None:
    """Every missing file on stdout; raises InputError if there is one."""
    from carl_cli.evaluation.protocol_files import check_complete, missing_files
    from carl_cli.evaluation.protocol_pairs import pairs_of

    pairs = pairs_of(described, data)
    for path in missing_files(described, data, pairs):
        typer.echo(path)
    check_complete(described, data, pairs)
    typer.echo(f"{described.name}: all files of {len(pairs)} pairs are there", err=True)


def _register(
    described: Protocol,
    what: ProtocolArguments,
    method: MethodArguments,
    table: Path,
    threads: int,
) -> int:
    """Number of pairs that failed."""
    from carl_cli.batch.run import Batch, Policy
    from carl_cli.batch.shards import Shard
    from carl_cli.batch.table import read_table
    from carl_cli.batch.workers import Crew, Setup
    from carl_cli.model.devices import chosen_device

    device = chosen_device(method.network.device)
    weights = method.load(device)
    if what.preprocess == "protocol":
        weights = weights.prepared_by(described.preprocess.rule())
    setup = Setup(weights.source, device, threads, method.network.deterministic)
    entries = read_table(table)
    results = what.out_dir / "results"
    jobs = [
        method.job(entry, entry.row, results, ("inverse",), weights, [setup])
        for entry in entries
        if entry.row is not None
    ]
    refused = [entry for entry in entries if entry.row is None]
    batch = Batch(results, Shard(), jobs, refused, weights, Policy(resume=True))
    with Crew() as crew:
        return sum(row.state == "failed" for row in batch.run([setup], crew))


def _tell(described: Protocol, what: ProtocolArguments) -> None:
    from carl_cli.evaluation.cases import cases_of
    from carl_cli.evaluation.published import beside_published, by_protocol, table_to_paste
    from carl_cli.evaluation.scores import score_files
    from carl_cli.evaluation.tables import case_table, summary_table, write_csv
    from carl_cli.io.atomic import atomic_path

    found = cases_of(what.out_dir / "results")
    results: list[Scores] = [by_protocol(described, score_files(case)) for case in found]
    cases = case_table(results)
    write_csv(what.out_dir / "scores.csv", cases)
    _submit(described, what)
    rows = beside_published(described, summary_table(cases, 10_000, seed=0))
    with atomic_path(what.out_dir / "table.md") as temporary:
        temporary.write_text(table_to_paste(described, rows), encoding="utf-8")
    content = {"protocol": described.name, "in": described.published_in, "figures": rows}
    deliver(what.form, None, rows=rows, shown=rows, content=content)


def _submit(described: Protocol, what: ProtocolArguments) -> None:
    if described.submission is None:
        return
    from carl_cli.evaluation.cases import cases_of
    from carl_cli.evaluation.submission import submit_case
    from carl_cli.io.atomic import make_folder

    folder = make_folder(what.out_dir / described.submission.folder)
    for case in cases_of(what.out_dir / "results"):
        submit_case(case, folder)
