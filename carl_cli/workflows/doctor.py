"""What `carl doctor` looks at: versions, devices, threads, caches, disks, and a self-test.

Each check returns a Finding instead of raising, so that one fault does not hide the next.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from carl_cli import __version__
from carl_cli.system import ALLOTMENTS, cgroup_quota, thread_count
from carl_cli.weights.locate import embedded, embedded_folder
from carl_cli.weights.registry import DEFAULT

PACKAGES = (
    "torch",
    "numpy",
    "SimpleITK",
    "h5py",
    "nibabel",
    "pydicom",
    "huggingface_hub",
    "safetensors",
    "pydantic",
    "matplotlib",
    "typer",
    "rich",
)
WRITE_MIB = 64
SELF_TEST_SHIFT_MM = (6.0, -4.0, 3.0)
TOLERANCE_MM = 1e-3


class Finding(NamedTuple):
    """One line of the diagnosis; `fault` says what to do, and is empty when all is well."""

    name: str
    found: str
    fault: str = ""


def diagnose(folder: Path) -> Iterator[Finding]:
    """All checks, cheapest first. `folder` is where write speed is measured."""
    yield Finding("carl", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        yield _package(package)
    yield _threads()
    yield _attempt("memory", _memory)
    yield _attempt("devices", _devices)
    yield _attempt("hub cache", _hub_cache)
    yield _attempt(f"writing to {folder}", lambda: _write_speed(folder))
    for name in dict.fromkeys((DEFAULT, *embedded())):
        yield _attempt(f"weights {name}", partial(_embedded_weights, name))
    yield _attempt("self-test, devices", _device_test)
    yield _attempt("self-test, network", _network_test)
    yield _attempt("self-test, transforms", _transform_test)


def _attempt(name: str, check: Callable[[], tuple[str, str]]) -> Finding:
    """The check's (found, fault), or its exception as the fault."""
    try:
        return Finding(name, *check())
    except Exception as failure:
        return Finding(name, "failed", f"{type(failure).__name__}: {failure}")


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", f"pip install {name}")


def _threads() -> Finding:
    said = [f"{name}={os.environ[name]}" for name in ALLOTMENTS if os.environ.get(name)]
    quota = cgroup_quota()
    said += [f"cgroup quota {quota}"] if quota else []
    reason = f" ({', '.join(said)})" if said else ""
    return Finding("threads", f"{thread_count()} of {os.cpu_count()} cores{reason}")


def _memory() -> tuple[str, str]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = page * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    return f"{total:.1f} GiB, {free:.1f} GiB untouched", ""


def _devices() -> tuple[str, str]:
    import torch

    found = ["cpu"]
    for k in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(k)
        found.append(f"cuda:{k} {properties.name} {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found), ""


def _hub_cache() -> tuple[str, str]:
    """Read-only or absent is no fault: embedded weights and folders need no cache."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    state = "absent" if not folder.exists() else _writable(folder)
    offline = ", offline" if constants.HF_HUB_OFFLINE else ""
    return f"{folder} ({state}{offline})", ""


def _writable(folder: Path) -> str:
    return "writable" if os.access(folder, os.W_OK) else "read-only"


def _write_speed(folder: Path) -> tuple[str, str]:
    block = os.urandom(2**20)
    with tempfile.TemporaryFile(dir=folder) as scratch:
        start = time.perf_counter()
        for _ in range(WRITE_MIB):
            scratch.write(block)
        scratch.flush()
        os.fsync(scratch.fileno())
        seconds = time.perf_counter() - start
    return f"{WRITE_MIB / seconds:.0f} MiB/s over {WRITE_MIB} MiB", ""


def _embedded_weights(name: str) -> tuple[str, str]:
    """Read as `carl register` does: config, hash, tensors that fit the architecture."""
    from carl_cli.weights.folder import load_weights

    weights = load_weights(embedded_folder(name))
    millions = sum(p.numel() for p in weights.network.parameters()) / 1e6
    return f"{millions:.1f} million parameters, SHA-256 {weights.sha256[:12]}… as stated", ""


def _device_test() -> tuple[str, str]:
    """A 3D convolution on each device against the sum that it is."""
    import torch

    names = ["cpu"] + [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    image = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    for name in names:
        kernel = torch.ones(1, 1, 3, 3, 3, device=name)
        total = torch.nn.functional.conv3d(image.to(name), kernel).item()
        if abs(total - 351.0) > 0.5:
            return "wrong sum", f"{name} computes {total} where 351 is right: update its driver"
    return f"3D convolution right on {', '.join(names)}", ""


def _network_test() -> tuple[str, str]:
    """The usual weights register a pair of noise images as they did where they were made."""
    from carl_cli.weights.folder import load_weights
    from carl_cli.weights.selftest import check_figures, figures

    weights = load_weights(embedded_folder(DEFAULT))
    start = time.perf_counter()
    found = figures(weights.network, weights.config.model)
    gap = check_figures(found, weights.config.self_test, DEFAULT)
    seconds = time.perf_counter() - start
    return f"{DEFAULT} maps noise as stated, to {gap:.0e} of the image, in {seconds:.1f} s", ""


def _transform_test() -> tuple[str, str]:
    """A known shift written as a field, read back, asked for the partner of the origin."""
    from carl_cli.geometry import Grid
    from carl_cli.io.transforms.files import read_transform, write_transform
    from carl_cli.transforms import DisplacementField

    grid = Grid((8, 8, 8), (2.0, 2.0, 2.0), (-7.0, -7.0, -7.0), tuple(np.eye(3).ravel()))
    shift = np.broadcast_to(np.array(SELF_TEST_SHIFT_MM, np.float32), (8, 8, 8, 3))
    errors_mm = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".h5", ".nii.gz"):
            path = Path(folder) / f"shift{suffix}"
            write_transform(path, DisplacementField(grid, shift))
            partner = read_transform(path)(np.zeros(3))
            errors_mm.append(float(np.abs(partner - SELF_TEST_SHIFT_MM).max()))
    fault = "the image libraries disagree" if max(errors_mm) > TOLERANCE_MM else ""
    return f".h5 and .nii.gz read back to {max(errors_mm):.1e} mm", fault
