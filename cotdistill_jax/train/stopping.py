"""Signals that end a run in good order: SIGTERM and SIGINT become a question the loop asks before every step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class StopRequestedError(Exception):
    """A signal arrived inside `StopSignal.raising`."""


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag while a run lasts; use as a context manager.

    Any number of SIGTERMs is one request. A second SIGINT raises KeyboardInterrupt at once.

    With several hosts SIGTERM is left to JAX, which tells all hosts of one host's signal and makes them agree on the
    step after which they stop.
    """

    def __init__(self) -> None:
        """Sets nothing up yet."""
        self.name = "SIGTERM"
        self._requested = False
        self._raising = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Installs the handlers where Python allows it (in the main thread)."""
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, done: int) -> bool:
        """Returns whether to stop now; with several hosts each calls it once per step with the same `done`."""
        if jax.process_count() > 1 and not self._requested:
            self._requested = multihost_utils.reached_preemption_sync_point(done)
        return self._requested

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Lets a signal raise StopRequestedError inside: for work that may be dropped, such as an evaluation."""
        self._raising = True
        try:
            if self._requested:
                raise StopRequestedError(self.name)
            yield
        finally:
            self._raising = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        first = not self._requested
        self._requested = True
        self.name = signal.Signals(number).name
        if first and self._raising:
            raise StopRequestedError(self.name)
