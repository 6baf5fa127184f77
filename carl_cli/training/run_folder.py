"""State on disk: whole or not at all, in parts when asked, checked when read."""

from __future__ import annotations

import hashlib
import io
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from carl_cli.errors import InputError, UsageError
from carl_cli.io.atomic import atomic_path

MIB = 2**20


def save_state(folder: Path, name: str, state: dict[str, Any], part_mib: int | None = None) -> None:
    """Write `state` as NAME-DIGEST.NNN files of at most `part_mib`, then NAME.json that
    lists them. A reader, or a kill at any moment, sees the old state or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    parts = [_write_part(folder, name, k, b) for k, b in enumerate(_split(buffer, part_mib))]
    with atomic_path(folder / f"{name}.json") as path:
        path.write_text(json.dumps({"parts": parts}, indent=1))
    _remove_stale(folder, name, {str(part["file"]) for part in parts})


def has_state(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").is_file()


def load_state(folder: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state last saved under this name. Raises InputError if absent or damaged."""
    index = folder / f"{name}.json"
    try:
        parts = json.loads(index.read_text())["parts"]
        blocks = [(folder / part["file"]).read_bytes() for part in parts]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{index}: no checkpoint can be read: {error}") from error
    for part, block in zip(parts, blocks, strict=True):
        if hashlib.sha256(block).hexdigest() != part["sha256"]:
            raise InputError(f"{folder / part['file']} is damaged", "start from another checkpoint")
    state: dict[str, Any] = torch.load(
        io.BytesIO(b"".join(blocks)), map_location=device, weights_only=True
    )
    return state


def _split(buffer: io.BytesIO, part_mib: int | None) -> Iterator[bytes]:
    whole = buffer.getbuffer()
    size = len(whole) if part_mib is None else part_mib * MIB
    for start in range(0, len(whole), size):
        yield bytes(whole[start : start + size])


def _write_part(folder: Path, name: str, number: int, block: bytes) -> dict[str, str | int]:
    digest = hashlib.sha256(block).hexdigest()
    file = f"{name}-{digest[:12]}.{number:03d}"
    with atomic_path(folder / file) as path:
        path.write_bytes(block)
    return {"file": file, "sha256": digest, "bytes": len(block)}


def _remove_stale(folder: Path, name: str, current: set[str]) -> None:
    for path in folder.glob(f"{name}-*.[0-9][0-9][0-9]"):
        if path.name not in current:
            with suppress(OSError):
                path.unlink()


class Journal:
    """Appends records to `log.jsonl`; records after `last_step` (written by a process that
    was killed before its next checkpoint) are dropped first."""

    def __init__(self, folder: Path, last_step: int, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        kept = [line for line in _lines(path) if _step(line) <= last_step]
        path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._board = _summary_writer(folder, last_step) if tensorboard else None

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One record; `step` counts all steps of the run."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _step(line: str) -> float:
    """A line cut short by a kill counts as never written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


def _summary_writer(folder: Path, last_step: int) -> Any:
    """Writer to a file of its own; tensorboard then hides what older files have after
    `last_step`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = "pip install 'carl-registration[train]'"
        raise UsageError("tensorboard is not installed", hint) from error
    return SummaryWriter(folder / "tensorboard", purge_step=last_step + 1)


class Flag:
    up = False


@contextmanager
def sigterm() -> Iterator[Flag]:
    """A flag that SIGTERM raises; the loop stops at the end of the step."""
    flag = Flag()

    def raise_flag(_number: int, _frame: FrameType | None) -> None:
        flag.up = True

    before = signal.signal(signal.SIGTERM, raise_flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)
