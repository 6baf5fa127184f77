"""Which instance optimisation a command line asks for."""

from __future__ import annotations

import pytest

from carl_cli.cli.options.grouping import Some
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.register import InstanceArguments
from carl_cli.errors import UsageError
from carl_cli.registration.instance import InstanceOptions
from carl_cli.weights.locate import chosen_weights


def asked(**given: object) -> InstanceOptions:
    method = MethodArguments(instance=InstanceArguments(io=True, chosen=Some(given)))
    options = method.options(chosen_weights("carl-base", "cpu", False, True), match_spread=False)
    assert options.instance is not None
    return options.instance


def test_the_papers_preset_is_that_of_the_paper() -> None:
    """50 steps of Eq. 18 with λ = 1.5 through all of the network (Sec. 6); the step size and the
    dense GradICON are those of the authors' code."""
    found = asked(preset="paper")
    assert (found.steps, found.learning_rate, found.scope) == (50, 2e-5, "all")
    assert (found.regularisation, found.gradicon_stride, found.patience) == (1.5, 1, 0)
    own = asked()
    assert (found.metric, found.sigma) == (own.metric, own.sigma) == ("auto", 2)
    assert own.scope == "field"
    assert asked(preset="weights") == own


def test_single_options_go_before_the_preset() -> None:
    found = asked(preset="paper", steps=3, sigma=4)
    assert (found.steps, found.sigma, found.scope) == (3, 4, "all")


def test_a_sigma_that_nothing_uses_is_refused() -> None:
    with pytest.raises(UsageError, match="--io-sigma"):
        asked(metric="mind", sigma=4)
