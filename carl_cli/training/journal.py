"""What a run tells: one JSON line per record, and the same for tensorboard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from carl_cli.errors import UsageError


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
