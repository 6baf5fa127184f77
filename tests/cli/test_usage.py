"""Slips of a newcomer on the command line: what was expected, and what to do."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Carl

PAIR = ("register", "f.nii.gz", "m.nii.gz")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            (*PAIR, "out.nii.gz"),
            "Nothing was expected here: out.nii.gz. Files beside the inputs go",
        ),
        ((*PAIR, "-o", "T.h5", "--io-steps", "many"), "'--io-steps': a whole number was expected."),
        ((*PAIR, "-o", "T.h5", "--io-lambda", "x"), "'--io-lambda': a number was expected."),
        ((*PAIR, "-o", "T.h5", "--io-steps", "-3"), "'--io-steps': it must be 0 or greater."),
        ((*PAIR, "-o", "T.h5", "--regularity", "2"), "'--regularity': it must be 1 or less."),
        (
            (*PAIR, "-o", "T.h5", "--transform", "SyN"),
            "'--transform': 'SyN' is not one of 'rigid',",
        ),
        (("warp", "-i", "m.nii.gz"), "No such option: -i. --help-all lists those that there are."),
    ],
)
def test_usage_errors_say_what_was_expected(carl: Carl, words: tuple[str, ...], told: str) -> None:
    outcome = carl(*words)
    assert outcome.code == 2
    assert told in re.sub("[│\\s]+", " ", outcome.err)  # Typer draws a box around it
