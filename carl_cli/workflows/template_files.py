"""What `carl template` leaves: the template, its variance, transforms, labels, tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError, OutputError, UsageError
from carl_cli.evaluation.cases import CHAIN_SEPARATOR
from carl_cli.evaluation.tables import write_csv
from carl_cli.io.atomic import full_suffix, make_folder
from carl_cli.io.images.files import WRITABLE, Image, read_grid, read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import write_transform
from carl_cli.io.transforms.sitk import covering
from carl_cli.registration.averaging import vote
from carl_cli.report.template_page import Shown, planes_of, strip_of, write_template_page
from carl_cli.transforms import CompositeTransform
from carl_cli.workflows.template import Built, Figures, Member, Registered

FIXED = "template.nii.gz"
"""Name of the image in a round's folder that the round registers to."""
SPACE = "template"
"""Name of the template's space in those of transforms."""


@dataclass(frozen=True)
class TemplateFiles:
    """All names follow from the template's own, and lie beside it. channels: how many further
    contrasts there are."""

    template: Path
    channels: int = 0

    def __post_init__(self) -> None:
        if full_suffix(self.template).lower() not in WRITABLE:
            raise UsageError(
                f"{self.template}: an image can't be written in this format",
                f"use {', '.join(WRITABLE)}",
            )

    def _beside(self, end: str) -> Path:
        stem = self.template.name.removesuffix(full_suffix(self.template))
        return self.template.with_name(stem + end)

    def _images(self, end: str) -> list[Path]:
        whose = "", *(f"_channel{k}" for k in range(1, self.channels + 1))
        return [self._beside(f"{name}{end}{full_suffix(self.template)}") for name in whose]

    @property
    def contrasts(self) -> list[Path]:
        """The template, and those of further contrasts."""
        return self._images("")

    @property
    def variances(self) -> list[Path]:
        """In the same order."""
        return self._images("_variance")

    @property
    def labels(self) -> Path:
        return self._beside(f"_labels{full_suffix(self.template)}")

    @property
    def convergence(self) -> Path:
        return self._beside("_convergence.csv")

    @property
    def pairs(self) -> Path:
        """For `carl evaluate`: the labels of each image on each other one, through the template."""
        return self._beside("_pairs.csv")

    @property
    def report(self) -> Path:
        return self._beside("_report.html")

    def paths(self) -> dict[str, Path]:
        """Role → file of all that is no folder."""
        roles = ("labels", "convergence", "pairs", "report")
        images = {"template": self.contrasts, "variance": self.variances}
        numbered = {
            f"{role} of channel {k}" if k else role: path
            for role, paths in images.items()
            for k, path in enumerate(paths)
        }
        return numbered | {role: getattr(self, role) for role in roles}

    def check(self, members: Sequence[Member]) -> None:
        """What would fail only in a round or after all: folders, channels, and labels.

        Raises OutputError, InputError.
        """
        for folder in (self.transforms, self.round(1).parent):
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{folder} is a file, a folder was expected", "move it away")
        for member in members:
            for path in member.channels:
                _check_channel(path, member)
        for path in (member.labels for member in members if member.labels):
            if np.any(read_image(path, allow_nan=False).array % 1):
                raise InputError(f"{path}: labels are whole numbers", "give a label map")

    @property
    def transforms(self) -> Path:
        return self._beside("_transforms")

    def round(self, number: int) -> Path:
        """Folder of a round, which is one of `carl batch`."""
        return self._beside("_work") / f"round-{number:02d}"

    def begun(self, number: int) -> list[Path]:
        """The template of each contrast that a round registers to."""
        return TemplateFiles(self.round(number) / FIXED, self.channels).contrasts

    def to_template(self, name: str) -> Path:
        """The transform that brings an image onto the template: template points → its points."""
        return self.transforms / f"from-{name}_to-{SPACE}_mode-image_xfm.h5"

    def from_template(self, name: str) -> Path:
        """The transform that brings the template onto an image: its points → template points."""
        return self.transforms / f"from-{SPACE}_to-{name}_mode-image_xfm.h5"


def _check_channel(path: Path, member: Member) -> None:
    """On a grid of its own, but where the image is: other spaces would be averaged as this one."""
    channel, grid = read_image(path), read_grid(member.image)
    if channel.grid.dimension != grid.dimension:
        raise InputError(
            f"{path}: {channel.grid.dimension} dimensions, {member.image} has {grid.dimension}",
            "give contrasts of the same person in the space of the image",
        )
    values = replace(channel, array=channel.array.astype(np.float32))
    seen = resample(values, grid, interpolator="nearest", background=np.nan)
    if np.isnan(seen.array).all():
        raise InputError(
            f"{path}: nothing of it lies where {member.image} is",
            "give contrasts of the same person in the space of the image",
        )


def deliver(built: Built, group: Sequence[Registered], files: TemplateFiles) -> None:
    """Write all but the tables, the template last. Raises OutputError, InputError."""
    make_folder(files.transforms)
    _write_transforms(built, group, files)
    if all(r.member.labels for r in group):
        write_image(files.labels, _voted(built, group))
        write_csv(files.pairs, list(_pairs([r.member for r in group], files)))
    made = zip(files.contrasts, files.variances, built.contrasts, strict=True)
    for template, variance, contrast in reversed(list(made)):
        write_image(variance, contrast.variance)
        write_image(template, contrast.template)


def _write_transforms(built: Built, group: Sequence[Registered], files: TemplateFiles) -> None:
    """The inverses of fields are sampled as `carl invert` does; that of the update once."""
    back = covering(built.update.inverse(), None)
    for registered in group:
        name, found = registered.member.name, registered.transform
        write_transform(files.to_template(name), CompositeTransform((found, built.update)))
        inverse = CompositeTransform((*back, found.inverse()))
        write_transform(files.from_template(name), inverse)


def _voted(built: Built, group: Sequence[Registered]) -> Image:
    """The label that most images have, on the template's grid."""
    carried = [
        resample(labels, built.template.grid, transform, interpolator="genericlabel").array
        for labels, transform in zip(_labels(group), built.maps(group), strict=True)
    ]
    return Image(vote(carried), built.template.grid)


def _labels(group: Iterable[Registered]) -> Iterator[Image]:
    for registered in group:
        assert registered.member.labels is not None, "looked at before"
        yield read_image(registered.member.labels, allow_nan=False)


def _pairs(members: Sequence[Member], files: TemplateFiles) -> Iterator[dict[str, str]]:
    """Relative names of the transforms: the folder may be moved."""
    folder = files.pairs.parent
    for fixed, moving in permutations(members, 2):
        chain = files.from_template(fixed.name), files.to_template(moving.name)
        yield {
            "id": f"{moving.name}_to_{fixed.name}",
            "transform": CHAIN_SEPARATOR.join(os.path.relpath(path, folder) for path in chain),
            "fixed_seg": str(Path(fixed.labels or "").absolute()),
            "moving_seg": str(Path(moving.labels or "").absolute()),
        }


def tell(
    built: Built, group: Sequence[Registered], files: TemplateFiles, figures: Sequence[Figures]
) -> None:
    """Write the table of convergence and the page. Raises OutputError."""
    rows = list(_rows(figures))
    write_csv(files.convergence, rows)
    rounds = [
        planes_of(read_image(path), _told(f"before round {row.round}", k))
        for row in figures
        for k, path in enumerate(files.begun(row.round))
    ]
    made = enumerate(built.contrasts)
    rounds += [planes_of(contrast.template, _told("the template", k)) for k, contrast in made]
    write_template_page(
        files.report, files.template.name, rows, rounds, list(_strips(built, group))
    )


def _rows(figures: Sequence[Figures]) -> Iterator[dict[str, float]]:
    """Lines of the table, rounded so that they read well."""
    for row in figures:
        values = {**vars(row), **row.channels}
        del values["channels"]
        yield {name: round(value, 5) for name, value in values.items()}


def _strips(built: Built, group: Sequence[Registered]) -> Iterator[str]:
    for registered, transform in zip(group, built.maps(group), strict=True):
        member = registered.member
        for k, (path, (template, _)) in enumerate(
            zip(member.contrasts, built.contrasts, strict=True)
        ):
            image = read_image(path, average=True)
            dark = float(image.array.min())
            warped = resample(image, template.grid, transform, background=dark)
            yield strip_of(Shown(_told(member.name, k), image, warped, transform), template)


def _told(what: str, number: int) -> str:
    return f"{what}, channel {number}" if number else what
