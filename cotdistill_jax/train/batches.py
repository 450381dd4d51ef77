"""The batches of a run, fetched by a thread: an input that stalls delays neither a signal nor the checkpoint after it.

The position of an input that stalls can't be read, as who waits in the pipeline holds its locks. Then the last known position is
saved, with the number of batches that were taken since; whoever restores it reads these batches again and lets them go.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from etils import epath

from cotdistill_jax.train import stopping
from cotdistill_jax.train.calls import Call

Batch = Mapping[str, np.ndarray]
_AGAIN_SUFFIX = ".again.json"
_SAVE_SECONDS = 5.0  # for the position, once a signal has come
# To destroy a pipeline is to wait for its threads: a minute on a busy machine, for ever with an input that stalls. A process that
# got a signal is about to end, and leaves that to the kernel.
_kept: list[Any] = []


class Batches:
    """The batches of an iterator; its position is saved and restored as `checkpoints.TrainCheckpoints` asks; use as a context manager."""

    def __init__(self, iterator: Any, stop: stopping.StopSignal) -> None:
        """Fetches nothing yet.

        Args:
          iterator: endless, of batches; with `save` and `restore`.
          stop: ends the wait for a batch, and soon that for a position.
        """
        self._iterator = iterator
        self._stop = stop
        self._fetching: Call | None = None
        self._folder = tempfile.TemporaryDirectory(
            prefix="cotdistill_jax_position_", ignore_cleanup_errors=True
        )
        self._known: pathlib.Path | None = None  # a prefix of files; None: where the data begins
        self._num_saved = 0
        self._since = 0  # batches taken since the known position

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Removes the known position; a call that waits for the input is left to itself."""
        self._folder.cleanup()
        if self._stop.wanted:
            _kept.append(self._iterator)

    def wait(self, seconds: float | None) -> bool:
        """Waits for the next batch, until a signal comes, or so long; returns whether the batch is there."""
        if self._fetching is None:
            self._fetching = Call(lambda: next(self._iterator), self._stop.changed)
        return self._fetching.wait(seconds, lambda: self._stop.wanted)

    def take(self) -> Batch:
        """Returns the batch that `wait` has seen; raises what reading it raised."""
        assert self._fetching is not None
        fetched, self._fetching = self._fetching, None
        batch: Batch = fetched.result()
        self._since += 1
        return batch

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Writes the position after the batch that was taken last, to files whose names start with `filename`."""
        is_read = self._fetching is None and self._read_position()
        target = epath.Path(filename)
        for path in self._files_of_known():
            name = target.name + path.name.removeprefix(self._known.name if self._known else "")
            (target.parent / name).write_bytes(path.read_bytes())
        if not is_read:
            again = {"batches_to_read_again": self._since}
            (target.parent / (target.name + _AGAIN_SUFFIX)).write_text(json.dumps(again))

    def restore(self, filename: str | os.PathLike[str]) -> None:
        """Moves the pipeline to the position in `filename`, reading again what its writer could not leave out."""
        source = epath.Path(filename)
        prefix = self._next_prefix()
        self._known, self._since = prefix, 0
        is_whole = False
        for path in source.parent.glob(f"{source.name}.*"):
            is_whole = True
            if path.name == source.name + _AGAIN_SUFFIX:
                self._since = json.loads(path.read_text())["batches_to_read_again"]
            else:
                suffix = path.name.removeprefix(source.name)
                prefix.with_name(prefix.name + suffix).write_bytes(path.read_bytes())
        if not is_whole:
            raise FileNotFoundError(f"train: {source.parent} holds no position of the data")
        if self._files_of_known():
            self._iterator.restore(prefix)
        for _ in range(self._since):
            next(self._iterator)

    def _read_position(self) -> bool:
        """Makes the present position the known one; returns whether it could be read in time."""
        prefix = self._next_prefix()
        reading = Call(lambda: self._iterator.save(prefix), self._stop.changed)
        if not reading.wait(None, lambda: self._stop.wanted):
            reading.wait(_SAVE_SECONDS, lambda: False)
        if reading.done:
            reading.result()
            for path in self._files_of_known():
                path.unlink()
            self._known, self._since = prefix, 0
        return reading.done

    def _next_prefix(self) -> pathlib.Path:
        self._num_saved += 1
        return pathlib.Path(self._folder.name) / f"position_{self._num_saved}"

    def _files_of_known(self) -> list[pathlib.Path]:
        known = self._known
        return sorted(known.parent.glob(f"{known.name}.*")) if known else []
