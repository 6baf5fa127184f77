"""Options that say how a transform is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Output = Annotated[Path, typer.Option("--output", "-o", help="The transform to write.")]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--reference",
        "-r",
        help="Image whose grid a dense field gets. Without it .h5 keeps the exact parts and "
        "other formats take the grid of the field that meets the points first.",
    ),
]
FieldSpacing = Annotated[
    float | None,
    typer.Option(
        "--field-spacing", metavar="MM", help="Voxel size of a dense field, same field of view."
    ),
]
Precision = Annotated[
    Literal["float", "double"], typer.Option("--precision", help="Of the numbers in the file.")
]
Intent = Annotated[
    Literal["1007", "1006"],
    typer.Option("--intent", help="NIfTI fields: 1007 holds LPS numbers (ANTs), 1006 RAS."),
]
