"""One case as a unit of work: what to do, whether it is done already, what went wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from carl_cli.batch.status import remove_partial
from carl_cli.errors import CarlError, OutputError, as_carl_error
from carl_cli.io.atomic import make_folder, sha256_of
from carl_cli.registration.register import RegistrationOptions
from carl_cli.report.record import RunRecord, read_record
from carl_cli.weights.folder import Weights
from carl_cli.workflows.register import check_case
from carl_cli.workflows.request import CaseInputs, CaseOutputs, Plan, RunSettings

NOTED = "fingerprint"
"""Key of a record's options that holds the fingerprint."""


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to do a case, except the network."""

    name: str
    line: int  # of the table, its header being line 1
    inputs: CaseInputs
    outputs: CaseOutputs
    options: RegistrationOptions
    settings: RunSettings

    @property
    def record_path(self) -> Path:
        """Its record, written last: with it the case is finished."""
        assert self.outputs.json is not None, "every case of a batch has a record"
        return self.outputs.json

    @property
    def plan(self) -> Plan:
        """The same without its name, for what is checked and estimated beforehand."""
        return Plan(self.inputs, self.outputs, self.options, self.settings)

    def noting(self, fingerprint: str) -> Job:
        """The same job, its record telling the fingerprint."""
        noted = {**self.settings.noted, NOTED: fingerprint}
        return replace(self, settings=replace(self.settings, noted=noted))


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    seconds: float  # reading, computing and writing
    peak_memory_mib: float | None = None
    record: RunRecord | None = None  # None: it failed
    error: str = ""  # why it failed, in one line


def fingerprint(job: Job, weights: Weights) -> str:
    """SHA-256 of all that the result depends on: bytes of the inputs, options, weights.

    Neither the folder of the outputs nor the device enters: a batch may be moved and go on
    elsewhere. A file that can't be read counts as such, so the case is new once it can be.
    """
    strict = ["strict"] if job.inputs.strict else []  # what it refuses counts as new without it
    settings = job.settings
    looks = [n for n in ("header_only", "intensity_conservation") if getattr(settings, n)]
    content = {
        "inputs": {role: _hash(path) for role, path in job.inputs.paths().items()},
        "volume": [job.inputs.series_uid, job.inputs.time_index, *strict],
        "options": asdict(job.options),
        "writing": [settings.field_spacing, settings.precision, settings.seed, *looks],
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


def check(job: Job, weights: Weights) -> tuple[str, list[str]]:
    """Why the case can't be computed, empty if it can, and what is to be warned of; nothing is
    computed or written."""
    try:
        return "", check_case(job.inputs, job.outputs, weights, job.options, job.settings)
    except Exception as failure:
        return told(failure), []


def clear_outputs(job: Job) -> None:
    """A folder without anything of an earlier run: old results mislead nobody. Raises OutputError.

    The record goes first: without one a case counts as unfinished.
    """
    folder = job.record_path.parent
    make_folder(folder)
    try:
        remove_partial(folder)
        for path in (job.record_path, *job.outputs.paths().values()):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} can't be prepared: {error.strerror}", "choose another --out-dir"
        ) from error


def told(failure: Exception) -> str:
    """One line; what is not an error of ours carries its kind."""
    known = as_carl_error(failure)
    if known is None:
        return f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    text = " ".join(known.message.split())
    return f"{text} ({known.hint})" if known.hint else text
