"""The small pair and networks of the workflows' tests."""

from tests.workflows.conftest import (  # noqa: F401 (fixtures)
    attention_weights,
    carl,
    folding_weights,
    identity_weights,
    pair,
    register,
    smooth_weights,
)
