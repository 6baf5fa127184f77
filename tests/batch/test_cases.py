"""Cases that fail stay alone; exit codes; what is skipped and what is done again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.batch.job import Job, fingerprint
from carl_cli.registration.register import RegistrationOptions
from carl_cli.weights.folder import load_weights, save_weights
from carl_cli.workflows.request import CaseInputs, CaseOutputs, RunSettings
from tests.batch.conftest import Study, digests, rows, states

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


def bad_files(folder: Path) -> None:
    """Files that are there, and turn out to be unusable when they are read."""
    good = sitk.ReadImage(folder / "a.nii.gz")
    (folder / "text.nii.gz").write_text("not an image")
    (folder / "cut.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:900])
    (folder / "start.h5").write_text("not a transform")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((16, 16), np.float32)), folder / "2d.nii.gz")
    sitk.WriteImage(good * 0 + 7, folder / "flat.nii.gz")
    sitk.WriteImage(good * np.nan, folder / "nan.nii.gz")
    sitk.WriteImage(sitk.Cast(good * 0, sitk.sitkUInt8), folder / "nothing.nii.gz")
    sitk.WriteImage(sitk.Compose(good, good, good), folder / "colour.nii.gz")
    (folder / "two.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    (folder / "one.csv").write_text("x,y,z\n1,2,3\n")


HEADER = (
    "id,fixed,moving,fixed_mask,initial_transform,fixed_points,moving_points,fixed_modality,init"
)
BAD_LINES = {
    "gone,a.nii.gz,gone.nii.gz,,,,,,": "no such file",
    "empty,,b.nii.gz,,,,,,": "the cell is empty",
    "few,a.nii.gz,b.nii.gz": "3 cells, the header has 9",
    "ab,a.nii.gz,b.nii.gz,,,,,,": "is called 'ab' too",
    "a/b,a.nii.gz,b.nii.gz,,,,,,": "can't name a folder",
    "pet,a.nii.gz,b.nii.gz,,,,,pet,": "choose auto, ct or mr",
    "side,a.nii.gz,b.nii.gz,,,one.csv,,,": "moving_points is not",
    "both,a.nii.gz,b.nii.gz,,start.h5,,,,rigid": "--init were both given",
    "text,a.nii.gz,text.nii.gz,,,,,,": "text.nii.gz",
    "cut,cut.nii.gz,b.nii.gz,,,,,,": "cut.nii.gz",
    "start,a.nii.gz,b.nii.gz,,start.h5,,,,": "start.h5",
    "flat,a.nii.gz,flat.nii.gz,,,,,,": "flat.nii.gz",
    "nan,nan.nii.gz,b.nii.gz,,,,,,": "NaN",
    "two,2d.nii.gz,2d.nii.gz,,,,,,": "2 dimensions",
    "colour,a.nii.gz,colour.nii.gz,,,,,,": "3 components",
    "mask,a.nii.gz,b.nii.gz,nothing.nii.gz,,,,,": "nothing.nii.gz",
    "points,a.nii.gz,b.nii.gz,,,one.csv,two.csv,,": "1 fixed landmarks meet 2 moving ones",
}
SEEN_IN_THE_TABLE = 8


def test_bad_rows_of_every_kind_fail_alone(study: Study) -> None:
    """The first are seen in the table, the others when they are read; all have their own line."""
    bad_files(study.folder)
    good = ("ab,a.nii.gz,b.nii.gz,,,,,,", "bc,b.nii.gz,c.nii.gz,,,,,,")
    table, out = study.table(HEADER, good[0], *BAD_LINES, good[1]), study.folder / "out"
    refused = study.batch(table, out)
    assert (refused.code, out.exists()) == (3, False)
    assert f"{SEEN_IN_THE_TABLE} of {len(BAD_LINES) + 2} pairs can't be used" in refused.err
    outcome = study.batch(table, out, "--keep-going", "--no-warped")
    assert outcome.code == 6
    assert outcome.out == f"done 2\nfailed {len(BAD_LINES)}\n"
    found = rows(out / "summary.csv")
    assert [name for name, row in found.items() if row["state"] == "done"] == ["ab", "bc"]
    reasons = [row["error"] for row in found.values() if row["state"] == "failed"]
    for reason, words in zip(reasons, BAD_LINES.values(), strict=True):
        assert words in reason
        assert "Error:" not in reason
        assert "\n" not in reason
        assert f": {reason}\n" in outcome.err
    assert len(set(reasons)) == len(BAD_LINES)
    assert len(list(out.glob("*/*.h5"))) == 2
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"{len(BAD_LINES) + 2} cases, {len(BAD_LINES)} failed" in page
    assert "Each picture" not in page  # there are none without --thumbnails


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


def test_other_weights_seed_or_writing_make_a_case_new(study: Study) -> None:
    """Each is noticed by itself, and what it wrote is found done the next time."""
    table, out = study.pairs(1), study.folder / "out"
    assert redone(study.batch(table, out).err) == {"ab"}
    other, weights = study.folder / "other", load_weights(study.weights)
    for value in weights.network.parameters():
        value.data += 1e-3
    save_weights(other, weights.network, weights.config, "Nearly the same.")
    changes: tuple[tuple[object, ...], ...] = (
        ("--seed", 5),
        ("--field-spacing", "20"),
        ("--precision", "double"),
        ("--weights", other),
    )
    for options in changes:
        outcome = study.batch(table, out, "--resume", *options)
        assert redone(outcome.err) == {"ab"}, outcome.err
        assert redone(study.batch(table, out, "--resume", *options).err) == set(), options


def test_the_fingerprint_is_of_all_that_a_result_depends_on(study: Study) -> None:
    weights = load_weights(study.weights)
    a, b, c = (study.folder / f"{name}.nii.gz" for name in "abc")
    outputs = CaseOutputs(forward=study.folder / "t.h5", json=study.folder / "r.json")
    job = Job("ab", 2, CaseInputs(a, b), outputs, RegistrationOptions(), RunSettings())
    key = fingerprint(job, weights)
    inputs = {"moving": c, "fixed_mask": c, "moving_mask": c, "time_index": 0, "series_uid": "1.2"}
    inputs |= {"initial_transform": [f"{c},-1"], "strict": True}
    settings = {"seed": 1, "field_spacing": "network", "precision": "double"}
    others = [replace(job, inputs=replace(job.inputs, **{k: v})) for k, v in inputs.items()]
    others += [replace(job, settings=replace(job.settings, **{k: v})) for k, v in settings.items()]
    others += [replace(job, options=RegistrationOptions(modality="mr"))]
    others += [replace(job, outputs=replace(outputs, inverse=study.folder / "i.h5"))]
    keys = [fingerprint(other, weights) for other in others]
    renamed = weights.config.model_copy(update={"name": "other"})
    keys += [
        fingerprint(job, replace(weights, **change))
        for change in ({"sha256": "0"}, {"config": renamed})
    ]
    assert len({key, *keys}) == len(keys) + 1
    elsewhere = CaseOutputs(forward=Path("t.h5"), json=Path("r.json"))
    moved = replace(job, outputs=elsewhere, settings=replace(job.settings, device="cuda"))
    assert fingerprint(moved, weights) == key


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
    lines = "ab,a.nii.gz,b.nii.gz", "aa,a.nii.gz,a.nii.gz", "ax,a.nii.gz,broken.nii.gz"
    table, out = study.table("id,fixed,moving", *lines), study.folder / "out"
    outcome = study.batch(table, out, "--dry-run")
    assert outcome.code == 6
    assert "ab: can be registered" in outcome.err
    assert "warning: aa: Fixed and moving are the same image" in outcome.err
    assert outcome.err.count("same image") == 1
    assert "1 of 3 cases can't be registered" in outcome.err
    assert not out.exists()


def test_a_wrong_number_of_channel_weights_starts_nothing(study: Study) -> None:
    """Components of an image of vectors count; a file that can't be read stops no other case."""
    image = sitk.ReadImage(str(study.folder / "a.nii.gz"))
    sitk.WriteImage(sitk.Compose(image, image, image), str(study.folder / "vectors.mha"))
    (study.folder / "broken.nii.gz").write_text("not an image")
    out = study.folder / "out"
    for images, weights, channels in (("a.nii.gz", "2,1", 1), ("vectors.mha", "2,1", 3)):
        table = study.table("fixed,moving", f"{images},{images}")
        told = study.batch(table, out, "--channel-weights", weights)
        assert told.code == 2
        assert f"--channel-weights {weights} for {channels} channels" in told.err
        assert not out.exists()
    for image, weights in (("vectors.mha", "2,1,1"), ("broken.nii.gz", "2,1")):
        table = study.table("fixed,moving", f"{image},{image}")
        told = study.batch(table, out, "--overwrite", "--channel-weights", weights)
        assert "--channel-weights" not in told.err
        assert out.exists()


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


def test_strict_refuses_a_sheared_image(study: Study) -> None:
    """It is resampled with a warning otherwise; a case that was finished so is done again."""
    tilted = nibabel.load(study.folder / "b.nii.gz")
    affine = tilted.affine.copy()
    affine[1, 2] += 0.8
    image = nibabel.Nifti1Image(tilted.get_fdata(dtype=np.float32), None)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nibabel.save(image, study.folder / "b.nii.gz")
    table, out = study.pairs(1), study.folder / "out"
    told = study.batch(table, out, "--no-warped")
    assert (told.code, told.out) == (0, "done 1\nfailed 0\n")
    refused = study.batch(table, out, "--no-warped", "--resume", "--strict")
    assert (refused.code, refused.out) == (6, "done 0\nfailed 1\n")
    assert "the sform is sheared" in rows(out / "summary.csv")["ab"]["error"]
    assert not list(out.glob("ab/*.h5"))
