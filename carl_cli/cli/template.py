"""`carl template`: rounds of `carl batch`, between them a new template."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from carl_cli.cli import batch_work, console
from carl_cli.cli.batch import read_entries
from carl_cli.cli.options.batch import (
    FolderArguments,
    ScheduleArguments,
    TableArguments,
    WorkArguments,
)
from carl_cli.cli.options.grouping import grouped
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.register import InstanceArguments, RunArguments
from carl_cli.cli.options.shared import check_outputs
from carl_cli.cli.options.slurm import ClusterArguments, check_cluster, submit
from carl_cli.cli.options.template import GroupArguments, TemplateArguments
from carl_cli.errors import OutputError, UsageError
from carl_cli.io.atomic import is_there
from carl_cli.preprocessing.options import ImageOptions
from carl_cli.registration.options import ChannelOptions, StartOptions
from carl_cli.weights.options import NetworkOptions

if TYPE_CHECKING:
    from carl_cli.batch.summary import Totals
    from carl_cli.batch.workers import Crew
    from carl_cli.io.images.files import Image
    from carl_cli.workflows.template import Built, Member, Registered
    from carl_cli.workflows.template_files import TemplateFiles

READ = ("labels", "mask")  # of each member
POLL_S = 10.0
"""How often Slurm is asked whether a round is done."""


@grouped
def template(
    group: GroupArguments,
    wanted: TemplateArguments,
    work: WorkArguments,
    cluster: ClusterArguments,
    network: NetworkOptions,
    instance: InstanceArguments,
    images: ImageOptions,
    start: StartOptions,
    channels: ChannelOptions,
    run: RunArguments,
) -> None:
    """Build an unbiased template of a group of images.

    Each round registers all images to the template, averages them through these maps and takes
    the mean map out, so that no image shapes the template more than another. All rounds but the
    last are rough ones, with fewer steps; with --io the last one is fitted to the images.

    Every round is a batch in a folder of its own: a run that was killed continues with --resume,
    to the same bytes, and --executor slurm submits the registrations of each round and waits.

    Examples:

        carl template subjects -o template.nii.gz
        carl template a.nii.gz b.nii.gz c.nii.gz -o template.nii.gz --rounds 3
        carl template subjects --labels segmentations -o template.nii.gz --resume
        carl template t1 --channel t2 --channel-weights 2,1 -o template.nii.gz
        carl template study.csv -o template.nii.gz --executor slurm --mem 8G
    """
    from carl_cli.batch.workers import Crew

    method = MethodArguments(
        network=network, instance=instance, images=images, start=start, channels=channels, run=run
    )
    threads = method.begin()
    members = _members(group)
    with Crew() as crew:
        rounds = _Rounds(members, wanted, work, cluster, method, threads, crew)
        rounds.check()
        if run.dry_run:
            rounds.try_out()
        else:
            rounds.run()


def _members(group: GroupArguments) -> list[Member]:
    """Raises InputError, UsageError when it is not clear which images are meant."""
    from carl_cli.batch import rounds

    given = group.images or []
    match (given, group.bids):
        case ([], Path() as dataset):
            found = rounds.members_of_bids(dataset, group.bids_filter or ())
        case ([only], None) if only.is_dir():
            found = rounds.members_of_folder(only, group.pattern)
        case ([only], None) if only.suffix.lower() in (".csv", ".tsv"):
            found = rounds.members_of_table(only)
        case ([_, *_], None):
            found = rounds.members_of_files(given)
        case _:
            raise UsageError(
                "it is not clear which images are meant",
                "give images, a folder, a table, or --bids alone",
            )
    if len(found) < 2:
        raise UsageError("a template of one image is that image", "give two or more")
    found = rounds.with_labels(found, group.labels) if group.labels else found
    if group.channel and found[0].channels:
        raise UsageError("channels are given by the table and by --channel", "give them once")
    for folder in group.channel or ():
        found = rounds.with_channel(found, folder)
    return found


@dataclass(frozen=True)
class _Rounds:
    members: Sequence[Member]
    wanted: TemplateArguments
    work: WorkArguments
    cluster: ClusterArguments
    method: MethodArguments
    threads: int
    crew: Crew

    @property
    def files(self) -> TemplateFiles:
        from carl_cli.workflows.template_files import TemplateFiles

        return TemplateFiles(self.wanted.output, len(self.members[0].channels))

    @property
    def schedule(self) -> ScheduleArguments:
        return ScheduleArguments(**vars(self.work))

    def folder(self, path: Path) -> FolderArguments:
        return FolderArguments(path, warped=False, overwrite=self.wanted.overwrite)

    def check(self) -> None:
        """Before any work: outputs that are in the way, options that contradict each other."""
        from carl_cli.workflows.checks import check_distinct

        files, goes_on = self.files, self.work.resume or self.work.retry_failed
        check_cluster(self.cluster, self.folder(files.round(1)), self.schedule)
        replaced = self.wanted.overwrite or goes_on
        if is_there(files.round(1)) and not replaced:
            raise OutputError(
                f"{files.round(1).parent} exists already",
                "finish what was begun with --resume, or do everything again with --overwrite",
            )
        check_distinct(self._read(), files.paths())
        check_outputs(files.paths().values(), replaced)
        self._check_contrasts()
        files.check(self.members)

    def _check_contrasts(self) -> None:
        """As many weights and first templates, and a network that takes so many."""
        from carl_cli.registration.tensors import check_channels

        first, channels = self.wanted.initial, self.files.channels
        if first and len(first) != 1 + channels:
            raise UsageError(
                f"--initial: {len(first)} images for {1 + channels} contrasts",
                "repeat it: the image to start from, then one for each further channel",
            )
        self.method.channels.shares(1 + channels)
        if channels:
            weights = self.method.suited_to(self.members[0].image).load("cpu")
            fit = self.method.options(weights, False).instance
            check_channels((channels, channels), weights, fit)

    def _read(self) -> dict[str, Path]:
        """Role → file that the rounds read."""
        files = {f"{kind} of {m.name}": vars(m)[kind] for m in self.members for kind in READ}
        for m in self.members:
            files |= {f"image {k} of {m.name}": path for k, path in enumerate(m.contrasts, 1)}
        first = enumerate(self.wanted.initial or (), 1)
        files |= {f"first template {k}": path for k, path in first}
        return {role: path for role, path in files.items() if path is not None}

    def try_out(self) -> None:
        """Check that every image can be registered to the first template."""
        with tempfile.TemporaryDirectory() as scratch:
            self._register(Path(scratch), self._first(), rough=True)

    def run(self) -> None:
        from carl_cli.batch.status import remove_partial
        from carl_cli.workflows.template import Looks, next_template
        from carl_cli.workflows.template_files import deliver, tell

        looks = Looks(self.wanted.average, self.wanted.sharpen)
        current, figures, settled = self._first(), [], False
        for number in range(1, self.wanted.rounds + 1):
            last = settled or number == self.wanted.rounds
            group = self._register(self.files.round(number), current, rough=not last)
            console.LOGGER.info("round %d: the new template", number)
            built = next_template(number, current, group, looks)
            figures.append(built.figures)
            _print(built)
            current = [contrast.template for contrast in built.contrasts]
            settled = number > 1 and built.figures.mean_displacement_mm < self.wanted.tolerance
            if last:
                break
        remove_partial(self.files.transforms)  # what a killed run left there
        deliver(built, group, self.files)
        tell(built, group, self.files, figures)
        console.LOGGER.info("%s: the template", self.wanted.output)
        console.LOGGER.info("%s: page to look at in a browser", self.files.report)

    def _first(self) -> list[Image]:
        """Of each contrast."""
        from carl_cli.io.images.files import read_image
        from carl_cli.workflows.template import first_template, nearest_to_mean

        paths: Sequence[Path] = self.wanted.initial or ()
        if not paths:
            nearest = nearest_to_mean(self.members)
            console.LOGGER.info("starting from %s, the nearest to the mean", nearest.name)
            paths = nearest.contrasts
        return [first_template(read_image(path, average=True)) for path in paths]

    def _register(self, path: Path, current: Sequence[Image], *, rough: bool) -> list[Registered]:
        """All images to a template, by the engine of `carl batch`. rough: quickly, without --io."""
        from carl_cli.batch.rounds import begin_round, registered_in
        from carl_cli.workflows.template_files import FIXED

        table = TableArguments(pairs=begin_round(path, current, self.members))
        method = self.method.suited_to(path / FIXED)
        if rough:
            method = replace(method, instance=InstanceArguments(), rough=True)
        console.LOGGER.info("%s: %d images", path.name, len(self.members))
        totals = self._done(table, self.folder(path), method)
        if totals is not None:
            batch_work.check_complete(totals)
            batch_work.check_doubts(self.folder(path), read_entries(table, method), method.run)
        return registered_in(path, self.members)

    def _done(
        self, table: TableArguments, folder: FolderArguments, method: MethodArguments
    ) -> Totals | None:
        from carl_cli.batch.shards import Shard

        entries = read_entries(table, method)
        if self.cluster.executor == "local" or method.run.dry_run:
            part = entries, Shard(), folder, self.schedule, method, self.threads, self.crew
            return batch_work.do_part(*part)
        if not batch_work.all_finished(entries, folder, method):
            self._submit(table, folder, method)
        return batch_work.summarised(folder, entries)

    def _submit(
        self, table: TableArguments, folder: FolderArguments, method: MethodArguments
    ) -> None:
        """Returns once no task of the round goes on; what was submitted before is waited for."""
        from carl_cli.batch.slurm.jobs import alive, submissions

        def working() -> bool:
            return any(alive(entry) for entry in submissions(folder.out_dir))

        if not working():
            submit(self.cluster, len(self.members), table, folder, self.schedule, method)
        while working():
            time.sleep(POLL_S)


def _print(built: Built) -> None:
    """The figures that a script may want, on stdout."""
    row = built.figures
    typer.echo(
        f"round {row.round} mean_displacement_mm {row.mean_displacement_mm:.4f} "
        f"left_displacement_mm {row.left_displacement_mm:.4f} ncc_to_last {row.ncc_to_last:.4f}"
    )
