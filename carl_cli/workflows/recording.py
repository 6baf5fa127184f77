"""The parts that the records of all commands have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carl_cli.progress import Stopwatch
from carl_cli.report import process
from carl_cli.report.record import Environment, RunRecord, WeightsUsed, output_files, write_record
from carl_cli.weights.folder import Weights
from carl_cli.workflows.request import RunSettings


def used(weights: Weights) -> WeightsUsed:
    return WeightsUsed(name=weights.config.name, sha256=weights.sha256, source=weights.source)


def circumstances(settings: RunSettings, started: str) -> dict[str, Any]:
    """The fields that tell how a command was run. started: UTC, as `process.utc_now`."""
    machine = settings.device, settings.threads, settings.deterministic
    return {
        "command": process.command_line(),
        "started": started,
        "environment": Environment.current(*machine),
        "seed": settings.seed,
        "options": dict(settings.noted),
    }


def closed(
    record: RunRecord, outputs: Mapping[str, Path], watch: Stopwatch, overwrite: bool
) -> RunRecord:
    """The record with what is known last: hashes, times, memory. Written if `json` is an output."""
    written = {role: path for role, path in outputs.items() if role != "json"}
    peaks = (record.peak_memory_mib, process.peak_memory_mib())
    last = {
        "outputs": output_files(written),
        "timings_s": dict(watch.seconds),
        "peak_memory_mib": max((peak for peak in peaks if peak is not None), default=None),
    }
    record = record.model_copy(update=last)
    if "json" in outputs:
        write_record(outputs["json"], record, replace=overwrite)
    return record
