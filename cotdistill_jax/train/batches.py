"""The batches of a run, fetched by a thread: an input that stalls delays neither a signal nor the checkpoint after it.

The position of an input that stalls can't be read, as who waits in the pipeline holds its locks. Then the last known position is
saved, with the number of batches that were taken since; whoever restores it reads these batches again and lets them go.
"""

import json
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from cotdistill_jax.train import stopping

Batch = Mapping[str, np.ndarray]
_AGAIN_SUFFIX = ".again.json"
_SAVE_SECONDS = 5.0  # for the position, once a signal has come


class Batches:
    """The batches of an iterator; its position is saved and restored as `checkpoints.TrainCheckpoints` asks."""

    def __init__(self, iterator: Any, stop: stopping.StopSignal) -> None:
        """Fetches nothing yet.

        Args:
          iterator: endless, of batches; with `save` and `restore`.
          stop: ends the wait for a batch, and soon that for a position.
        """
        self._iterator = iterator
        self._stop = stop
        self._fetching: _Call | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="cotdistill_jax_position_")
        self._known: pathlib.Path | None = None  # a prefix of files; None: where the data begins
        self._num_saved = 0
        self._since = 0  # batches taken since the known position

    def wait(self, seconds: float | None) -> bool:
        """Waits for the next batch, until a signal comes, or so long; returns whether the batch is there."""
        if self._fetching is None:
            self._fetching = _Call(lambda: next(self._iterator), self._stop.changed)
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
        if self._fetching is None:
            self._read_position()
        target = epath.Path(filename)
        for path in self._files_of_known():
            name = target.name + path.name.removeprefix(self._known.name if self._known else "")
            (target.parent / name).write_bytes(path.read_bytes())
        if self._since:
            again = {"batches_to_read_again": self._since}
            (target.parent / (target.name + _AGAIN_SUFFIX)).write_text(json.dumps(again))

    def restore(self, filename: str | os.PathLike[str]) -> None:
        """Moves the pipeline to the position in `filename`, reading again what its writer could not leave out."""
        source = epath.Path(filename)
        prefix = self._next_prefix()
        self._since = 0
        for path in source.parent.glob(f"{source.name}.*"):
            if path.name == source.name + _AGAIN_SUFFIX:
                self._since = json.loads(path.read_text())["batches_to_read_again"]
            else:
                suffix = path.name.removeprefix(source.name)
                prefix.with_name(prefix.name + suffix).write_bytes(path.read_bytes())
        self._known = prefix
        if self._files_of_known():
            self._iterator.restore(prefix)
        elif not self._since:
            raise FileNotFoundError(f"train: {source.parent} holds no position of the data")
        for _ in range(self._since):
            next(self._iterator)

    def _read_position(self) -> None:
        """Makes the present position the known one, unless it can't be read in time."""
        prefix = self._next_prefix()
        reading = _Call(lambda: self._iterator.save(prefix), self._stop.changed)
        if not reading.wait(None, lambda: self._stop.wanted):
            reading.wait(_SAVE_SECONDS, lambda: False)
        if reading.done:
            reading.result()
            for path in self._files_of_known():
                path.unlink()
            self._known, self._since = prefix, 0

    def _next_prefix(self) -> pathlib.Path:
        self._num_saved += 1
        return pathlib.Path(self._folder.name) / f"position_{self._num_saved}"

    def _files_of_known(self) -> list[pathlib.Path]:
        known = self._known
        return sorted(known.parent.glob(f"{known.name}.*")) if known else []


class _Call:
    """A function called in a thread of its own; nobody need wait for its end."""

    def __init__(self, function: Callable[[], Any], changed: threading.Event) -> None:
        self.done = False
        self._changed = changed
        self._result: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, args=(function,), daemon=True).start()

    def wait(self, seconds: float | None, given_up: Callable[[], bool]) -> bool:
        """Waits until the function has returned, `given_up`, or so long; returns whether it has returned."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            self._changed.clear()
            left = None if until is None else until - time.monotonic()
            if self.done or given_up() or (left is not None and left <= 0):
                return self.done
            self._changed.wait(left)

    def result(self) -> Any:
        """Returns what the function returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._result = function()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error
        self.done = True
        self._changed.set()
