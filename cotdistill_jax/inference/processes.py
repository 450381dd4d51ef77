"""Several processes that evaluate one checkpoint: they start alike, the first one reads and writes files for all, they fail alike.

A process that left alone would leave the others waiting in their next collective.
"""

import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Value = TypeVar("Value")


def is_first() -> bool:
    """Returns whether this process writes the files."""
    return jax.process_index() == 0


def together(function: Callable[[], Value]) -> Value:
    """Returns what a function returns, which every process calls.

    Raises:
        ValueError: it raised in others; in those it is what they raised.
    """
    if jax.process_count() == 1:
        return function()
    try:
        value = function()
    except Exception:
        _gathered(1)
        raise
    failed = [number for number, flag in enumerate(_gathered(0)) if flag]
    if failed:
        raise ValueError(_failed(failed))
    return value


def first_for_all(function: Callable[[], Any]) -> Any:
    """Returns in every process the JSON value that a function returns in the first, which alone calls it.

    Raises:
        ValueError: it raised there; there it is what it raised.
    """
    if jax.process_count() == 1:
        return function()
    content = b""
    if is_first():
        try:
            content = json.dumps(function()).encode()
        except Exception:
            _broadcast(b"")
            raise
    content = _broadcast(content)
    if not content:
        raise ValueError(_failed([0]))
    return json.loads(content)


def check_same(what: str, value: Any) -> None:
    """Checks that all processes have one JSON value.

    Raises:
        ValueError: they do not; in all of them.
    """
    if jax.process_count() == 1:
        return
    found = _gathered(zlib.crc32(json.dumps(value, sort_keys=True).encode()))
    others = [number for number, checksum in enumerate(found) if checksum != found[0]]
    if others:
        raise ValueError(
            f"inference: {what} of process(es) {others} differ from those of process 0; give all the same flags, and the same files"
        )


def _gathered(number: int) -> list[int]:
    """Returns the numbers, each below 2**32, of all processes."""
    gathered = multihost_utils.process_allgather(np.asarray([number], np.uint32))
    return [int(one) for one in np.ravel(gathered)]


def _broadcast(content: bytes) -> bytes:
    """Returns the content that the first process has."""
    length = multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.uint32))
    padded = np.zeros(int(length), np.uint8)
    if is_first():
        padded[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


def _failed(numbers: list[int]) -> str:
    return f"inference: process {jax.process_index()} ends, as process(es) {numbers} failed; see what they print"
