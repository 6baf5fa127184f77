"""Cases that fail stay alone; exit codes; what is skipped and what is done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from .conftest import Study, digests, rows, states

TRANSFORM = "from-b_to-a_mode-image_xfm"


def status(out: Path) -> Path:
    return out / "shards" / "1-of-1" / "status.csv"


def redone(err: str) -> set[str]:
    """Names of the cases that were computed, by the log."""
    return {line.split(":")[0] for line in err.splitlines() if line.endswith(": started")}


def test_bad_lines_stop_the_batch_before_it_starts(study: Study) -> None:
    table = study.table("fixed,moving", "a.nii.gz,b.nii.gz", "gone.nii,b.nii.gz", "a.nii.gz,")
    out = study.folder / "out"
    outcome = study.batch(table, out)
    assert outcome.code == 3
    told = outcome.err.splitlines()
    assert told[:2] == [
        f"error: line 3: fixed: no such file: {study.folder / 'gone.nii'}",
        "error: line 4: moving: the cell is empty",
    ]
    assert told[2].startswith("error: 2 of 3 pairs can't be used; nothing was started")
    assert not out.exists()


def test_one_bad_case_never_stops_the_others(study: Study) -> None:
    """Bad lines with --keep-going, and files that turn out to be unusable when read."""
    folder = study.folder
    (folder / "text.nii.gz").write_text("not an image")
    (folder / "cut.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:900])
    (folder / "start.h5").write_text("not a transform")
    flat = sitk.GetImageFromArray(np.zeros((16, 16), np.float32))
    sitk.WriteImage(flat, folder / "flat.nii.gz")
    table = study.table(
        "id,fixed,moving,initial_transform",
        "text,a.nii.gz,text.nii.gz,",
        "ab,a.nii.gz,b.nii.gz,",
        "gone,a.nii.gz,gone.nii.gz,",
        "cut,cut.nii.gz,b.nii.gz,",
        "flat,flat.nii.gz,flat.nii.gz,",
        "start,a.nii.gz,b.nii.gz,start.h5",
        "bc,b.nii.gz,c.nii.gz,",
    )
    out = folder / "out"
    outcome = study.batch(table, out, "--keep-going", "--no-warped")
    assert outcome.code == 6
    assert outcome.out == "done 2\nfailed 5\n"
    found = rows(out / "summary.csv")
    failed = {name for name, row in found.items() if row["state"] == "failed"}
    assert failed == {"text", "(line 4)", "cut", "flat", "start"}
    reasons = {name: found[name]["error"] for name in failed}
    assert len(set(reasons.values())) == 5
    assert "text.nii.gz" in reasons["text"]
    assert "cut.nii.gz" in reasons["cut"]
    assert "2 dimensions" in reasons["flat"]
    assert not any("Error:" in reason for reason in reasons.values())
    assert len(list(out.glob("*/*.h5"))) == 2
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "7 cases, 5 failed" in page


def test_results_are_those_of_register(study: Study) -> None:
    """The same transform and image, point for point and voxel for voxel."""
    table, out = study.pairs(1), study.folder / "out"
    assert study.batch(table, out, "--inverse", "--seed", 3).code == 0
    single = study.folder / "single.h5", study.folder / "single.nii.gz"
    pair = [study.folder / f"{name}.nii.gz" for name in "ab"]
    weights = ("--weights", study.weights, "--device", "cpu", "--threads", 1)
    assert study.carl("register", *pair, "-o", single[0], "-w", single[1], *weights).code == 0
    ours, theirs = (sitk.ReadTransform(p) for p in (out / "ab" / f"{TRANSFORM}.h5", single[0]))
    for point in np.random.default_rng(0).uniform(-30, 30, (20, 3)):
        assert ours.TransformPoint(point) == theirs.TransformPoint(point)
    images = [sitk.ReadImage(p) for p in (out / "ab" / "b_space-a_warped.nii.gz", single[1])]
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, images))
    record = json.loads((out / "ab" / f"{TRANSFORM}.json").read_text())
    assert set(record["outputs"]) == {"forward", "inverse", "warped"}


def test_results_in_the_way(study: Study) -> None:
    table, out = study.pairs(1), study.folder / "out"
    assert study.batch(table, out).code == 0
    before = digests(out, "**/*.*")
    refused = study.batch(table, out)
    assert refused.code == 7
    assert "--resume" in refused.err
    assert digests(out, "**/*.*") == before
    assert redone(study.batch(table, out, "--overwrite").err) == {"ab"}
    assert study.batch(table, out, "--overwrite", "--resume").code == 2


def test_what_is_done_again_is_decided_by_content(study: Study) -> None:
    table, out = study.pairs(3), study.folder / "out"
    assert redone(study.batch(table, out).err) == {"ab", "bc", "cd"}
    (study.folder / "a.nii.gz").touch()
    assert redone(study.batch(table, out, "--resume").err) == set()
    shutil.copy(study.folder / "a.nii.gz", study.folder / "d.nii.gz")
    assert redone(study.batch(table, out, "--resume").err) == {"cd"}
    (out / "ab" / "b_space-a_warped.nii.gz").unlink()
    with (out / "bc" / "from-c_to-b_mode-image_xfm.h5").open("ab") as stream:
        stream.write(b"x")
    assert redone(study.batch(table, out, "--resume").err) == {"ab", "bc"}
    moved = out.rename(study.folder / "moved")
    assert redone(study.batch(table, moved, "--resume").err) == set()
    other = study.batch(table, moved, "--resume", "--no-warped", "--modality", "mr")
    assert redone(other.err) == {"ab", "bc", "cd"}
    assert set(states(status(moved)).values()) == {"done"}


def test_failed_cases_are_tried_again_when_asked_or_when_their_files_change(study: Study) -> None:
    broken = study.folder / "broken.nii.gz"
    broken.write_text("not an image")
    table = study.table("id,fixed,moving", "ab,a.nii.gz,b.nii.gz", "ax,a.nii.gz,broken.nii.gz")
    out = study.folder / "out"
    assert study.batch(table, out).code == 6
    again = study.batch(table, out, "--resume")
    assert (again.code, redone(again.err)) == (6, set())
    assert "ax: failed before: " in again.err
    assert redone(study.batch(table, out, "--retry-failed").err) == {"ax"}
    shutil.copy(study.folder / "b.nii.gz", broken)
    mended = study.batch(table, out, "--resume")
    assert (mended.code, redone(mended.err)) == (0, {"ax"})
    assert states(status(out)) == {"ab": "done", "ax": "done"}


def test_a_dry_run_checks_and_writes_nothing(study: Study) -> None:
    (study.folder / "broken.nii.gz").write_text("not an image")
    table = study.table("id,fixed,moving", "ab,a.nii.gz,b.nii.gz", "ax,a.nii.gz,broken.nii.gz")
    out = study.folder / "out"
    outcome = study.batch(table, out, "--dry-run")
    assert outcome.code == 6
    assert "ab: can be registered" in outcome.err
    assert "1 of 2 cases can't be registered" in outcome.err
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--shard", "3/2"),
        ("--workers", 0),
        ("--fixed-dir", "x"),
        ("--field-spacing", "fine"),
        ("--io-steps", 3),
    ],
)
def test_usage_errors(study: Study, options: tuple[object, ...]) -> None:
    assert study.batch(study.pairs(1), study.folder / "out", *options).code == 2
    assert not (study.folder / "out").exists()
