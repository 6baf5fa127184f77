"""A process that has imported carl and forks itself for each command: an import costs more
than most commands that meet a damaged file.

Reads one JSON object a line (the arguments of `answer`), answers with one.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

LIGHT = (
    "carl_cli.cli.app",
    "carl_cli.cli.console",
    "carl_cli.cli.transforms",
    "carl_cli.cli.info",
    "carl_cli.cli.options.shared",
    "carl_cli.cli.points",
    "carl_cli.cli.warp",
    "carl_cli.workflows.info",
    "carl_cli.io.transforms.hdf5",
    "carl_cli.workflows.transform",
    "carl_cli.workflows.warp",
    "h5py",
    "nibabel.streamlines",
    "pydantic.main",
    "pydicom",
    "trimesh",
)
TICK = 0.25
HEAVY = (
    "carl_cli.workflows.register",
    "carl_cli.cli.batch",
    "carl_cli.cli.register",
    "carl_cli.cli.weights",
    "carl_cli.report.saved",
    "carl_cli.weights.folder",
    "safetensors.torch",
)


def serve(modules: tuple[str, ...]) -> None:
    for name in modules:
        import_module(name)
    for name in used_by_a_command():
        with suppress(ImportError):
            import_module(name)
    gc.freeze()  # a collection in a child would copy every page
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


def used_by_a_command() -> list[str]:
    """Modules that a command imports on its way, as a child that runs one tells."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        from carl_cli.cli.app import main

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with suppress(SystemExit):
            main(["info", "absent.nii.gz"])
        os.write(writing, " ".join(sys.modules).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        names = told.read().split()
    os.waitpid(child, 0)
    return names


def answer(
    args: list[str],
    folder: str,
    seconds: float,
    more_bytes: int | None,
    blow: tuple[int, int, float] | None = None,
    traced: str | None = None,
) -> dict[str, Any]:
    """How `carl args` ended in a child of this process, and what it said.

    blow: (signal, after this many lines on stderr, and so many seconds more). traced: a folder of
    modules, whose steps from line to line are told.
    """
    streams = os.memfd_create("out"), os.memfd_create("err")
    steps = os.memfd_create("steps")
    before = resident_bytes()
    child = os.fork()
    if child == 0:
        if traced is not None:
            tell_steps(traced, steps)
        run(args, folder, streams, more_bytes)
    struck = blow is not None and strike(child, streams[1], *blow)
    late = not ended_within(child, seconds)
    if late:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    out, err = (content_of(stream) for stream in streams)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "late": late,
        "struck": struck,
        "out": out,
        "err": err,
        "grown_bytes": max(0, usage.ru_maxrss * 1024 - before),
        "steps": content_of(steps).split(),
    }


def tell_steps(room: str, stream: int) -> None:
    """Write every step from line to line within the room to the stream, as it is taken first."""
    known: set[tuple[str, int, int]] = set()
    last: dict[int, int] = {}

    def within(frame: FrameType, event: str, _: object) -> Any:
        number, before = frame.f_lineno, last.get(id(frame), 0)
        last[id(frame)] = number
        step = (frame.f_code.co_filename, before, number)
        if event != "return" and step not in known:
            known.add(step)
            os.write(stream, f"{step[0][len(room) :]}:{before}:{number}\n".encode())
        if event == "return":
            last.pop(id(frame), None)
        return within

    sys.settrace(lambda frame, *_: within if frame.f_code.co_filename.startswith(room) else None)


def run(args: list[str], folder: str, streams: tuple[int, int], more_bytes: int | None) -> NoReturn:
    """What the child does: the command, with a bound on how much more it may allocate."""
    code = 1
    try:
        os.chdir(folder)
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it for all that it starts
        if more_bytes is not None:
            bound = virtual_bytes() + more_bytes
            resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        sys.argv = ["carl", *args]
        from carl_cli.cli.app import main

        main(args)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended_within(child: int, seconds: float) -> bool:
    """Whether it ended before it had worked, or slept, for so long. On a busy machine a process
    that only waits for a processor is no slower by itself."""
    watched = os.pidfd_open(child)
    slept = 0.0
    try:
        while not select.select([watched], [], [], TICK)[0]:
            try:
                working, busy = state_of(child)
            except OSError:  # one of them has ended meanwhile
                continue
            slept += 0 if working else TICK
            if busy > seconds or slept > seconds:
                return False
        return True
    finally:
        os.close(watched)


def state_of(child: int) -> tuple[bool, float]:
    """(wants a processor, or starts to; seconds of one that it had), it or a child of its own:
    what waits for a child that waits for a processor does not sleep."""
    working, ticks = False, 0
    for pid in family(child):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        working |= fields[0] in "RD"
        ticks += int(fields[11]) + int(fields[12])
    return working, ticks / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from family(int(child))


def strike(child: int, stream: int, number: int, lines: int, seconds: float) -> bool:
    """Send the signal at that moment; False when the child has ended before."""
    watched = os.pidfd_open(child)
    try:
        while os.pread(stream, 2**20, 0).count(b"\n") < lines:
            if select.select([watched], [], [], 0.001)[0]:
                return False
        if select.select([watched], [], [], seconds)[0]:
            return False
    finally:
        os.close(watched)
    os.kill(child, number)
    return True


def content_of(stream: int) -> str:
    os.lseek(stream, 0, os.SEEK_SET)
    with os.fdopen(stream, "rb") as file:
        return file.read().decode("utf-8", "replace")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    serve(LIGHT + HEAVY if "--heavy" in sys.argv else LIGHT)
