"""The warped image of `carl warp` as a DICOM series."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carl_cli.errors import UsageError
from carl_cli.io.images.dicom import frame_of_reference, is_dicom, source_header
from carl_cli.io.images.dicom_write import check_new_folder, write_dicom_series
from carl_cli.io.images.files import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomSeries:
    """A DICOM series to write, in the frame of reference of the fixed image (a path).

    identity: "new", or "keep" for the patient and the study of the input, which is DICOM then.
    """

    folder: Path
    fixed: Path
    identity: Literal["new", "keep"] = "new"

    def check(self, inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
        """What can be found wrong before any work. Raises UsageError, OutputError."""
        if self.folder.resolve() in [path.resolve() for path in outputs]:
            raise UsageError(f"{self.folder} is named twice", "give the folder a name of its own")
        if len(inputs) > 1:
            raise UsageError("--dicom-out takes one input", "warp the others on their own")
        if self.identity == "keep" and not is_dicom(inputs[0]):
            raise UsageError(
                f"--dicom-identity keep: {inputs[0]} is no DICOM series, it names no patient",
                "leave the option out",
            )
        check_new_folder(self.folder)

    def write(self, image: Image, source: Path, series_uid: str | None) -> None:
        header = source_header(source, series_uid)
        frame_uid = frame_of_reference(self.fixed, series_uid if self.fixed == source else None)
        write_dicom_series(self.folder, image, frame_uid, header, self.identity == "keep")
        log.info("%s", self.folder)
