"""One run at a time for each part of a batch, by a lock that ends with the process that holds it.

The lock is flock's, through filelock. Where it holds, by flock(2), nfs(5) and mount.lustre(8):

- on local disks within a machine, containers included;
- on NFS between all machines, as Linux asks the server for it: a killed run's lock is free at
  once, that of a machine that is gone when the server's lease ends (NFSv4: 90 s, if not changed);
- on Lustre mounted with `flock` between all machines, with `localflock` only within each.

Where flock is missing, filelock takes a file that exists for a lock and says so in a warning.
Each run also leaves its name: where two could begin, the first one finds the name of the second
and stops before its next case.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from carl_cli.batch.shards import Shard
from carl_cli.errors import OutputError
from carl_cli.report.process import utc_now

LOCK = "run.lock"
OWNER = "run.txt"
TRIES = 4


class Claim:
    """`with Claim(out_dir, shard):` this process alone does the shard.

    Parts of different divisions (1/2 and 1/3) have cases in common, so they exclude each other.
    Raises OutputError when another run is at work, and where no lock can be had.
    """

    def __init__(self, out_dir: Path, shard: Shard) -> None:
        self.out_dir = out_dir
        self.shard = shard
        self._folder = out_dir / "shards" / shard.name
        self._lock = FileLock(self._folder / LOCK)
        self._name = f"process {os.getpid()} on {platform.node()} since {utc_now()}"
        self._text = f"{self._name}\n{secrets.token_hex(8)}\n"

    def __enter__(self) -> Claim:
        for _ in range(TRIES):
            rival = self._rival()
            if rival is None:
                return self
            # Two that began together have both withdrawn: the next attempt sets them apart.
            time.sleep(secrets.randbelow(200) / 1000)
        raise OutputError(
            f"{self.out_dir}: another run is at work there: {rival}", "wait for its end, or stop it"
        )

    def __exit__(self, *_: object) -> None:
        if _owner(self._folder) == self._text:
            with suppress(OSError):
                (self._folder / OWNER).unlink()
        self._lock.release()

    def check(self) -> None:
        """Raise OutputError when another run has taken over, as it can where locks get lost."""
        if _owner(self._folder) != self._text:
            raise OutputError(
                f"{self.out_dir}: another run has taken this part over", "the other goes on with it"
            )

    def _rival(self) -> str | None:
        """Take the part and return None, or the name of a run that has cases in common."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not _taken(self._lock):
                return _name(self._folder)
            (self._folder / OWNER).write_text(self._text)
            others = [folder for folder in self._folder.parent.iterdir() if self._in_common(folder)]
            rival = next((_name(folder) for folder in others if _held(folder)), None)
        except (OSError, NotImplementedError) as error:
            raise OutputError(
                f"{self._folder}: no lock can be had: {error}", "choose another --out-dir"
            ) from error
        if rival is not None:
            self.__exit__()
        return rival

    def _in_common(self, folder: Path) -> bool:
        """Whether it is the folder of a part of another division."""
        own = folder.name.endswith(f"-of-{self.shard.count}")
        return (folder / LOCK).exists() and not own


def _taken(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _held(folder: Path) -> bool:
    lock = FileLock(folder / LOCK)
    taken = _taken(lock)
    lock.release()
    return not taken


def _owner(folder: Path) -> str:
    try:
        return (folder / OWNER).read_text()
    except OSError:
        return ""


def _name(folder: Path) -> str:
    """What a run calls itself; its folder for one that has only just begun."""
    return _owner(folder).partition("\n")[0] or f"in {folder}"
