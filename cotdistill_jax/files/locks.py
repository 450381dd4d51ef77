"""One writer per folder: a lock that names its owner and ends with it.

On this machine the lock is the kernel's (`flock`): it ends with its process, however that ends, and hosts that share a folder see each
other's where the file system passes locks on (NFS 4, Lustre with `flock`).

Buckets have no locks. There the lock is an object, the claim, that its owner writes anew every `BEAT_S` seconds under the precondition
that nobody else has since. A claim that does not change for `STALE_S` seconds, by the watcher's own clock, is a dead process's and is
taken over; its owner, should it live after all, finds another generation and stops.
"""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from cotdistill_jax.files.buckets import BucketError, BucketPath
from cotdistill_jax.files.paths import Path

BEAT_S = 20.0
STALE_S = 90.0
_LOOK_S = 2.0


class HeldError(BlockingIOError):
    """Another process holds the lock; `owner` says which."""

    def __init__(self, owner: str) -> None:
        """Takes the owner's description."""
        super().__init__(owner)
        self.owner = owner


class LostError(OSError):
    """The lock was ours, and is no longer."""


class Lock:
    """A lock that is held."""

    def __init__(self, path: Path) -> None:
        """Takes the file or object of the lock."""
        self.path = path

    def check(self) -> None:
        """Checks that the lock is still ours: asked before something is written that another owner must not find overwritten.

        Raises:
            LostError: it was removed, or another process took it over.
        """
        if not self.path.exists():
            raise LostError(f"files: {self.path} is gone, and so may be its folder")


@contextlib.contextmanager
def hold(path: Path, say: Callable[[str], None] = print) -> Iterator[Lock]:
    """Holds a lock; its file says who holds it, or held it last.

    Args:
        path: of the lock's file or object, in a folder that exists.
        say: takes the line that a claim in a bucket is waited for.

    Raises:
        HeldError: another process holds it.
    """
    if isinstance(path, BucketPath):
        claim = _Claim(path)
        claim.take(say)
        try:
            yield claim
        finally:
            claim.release()
        return
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise HeldError(_describe(file.read())) from error
        file.truncate(0)
        file.write(json.dumps(_owner()) + "\n")
        file.flush()
        yield Lock(path)


class _Claim(Lock):
    """The lock of a folder in a bucket."""

    path: BucketPath

    def __init__(self, path: BucketPath) -> None:
        super().__init__(path)
        self._owner = {**_owner(), "claim": uuid.uuid4().hex}
        self._beats = 0
        self._generation = b""
        self._lost: str | None = None
        self._mutex = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="claim", daemon=True)

    def take(self, say: Callable[[str], None]) -> None:
        generation, content = self.path.generation()
        if content is not None and not _is_dead(content):
            text = _describe(content.decode("utf-8", "replace"))
            say(
                f"files: {self.path} was left by {text}; watching for up to {STALE_S:.0f} s whether that process lives"
            )
            until = time.monotonic() + STALE_S
            while time.monotonic() < until:
                time.sleep(_LOOK_S)
                now, content = self.path.generation()
                if content is None or _is_dead(content):
                    generation = now
                    break
                if now != generation:
                    raise HeldError(_describe(content.decode("utf-8", "replace")))
        if not self._write(generation):
            _, content = self.path.generation()
            raise HeldError(_describe((content or b"").decode("utf-8", "replace")))
        self._thread.start()

    def check(self) -> None:
        self._beat()
        if self._lost:
            raise LostError(f"files: {self.path} was taken over by {self._lost}")

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        with contextlib.suppress(BucketError):
            if not self._lost:
                self._owner["released"] = _now()
                self._write(self._generation)

    def _keep(self) -> None:
        while not self._released.wait(BEAT_S):
            # The network is away: the next beat, or `check`, says whether the claim is still ours.
            with contextlib.suppress(BucketError):
                self._beat()

    def _beat(self) -> None:
        with self._mutex:
            if self._lost or self._write(self._generation):
                return
            _, content = self.path.generation()
            # A write whose answer was lost was done all the same, and then tried again.
            if content is not None and _claim_of(content) == self._owner["claim"]:
                self._generation, _ = self.path.generation()
                return
            self._lost = _describe((content or b"").decode("utf-8", "replace"))

    def _write(self, generation: bytes) -> bool:
        self._beats += 1
        content = json.dumps({**self._owner, "beats": self._beats}) + "\n"
        written = self.path.write_if(generation, content.encode())
        self._generation = written or generation
        return written is not None


def _claim_of(content: bytes) -> str | None:
    try:
        claim: str | None = json.loads(content).get("claim")
    except ValueError:
        return None
    return claim


def _is_dead(content: bytes) -> bool:
    """Returns whether a claim was released, or its owner was a process of this machine that has ended."""
    try:
        owner = json.loads(content)
    except ValueError:
        return False
    if "released" in owner:
        return True
    here = owner.get("host") == socket.gethostname() and owner.get("boot") == _boot()
    return here and _started(owner["pid"]) != owner.get("process_started")


def _owner() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": _now(),
        "command": " ".join(sys.argv),
        "boot": _boot(),
        "process_started": _started(os.getpid()),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _boot() -> str | None:
    """Returns the id of this machine's start; None where the kernel tells none."""
    file = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else None


def _started(pid: int) -> str | None:
    """Returns when a process began, in the kernel's ticks, by which a process with a used number is told apart; None: it has ended."""
    file = pathlib.Path(f"/proc/{pid}/stat")
    try:
        return file.read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return None


def _describe(content: str) -> str:
    """Returns what is known of the owner; it may be about to write its name."""
    try:
        owner = json.loads(content)
    except json.JSONDecodeError:
        return "a process that has just started"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']} ({owner['command']})"
