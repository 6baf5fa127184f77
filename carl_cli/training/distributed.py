"""One process or many: the few questions that training asks, and how many are started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from carl_cli.errors import UsageError

UNFINISHED = 75  # EX_TEMPFAIL: stopped in good order, run again with --resume
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class World:
    """The processes of a training, seen from one of them."""

    rank: int  # of this process
    size: int  # how many there are
    device: torch.device  # of this process

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes."""
        if self.size == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        return DistributedDataParallel(module)

    def any(self, flag: bool) -> bool:
        """True everywhere if the flag is up anywhere: all processes stop at one step."""
        if self.size == 1:
            return flag
        raised = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX)
        return bool(raised.item())

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier()


@contextmanager
def world(device: str) -> Iterator[World]:
    """The process group that torchrun describes in the environment, or this process alone.

    device: auto, cpu, cuda, cuda:N; under torchrun each process takes the GPU of its local
    rank. Raises UsageError for a device that isn't there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1:
        yield World(0, 1, place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(distributed.get_rank(), size, place)
    finally:
        distributed.destroy_process_group()


def _device(name: str, local_rank: int | None) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is unknown", "use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("no CUDA device is available", "set device to cpu or auto")
        device = torch.device("cuda", local_rank if local_rank is not None else device.index or 0)
        torch.cuda.set_device(device)
    return device


def run_processes(count: int, arguments: Sequence[str]) -> int:
    """`carl ARGUMENTS` in so many processes of one machine; the exit code of the whole.

    In place of torchrun, which gives its processes 30 seconds after SIGTERM and turns their exit
    code 75 into 1. SIGTERM is handed on, and all are waited for; if one fails, the rest ends.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    children = [_child(rank, arguments, shared) for rank in range(count)]

    def hand_on(number: int, _frame: object) -> None:
        for child in children:
            child.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        return _joint_code(children)
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in children:
            child.kill()


def _child(rank: int, arguments: Sequence[str], shared: dict[str, str]) -> subprocess.Popen[bytes]:
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    words = [*arguments, *(["--quiet"] if rank else [])]
    command = [sys.executable, "-m", "carl_cli.cli.app", *words]
    return subprocess.Popen(command, env={**os.environ, **shared, **own})


def _joint_code(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """0 if all end well, 75 if they were stopped in order, else the code of the first to fail."""
    while True:
        codes = [child.poll() for child in children]
        bad = [code for code in codes if code not in (None, 0, UNFINISHED)]
        if bad:
            return bad[0] if bad[0] > 0 else 128 - bad[0]
        if None not in codes:
            return UNFINISHED if UNFINISHED in codes else 0
        time.sleep(POLL_SECONDS)
