"""One case by its paths: read, register, write every output asked for, keep the record.

`run_case` does the three in a row. A batch does them by themselves, so that files are read
and written while the network is busy with another case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carl_cli.errors import InputError
from carl_cli.evaluation.truth import Truth, read_landmarks
from carl_cli.io.images.files import Image, read_contrasts, read_image
from carl_cli.io.label_names import read_label_names
from carl_cli.io.transforms.chain import parse_chain
from carl_cli.io.transforms.programs import Pair
from carl_cli.progress import Progress, Stopwatch, silent
from carl_cli.registration.guides import guides_of
from carl_cli.registration.register import (
    DEFAULT_OPTIONS,
    Registration,
    RegistrationOptions,
    prepare,
    register,
)
from carl_cli.report import process
from carl_cli.report import record as records
from carl_cli.report.advice import advise, same_image
from carl_cli.weights.folder import Weights
from carl_cli.workflows.checks import check_request
from carl_cli.workflows.memory import check_room
from carl_cli.workflows.outputs import Delivery
from carl_cli.workflows.recording import circumstances, closed, used
from carl_cli.workflows.request import DEFAULT_SETTINGS, CaseInputs, CaseOutputs, Plan, RunSettings
from carl_cli.workflows.score import score
from carl_cli.workflows.unchanged import check_unchanged, hashes_of, states_of


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """Everything of a case that was read; `options` hold the images and transform among it.

    parts: of fixed and moving images of vectors, the components beyond the first.
    """

    inputs: CaseInputs
    hashes: Mapping[str, str]  # role → SHA-256 of the file that was read
    fixed: Image
    moving: Image
    parts: tuple[Sequence[Image], Sequence[Image]]
    truth: Truth
    options: RegistrationOptions
    started: str
    watch: Stopwatch


@dataclass(frozen=True, eq=False)
class ComputedCase:
    """A case that only has to be written. peak_memory_mib: of the process until then."""

    loaded: LoadedCase
    result: Registration
    metrics: records.Metrics
    weights: records.WeightsUsed
    peak_memory_mib: float | None


def run_case(
    inputs: CaseInputs,
    outputs: CaseOutputs,
    weights: Weights,
    options: RegistrationOptions = DEFAULT_OPTIONS,
    settings: RunSettings = DEFAULT_SETTINGS,
    progress: Progress = silent,
) -> records.RunRecord:
    """Read, register, write; the returned record is what `--json` holds.

    Raises InputError, UsageError, OutputError, and OutOfMemoryError before any work; an output
    that was not finished does not exist.
    """
    check_request(inputs, outputs, weights, options, settings)
    check_room(Plan(inputs, outputs, options, settings), weights)
    loaded = load_case(inputs, options, progress)
    return deliver_case(compute_case(loaded, weights, progress), outputs, settings)


def load_case(
    inputs: CaseInputs, options: RegistrationOptions, progress: Progress = silent
) -> LoadedCase:
    """Read everything. Raises InputError, also for a file that is changed meanwhile."""
    started, watch = process.utc_now(), Stopwatch(progress)
    with watch.stage("reading"):
        before = states_of(inputs)
        fixed, *fixed_parts = _read(inputs.fixed, inputs)
        moving, *moving_parts = _read(inputs.moving, inputs, average=True)
        parts = (fixed_parts, moving_parts)
        _check_components(dict(zip((inputs.fixed, inputs.moving), parts, strict=True)))
        truth = _truth(inputs, fixed.grid.dimension)
        options = replace(_with_files(options, inputs, parts), known=truth.known)
        _check_volumes(inputs, (fixed, moving, *options.fixed_channels, *options.moving_channels))
        hashes = hashes_of(inputs)
        check_unchanged(inputs, before)
    return LoadedCase(inputs, hashes, fixed, moving, parts, truth, options, started, watch)


def compute_case(loaded: LoadedCase, weights: Weights, progress: Progress = silent) -> ComputedCase:
    """Register and score. Raises InputError, UsageError."""
    pair, watch = (loaded.fixed, loaded.moving), loaded.watch
    result = register(*pair, weights, loaded.options, progress)
    watch.seconds.update(result.seconds)
    with watch.stage("scoring"):
        metrics = score(*pair, result, loaded.truth, loaded.options.fixed_mask)
    return ComputedCase(loaded, result, metrics, used(weights), process.peak_memory_mib())


def deliver_case(
    computed: ComputedCase, outputs: CaseOutputs, settings: RunSettings
) -> records.RunRecord:
    """Write every output, the record last. Raises OutputError."""
    loaded, watch = computed.loaded, computed.loaded.watch
    pair = loaded.fixed, loaded.moving
    delivery = Delivery(*pair, computed.result, loaded.truth, outputs, settings, parts=loaded.parts)
    with watch.stage("writing"):
        delivery.write_data()
    record = _record(computed, settings, delivery.measured)
    with watch.stage("pictures"):
        delivery.write_pictures(record)
    return closed(record, outputs.paths(), watch, settings.overwrite)


def check_case(
    inputs: CaseInputs,
    outputs: CaseOutputs,
    weights: Weights,
    options: RegistrationOptions,
    settings: RunSettings = DEFAULT_SETTINGS,
) -> list[str]:
    """All that can fail before the network runs: choices, files, geometry, masks, intensities,
    and whether the memory will do. Returns what is to be warned of."""
    check_request(inputs, outputs, weights, options, settings)
    check_room(Plan(inputs, outputs, options, settings), weights)
    loaded = load_case(inputs, options)
    options = loaded.options
    prepared = prepare(loaded.fixed, loaded.moving, weights, options, options.initial)
    guides_of(options, options.known, prepared, weights)
    return _same_image(loaded)


def _same_image(loaded: LoadedCase) -> list[str]:
    options = loaded.options
    if options.rough:  # a round of a template, which begins with one of the images
        return []
    return same_image(
        (loaded.fixed, *options.fixed_channels), (loaded.moving, *options.moving_channels)
    )


def _record(
    computed: ComputedCase, settings: RunSettings, measured: Mapping[str, Any]
) -> records.RunRecord:
    """What is known before the pictures are drawn: they show it."""
    loaded, result, metrics = computed.loaded, computed.result, computed.metrics
    return records.RunRecord(
        **circumstances(settings, loaded.started),
        weights=computed.weights,
        inputs=_described(loaded, result),
        metrics=metrics.model_copy(update=dict(measured)),
        io_loss=list(result.losses),
        io_metric=result.io_metric,
        warnings=[*_same_image(loaded), *advise(metrics)],
        timings_s=loaded.watch.seconds,
        peak_memory_mib=computed.peak_memory_mib,
    )


def _read(path: Path, inputs: CaseInputs, average: bool = False) -> list[Image]:
    """One image, or those of each component."""
    return read_contrasts(
        path,
        series_uid=inputs.series_uid,
        time_index=inputs.time_index,
        strict=inputs.strict,
        average=average,
    )


def _check_components(parts: Mapping[Path, list[Image]]) -> None:
    """parts: of each image, beyond its first component."""
    counts = {path: 1 + len(more) for path, more in parts.items()}
    most = max(counts, key=lambda path: counts[path])
    if min(counts.values()) == 1 < counts[most]:
        raise InputError(
            f"{most}: {counts[most]} components per voxel, a scalar image was expected",
            "convert it to grey values first, or give two images of as many components",
        )


def _check_volumes(inputs: CaseInputs, images: Iterable[Image]) -> None:
    """Volume 0 of an image that is no series is the image."""
    if inputs.time_index and all(image.channel_kind != "time" for image in images):
        raise InputError(
            f"no volume {inputs.time_index}: neither {inputs.fixed} nor {inputs.moving} is a time "
            "series",
            "leave out --time-index",
        )


def _optional(path: Path | None) -> Image | None:
    return None if path is None else read_image(path, allow_nan=False)


def _with_files(
    options: RegistrationOptions, inputs: CaseInputs, parts: tuple[list[Image], list[Image]]
) -> RegistrationOptions:
    """parts: of the two images beyond their first components."""
    items, pair = inputs.initial_items, Pair(inputs.fixed, inputs.moving)
    fixed, moving = (
        (*own, *(part for path in paths for part in _read(path, inputs)))
        for own, paths in zip(parts, inputs.channels, strict=True)
    )
    return replace(
        options,
        fixed_mask=_optional(inputs.fixed_mask),
        moving_mask=_optional(inputs.moving_mask),
        fixed_channels=fixed,
        moving_channels=moving,
        initial=parse_chain(items, pair) if items else None,
    )


def _truth(inputs: CaseInputs, dimension: int) -> Truth:
    landmarks = read_landmarks(inputs.fixed_points, inputs.moving_points, dimension)
    names = {} if inputs.label_names is None else read_label_names(inputs.label_names)
    return Truth(_optional(inputs.fixed_seg), _optional(inputs.moving_seg), *landmarks, names)


def _described(loaded: LoadedCase, result: Registration) -> dict[str, records.InputFile]:
    """Role → path, hash and, of images, geometry of every input file."""
    images = {
        "fixed": loaded.fixed,
        "moving": loaded.moving,
        "fixed_mask": loaded.options.fixed_mask,
        "moving_mask": loaded.options.moving_mask,
        "fixed_seg": loaded.truth.fixed_seg,
        "moving_seg": loaded.truth.moving_seg,
        **_by_role(loaded, (loaded.options.fixed_channels, loaded.options.moving_channels)),
    }
    paths = loaded.inputs.paths()
    described = {
        role: _described_file(path, loaded.hashes[role], images.get(role))
        for role, path in paths.items()
    }
    pair = result.prepared.fixed, result.prepared.moving
    scaled = dict(zip(("fixed", "moving"), pair, strict=True))
    scaled |= _by_role(loaded, (pair[0].others, pair[1].others))
    for role, prepared in scaled.items():
        low, high, modality = prepared.intensity
        used = {"modality": modality, "intensity_window": (low, high)}
        described[role] = described[role].model_copy(update=used)
    return described


def _by_role(loaded: LoadedCase, sides: tuple[Sequence[Any], Sequence[Any]]) -> dict[str, Any]:
    """What belongs to the further contrasts of each side, of which components of an image of
    vectors come first and have no file of their own."""
    found: dict[str, Any] = {}
    for side, given, paths in zip(("fixed", "moving"), sides, loaded.inputs.channels, strict=True):
        own = given[len(given) - len(paths) :]
        found |= {f"{side}_channel_{k}": one for k, one in enumerate(own, 1)}
    return found


def _described_file(path: Path, sha256: str, image: Image | None) -> records.InputFile:
    if image is None:
        return records.input_file(path, sha256=sha256)
    return records.input_file(path, image.grid, sha256=sha256, dtype=str(image.array.dtype))
