"""A compiled function compiles once; this notices when it does so again."""

from collections.abc import Callable
from typing import Any


class Compilations:
    """Says when a function of `jax.jit` was compiled again, which stops all devices for seconds to minutes."""

    def __init__(self, function: Any, say: Callable[[str], None]) -> None:
        """Counts nothing yet.

        Args:
          function: what `jax.jit` returned.
          say: takes the line that a user should read.
        """
        self._function = function
        self._say = say
        self._seen = 1

    @property
    def count(self) -> int:
        """How often the function was compiled, or found compiled, for shapes, dtypes or shardings that it had not seen."""
        number: int = self._function._cache_size()
        return number

    def check(self, done: int) -> None:
        """Says so if the function was compiled again since the last call.

        Args:
          done: steps done, for the message.
        """
        if self.count > self._seen:
            self._seen = self.count
            self._say(
                f"train: the step was compiled again, {self._seen} times in all, by step {done}: a batch or the state changed shape, "
                "dtype or sharding. Every compilation stops all devices; JAX_EXPLAIN_CACHE_MISSES=1 says what changed"
            )
