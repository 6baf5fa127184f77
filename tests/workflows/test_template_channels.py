"""A template of several contrasts: maps from all of them, each averaged through the same maps."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.cli.app import main
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.images.image import to_sitk
from carl_cli.registration.averaging import sharpened
from carl_cli.workflows.request import CaseOutputs
from carl_cli.workflows.template import Looks, Registered, next_template
from carl_cli.workflows.template_files import TemplateFiles, deliver, tell
from tests.batch.conftest import Study, digests
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)
from tests.conftest import make_grid
from tests.workflows.test_template import (
    BIAS,
    GRID,
    Known,
    biased,
    group_in,
    members_of_the_mean,
    middle,
    value,
)

SCALES = ((0.0, 1000.0), (200.0, 700.0), (-100.0, 1900.0), (50.0, 1250.0))
"""Stored values of the further contrast, of each image, that become 0 and 1."""
LOW, HIGH = np.mean(SCALES, axis=0)


def further(points: np.ndarray) -> np.ndarray:
    """The other contrast in the mean shape, from 0 to 0.64: darker where the first is brightest,
    and of at most 1.6 times its slope."""
    first = value(points) / 1000
    return np.asarray(first * (1.6 - first))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> list[Registered]:
    """Each with a further contrast on a coarser grid and in a scale of its own."""
    folder = tmp_path_factory.mktemp("contrasts")
    found: list[Registered] = []
    parts = zip(group_in(folder), members_of_the_mean(), SCALES, strict=True)
    for number, (plain, to_image, (low, high)) in enumerate(parts):
        assert isinstance(plain, Known)
        grid = make_grid((26, 25, 24), (4.0,) * 3, tuple(to_image(np.ones(3)).tolist()))
        seen = low + (high - low) * further(to_image.inverse()(grid.points_mm()))
        path = folder / f"{number}_further.nii.gz"
        write_image(path, Image(seen.astype(np.float32), grid))
        member = replace(plain.member, channels=(path,))
        found.append(Known(member, CaseOutputs(), plain.known, (low, high)))
    return found


def starts() -> list[Image]:
    dull = further(BIAS(GRID.points_mm()))
    return [biased(), Image((LOW + (HIGH - LOW) * dull).astype(np.float32), GRID)]


def test_a_channel_is_the_mean_of_its_images_through_the_written_transforms(
    group: list[Registered], tmp_path: Path
) -> None:
    """SimpleITK warps each image by its file; the images' scales are brought to the mean one.
    The closed form is met as by the first contrast: 6.6 of 1000, at 1.6 times the slope."""
    built = next_template(1, starts(), group, Looks())
    files = TemplateFiles(tmp_path / "t.nii.gz", 1)
    deliver(built, group, files)
    made = sitk.ReadImage(str(files.contrasts[1]))
    warped = []
    for registered, (low, high) in zip(group, SCALES, strict=True):
        image = sitk.ReadImage(str(registered.member.channels[0]), sitk.sitkFloat64)
        transform = sitk.ReadTransform(str(files.to_template(registered.member.name)))
        seen = sitk.GetArrayFromImage(sitk.Resample(image, made, transform))
        warped.append(LOW + (HIGH - LOW) * (seen - low) / (high - low))
    inside = middle(built.template)
    found = sitk.GetArrayFromImage(made)[inside]
    print("most off:", np.abs(found - np.mean(warped, axis=0)[inside]).max())
    np.testing.assert_allclose(found, np.mean(warped, axis=0)[inside], atol=1e-3)
    spread = read_image(files.variances[1]).array[inside]
    np.testing.assert_allclose(spread, np.var(warped, axis=0)[inside], atol=1)
    wrong = np.abs((found - LOW) / (HIGH - LOW) - further(built.template.grid.points_mm()[inside]))
    assert wrong.mean() < 1.6 * 6.6 / 1000


def test_channels_change_nothing_of_the_first_contrast(group: list[Registered]) -> None:
    """All are sharpened alike, and the table tells of each how sharp it is."""
    looks = Looks(sharpen=0.5)
    both = next_template(1, starts(), group, looks)
    one = next_template(1, starts()[:1], group, looks)
    np.testing.assert_array_equal(both.template.array, one.template.array)
    plain = next_template(1, starts(), group, Looks()).contrasts[1].template
    np.testing.assert_array_equal(both.contrasts[1].template.array, sharpened(plain, 0.5).array)
    told, more = both.figures, both.figures.channels
    assert replace(told, channels={}) == one.figures
    assert set(more) == {"ncc_to_last_channel1", "gradient_energy_channel1"}
    made, last = both.contrasts[1].template, to_sitk(starts()[1])
    seen = sitk.Resample(last, to_sitk(made), defaultPixelValue=float(starts()[1].array.min()))
    correlation = np.corrcoef(made.array.ravel(), sitk.GetArrayFromImage(seen).ravel())[0, 1]
    assert more["ncc_to_last_channel1"] == pytest.approx(correlation, abs=1e-5)


def test_the_page_and_the_table_tell_of_every_contrast(
    group: list[Registered], tmp_path: Path
) -> None:
    built = next_template(1, starts(), group, Looks())
    files = TemplateFiles(tmp_path / "t.nii.gz", 1)
    for path, image in zip(files.begun(1), starts(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)
    tell(built, group, files, [built.figures])
    page = files.report.read_text(encoding="utf-8")
    titles = ("before round 1", "the template", "0", "1", "2", "3")
    for title in titles:
        assert page.count(f"<h2>{title}</h2>") == page.count(f"<h2>{title}, channel 1</h2>") == 1
    assert "gradient energy channel1" in page
    (row,) = csv.DictReader(files.convergence.read_text().splitlines())
    assert float(row["ncc_to_last_channel1"]) == round(
        built.figures.channels["ncc_to_last_channel1"], 5
    )


@pytest.fixture
def persons(study: Study) -> Study:
    """Images t1/a.nii.gz … t1/c.nii.gz and the same in t2, beside a table of them."""
    for kind in ("t1", "t2"):
        (study.folder / kind).mkdir()
        for name in "abc":
            (study.folder / kind / f"{name}.nii.gz").write_bytes(
                (study.folder / f"{name}.nii.gz").read_bytes()
            )
    study.table(
        "image,channel1,channel2",
        *(f"t1/{name}.nii.gz,t2/{name}.nii.gz,t2/{name}.nii.gz" for name in "abc"),
        name="study.csv",
    )
    return Study(study.folder, Path("carl-base"), study.carl)


TABLES = {
    "gap": ("image,channel1,channel2", "t1/a.nii.gz,,t2/a.nii.gz", "t1/b.nii.gz,,"),
    "one": ("image,channel1", "t1/a.nii.gz,t2/a.nii.gz", "t1/b.nii.gz,"),
    "gone": ("image,channel1", "t1/a.nii.gz,t2/a.nii.gz", "t1/b.nii.gz,t2/no.nii.gz"),
}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("gap.csv",), 3, "gap.csv, line 2: channel1 is missing, and a further contrast"),
        (("one.csv",), 3, "channel1 is missing for /t1/b.nii.gz, but given for /t1/a.nii.gz"),
        (("gone.csv",), 3, "gone.csv, line 3: channel1: no such file: /t2/no.nii.gz"),
        (("t1", "--channel", "few"), 3, "/few/b.nii.gz: no such file, the channel of b"),
        (("t1", "--channel", "flat"), 3, "/flat/a.nii.gz: 2 dimensions, /t1/a.nii.gz has 3"),
        (("t1", "--channel", "far"), 3, "/far/a.nii.gz: nothing of it lies where /t1/a.nii.gz is"),
        (("study.csv", "--channel", "t2"), 2, "given by the table and by --channel"),
        (("t1", "--channel", "t2", "--channel-weights", "1,1,1"), 2, "1,1,1 for 2 channels"),
        (("study.csv", "--channel-weights", "2,1"), 2, "2,1 for 3 channels"),
        (("t1", "--channel-weights", "2,1"), 2, "2,1 for 1 channels"),
        (
            ("t1", "--channel", "t2", "--initial", "t1/a.nii.gz"),
            2,
            "--initial: 1 images for 2 contrasts",
        ),
        (("t1", "--channel", "t2", "--io", "--io-scope", "all"), 2, "all takes one contrast"),
        (("t1", "--channel", "t2", "--weights", "U"), 2, "weights identity take one contrast"),
    ],
)
def test_contrasts_that_do_not_fit_start_nothing(
    persons: Study,
    identity_weights: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    folder = persons.folder
    for name, lines in TABLES.items():
        persons.table(*lines, name=f"{name}.csv")
    for kind in ("few", "flat", "far"):
        (folder / kind).mkdir()
    image = read_image(folder / "a.nii.gz")
    write_image(folder / "few" / "a.nii.gz", image)
    for name in "abc":
        away = replace(image, grid=replace(image.grid, origin_mm=(500.0, 0.0, 0.0)))
        write_image(folder / "far" / f"{name}.nii.gz", away)
        slice_ = Image(image.array[0], Grid((16, 15), (4.0, 4.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0)))
        write_image(folder / "flat" / f"{name}.nii.gz", slice_)
    here = {"U": str(identity_weights), **{n: str(folder / n) for n in ("few", "flat", "far")}}
    known = (here.get(w, w if w.startswith("-") else _inside(folder, w)) for w in words)
    found = persons.carl("template", *known, "-o", tmp_path / "T.nii.gz")
    assert found.code == code, found.err
    assert told in found.err.replace(str(folder), "")
    assert "Traceback" not in found.err
    assert not list(tmp_path.glob("T*"))


def _inside(folder: Path, word: str) -> str:
    return str(folder / word) if (folder / word).exists() else word


SIDE, MM = 40, 3.0
PLACES = {"a": (9, 0, 0), "b": (-4, 8, 0), "c": (-5, -8, 4)}
"""Where the inner structure lies in each person, mm."""


def ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    points = make_grid((SIDE,) * 3, (MM,) * 3).points_mm()
    return np.asarray(1 / (1 + np.exp(np.linalg.norm(points - centre, axis=-1) - radius)))


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One body three times: t1 shows organs near its surface, t2 a ball inside alone, which lies
    elsewhere in each; labels are that ball."""
    folder, grid = tmp_path_factory.mktemp("bodies"), make_grid((SIDE,) * 3, (MM,) * 3)
    draw = np.random.default_rng(0)
    body = ball((0, 0, 0), 45)
    organs = sum(ball(c, 8) for c in np.vstack([30 * np.eye(3), -30 * np.eye(3)]))
    for kind in ("t1", "t2", "labels"):
        (folder / kind).mkdir()
    for name, place in PLACES.items():
        inner = ball(place, 14)
        for kind, clean in (("t1", 400 * body + 300 * organs), ("t2", 300 * body + 500 * inner)):
            noisy = (clean + draw.normal(0, 3, clean.shape)).astype(np.float32)
            write_image(folder / kind / f"{name}.nii.gz", Image(noisy, grid))
        write_image(
            folder / "labels" / f"{name}.nii.gz", Image((inner > 0.5).astype(np.uint8), grid)
        )
    return folder


def built(bodies: Path, out: Path, *options: object) -> Path:
    out.mkdir()
    words = ["template", bodies / "t1", "--labels", bodies / "labels", "-o", out / "t.nii.gz"]
    words += ["--rounds", 2, "--threads", 1, "--device", "cpu", *options]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="module")
def of_one(bodies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(bodies, tmp_path_factory.mktemp("one") / "out")


@pytest.mark.slow
def test_what_the_first_contrast_lacks_is_aligned_by_the_second(
    bodies: Path,
    of_one: Path,
    tmp_path: Path,
    carl: Carl,  # noqa: F811
) -> None:
    """The mean Dice of the ball over all pairs, through the template: 0.24, with t2 0.78."""
    both = built(bodies, tmp_path / "both", "--channel", bodies / "t2")
    dice = []
    for out in (of_one, both):
        said = carl("evaluate", out / "t_pairs.csv", "-o", tmp_path / f"{out.name}.csv")
        assert said.code == 0, said.err
        with (tmp_path / f"{out.name}.csv").open(newline="") as stream:
            dice.append(np.mean([float(row["dice"]) for row in csv.DictReader(stream)]))
    print("Dice: {:.3f} by one contrast, {:.3f} by two".format(*dice))
    assert dice[1] > dice[0] + 0.45
    inner = read_image(both / "t_channel1.nii.gz")
    assert inner.array[inner.array.shape[0] // 2].max() > 1.8 * np.median(
        inner.array[inner.array > 250]
    )


@pytest.mark.slow
def test_a_channel_of_weight_0_changes_no_byte(bodies: Path, of_one: Path, tmp_path: Path) -> None:
    weights = ("--channel-weights", "1,0")
    silent = built(bodies, tmp_path / "silent", "--channel", bodies / "t2", *weights)
    same = ("t.nii.gz", "t_variance.nii.gz", "t_labels.nii.gz", "t_transforms/*")
    assert digests(silent, *same) == digests(of_one, *same)
    assert len(digests(of_one, *same)) == 9
