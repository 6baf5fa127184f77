"""One run at a time for each part of a batch, also on file systems that know no locks.

A run puts a file of its own beside the status table and only then looks for others: of two
runs that begin together at least one sees the other, and withdraws. No file is ever shared, so
what a dead run left can be deleted without hitting anybody else. A run is dead

- on this machine, when no process has its number and its time of start;
- elsewhere, when it was started by a Slurm job that has been started again since, or when it
  has not touched its file for `LAPSE_S`, by the clock of the file system.

A run that was only asleep finds its file gone when it wakes, and stops.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carl_cli.batch.shards import Shard
from carl_cli.errors import OutputError
from carl_cli.report.record import utc_now

BEAT_S = 15.0
LAPSE_S = 180.0
TRIES = 4
PATTERN = "shards/*/run-*.json"


class Owner(BaseModel):
    """A process, so that it can be found again. kernel: of machines with one name each boot has
    its own; world: a container numbers its processes by itself; started: in ticks since boot."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    host: str
    pid: int
    kernel: str = ""
    world: str = ""
    started: str = ""
    slurm_job: str = ""
    slurm_restarts: int = 0
    since: str = Field(default_factory=utc_now)

    @classmethod
    def this(cls) -> Owner:
        job = os.environ.get("SLURM_JOB_ID", "")
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        return cls(
            host=platform.node(),
            pid=os.getpid(),
            kernel=_text(Path("/proc/sys/kernel/random/boot_id")),
            world=_world(),
            started=_started(os.getpid()),
            slurm_job=job,
            slurm_restarts=int(restarts) if restarts.isdigit() else 0,
        )

    def is_dead(self, here: Owner) -> bool | None:
        """As far as the process `here` can know; None: only time will tell."""
        places = [(o.host, o.kernel, o.world) for o in (self, here)]
        if places[0] == places[1]:
            return not _alive(self.pid) or _started(self.pid) != self.started
        again = self.slurm_job and self.slurm_job == here.slurm_job
        return True if again and self.slurm_restarts < here.slurm_restarts else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Claim:
    """`with Claim(out_dir, shard):` this process alone does the shard.

    Parts of different divisions (1/2 and 1/3) have cases in common, so they exclude each other.
    Raises OutputError when another run is at work.
    """

    def __init__(self, out_dir: Path, shard: Shard, beat_s: float = BEAT_S) -> None:
        self.out_dir = out_dir
        self.shard = shard
        self.beat_s = beat_s
        self.path = out_dir / "shards" / shard.name / f"run-{secrets.token_hex(6)}.json"
        self._owner = Owner.this()
        self._ended = Event()

    def __enter__(self) -> Claim:
        for attempt in range(TRIES):
            self._put()
            other = next(self._others(), None)
            if other is None:
                Thread(target=self._beat, daemon=True).start()
                return self
            self.path.unlink(missing_ok=True)
            # Two that began together have both withdrawn: the next attempt sets them apart.
            time.sleep(secrets.randbelow(200) / 1000 * (attempt < TRIES - 1))
        raise OutputError(
            f"{self.out_dir}: another run is at work there: {other}",
            f"wait for it; one that died on another machine is forgotten after {LAPSE_S:.0f} s",
        )

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise OutputError when another run has taken over."""
        if not self.path.exists():
            raise OutputError(
                f"{self.out_dir}: another run has taken this part over",
                f"this one gave no sign of life for {LAPSE_S:.0f} s; the other goes on with it",
            )

    def _put(self) -> None:
        text = self._owner.model_dump_json().encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            with os.fdopen(handle, "wb") as stream:
                stream.write(text)
        except OSError as error:
            raise OutputError(
                f"{self.path}: can't be written: {error.strerror}", "choose another --out-dir"
            ) from error

    def _others(self) -> Iterator[str]:
        """Runs that live and have cases in common with this one; the dead are removed."""
        for path in sorted(self.out_dir.glob(PATTERN)):
            if path == self.path or not self._in_common(path.parent.name):
                continue
            with suppress(FileNotFoundError):  # it has ended meanwhile
                owner = _read(path)
                if self._is_dead(path, owner):
                    path.unlink(missing_ok=True)
                else:
                    yield str(owner or path)

    def _in_common(self, name: str) -> bool:
        return name == self.shard.name or not name.endswith(f"-of-{self.shard.count}")

    def _is_dead(self, path: Path, owner: Owner | None) -> bool:
        known = None if owner is None else owner.is_dead(self._owner)
        if known is not None:
            return known
        os.utime(self.path)  # now, as the clock of the file system has it
        return self.path.stat().st_mtime - path.stat().st_mtime > LAPSE_S

    def _beat(self) -> None:
        while not self._ended.wait(self.beat_s):
            with suppress(OSError):
                os.utime(self.path)


def _read(path: Path) -> Owner | None:
    """None for one that is being written at this moment."""
    try:
        return Owner.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """Field 22 of /proc/PID/stat; empty for a process that has ended or where nobody can say."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _world() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
