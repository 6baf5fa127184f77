"""Where a registration starts, and what is done to its result: options of the forward pass."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from carl_cli.errors import UsageError
from carl_cli.preprocessing.options import option_group
from carl_cli.transforms.linear import Linear

Kind = Literal["rigid", "similarity", "affine", "deformable"]
Init = Literal["none", "centers", "moments", "rigid", "affine"]


def _axis_weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        return ()


def _known_weights(text: str) -> str:
    found = _axis_weights(text)
    if len(found) not in (2, 3) or not all(0 <= w <= 1 for w in found) or not any(found):
        raise ValueError(f"weights x,y,z from 0 to 1 expected, one above 0, found {text}")
    return text


AxisWeights = Annotated[str, AfterValidator(_known_weights)]


@option_group
class StartOptions:
    """init rigid and affine: a first pass of the network, of which only the best rigid or affine
    part is kept, starts a second one. rigid first finds how the moving image is turned, by any
    angle (`carl_cli.registration.rotation`), if the coarse network is a coordinate attention.
    transform: of what kind the result is; all but deformable are fitted to the network's map and
    refined by the similarity of the images (`carl_cli.registration.affine`).
    affine_only: the same as transform="affine".
    restrict: weights of the fixed image's index axes, see `carl_cli.registration.freedom`.
    regularity: how smooth the map is, see `carl_cli.registration.maps`.
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
    regularity: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="From 0, soft, to 1, stiff: how smooth a deformable result is, with "
            "--io and without.",
        ),
    ] = 0.5
    restrict: Annotated[
        AxisWeights | None,
        Field(
            description="Weights x,y,z from 0 to 1 of a displacement along the fixed image's index "
            "axes: 0,1,0 for EPI that is distorted along y."
        ),
    ] = None
    repair_folds: Annotated[bool, Field(description="Change the result where it folds.")] = False

    @property
    def restrict_xyz(self) -> tuple[float, ...] | None:
        """None: nothing is held."""
        weights = _axis_weights(self.restrict) if self.restrict else (1.0,)
        return None if all(weight == 1 for weight in weights) else weights

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


@option_group
class SeriesOptions:
    """How the volumes of a time series are brought together."""

    reference: Annotated[
        str,
        Field(
            description="What the volumes are brought onto: mean (of all, in the place of the "
            "first), first, the number of a volume from 0, or an image of the series' size."
        ),
    ] = "mean"
    transform: Annotated[
        Literal["rigid", "affine", "deformable"],
        Field(
            description="Kind of each volume's transform: rigid (6 numbers), affine (12), or "
            "deformable: rigid, then the network's alignment."
        ),
    ] = "rigid"


def _known_shares(text: str) -> str:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not (min(values) >= 0 and 0 < sum(values) < math.inf):
        raise ValueError(f"numbers of 0 or more, not all 0, were expected, found {text}")
    return text


@option_group
class ChannelOptions:
    """How several contrasts of a pair count beside each other."""

    channel_weights: Annotated[
        str | None,
        AfterValidator(lambda text: None if text is None else _known_shares(text)),
        Field(
            description="Weights of the two images and of each further channel, as 2,1; "
            "all alike if not given."
        ),
    ] = None

    def shares(self, count: int) -> tuple[float, ...]:
        """Of `count` channels; they add up to 1. Raises UsageError for another number of them."""
        if self.channel_weights is None:
            return (1 / count,) * count
        values = [float(part) for part in self.channel_weights.split(",")]
        if len(values) != count:
            raise UsageError(
                f"--channel-weights {self.channel_weights} for {count} channels",
                "give one number for the two images and one for each further channel",
            )
        return tuple(value / sum(values) for value in values)


@option_group
class GuideOptions:
    """What is known of a pair pulls the maps while they are aligned and fitted, beside the images.

    guide_labels: of the soft Dice of the labels, guide_points: of the landmarks' mean distance in
    mm; both beside a loss of the images of about one.
    """

    guide_labels: Annotated[
        float | None,
        Field(
            gt=0,
            description="Weight with which the labels (--fixed-seg, --moving-seg) pull the result: "
            "their soft Dice beside the similarity; try 1.",
        ),
    ] = None
    guide_points: Annotated[
        float | None,
        Field(
            gt=0,
            description="Weight with which the landmarks (--fixed-points, --moving-points) pull "
            "the result: their mean distance in mm beside the similarity; try 0.1.",
        ),
    ] = None
