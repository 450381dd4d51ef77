"""What the processes of a run tell each other without their devices, which may be busy or waiting for one of them.

JAX's coordination service, which process 0 holds, keeps keys with values and barriers for all. With one process nothing is sent.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # no public name for the client

_numbers = itertools.count()
_PATIENCE_MS = 7 * 24 * 3600 * 1000  # a process that dies is noticed by its heartbeat, long before
_ENDED = "ended"


class Votes:
    """Questions to all processes of a run, which make an object of this class and ask in the same order; close it at the end."""

    def __init__(self) -> None:
        """Begins a round of questions of its own."""
        self._client: Any = distributed.global_state.client if jax.process_count() > 1 else None
        self._room = f"cotdistill_jax/votes_{next(_numbers)}"
        self._asked = 0

    def any(self, mine: bool) -> bool:
        """Returns whether `mine` is true in any process, the same in all; waits until each has asked.

        A barrier and a look at the keys: about a millisecond.
        """
        if self._client is None:
            return mine
        self._asked += 1
        key = f"{self._room}/yes/{self._asked}"
        if mine:
            self._client.key_value_set(key, "", allow_overwrite=True)
        self._client.wait_at_barrier(f"{self._room}/barrier", _PATIENCE_MS)
        # Who was quick may have answered the next question already, but not yet passed its barrier.
        return any(found == key for found, _ in self._client.key_value_dir_get(f"{self._room}/yes"))

    def announce(self, word: str) -> None:
        """Tells the processes that listen a word, from any thread; the first word of all counts."""
        if self._client is None:
            return
        try:
            self._client.key_value_set(f"{self._room}/word", word)
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def listen(self, heard: Callable[[str], None]) -> None:
        """Calls `heard`, in a thread, with the word that a process announces."""
        if self._client is not None:
            threading.Thread(target=self._wait_for_word, args=(heard,), daemon=True).start()

    def close(self) -> None:
        """Ends `listen`."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service ended first
            self.announce(_ENDED)

    def _wait_for_word(self, heard: Callable[[str], None]) -> None:
        try:
            word = self._client.blocking_key_value_get(f"{self._room}/word", _PATIENCE_MS)
        except jax.errors.JaxRuntimeError:  # the service ended first
            return
        if word != _ENDED:
            heard(word)
