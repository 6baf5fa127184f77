"""A small BIDS dataset and an atlas: what pybids finds becomes the pairs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from carl_cli.batch.bids import pair_dataset
from carl_cli.errors import InputError, UsageError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two subjects, one of them with two sessions and a run; a derivative that is no raw image."""
    root = tmp_path / "study"
    images = (
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii",
        "derivatives/other/sub-02/anat/sub-02_desc-brain_T1w.nii.gz",
    )
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    description = {"Name": "study", "BIDSVersion": "1.8.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    (tmp_path / "atlas.nii.gz").touch()
    return root


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ((), ["sub-01_ses-1_T1w", "sub-01_ses-2_run-1_T1w", "sub-02_T1w"]),
        (("suffix=T2w",), ["sub-01_ses-2_T2w"]),
        (("session=2", "run=1"), ["sub-01_ses-2_run-1_T1w"]),
        (("subject=02",), ["sub-02_T1w"]),
    ],
)
def test_images_of_the_dataset_meet_the_atlas(
    dataset: Path, filters: tuple[str, ...], names: list[str]
) -> None:
    pytest.importorskip("bids", reason="pybids is an extra: pip install 'carl-registration[bids]'")
    atlas = dataset.parent / "atlas.nii.gz"
    entries = pair_dataset(dataset, atlas, filters)
    assert [entry.name for entry in entries] == names
    for entry in entries:
        assert entry.row is not None
        assert entry.row.fixed == atlas
        assert entry.row.moving.name.startswith(f"{entry.name}.nii")
        assert entry.row.moving.is_absolute()


@pytest.mark.parametrize(
    ("filters", "kind", "words"),
    [
        (("suffix=bold",), InputError, "no image with suffix=bold"),
        (("colour=red",), UsageError, "colour"),
        (("session",), UsageError, "--bids-filter session"),
    ],
)
def test_filters_that_find_nothing(
    dataset: Path, filters: tuple[str, ...], kind: type[Exception], words: str
) -> None:
    pytest.importorskip("bids", reason="pybids is an extra: pip install 'carl-registration[bids]'")
    with pytest.raises(kind, match=words):
        pair_dataset(dataset, dataset.parent / "atlas.nii.gz", filters)


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    pytest.importorskip("bids", reason="pybids is an extra: pip install 'carl-registration[bids]'")
    with pytest.raises(InputError, match="not a BIDS dataset"):
        pair_dataset(tmp_path, tmp_path)


def test_without_pybids_the_hint_installs_it(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bids", None)
    with pytest.raises(UsageError, match="pybids is not installed") as refusal:
        pair_dataset(dataset, dataset.parent / "atlas.nii.gz")
    assert "carl-registration[bids]" in refusal.value.hint
