"""One run per folder, see `files.locks`."""

import contextlib
from collections.abc import Iterator

from cotdistill_jax import files

LOCK_FILE = "run.lock"


class FolderInUseError(BlockingIOError):
    """Another process trains in this run folder."""


@contextlib.contextmanager
def hold(folder: files.AnyPath) -> Iterator[files.Lock]:
    """Holds the lock of a run folder; the file `run.lock` in it says who holds it, or held it last.

    Args:
      folder: the run folder, which exists.

    Raises:
      FolderInUseError: another process holds it; the message names process, host, start and command.
    """
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(files.hold(files.as_path(folder) / LOCK_FILE))
        except files.HeldError as error:
            raise FolderInUseError(
                error.errno,
                f"train: another run trains in this folder: {error.owner}; stop it first, or choose another MODEL_DIR",
                str(folder),
            ) from error
        yield lock


def of_other_host(folder: files.Path) -> files.Lock:
    """Returns what the hosts that do not hold the lock check: that the folder is still there. Orbax would make a new one without a word."""
    return files.Lock(folder / LOCK_FILE)
