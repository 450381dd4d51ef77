"""Where the seconds of a start go: they divide into parts without gap or overlap, as the thread that runs the loop says."""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Self

import jax

STARTING = "starting"
COMPILING = "compiling"
TRAINING = "training"
WAITING = "waiting for data"
SAVING = "saving"
EVALUATING = "evaluating"
PARTS = (STARTING, COMPILING, TRAINING, WAITING, SAVING, EVALUATING)
# Tracing, lowering, and XLA's compilation or the look into its cache.
_COMPILATIONS = "/jax/core/compile/"


class Stopwatch:
    """Divides time into parts; use as a context manager.

    What JAX spends compiling counts as such, whatever part it happens in. One thread compiles at a time, and the loop waits for it.
    """

    def __init__(self, age: float = 0.0) -> None:
        """Starts in the part `STARTING`.

        Args:
          age: seconds that count as spent there already, such as `process_age()`.
        """
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part = STARTING
        self._since = time.monotonic() - age
        self._compiled: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        """Listens to JAX's compilations."""
        jax.monitoring.register_event_time_span_listener(self._count_compilation)
        return self

    def __exit__(self, *exception: object) -> None:
        """Listens no longer."""
        jax.monitoring.unregister_event_time_span_listener(self._count_compilation)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what happens inside to the part `name`, and what follows to that before."""
        before, self._part = self._lap(), name
        try:
            yield
        finally:
            self._lap()
            self._part = before

    def switch(self, name: str) -> None:
        """Counts what follows to the part `name`."""
        self._lap()
        self._part = name

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each part so far; their sum is all the time since the start."""
        self._lap()
        return dict(self._seconds)

    def _lap(self) -> str:
        now = time.monotonic()
        self._seconds[self._part] += now - self._since
        self._since = now
        return self._part

    def _count_compilation(
        self, event: str, start_time: float, end_time: float, **kwargs: str | int
    ) -> None:
        """Takes a compilation that has just ended; one may hold others, whose ends were told before."""
        if not event.startswith(_COMPILATIONS):
            return
        seconds = end_time - start_time
        while self._compiled and self._compiled[-1][0] >= start_time:
            inner_start, inner_end = self._compiled.pop()
            seconds -= inner_end - inner_start
        self._compiled.append((start_time, end_time))
        self._seconds[self._part] -= seconds
        self._seconds[COMPILING] += seconds


def process_age() -> float:
    """Returns the seconds since this process began (Linux; 0.0 elsewhere)."""
    stat = pathlib.Path("/proc/self/stat")
    if not stat.exists():
        return 0.0
    # The 22nd field; the second, the command in parentheses, may hold blanks.
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
