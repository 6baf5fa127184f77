"""Where a registration starts, and what is done to its result: options of the forward pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from carl_cli.preprocessing.options import option_group

Init = Literal["none", "centers", "moments", "rigid", "affine"]


@option_group
class StartOptions:
    """init rigid and affine: a first pass of the network, of which only the best rigid or affine
    part is kept, starts a second one. rigid first finds how the moving image is turned, by any
    angle (`carl_cli.registration.rotation`), if the coarse network is a coordinate attention.
    affine_only: the result is that affine part.
    repair_folds: no voxel of the network's grid keeps a Jacobian determinant of zero or less.
    """

    init: Annotated[
        Init,
        Field(
            description="Where to start: centers of the fields of view, moments (centers of mass), "
            "rigid (a search that finds any rotation), affine (a first pass of the network)."
        ),
    ] = "none"
    affine_only: Annotated[bool, Field(description="Keep only the affine part of the result.")] = (
        False
    )
    repair_folds: Annotated[bool, Field(description="Change the result where it folds.")] = False
