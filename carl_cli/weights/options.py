"""The options that belong to a network: which one, where it computes, how it is fitted to a pair.

They import nothing heavy: the command line shows them in its help.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from carl_cli.preprocessing.options import option_group

Metric = Literal["auto", "lncc", "lncc2", "mind"]
Scope = Literal["all", "refine", "field"]
Preset = Literal["weights", "paper"]
Seed = Annotated[int, Field(ge=0, description="Seed of all random numbers.")]


@option_group
class NetworkOptions:
    weights: Annotated[
        str,
        Field(
            description="Name (see carl weights list), folder, model file, org/repo or "
            "org/repo@revision. Slices take carl-base-2d by themselves."
        ),
    ] = "carl-base"
    offline: Annotated[bool, Field(description="Use only weights that are on this machine.")] = (
        False
    )
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    seed: Seed = 0
    deterministic: Annotated[
        bool, Field(description="Give the same bytes each time, on a GPU too.")
    ] = False


@option_group
class InstanceChoices:
    """What a user may choose of instance optimisation.

    scope "all" trains every parameter (the paper) and "refine" all but Ξ's: `steps` of Adam at
    `learning_rate`, λ = regularisation. scope "field" changes the maps themselves: `steps` at
    most on the network grid, up to four times that below, each smoothed by `smoothing` voxels.
    """

    steps: Annotated[
        int, Field(ge=0, serialization_alias="io_steps", description="Largest number of steps.")
    ] = 50
    learning_rate: Annotated[
        float,
        Field(gt=0, serialization_alias="io_lr", description="Learning rate (all, refine)."),
    ] = 2e-5
    metric: Annotated[
        Metric,
        Field(
            serialization_alias="io_metric",
            description="lncc for equal contrast, lncc2 if it may be inverted, mind for any; auto "
            "looks at the pair.",
        ),
    ] = "lncc"
    regularisation: Annotated[
        float,
        Field(
            ge=0, serialization_alias="io_lambda", description="Weight of GradICON (all, refine)."
        ),
    ] = 1.5
    smoothing: Annotated[
        float,
        Field(
            ge=0.1,
            serialization_alias="io_smoothing",
            description="Smoothing of each step in voxels: more is stiffer (field).",
        ),
    ] = 2.0
    scope: Annotated[
        Scope,
        Field(
            serialization_alias="io_scope",
            description="What is fitted: all of the network, refine (all but its coarse match), "
            "or the displacement field alone.",
        ),
    ] = "all"
    sigma: Annotated[
        int,
        Field(
            ge=1,
            serialization_alias="io_sigma",
            description="Window of lncc and lncc2, in voxels.",
        ),
    ] = 5
    preset: Annotated[
        Preset,
        Field(
            serialization_alias="io_preset",
            description="paper: all of the network, 50 steps of 2e-5; weights: as they advise.",
        ),
    ] = "weights"


UNUSED = {
    "all": ("smoothing",),
    "refine": ("smoothing",),
    "field": ("learning_rate", "regularisation"),
}
"""Scope → fields of InstanceChoices that it has no use for."""
