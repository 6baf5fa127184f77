"""What memory is allowed, what a case needs, and the case that is refused."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from carl_cli import system
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.model.network import (
    EncoderConfig,
    ModelConfig,
    UNetConfig,
    WindowConfig,
    build_network,
)
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.register import RegistrationOptions
from carl_cli.system import Allowance, main_memory
from carl_cli.weights.folder import Weights, WeightsConfig
from carl_cli.workflows import memory
from carl_cli.workflows.memory import need_of
from carl_cli.workflows.request import CaseInputs, CaseOutputs, Plan, RunSettings
from tests.batch.conftest import Study, rows
from tests.conftest import make_grid, smooth_value

GIB = 1 << 30


def cgroups(folder: Path, files: dict[str, str]) -> dict[str, Path]:
    """A tree of groups and a process in it that has filled 1 GiB, on a machine of 64 GiB."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    process = folder / "self"
    process.mkdir()
    (process / "status").write_text("VmSize: 4194304 kB\nVmRSS:\t1048576 kB\n")
    (process / "cgroup").write_text("4:memory:/job/step\n1:cpu:/\n0::/job/step\n")
    (folder / "meminfo").write_text(f"MemTotal: {60 << 20} kB\nSwapTotal: {4 << 20} kB\n")
    return {"cgroups": folder / "cgroup", "process": process, "machine": folder / "meminfo"}


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 64),
        ({"job/step/memory.max": f"{8 * GIB}"}, 8),
        ({"job/step/memory.max": "max", "job/memory.max": f"{8 * GIB}"}, 8),
        ({"memory.max": f"{8 * GIB}"}, 8),  # a container that sees its own group as the root
        ({"memory/job/memory.limit_in_bytes": f"{8 * GIB}"}, 8),
        ({"memory/job/step/memory.limit_in_bytes": "9223372036854771712"}, 64),
        ({"job/memory.max": f"{8 * GIB}", "job/memory.stat": f"anon {3 * GIB}\nfile 99\n"}, 6),
        ({"memory/job/memory.limit_in_bytes": f"{8 * GIB}",
          "memory/job/memory.stat": f"cache 1\ntotal_rss {3 * GIB}\n"}, 6),
    ],
)  # fmt: skip
def test_limits_of_control_groups(tmp_path: Path, files: dict[str, str], gib: int) -> None:
    """The tightest on the way up; what other processes of the group hold is gone."""
    found = main_memory({}, **cgroups(tmp_path, files))
    assert found is not None
    assert found.mib == gib * 1024
    assert ("cgroup" in found.source) == (gib < 64)


@pytest.mark.parametrize(
    ("variables", "mib"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, 4096),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "3"}, 3000),
        ({"SLURM_MEM_PER_NODE": "0"}, 64 * 1024),
    ],
)
def test_limits_of_slurm(tmp_path: Path, variables: dict[str, str], mib: int) -> None:
    found = main_memory(variables, **cgroups(tmp_path, {}))
    assert found is not None
    assert found.mib == mib


def test_a_limit_of_the_address_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ulimit -v 10 GiB; 4 GiB are mapped, of which 1 GiB is filled: 7 may be filled."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10 * GIB, 10 * GIB))
    found = main_memory({}, **cgroups(tmp_path, {}))
    assert found == Allowance(7 * 1024, "ulimit -v")


def test_where_nobody_can_say(tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert main_memory({}, none, none, none) is None


class Peak(NamedTuple):
    """Peak resident memory in MiB of a process that did one case on a CPU with one thread.

    base: of the same process before, with the weights loaded. Cubic images of 256 mm.
    """

    size: int
    weights: str
    io: str
    outputs: str
    base: float
    peak: float


PEAKS = (
    Peak(64, "windows", "", "forward warped", 362, 581),
    Peak(128, "windows", "", "forward warped", 362, 1243),
    Peak(256, "windows", "", "forward warped inverse inverse_warped jacobian", 346, 1276),
    Peak(128, "windows", "field", "forward warped", 362, 1532),
    Peak(96, "windows", "all", "forward", 346, 3042),
    Peak(96, "paper", "", "forward", 476, 924),
    Peak(96, "paper", "all", "forward", 484, 2972),
    Peak(96, "unet", "all", "forward", 603, 3806),
)
# Ξ, window attention at half of the grid, Ψ there and on all of it: what was measured.
WINDOWS = ModelConfig(
    coarse_symmetric=True,
    window_scales=(2,),
    window=WindowConfig(radius=3, smoothing=1, sharpness=3.0),
    refine_symmetric=True,
    encoder=EncoderConfig(width=32, smoothing=1, sharpness=3.0),
    unet=UNetConfig(down=(16, 32, 64, 128), up=(16, 32, 64, 96)),
    coordinates="centres",
)
SUFFIXES = {"forward": ".h5", "inverse": ".h5", "report": ".html"}


def weights_of(name: str) -> Weights:
    if name == "windows":
        rule = PreprocessRule(grid_rule="physical", multiple_of=16)
        config = WeightsConfig(name=name, model=WINDOWS, preprocess=rule)
    else:
        rule = PreprocessRule(grid_rule="stretch", shape_zyx=(96, 96, 96))
        coarse: Any = {"paper": {}, "unet": {"coarse": "unet", "refine_scales": (2, 1, 1)}}[name]
        config = WeightsConfig(name=name, model=ModelConfig(**coarse), preprocess=rule)
    return Weights(build_network(config.model), config, name, "")


@pytest.mark.parametrize("case", PEAKS, ids=lambda case: f"{case.weights}-{case.size}-{case.io}")
def test_the_estimate_is_close_to_measured_peaks(case: Peak) -> None:
    """From 10 % below, so that nothing that fits is refused for nothing, to 40 % above."""
    spacing = 256 / case.size
    unit = tuple(np.eye(3).ravel().tolist())
    grid = Grid((case.size,) * 3, (spacing,) * 3, (0.0,) * 3, unit)
    roles = case.outputs.split()
    outputs = {role: Path(f"{role}{SUFFIXES.get(role, '.nii.gz')}") for role in roles}
    instance = InstanceOptions(scope=case.io) if case.io else None
    plan = Plan(
        CaseInputs(Path("a"), Path("b")),
        CaseOutputs(**outputs),
        RegistrationOptions(instance=instance),
        RunSettings(),
    )
    need = need_of(plan, grid, grid, weights_of(case.weights))
    assert need.gpu_mib == 0
    assert 0.9 < (case.base + need.main_mib) / case.peak < 1.4


def test_masks_and_segmentations_count_as_much_as_their_images() -> None:
    """Four bytes a voxel of 128³ are 8 MiB."""
    grid = make_grid((128,) * 3, (2.0,) * 3)
    images, paper = CaseInputs(Path("a"), Path("b")), weights_of("paper")
    outputs = CaseOutputs(forward=Path("t.h5"))

    def needed(inputs: CaseInputs) -> float:
        plan = Plan(inputs, outputs, RegistrationOptions(), RunSettings())
        return need_of(plan, grid, grid, paper).main_mib

    more = replace(images, fixed_mask=Path("m"), moving_mask=Path("n"), moving_seg=Path("s"))
    assert needed(more) - needed(images) == pytest.approx(3 * 8)


def test_every_output_takes_room_while_it_is_written() -> None:
    """Two and a half copies at four bytes a voxel of 256³ are 160 MiB."""
    grid = make_grid((256,) * 3, (1.0,) * 3)
    inputs, paper = CaseInputs(Path("a"), Path("b")), weights_of("paper")
    names = ("warped", "inverse_warped", "jacobian", "match_spread")
    needed = [
        need_of(
            Plan(
                inputs,
                CaseOutputs(**{name: Path(f"{name}.nii.gz") for name in names[:count]}),
                RegistrationOptions(),
                RunSettings(),
            ),
            *(grid, grid, paper),
        ).main_mib
        for count in (3, 4)
    ]
    assert needed[1] - needed[0] == pytest.approx(160)


MEASURE = """
import sys
from pathlib import Path
from carl_cli.report.process import peak_memory_mib
from carl_cli.weights.folder import load_weights
from carl_cli.weights.locate import locate
from carl_cli.workflows.register import run_case
from carl_cli.workflows.request import CaseInputs, CaseOutputs
fixed, moving, forward, warped = map(Path, sys.argv[1:])
weights = load_weights(locate("carl-base"))
base = peak_memory_mib()
run_case(CaseInputs(fixed, moving), CaseOutputs(forward, warped=warped), weights)
print(base, peak_memory_mib())
"""


@pytest.mark.slow
def test_the_estimate_is_close_to_a_peak_of_today(tmp_path: Path) -> None:
    """The peaks above are of one day; this one is measured now, with the same bounds."""
    grid = make_grid((96, 96, 96), (2.5, 2.5, 2.5))
    paths = [tmp_path / name for name in ("f.nii.gz", "m.nii.gz", "t.h5", "w.nii.gz")]
    for seed, path in enumerate(paths[:2]):
        noise = np.random.default_rng(seed).normal(0, 5, grid.shape_zyx)
        write_image(path, Image((smooth_value(grid.points_mm()) + noise).astype("float32"), grid))
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    base, peak = map(float, done.stdout.split())
    plan = Plan(
        CaseInputs(*paths[:2]),
        CaseOutputs(paths[2], warped=paths[3]),
        RegistrationOptions(),
        RunSettings(),
    )
    need = need_of(plan, grid, grid, weights_of("carl-base"))
    assert peak > base + 100
    assert 0.9 < (base + need.main_mib) / peak < 1.4


def paper_on_a_gpu(side: int) -> float:
    """MiB of GPU memory for all parameters of the paper's network, on a grid of side³."""
    grid = Grid((side,) * 3, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))
    rule = PreprocessRule(grid_rule="stretch", shape_zyx=(side,) * 3)
    paper = weights_of("paper")
    options = RegistrationOptions(instance=InstanceOptions(scope="all"))
    inputs, settings = CaseInputs(Path("a"), Path("b")), RunSettings(device="cuda")
    plan = Plan(inputs, CaseOutputs(forward=Path("t.h5")), options, settings)
    config = paper.config.model_copy(update={"preprocess": rule})
    return need_of(plan, grid, grid, replace(paper, config=config)).gpu_mib


def test_the_paper_s_network_is_fitted_within_8_gb_of_a_gpu() -> None:
    """At 72³ torch's allocator held 558 MiB at most in a step, beside four times the parameters
    (150 MiB): private copy, best state, Adam's two moments. Most of it grows with the voxels and
    with the cells of the features; from 48³ and 72³ follow 5.9 GiB at the paper's 175³."""
    assert 0.9 < paper_on_a_gpu(72) / (558 + 4 * 150) < 1.4
    assert 5.9 * 1024 < paper_on_a_gpu(175) < 8 * 1024


def huge(path: Path) -> Path:
    """The header of an image of 20000 x 20000 x 20000 voxels, without them."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 20000, 20000, 20000, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, 352.0)
    struct.pack_into("<h", header, 254, 1)
    struct.pack_into("<12f", header, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    header[344:348] = b"n+1\0"
    path.write_bytes(header)
    return path


def test_a_case_too_large_for_the_machine_fails_alone(study: Study) -> None:
    huge(study.folder / "huge.nii")
    table = study.table("id,fixed,moving", "ah,a.nii.gz,huge.nii", "ab,a.nii.gz,b.nii.gz")
    outcome = study.batch(table, study.folder / "out")
    assert outcome.code == 6
    found = rows(study.folder / "out" / "summary.csv")
    assert {name: row["state"] for name, row in found.items()} == {"ah": "failed", "ab": "done"}
    error = found["ah"]["error"]
    assert "huge.nii onto" in error
    assert "images of 16x15x14 and 20000x20000x20000 voxels" in error
    assert "this machine's memory allows" in error
    assert "use smaller images" in error


REFUSALS = {
    (): "use smaller images",
    ("--io",): "what would fit: --no-io",
    ("-w", "warped.nii.gz", "--jacobian", "jacobian.nii.gz"): "the transform alone",
}


@pytest.mark.parametrize("options", list(REFUSALS))
def test_register_refuses_with_figures_and_says_what_would_fit(
    study: Study, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allowance lies just below what is needed; in the first case nothing would help."""
    pair = [study.folder / f"{name}.nii.gz" for name in "ab"]
    words = [study.folder / word if "." in word else word for word in options]
    target = study.folder / "t.h5"
    command = ("register", *pair, "-o", target, "--weights", study.weights, "--device", "cpu")
    needed: list[float] = []
    original = memory.need_of

    def noted(*arguments: Any) -> Any:
        need = original(*arguments)
        needed.append(need.main_mib)
        return need

    monkeypatch.setattr(memory, "need_of", noted)
    if "--io" in options:
        monkeypatch.setattr(memory, "LIBRARIES_MIB", 0.0)  # beside which a tiny network is nothing
    if "-w" in options:
        monkeypatch.setattr(
            memory, "COPIES_WHILE_WRITING", 1e4
        )  # the images are tiny, and so are the outputs
    monkeypatch.setattr(memory, "_before_the_first_case", lambda: 300.0)
    allowed = [1e6]
    monkeypatch.setattr(memory, "main_memory", lambda: Allowance(allowed[0], "the test"))
    assert study.carl(*command, "--dry-run", *words).code == 0
    allowed[0] = 300.0 + needed[0] - 0.01
    outcome = study.carl(*command, *words)
    assert outcome.code == 5
    assert not target.exists()
    assert "b.nii.gz onto" in outcome.err
    assert "but the test allows 0." in outcome.err
    assert outcome.err.splitlines()[-1].startswith("hint: ")
    assert REFUSALS[options] in outcome.err.splitlines()[-1]


def test_workers_share_what_is_allowed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RunSettings(workers=3)
    monkeypatch.setattr(memory, "main_memory", lambda: Allowance(3000.0, "the cgroup"))
    monkeypatch.setattr(memory, "_before_the_first_case", lambda: 400.0)
    need = memory.Need(500.0, 0.0, (8, 8, 8))
    ((needed, allowed),) = memory._pairs(need, settings)
    assert (needed, allowed.mib) == (900.0, 1000.0)
    assert allowed.source == "a share of 3 workers in the cgroup"


@pytest.mark.slow
def test_the_estimate_of_a_case_that_is_done_now(study: Study) -> None:
    """In a process of its own: peak by the kernel's count, base from the library's own code."""
    import subprocess
    import sys

    code = (
        "import sys; from carl_cli.workflows import memory;"
        "original = memory.need_of;"
        "memory.need_of = lambda *a: (lambda n: print('estimate',"
        " n.main_mib + memory._before_the_first_case()) or n)(original(*a));"
        "from carl_cli.cli.app import main; main(sys.argv[1:])"
    )
    pair = [study.folder / f"{name}.nii.gz" for name in "ab"]
    files = ("-o", study.folder / "t.h5", "--json", study.folder / "r.json")
    words = ["register", *pair, *files, "--weights", study.weights, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True
    )
    estimate = float(done.stdout.split("estimate ")[1].split()[0])
    peak = json.loads((study.folder / "r.json").read_text())["peak_memory_mib"]
    assert 0.9 < estimate / peak < 1.4


def test_what_is_resident_is_what_the_kernel_says() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert abs(system.resident_mib() - pages * resource.getpagesize() / 2**20) < 50
