"""Signals that end a run in good order: SIGTERM and SIGINT become a question that the loop asks before every step.

Several processes ask it together, as one that left alone would leave the others waiting in their next collective. A thread
takes the signal and tells the other processes at once, whatever the main thread of either is doing: compiling, waiting for a device,
for its input or for another process.
"""

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from cotdistill_jax.train.votes import Votes

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequestedError(Exception):
    """A signal ended what was under way; raised in all processes at the same point."""


class StopSignal:
    """Takes SIGTERM and SIGINT while a run lasts; use as a context manager.

    Any number of SIGTERMs, in any number of processes, is one request. A second SIGINT raises KeyboardInterrupt at once.

    Attributes:
      wanted: whether a signal has come here, or is known to have come to another process; processes may differ for a moment.
      name: of the signal.
      changed: set when a signal has come; may be set by others who have something to look at.
    """

    def __init__(self, leave: Callable[[str], None] | None = None) -> None:
        """Sets nothing up yet.

        Args:
          leave: ends this process at a signal that comes before `begin`, in whatever state it is; takes the signal's name. None: the
            signal is only remembered.
        """
        self._leave = leave
        self.name = "SIGTERM"
        self.changed = threading.Event()
        self.wanted = False
        self._lock = threading.Lock()
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Installs the handlers where Python allows it (in the main thread)."""
        self._votes = Votes()
        self._votes.listen(self._want)
        if threading.current_thread() is threading.main_thread():
            self._read, self._written = socket.socketpair()
            self._written.setblocking(False)
            self._before_fd = signal.set_wakeup_fd(
                self._written.fileno(), warn_on_full_buffer=False
            )
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._interrupt)
            threading.Thread(target=self._take_signals, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._before_fd)
            self._written.close()
        self._votes.close()

    def begin(self) -> None:
        """Says that there is something to lose from now on; all processes call it, and wait for each other."""
        self._votes.any(False)
        self._leave = None

    def requested(self, unless: bool = False) -> bool:
        """Returns whether to stop now, the same in all processes, which ask in the same order and wait for each other.

        Args:
          unless: this process has done what all wait for, and would rather go on.
        """
        return self._votes.any(self.wanted and not unless)

    def check(self) -> None:
        """Asks `requested`; for work that may be dropped, between its parts.

        Raises:
          StopRequestedError: the answer is yes.
        """
        if self.requested():
            raise StopRequestedError(self.name)

    def _want(self, name: str) -> None:
        with (
            self._lock
        ):  # the thread that takes signals and the one that listens to other processes
            if self.wanted:
                return
            self.name, self.wanted = name, True
        self.changed.set()
        if self._leave is not None:
            self._leave(name)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt

    def _take_signals(self) -> None:
        """Reads the numbers of the signals, which Python writes in whatever state its main thread is."""
        while numbers := self._read.recv(64):
            for number in numbers:
                if number in _SIGNALS:
                    name = signal.Signals(number).name
                    self._votes.announce(name)
                    self._want(name)
        self._read.close()
