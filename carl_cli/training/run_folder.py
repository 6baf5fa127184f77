"""A run's folder: checkpoints, whole or not at all and checked when read, and the log."""

from __future__ import annotations

import hashlib
import io
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType, TracebackType
from typing import Any

import torch

from carl_cli.errors import InputError, UsageError
from carl_cli.io.atomic import atomic_path, make_folder, regular


def save_state(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write `state` as NAME-DIGEST.pt, then NAME.json that names it. A reader, or a kill at any
    moment, sees the old state or the new one. Raises OutputError."""
    make_folder(folder)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    file = f"{name}-{digest[:12]}.pt"
    with atomic_path(folder / file) as path:
        path.write_bytes(buffer.getbuffer())
    with atomic_path(folder / f"{name}.json") as path:
        path.write_text(json.dumps({"file": file, "sha256": digest}))
    for path in folder.glob(f"{name}-*.pt"):
        if path.name != file:
            with suppress(OSError):
                path.unlink()


def has_state(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").is_file()


def load_state(folder: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state last saved under this name. Raises InputError if absent or damaged."""
    index = folder / f"{name}.json"
    try:
        named = json.loads(regular(index).read_text())
        file, digest = folder / named["file"], named["sha256"]
        block = regular(file).read_bytes()
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{index}: no checkpoint can be read: {error}") from error
    if hashlib.sha256(block).hexdigest() != digest:
        raise _damaged(file)
    try:
        state: dict[str, Any] = torch.load(
            io.BytesIO(block), map_location=device, weights_only=True
        )
    except (UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise _damaged(file) from error
    return state


def _damaged(file: Path) -> InputError:
    return InputError(f"{file} is damaged", "start from another checkpoint")


class Journal:
    """Appends records to `log.jsonl`; records after `last_step` (written by a process that
    was killed before its next checkpoint) are dropped first."""

    def __init__(self, folder: Path, last_step: int, tensorboard: bool = False) -> None:
        make_folder(folder)
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
