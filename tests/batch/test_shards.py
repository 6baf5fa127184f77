"""Parts of a batch: every case in exactly one, by option or by Slurm's variables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carl_cli.batch.shards import Shard, chosen_shard
from carl_cli.errors import UsageError
from tests.batch.conftest import Study, digests, rows, states


@given(st.integers(0, 50), st.integers(1, 60))
def test_shards_share_out_everything_once(items: int, count: int) -> None:
    parts = [Shard(k, count).of(range(items)) for k in range(1, count + 1)]
    assert sorted(i for part in parts for i in part) == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 12))
def test_slurm_arrays_cover_all_shards(first: int, step: int, count: int) -> None:
    """--array=first-last:step, with the variables that Slurm sets."""
    tasks = range(first, first + step * count, step)
    fixed = {"MIN": first, "STEP": step, "COUNT": count, "MAX": tasks[-1]}
    found = [
        chosen_shard(
            None, {f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in {**fixed, "ID": task}.items()}
        )
        for task in tasks
    ]
    assert found == [Shard(k, count) for k in range(1, count + 1)]


def test_the_option_is_stronger_than_slurm() -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert chosen_shard("2/5", slurm) == Shard(2, 5)
    assert chosen_shard(None, {}) == Shard(1, 1)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_shards_that_do_not_exist(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        chosen_shard(text, {})


def test_a_list_of_tasks_has_no_places() -> None:
    """--array=1,3,7: the last one's place can't be known from the variables."""
    slurm = {"ID": "7", "MIN": "1", "COUNT": "3", "STEP": "1"}
    with pytest.raises(UsageError, match="no place"):
        chosen_shard(None, {f"SLURM_ARRAY_TASK_{k}": v for k, v in slurm.items()})


def test_shards_write_files_of_their_own_and_are_merged(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part by option, the other by Slurm's variables; the summary tells what is missing."""
    table, out = study.pairs(3), study.folder / "out"
    assert study.batch(table, out, "--shard", "1/2").code == 0
    first = digests(out, "**/*.*")
    assert states(out / "shards/1-of-2/status.csv") == {"ab": "done", "cd": "done"}
    half = study.batch(table, out, "--summary")
    assert (half.code, half.out) == (6, "done 2\nfailed 0\nunfinished 1\n")
    (out / "summary.csv").unlink()
    (out / "index.html").unlink()
    for name, value in {"ID": "11", "MIN": "10", "COUNT": "2", "STEP": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert study.batch(table, out).code == 0
    second = digests(out, "**/*.*")
    assert {name: second[name] for name in first} == first
    assert {name.split("/")[0] for name in set(second) - set(first)} == {"bc", "shards"}
    whole = study.batch(table, out, "--summary")
    assert (whole.code, whole.out) == (0, "done 3\nfailed 0\n")
    merged = rows(out / "summary.csv")
    assert list(merged) == ["ab", "bc", "cd"]
    assert merged["bc"]["lncc"] == rows(out / "shards/2-of-2/status.csv")["bc"]["lncc"]
