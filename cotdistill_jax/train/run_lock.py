"""One run per folder: a lock that names its owner and that the kernel takes back when the owner dies."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

LOCK_FILE = "run.lock"


class FolderInUseError(BlockingIOError):
    """Another process trains in this run folder."""


@contextlib.contextmanager
def hold(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of a run folder; the file `run.lock` in it says who holds it, or held it last.

    The lock is the kernel's (`flock`), so it ends with its process, however that ends, and a file that a killed run left
    behind is taken over. Hosts that share the folder see each other's lock where the file system passes locks on (NFS 4,
    Lustre with `flock`); object stores do not.

    Args:
      folder: the run folder, which exists.

    Raises:
      FolderInUseError: another process holds it; the message names process, host, start and command.
    """
    with (pathlib.Path(folder) / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise FolderInUseError(
                error.errno,
                f"train: another run trains in this folder: {_describe(file.read())}; stop it first, or choose another "
                "MODEL_DIR",
                os.fspath(folder),
            ) from error
        file.truncate(0)
        file.write(json.dumps(_owner()) + "\n")
        file.flush()
        yield


def check_exists(folder: str | os.PathLike[str]) -> None:
    """Checks that the folder is still the one that was locked: Orbax would make a new one without a word.

    Raises:
      FileNotFoundError: it was removed, or the file system that held it is gone.
    """
    if not (pathlib.Path(folder) / LOCK_FILE).exists():
        raise FileNotFoundError(
            f"train: the run folder {os.fspath(folder)} or its {LOCK_FILE} is gone"
        )


def _owner() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": now.isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }


def _describe(content: str) -> str:
    """Returns what is known of the owner; it may be about to write its name."""
    try:
        owner = json.loads(content)
    except json.JSONDecodeError:
        return "a process that has just started"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']} ({owner['command']})"
