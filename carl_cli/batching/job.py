"""One case as a unit of work: what to do, whether it is done already, the doing itself."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from carl_cli.batching.status import remove_partial
from carl_cli.case import CaseInputs, CaseOutputs, RunSettings, check_case, run_case
from carl_cli.errors import CarlError
from carl_cli.registration import RegistrationOptions
from carl_cli.report.record import RunRecord, peak_memory_mib, read_record, sha256_of
from carl_cli.weights import Weights

LOGGER = logging.getLogger(__name__)
NOTED = "fingerprint"
"""Key of a record's options that holds the fingerprint."""


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to do a case, except the network."""

    name: str
    line: int
    inputs: CaseInputs
    outputs: CaseOutputs
    options: RegistrationOptions
    settings: RunSettings

    @property
    def record_path(self) -> Path:
        assert self.outputs.json is not None, "every case of a batch has a record"
        return self.outputs.json

    def noting(self, fingerprint: str) -> Job:
        """The same job, its record telling the fingerprint."""
        noted = {**self.settings.noted, NOTED: fingerprint}
        return replace(self, settings=replace(self.settings, noted=noted))


@dataclass(frozen=True)
class Outcome:
    """record None: it failed, and `error` says why."""

    seconds: float
    peak_memory_mib: float | None = None
    record: RunRecord | None = None
    error: str = ""


def fingerprint(job: Job, weights: Weights) -> str:
    """SHA-256 of all that the result depends on: bytes of the inputs, options, weights.

    Neither the folder of the outputs nor the device enters: a batch may be moved and go on
    elsewhere. A file that can't be read counts as such, so the case is new once it can be.
    """
    content = {
        "inputs": {role: _hash(path) for role, path in job.inputs.paths().items()},
        "volume": [job.inputs.series_uid, job.inputs.time_index],
        "options": asdict(job.options),
        "writing": [job.settings.field_spacing, job.settings.precision, job.settings.seed],
        "outputs": {role: path.name for role, path in sorted(job.outputs.paths().items())},
        "weights": [weights.sha256, weights.config.model_dump(mode="json")],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def finished(job: Job, expected: str) -> RunRecord | None:
    """The record of an earlier run with this fingerprint, if its outputs are there unchanged."""
    try:
        record = read_record(job.record_path)
        wanted = {role: path for role, path in job.outputs.paths().items() if role != "json"}
        same = {role: file.sha256 for role, file in record.outputs.items()} == {
            role: sha256_of(path) for role, path in wanted.items()
        }
    except (CarlError, OSError):
        return None
    return record if same and record.options.get(NOTED) == expected else None


def attempt(job: Job, weights: Weights) -> Outcome:
    """Do the case; whatever goes wrong is its own affair. An interruption is not caught."""
    start = time.perf_counter()
    with suppress(OSError):
        # Restarts the peak that the kernel keeps; elsewhere it stays that of the process.
        Path("/proc/self/clear_refs").write_text("5")
    try:
        record = _done(job, weights)
    except Exception as failure:
        LOGGER.debug("%s", job.name, exc_info=True)
        spent = round(time.perf_counter() - start, 3)
        return Outcome(spent, peak_memory_mib(), error=_told(failure))
    return Outcome(round(time.perf_counter() - start, 3), peak_memory_mib(), record)


def check(job: Job, weights: Weights) -> str:
    """Why the case can't be computed, empty if it can; nothing is computed or written."""
    try:
        check_case(job.inputs, job.outputs, weights, job.options, job.settings)
    except Exception as failure:
        return _told(failure)
    return ""


def _done(job: Job, weights: Weights) -> RunRecord:
    """The record is written last: a case that was killed has none, and old ones mislead nobody."""
    folder = job.record_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    for path in (job.record_path, *job.outputs.paths().values()):
        path.unlink(missing_ok=True)
    return run_case(job.inputs, job.outputs, weights, job.options, job.settings)


def _told(failure: Exception) -> str:
    """One line; what is not an error of ours carries its kind."""
    text = " ".join(str(failure).split())
    if isinstance(failure, CarlError):
        return f"{text} ({failure.hint})" if failure.hint else text
    return f"{type(failure).__name__}: {text}"
