"""How long work tells of its progress: a callback, so that libraries never print."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as the work goes on; cheap enough to be called at every step."""

    def __call__(self, stage: str, fraction: float, detail: str = "", /) -> None:
        """Stage in plain words ("instance optimisation"), part done (0 to 1), e.g. the loss."""


def silent(_stage: str, _fraction: float, _detail: str = "", /) -> None:
    """The progress of whoever does not look."""
