"""A template from images with known maps, and `carl template` from arguments to files."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from carl_cli.batch.workers import _Worker
from carl_cli.errors import InputError
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.transforms.files import read_transform
from carl_cli.report.record import read_record
from carl_cli.transforms import AffineTransform, Deformation, Transform, dense
from carl_cli.transforms.means import mean_displacement
from carl_cli.workflows.request import CaseOutputs
from carl_cli.workflows.template import (
    Built,
    Looks,
    Member,
    Registered,
    nearest_to_mean,
    next_template,
)
from carl_cli.workflows.template_files import TemplateFiles, deliver
from tests.batch.conftest import Study, digests
from tests.batch.test_killed import EACH_PROCESS, RUN, with_site
from tests.cli.conftest import Carl, Outcome, carl  # noqa: F401 (a fixture)
from tests.conftest import make_grid, rotation, smooth_value
from tests.fields import field_on, waves

GRID = make_grid((24, 23, 22), (3.0, 3.0, 3.0))
BIAS = AffineTransform(1.1 * rotation((4, -3, 5)), np.array([5.0, -3.0, 4.0]))
WINDOW = (100.0, 900.0)


@dataclass(frozen=True)
class Known(Registered):
    """What a round would have left, without a network and files of its transforms."""

    known: Transform | None = None
    window: tuple[float, float] = WINDOW  # of the further contrast

    @property
    def transform(self) -> Transform:
        assert self.known is not None
        return self.known

    @property
    def record(self) -> Any:
        moving = SimpleNamespace(modality="mr", intensity_window=WINDOW, path="")
        other = SimpleNamespace(modality="mr", intensity_window=self.window, path="")
        similarity = SimpleNamespace(lncc=0.5)
        metrics = SimpleNamespace(similarity_after=similarity)
        inputs = {"moving": moving, "moving_channel_1": other}
        return SimpleNamespace(inputs=inputs, metrics=metrics)


def value(points: np.ndarray) -> np.ndarray:
    """A smooth body with a closed-form pattern in the mean shape, 0 around it."""
    radius = np.linalg.norm(points / (26, 24, 22), axis=-1)
    return smooth_value(points) / (1 + np.exp(12 * (radius - 1)))


def members_of_the_mean() -> list[Deformation]:
    """Maps of the mean shape to four images: each with its opposite, so that their mean
    displacement is 0. Turns of 4 degrees and 3 % of size have a log-Euclidean mean of the second
    order, 0.06 mm at 25 mm."""
    slope = 1.03 * rotation((2, 1, -3)) - np.eye(3)
    wide = make_grid((36, 36, 36), (5.0, 5.0, 5.0))

    def moved(sign: float, points: np.ndarray) -> np.ndarray:
        return sign * (points @ slope.T + 0.7 * waves(points))

    def shifted(sign: float, points: np.ndarray) -> np.ndarray:
        return sign * (np.array([-20.0, 11.0, 3.0]) - 0.9 * waves(points))

    both = [partial(kind, sign) for kind in (moved, shifted) for sign in (1, -1)]
    return [field_on(wide, displacement) for displacement in both]


def group_in(folder: Path) -> list[Registered]:
    """Images of 96 mm a side in their own spaces, labels, and their maps from a biased template."""
    found = []
    for number, to_image in enumerate(members_of_the_mean()):
        grid = make_grid((32, 32, 32), (3.0, 3.0, 3.0), tuple(to_image(np.zeros(3)).tolist()))
        points = to_image.inverse()(grid.points_mm())
        image, labels = folder / f"{number}.nii.gz", folder / f"{number}_labels.nii.gz"
        write_image(image, Image(value(points).astype(np.float32), grid))
        inside = np.linalg.norm(points - (6, 0, -4), axis=-1) < 18
        write_image(labels, Image(inside.astype(np.uint8), grid))
        member = Member(str(number), image, labels)
        found.append(Known(member, CaseOutputs(), dense(to_image @ BIAS, GRID)))
    return found


def biased() -> Image:
    return Image(value(BIAS(GRID.points_mm())).astype(np.float32), GRID)


def middle(image: Image, most: float = 20.0) -> np.ndarray:
    return np.linalg.norm(image.grid.points_mm(), axis=-1) < most


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> list[Registered]:
    return group_in(tmp_path_factory.mktemp("group"))


@pytest.fixture(scope="module")
def built(group: list[Registered]) -> Built:
    return next_template(1, [biased()], group, Looks())


def test_the_bias_is_taken_out(group: list[Registered], built: Built) -> None:
    """A template turned, moved and a tenth too small becomes the mean shape: its voxels are those
    of the closed form there. 0.3 mm along the pattern's slope of at most 22 a mm are 6.6."""
    made, figures = built.template, built.figures
    assert 5 < figures.mean_displacement_mm < 12
    assert figures.left_displacement_mm < 0.3
    inside = middle(made)
    wrong = np.abs(made.array - value(made.grid.points_mm()))[inside]
    assert wrong.mean() < 6.6
    before = np.abs(biased().array - value(GRID.points_mm()))[middle(biased())]
    assert before.mean() > 10 * wrong.mean()
    mean = mean_displacement(built.maps(group), made.grid).displacement_mm[inside]
    assert np.linalg.norm(mean, axis=1).mean() < 0.3


def test_a_second_round_changes_nothing(group: list[Registered], built: Built) -> None:
    """Maps from the unbiased template have no mean, and the grid stays where it is."""
    again = [
        Known(registered.member, CaseOutputs(), dense(transform, built.template.grid))
        for registered, transform in zip(group, built.maps(group), strict=True)
    ]
    second = next_template(2, [built.template], again, Looks())
    assert second.figures.mean_displacement_mm < 0.3
    assert second.figures.ncc_to_last > 0.998
    np.testing.assert_allclose(
        second.template.grid.origin_mm, built.template.grid.origin_mm, atol=0.3
    )


@pytest.fixture(scope="module")
def files(
    group: list[Registered], built: Built, tmp_path_factory: pytest.TempPathFactory
) -> TemplateFiles:
    found = TemplateFiles(tmp_path_factory.mktemp("delivered") / "t.nii.gz")
    deliver(built, group, found)
    return found


def test_what_is_delivered_belongs_together(
    group: list[Registered], built: Built, files: TemplateFiles
) -> None:
    """The transforms bring each image onto the written template and back; the labels that were
    voted are the ball that every image shows; so does `carl evaluate` score the pairs."""
    points = built.template.grid.points_mm()[middle(built.template)][::7]
    for registered, to_image in zip(group, members_of_the_mean(), strict=True):
        name = registered.member.name
        there: Transform = read_transform(files.to_template(name))
        back: Transform = read_transform(files.from_template(name))
        assert np.linalg.norm(there(points) - to_image(points), axis=1).mean() < 0.3
        assert np.linalg.norm(back(there(points)) - points, axis=1).mean() < 0.05
    voted = read_image(files.labels)
    ball = np.linalg.norm(voted.grid.points_mm() - (6, 0, -4), axis=-1) < 18
    both = 2 * np.sum(ball & (voted.array == 1)) / (ball.sum() + voted.array.sum())
    assert voted.array.dtype == np.uint8
    assert both > 0.95


@pytest.mark.slow
def test_labels_are_scored_through_the_template(files: TemplateFiles, carl: Carl) -> None:  # noqa: F811
    told = carl("evaluate", files.pairs, "--format", "csv")
    assert told.code == 0, told.err
    lines = list(csv.DictReader(told.out.splitlines()))
    assert [line["id"] for line in lines][:3] == ["1_to_0", "2_to_0", "3_to_0"]
    assert len(lines) == 12
    assert min(float(line["dice"]) for line in lines) > 0.9


def test_outside_an_image_and_its_mask_nothing_counts(tmp_path: Path) -> None:
    """One image shows a half, another is masked to the other half: each half is the other's."""
    grid = make_grid((20, 20, 20), (2.0, 2.0, 2.0))
    half = make_grid((10, 20, 20), (2.0, 2.0, 2.0), (-10.0, 0.0, 0.0))
    low, high = np.full(half.shape_zyx, 200.0), np.full(grid.shape_zyx, 600.0)
    mask = (grid.points_mm()[..., 0] > 0).astype(np.uint8)
    write_image(tmp_path / "low.nii.gz", Image(low.astype(np.float32), half))
    write_image(tmp_path / "high.nii.gz", Image(high.astype(np.float32), grid))
    write_image(tmp_path / "mask.nii.gz", Image(mask, grid))
    masked = Member("high", tmp_path / "high.nii.gz", mask=tmp_path / "mask.nii.gz")
    group = [
        Known(member, CaseOutputs(), AffineTransform(np.eye(3), np.zeros(3)))
        for member in (Member("low", tmp_path / "low.nii.gz"), masked)
    ]
    start = Image(smooth_value(grid.points_mm()).astype(np.float32), grid)
    made = next_template(1, [start], group, Looks()).template.array
    np.testing.assert_allclose(made[:, :, :9], 200, atol=1e-2)
    np.testing.assert_allclose(made[:, :, 11:], 600, atol=1e-2)


def test_the_nearest_to_the_mean_is_the_middle_one(tmp_path: Path) -> None:
    """Of bodies of 0.8, 1 and 1.3 times the size, in any pose."""
    members = []
    for number, size in enumerate((1.3, 1.0, 0.8)):
        centre = np.array([30.0 * number, -10, 5])
        turn = rotation((20 * number, 0, 10))
        grid = make_grid((40, 40, 40), (2.0, 2.0, 2.0), tuple(centre.tolist()))
        points = (grid.points_mm() - centre) @ turn / size
        path = tmp_path / f"{number}.nii.gz"
        write_image(path, Image(value(points).astype(np.float32), grid))
        members.append(Member(str(number), path))
    assert nearest_to_mean(members).name == "1"


def test_images_of_two_kinds_are_refused(
    group: list[Registered], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = iter(["mr", "ct"] * 8)
    real = Known.record.fget
    assert real is not None

    def mixed(registered: Known) -> Any:
        record = real(registered)
        record.inputs["moving"].modality = next(kinds)
        return record

    monkeypatch.setattr(Known, "record", property(mixed))
    with pytest.raises(InputError, match="different kinds"):
        next_template(1, [biased()], group, Looks())


def template(study: Study, out: Path, *options: object) -> Outcome:
    return study.carl("template", *words(study, out, *options))


def words(study: Study, out: Path, *options: object) -> list[str]:
    common = ("--weights", study.weights, "--device", "cpu", "--threads", 1)
    common += () if "--rounds" in options else ("--rounds", 2)
    return [
        str(word) for word in (study.folder, "--pattern", "[abc].nii.gz", "-o", out, *common)
    ] + [str(option) for option in options]


FILES = ("[!.]*.nii.gz", "*.csv", "*_transforms/*", "*_work/*/[!.]*.nii.gz", "*_work/*/*/*.h5")


@pytest.fixture
def quiet_study(study: Study, identity_weights: Path) -> Study:
    """Weights whose maps are the identity: rounds are quick and sane."""
    return Study(study.folder, identity_weights, study.carl)


def of_two_contrasts(study: Study) -> tuple[Study, tuple[object, ...]]:
    """Weights that take several contrasts, and the options that name a second one."""
    folder = study.folder / "further"
    folder.mkdir()
    for name in "abc":
        image = read_image(study.folder / f"{name}.nii.gz")
        write_image(folder / f"{name}.nii.gz", replace(image, array=1000 - image.array))
    return replace(study, weights=Path("carl-base")), ("--channel", folder)


def bytes_of(out: Path, contrasts: int = 1) -> dict[str, str]:
    """Of a table, 6 transforms, and in each round 3; of each contrast 2 images, and 1 a round."""
    found = digests(out.parent, *FILES)
    assert len(found) == 13 + 4 * contrasts
    return found


MOMENTS = {
    1: ("xfm.h5", "xfm.json", "to-b_mode-image_xfm.h5", "variance.nii.gz", "t.nii.gz"),
    2: ("template_channel1.nii.gz", "xfm.json", "channel1_variance.nii.gz", "t_channel1.nii.gz"),
}
"""Number of contrasts → files before which a run is killed."""


@pytest.mark.slow
@pytest.mark.parametrize("contrasts", MOMENTS)
def test_killed_at_any_file_it_goes_on_to_the_same_bytes(
    quiet_study: Study, tmp_path: Path, contrasts: int
) -> None:
    """With -9: in a round before a transform and its record, then among the outputs."""
    study, more = (quiet_study, ()) if contrasts == 1 else of_two_contrasts(quiet_study)
    calm, out = tmp_path / "calm" / "t.nii.gz", tmp_path / "out" / "t.nii.gz"
    calm.parent.mkdir()
    out.parent.mkdir()
    assert template(study, calm, *more).code == 0
    for moment in MOMENTS[contrasts]:
        line = [sys.executable, "-c", RUN, "template", *words(study, out, "--resume", *more)]
        environment = with_site(study.folder, EACH_PROCESS, MOMENT=moment)
        killed = subprocess.run(line, capture_output=True, env=environment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert template(study, out, "--resume", *more).code == 0
    assert bytes_of(out, contrasts) == bytes_of(calm, contrasts)


@pytest.mark.slow
def test_one_worker_serves_all_rounds_and_reads_nothing_for_trial(
    quiet_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, start = [], _Worker._start

    def counted(worker: _Worker) -> None:
        begun.append(worker)
        start(worker)

    monkeypatch.setattr(_Worker, "_start", counted)
    monkeypatch.setattr("carl_cli.io.transforms.files.try_out", None)
    told = template(quiet_study, tmp_path / "t.nii.gz")
    assert told.code == 0, told.err
    assert len(begun) == 1


@pytest.mark.slow
def test_all_rounds_but_the_last_are_rough(quiet_study: Study, tmp_path: Path) -> None:
    """Identity maps settle at once: of at most four rounds the third is the last, as told."""
    told = template(quiet_study, tmp_path / "t.nii.gz", "--rounds", 4, "--tolerance", 100)
    assert told.code == 0, told.err
    records = sorted(tmp_path.glob("t_work/*/a/*.json"))
    rough = [read_record(path).options.get("rough", False) for path in records]
    assert rough == [True, True, False]
    first = [read_record(path) for path in tmp_path.glob("t_work/round-01/*/*.json")]
    assert len(first) == 3  # one of them is of the image that the template begins with
    assert not [text for record in first for text in record.warnings if "same image" in text]


@pytest.mark.slow
def test_what_is_there_already_is_not_lost(quiet_study: Study, tmp_path: Path) -> None:
    out = tmp_path / "t.nii.gz"
    assert template(quiet_study, out, "--rounds", 1).code == 0
    first = digests(tmp_path, *FILES)
    told = template(quiet_study, out)
    assert (told.code, "t_work exists already" in told.err, "--resume" in told.err) == (7, 1, 1)
    assert template(quiet_study, out, "--rounds", 1, "--overwrite").code == 0
    assert digests(tmp_path, *FILES) == first


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("id,picture", "a,a.nii.gz"), "line 1: no column 'image'"),
        (("image", "a.nii.gz", "gone.nii.gz"), "line 3: image: no such file"),
        (("image,Image", "a.nii.gz,b.nii.gz"), "line 1: column 'image' occurs twice"),
        (("id,image", "x,a.nii.gz", "x,b.nii.gz"), "image 2: line 1 is called 'x' too"),
        (("id,image", "../x,a.nii.gz", "y,b.nii.gz"), "can't name a folder"),
        (("image", "a.nii.gz"), "a template of one image is that image"),
        (("image,labels", "a.nii.gz,", "b.nii.gz,a.nii.gz"), "no labels for /a.nii.gz"),
        (("image,labels", "a.nii.gz", "b.nii.gz"), "line 2: 1 cells, the header has 2"),
    ],
)
def test_a_table_that_is_none_starts_nothing(
    quiet_study: Study, tmp_path: Path, lines: tuple[str, ...], told: str
) -> None:
    table = quiet_study.table(*lines, name="images.csv")
    out = tmp_path / "t.nii.gz"
    found = quiet_study.carl("template", table, "-o", out, "--weights", quiet_study.weights)
    assert found.code in (2, 3)
    assert told in found.err.replace(str(quiet_study.folder), "")
    assert not list(tmp_path.glob("t*"))


def test_labels_that_are_missing_start_nothing(quiet_study: Study, tmp_path: Path) -> None:
    out = tmp_path / "t.nii.gz"
    found = template(quiet_study, out, "--labels", quiet_study.folder / "a.nii.gz")
    assert (found.code, "1 files of labels for 3 images" in found.err) == (3, True)
    found = template(quiet_study, out, "--labels", tmp_path)
    assert (found.code, "no such file of labels" in found.err) == (3, True)
    assert not list(tmp_path.glob("t*"))
