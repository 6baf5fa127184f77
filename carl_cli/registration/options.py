"""Where a registration starts, and what is done to its result: options of the forward pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from carl_cli.errors import UsageError
from carl_cli.preprocessing.options import option_group
from carl_cli.transforms.linear import Linear

Kind = Literal["rigid", "similarity", "affine", "deformable"]
Init = Literal["none", "centers", "moments", "rigid", "affine"]


@option_group
class StartOptions:
    """init rigid and affine: a first pass of the network, of which only the best rigid or affine
    part is kept, starts a second one. rigid first finds how the moving image is turned, by any
    angle (`carl_cli.registration.rotation`), if the coarse network is a coordinate attention.
    transform: of what kind the result is; all but deformable are fitted to the network's map and
    refined by the similarity of the images (`carl_cli.registration.affine`).
    affine_only: the same as transform="affine".
    repair_folds: no voxel of the network's grid keeps a Jacobian determinant of zero or less.
    """

    init: Annotated[
        Init,
        Field(
            description="Where to start: centers of the fields of view, moments (centers of mass), "
            "rigid (a search that finds any rotation), affine (a first pass of the network)."
        ),
    ] = "none"
    transform: Annotated[
        Kind,
        Field(
            description="Kind of the result: rigid (6 numbers), similarity (7: one scale), affine "
            "(12), fitted to the images; or deformable."
        ),
    ] = "deformable"
    affine_only: Annotated[bool, Field(description="The same as --transform affine.")] = False
    repair_folds: Annotated[bool, Field(description="Change the result where it folds.")] = False

    @property
    def linear(self) -> Linear | None:
        """None: deformable. Raises UsageError where affine_only meets another kind."""
        if self.affine_only and self.transform not in ("affine", "deformable"):
            raise UsageError(
                f"--affine-only and --transform {self.transform} were both given",
                "leave out --affine-only, which means --transform affine",
            )
        if self.affine_only:
            return "affine"
        return None if self.transform == "deformable" else self.transform
