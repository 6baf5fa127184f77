"""Two halves of a computation at once: the same bits, the caller's state, errors of either half."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial

import pytest
import torch

from carl_cli.model.parallel import both

CPU = torch.device("cpu")
named: ContextVar[str] = ContextVar("named", default="nobody")


@pytest.fixture(autouse=True)
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def state() -> tuple[int, int, bool, bool, str]:
    """What a half is computed with."""
    recorded = torch.is_grad_enabled()
    inference = torch.is_inference_mode_enabled()
    return threading.get_ident(), torch.get_num_threads(), recorded, inference, named.get()


@pytest.mark.parametrize("inference", [False, True])
def test_halves_have_threads_of_their_own_and_the_state_of_the_caller(inference: bool) -> None:
    named.set("caller")
    with torch.inference_mode(inference), torch.no_grad():
        first, second = both(state, state, CPU)
    assert first[0] == threading.get_ident() != second[0]
    assert first[1:] == second[1:] == (2, False, inference, "caller")
    assert torch.get_num_threads() == 4


def test_an_uneven_number_of_threads_is_shared_out(threads: Callable[[int], None]) -> None:
    threads(3)
    with torch.no_grad():
        first, second = both(torch.get_num_threads, torch.get_num_threads, CPU)
    assert (first, second) == (2, 1)


@pytest.mark.parametrize("device", [CPU, None])
def test_one_thread_does_one_half_after_the_other(
    threads: Callable[[int], None], device: torch.device | None
) -> None:
    threads(1)
    with torch.no_grad():
        first, second = both(state, state, device)
    assert first == second


def test_halves_are_not_split_again() -> None:
    with torch.no_grad():
        inner = partial(both, threading.get_ident, threading.get_ident, CPU)
        first, second = both(inner, inner, CPU)
    assert first[0] == first[1] != second[0] == second[1]


def test_gradients_are_recorded_as_they_would_be_without_it() -> None:
    x = torch.tensor([2.0], requires_grad=True)
    square, cube = both(lambda: x**2, lambda: x**3, CPU)
    (square + cube).backward()
    assert x.grad is not None
    assert x.grad.item() == 2 * 2 + 3 * 2**2
    assert both(threading.get_ident, threading.get_ident, CPU)[1] == threading.get_ident()


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_of_either_half_arrives_when_both_have_ended(which: int) -> None:
    ended = threading.Event()
    other = threading.Event()

    def fails() -> None:
        ended.set()
        raise ValueError("no number")

    def waits() -> None:
        ended.wait(10)
        other.set()

    halves = [waits, waits]
    halves[which] = fails
    with torch.no_grad(), pytest.raises(ValueError, match="no number"):
        both(halves[0], halves[1], CPU)
    assert other.is_set()
    assert torch.get_num_threads() == 4
    with torch.no_grad():
        assert both(lambda: 1, lambda: 2, CPU) == (1, 2)


def test_a_forked_process_has_a_helper_of_its_own() -> None:
    with torch.no_grad():
        both(lambda: 1, lambda: 2, CPU)
    child = multiprocessing.get_context("fork").Process(target=_in_child)
    child.start()
    child.join(30)
    assert child.exitcode == 0


def _in_child() -> None:
    with torch.no_grad():
        assert both(lambda: 1, lambda: 2, CPU) == (1, 2)
