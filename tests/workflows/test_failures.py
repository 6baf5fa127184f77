"""What `carl register` refuses: the exit code, one line and a hint, and nothing on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import OutputError
from carl_cli.io.images import files
from carl_cli.io.transforms.files import write_transform
from carl_cli.registration import register
from carl_cli.report.record import read_record, sha256_of
from carl_cli.transforms import AffineTransform
from carl_cli.workflows import outputs
from tests.cli.conftest import Carl, Outcome
from tests.workflows.conftest import PairFiles


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(outcome: Outcome, code: int, *words: str) -> None:
    """That code, one error line with these words, one hint, nothing on stdout."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    error, hint = outcome.err.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    for word in words:
        assert word in error + hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["no output was asked for", "-o"]),
        (["-o", "t.mat"], ["t.mat", "--affine-only"]),
        (["-o", "t.xyz"], ["t.xyz", ".h5"]),
        (["-w", "w.h5"], ["w.h5", ".nii.gz"]),
        (["--figure", "f.html"], ["f.html", ".png"]),
        (["--report", "r.json"], ["r.json", ".html"]),
        (["--json", "r.html"], ["r.html", ".json"]),
        (["-o", "t.h5", "--field-spacing", "fine"], ["fine", "native"]),
        (["-o", "t.h5", "--field-spacing", "-2"], ["-2", "0.001 to 10000"]),
        (["-w", "same.nii.gz", "-W", "./same.nii.gz"], ["named twice"]),
        (["-o", "t.h5", "--io-steps", 5], ["--io-steps", "--io"]),
        (["-o", "t.mat", "--io", "--affine-only"], ["--affine-only"]),
        (["-o", "t.h5", "--io", "--io-smoothing", 2], ["--io-smoothing", "--io-scope all"]),
        (
            ["-o", "t.h5", "--io", "--io-scope", "field", "--io-lr", 1],
            ["--io-lr", "--io-scope field"],
        ),
        (["-o", "t.h5", "--device", "cuda:99"], ["cuda:99"]),
        (["-o", "t.h5", "--device", "abacus"], ["abacus", "cpu"]),
        (["--match-spread", "c.nii.gz"], ["no map of the match"]),
    ],
)
def test_a_request_that_contradicts_itself(
    carl: Carl,
    here: Path,
    pair: PairFiles,
    smooth_weights: Path,
    options: list[object],
    words: list[str],
) -> None:
    outcome = carl("register", pair.fixed, pair.moving, "--weights", smooth_weights, *options)
    refused(outcome, 2, *words)
    assert list(here.iterdir()) == []


def test_one_side_alone_gives_no_score(
    carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path
) -> None:
    start = ("register", pair.fixed, pair.moving, "--weights", smooth_weights, "-o", "t.h5")
    refused(carl(*start, "--fixed-seg", pair.fixed_seg), 2, "--moving-seg is missing")
    refused(carl(*start, "--moving-seg", pair.moving_seg), 2, "--fixed-seg is missing")
    refused(carl(*start, "--moving-points", pair.moving_points), 2, "--fixed-points is missing")
    assert list(here.iterdir()) == []


def test_images_by_position_or_by_name(
    carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path
) -> None:
    rest = ("--weights", smooth_weights, "-w", "w.mha")
    refused(carl("register", pair.fixed, "-m", pair.moving, *rest), 2, "by position and by")
    refused(carl("register", pair.fixed, *rest), 2, "two images")
    outcomes = [
        carl("register", pair.fixed, pair.moving, *rest),
        carl("register", "--moving", pair.moving, "--fixed", pair.fixed, *rest, "--overwrite"),
        carl("register", "--flo", pair.moving, "--ref", pair.fixed, *rest, "--overwrite"),
    ]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0]
    assert len({outcome.out for outcome in outcomes}) == 1


def test_what_is_not_there(carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path) -> None:
    weights = ("--weights", smooth_weights, "-o", "t.h5")
    absent = here / "absent.nii.gz"
    refused(carl("register", absent, pair.moving, *weights), 3, str(absent))
    refused(carl("register", pair.fixed, absent, *weights), 3, str(absent))
    both = ("register", pair.fixed, pair.moving)
    for option in ("--fixed-mask", "--moving-mask", "-i"):
        refused(carl(*both, *weights, option, absent), 3, str(absent))
    refused(carl(*both, *weights, "--series-uid", "1.2"), 2, "--series-uid", "no image is DICOM")
    segs = ("--fixed-seg", pair.fixed_seg, "--moving-seg", absent)
    refused(carl(*both, *weights, *segs), 3, str(absent))
    refused(carl(*both, "-o", "t.h5", "--weights", here / "none"), 4, "none")
    assert list(here.iterdir()) == []


def test_damaged_weights(carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path) -> None:
    folder = here / "damaged"
    shutil.copytree(smooth_weights, folder)
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    outcome = carl("register", pair.fixed, pair.moving, "--weights", folder, "-o", "t.h5")
    refused(outcome, 4, "damaged", "SHA-256")


def test_images_of_two_and_three_dimensions(
    carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path
) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(30, dtype=np.float32)), "flat.nrrd")
    rest = ("--weights", smooth_weights, "-o", "t.h5")
    refused(carl("register", pair.fixed, "flat.nrrd", *rest), 3, "dimensions")
    refused(carl("register", "flat.nrrd", pair.moving, *rest), 3, "dimensions")
    channels = ("--fixed-channel", "flat.nrrd", "--moving-channel", pair.moving)
    whole = ("register", pair.fixed, pair.moving, "-o", "t.h5", "--dry-run")
    refused(carl(*whole, *channels), 3, "flat.nrrd", "dimensions")


def test_landmarks_that_do_not_match(
    carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path
) -> None:
    rows = pair.moving_points.read_text().splitlines()
    Path("fewer.csv").write_text("\n".join(rows[:-2]) + "\n")
    points = ("--fixed-points", pair.fixed_points, "--moving-points", "fewer.csv")
    rest = ("--weights", smooth_weights, "-o", "t.h5", *points)
    refused(carl("register", pair.fixed, pair.moving, *rest), 3, "12 fixed", "10 moving")
    Path("none.csv").write_text(rows[0] + "\n")
    none = ("--fixed-points", "none.csv", "--moving-points", "none.csv")
    rest = ("--weights", smooth_weights, "-o", "t.h5", *none)
    refused(carl("register", pair.fixed, pair.moving, *rest), 3, "none.csv: no landmark")


def test_nothing_is_replaced_unasked(
    carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path
) -> None:
    call = ("register", pair.fixed, pair.moving, "--weights", smooth_weights, "-o", "t.h5")
    Path("t.h5").write_text("precious")
    refused(carl(*call, "-w", "w.mha"), 7, "t.h5", "--overwrite")
    assert Path("t.h5").read_text() == "precious"
    assert not Path("w.mha").exists()
    assert carl(*call, "--overwrite").code == 0
    assert sitk.ReadTransform("t.h5").GetDimension() == 3
    copy = here / "moving.nii.gz"
    shutil.copy(pair.moving, copy)
    rest = ("--weights", smooth_weights, "-w", "./moving.nii.gz", "--overwrite")
    refused(carl("register", pair.fixed, copy, *rest), 2, "named twice")
    assert copy.read_bytes() == pair.moving.read_bytes()


def test_a_missing_folder_is_named_before_the_work(
    carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path
) -> None:
    rest = ("--weights", smooth_weights, "-o", "no/t.h5")
    refused(carl("register", pair.fixed, pair.moving, *rest), 7, "mkdir -p no")


def test_a_dry_run_checks_and_writes_nothing(
    carl: Carl, here: Path, pair: PairFiles, smooth_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the network ran")

    rest = ("--weights", smooth_weights, "-o", "t.h5", "--dry-run")
    with monkeypatch.context() as patch:
        patch.setattr(register, "_physical", forbidden)
        outcome = carl("register", pair.fixed, pair.moving, *rest)
    assert (outcome.code, outcome.out) == (0, "")
    assert "nothing was computed" in outcome.err
    weighed = carl("register", pair.fixed, pair.moving, *rest, "--channel-weights", "2,1")
    refused(weighed, 2, "--channel-weights 2,1 for 1 channels")
    write_transform(here / "flat.tfm", AffineTransform(np.diag([1.0, 1.0, 0.0]), np.zeros(3)))
    flat = carl("register", pair.fixed, pair.moving, *rest, "-i", here / "flat.tfm")
    refused(flat, 3, "singular")
    black = sitk.ReadImage(str(pair.fixed_seg)) * 0
    sitk.WriteImage(black, str(here / "black.nii.gz"))
    segs = ("--fixed-seg", here / "black.nii.gz", "--moving-seg", pair.moving_seg)
    guided = ("--guide-labels", 1, "--io", "--io-scope", "field")
    refused(carl("register", pair.fixed, pair.moving, *rest, *segs, *guided), 3, "share no label")
    (here / "black.nii.gz").unlink()
    (here / "flat.tfm").unlink()
    refused(carl("register", pair.fixed, here / "absent.nii", *rest), 3, "absent.nii")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [(OutputError("disk full", "free space"), 7), (MemoryError(), 5), (KeyboardInterrupt(), 130)],
)
def test_a_run_that_ends_early_leaves_whole_files_only(
    carl: Carl,
    here: Path,
    pair: PairFiles,
    smooth_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
) -> None:
    """The forward transform was written before the failure; the image has no half file."""

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(outputs, "write_image", fail)
    rest = ("--weights", smooth_weights, "-o", "t.h5", "-w", "w.mha", "--json", "r.json")
    outcome = carl("register", pair.fixed, pair.moving, *rest)
    assert outcome.code == code
    assert outcome.out == ""
    assert [path.name for path in here.iterdir()] == ["t.h5"]
    sitk.ReadTransform("t.h5")


def test_the_record_has_the_hash_of_what_was_read(
    carl: Carl,
    here: Path,
    pair: PairFiles,
    smooth_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Issue 19: an input that changed during the run got the new hash; one that was deleted
    ended the run with an output left behind."""
    moving = shutil.copy(pair.moving, here / "moving.nii.gz")
    before = sha256_of(moving)

    def late(fixed: object, *rest: object) -> object:
        moving.write_bytes(b"other") if fails else moving.unlink()
        return register.register(fixed, *rest)

    monkeypatch.setattr("carl_cli.workflows.register.register", late)
    for fails in (True, False):
        name = f"{fails}.json"
        call = ("register", pair.fixed, moving, "--weights", smooth_weights, "--json", name)
        outcome = carl(*call)
        assert outcome.code == 0, outcome.err
        assert read_record(here / name).inputs["moving"].sha256 == before
        shutil.copy(pair.moving, moving)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"other"), Path.unlink])
def test_an_input_that_changes_while_it_is_read_is_refused(
    carl: Carl,
    here: Path,
    pair: PairFiles,
    smooth_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
) -> None:
    moving = shutil.copy(pair.moving, here / "moving.nii.gz")

    def changed(path: Path, **more: object) -> object:
        images = files.read_contrasts(path, **more)
        if path == moving:
            change(moving)
        return images

    monkeypatch.setattr("carl_cli.workflows.register.read_contrasts", changed)
    call = ("register", pair.fixed, moving, "--weights", smooth_weights, "-o", "t.h5")
    refused(carl(*call), 3, str(moving), "while it was read")
    assert not (here / "t.h5").exists()
