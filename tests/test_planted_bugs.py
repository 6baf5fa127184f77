"""The list of planted bugs follows the code: a bug whose place is gone would never be planted."""

from tests.planted import listed


def test_every_listed_bug_has_its_place() -> None:
    """`listed` raises where a place is not in the code, or there several times."""
    bugs = list(listed())
    assert len(bugs) >= 79
    assert len({bug.what for bug in bugs}) == len(bugs)
