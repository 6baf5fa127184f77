"""Thread counts: whose word counts, and that the libraries hear it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carl_cli.errors import UsageError
from carl_cli.system import LIBRARY_LIMITS, cgroup_quota, thread_count, usable_cores


@pytest.mark.parametrize(
    ("requested", "environ", "expected"),
    [
        (3, {"SLURM_CPUS_PER_TASK": "8"}, 3),
        (None, {"SLURM_CPUS_PER_TASK": "8", "NSLOTS": "6", "OMP_NUM_THREADS": "5"}, 8),
        (None, {"NSLOTS": "6", "OMP_NUM_THREADS": "5"}, 6),
        (None, {"OMP_NUM_THREADS": "5,2"}, 5),
        (None, {"SLURM_CPUS_PER_TASK": "", "NSLOTS": "four", "OMP_NUM_THREADS": "7"}, 7),
    ],
)
def test_who_is_believed_first(
    requested: int | None, environ: dict[str, str], expected: int
) -> None:
    assert thread_count(requested, environ) == expected


def test_without_any_word_the_usable_cores_count() -> None:
    assert thread_count(None, {}) == usable_cores()


def test_no_threads_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--threads 0"):
        thread_count(0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is a Linux call")
def test_affinity_is_respected() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from carl_cli.system import usable_cores; print(usable_cores())"
    )
    assert _python(script) == "1"


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({"cpu.max": "250000 100000"}, "0::/", 3),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, "0::/job/step", 2),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", None),
        (
            {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"},
            "4:memory:/x\n1:cpu,cpuacct:/job",
            1,
        ),
        ({}, "", None),
    ],
)
def test_cgroup_quota(
    tmp_path: Path, files: dict[str, str], membership: str, expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    process = tmp_path / "process"
    process.mkdir()
    (process / "cgroup").write_text(membership + "\n")
    assert cgroup_quota(tmp_path, process) == expected


@pytest.mark.parametrize("loaded_first", [True, False])
def test_limits_reach_torch_and_itk(loaded_first: bool) -> None:
    limit = "from carl_cli.system import limit_threads; limit_threads(1)"
    load = "import torch, SimpleITK"
    show = (
        "print(torch.get_num_threads(), SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads())"
    )
    order = [load, limit, show] if loaded_first else [limit, load, show]
    assert _python("\n".join(order)) == "1 1"


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize(("given", "expected"), [("", "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep(given: str, expected: str) -> None:
    """What OpenMP itself says when torch loads it; the user's own choice stays."""
    script = "from carl_cli.system import limit_threads; limit_threads(2); import torch"
    environ = os.environ | {"OMP_DISPLAY_ENV": "TRUE", "OMP_WAIT_POLICY": given}
    if not given:
        del environ["OMP_WAIT_POLICY"]
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stderr
    assert f"OMP_WAIT_POLICY = '{expected}'" in said


def _python(script: str) -> str:
    unlimited = {k: v for k, v in os.environ.items() if k not in LIBRARY_LIMITS}
    done = subprocess.run(
        [sys.executable, "-c", script], env=unlimited, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
