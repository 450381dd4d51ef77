"""A function in a thread of its own, for what can't be interrupted: whoever waits for it can."""

import threading
import time
from collections.abc import Callable
from typing import Any


class Call:
    """A function that was called; nobody need wait for its end.

    Attributes:
      done: whether it has returned, or raised.
    """

    def __init__(self, function: Callable[[], Any], changed: threading.Event) -> None:
        """Calls it.

        Args:
          function: what to call.
          changed: is set at its end, and by others who give the waiting thread something to look at.
        """
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
