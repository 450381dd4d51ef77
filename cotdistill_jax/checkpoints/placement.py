"""From files to the devices that hold them: each process reads what its own devices hold, a few tensors at a time.

What is being read at any time is no larger than the largest tensor; the parts on the devices come beside it.
"""

import collections
import concurrent.futures
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Sharding

from cotdistill_jax.checkpoints.stored import Index, StoredArray

_READERS = 8


def place(params: Mapping[str, Any], shardings: Mapping[str, Any] | Sharding) -> dict[str, Any]:
    """Returns the parameters on devices; a process reads of each tensor the box around what its devices hold.

    No process waits for another.

    Args:
      params: nested dict of arrays: `StoredArray`s, NumPy's or JAX's; these, too, are copied.
      shardings: of each of them, or one for all.
    """
    arrays = traverse_util.flatten_dict(dict(params))
    if isinstance(shardings, Sharding):
        targets = dict.fromkeys(arrays, shardings)
    else:
        targets = traverse_util.flatten_dict(dict(shardings))
    placed: dict[tuple[str, ...], jax.Array] = {}
    waiting = collections.deque(_groups(arrays, targets))
    most = max((group.num_bytes for group in waiting), default=0)
    reading: collections.deque[tuple[_Group, concurrent.futures.Future[Any]]] = collections.deque()
    held = 0
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        while waiting or reading:
            if waiting and held + waiting[0].num_bytes <= most:
                group = waiting.popleft()
                held += group.num_bytes
                reading.append((group, pool.submit(group.read)))
            else:
                group, future = reading.popleft()
                placed |= group.put(future.result())
                held -= group.num_bytes
                del future  # and what was read with it
    return traverse_util.unflatten_dict(placed)


class _Group:
    """Tensors that are read at once: one, or the layers that a scanned run stores as one array."""

    def __init__(self, source: Any, members: Sequence[tuple[Any, Any, Sharding]]) -> None:
        """Notes what is to be read.

        Args:
          source: the array that is read.
          members: per tensor its place along axis 0 of `source` (None: all of it), its name and its sharding.
        """
        self._source, self._members = source, members
        layered = members[0][0] is not None
        self._shape = tuple(source.shape[1:] if layered else source.shape)
        parts = [
            _sides(index, self._shape)
            for _, _, sharding in members
            for index in sharding.addressable_devices_indices_map(self._shape).values()
        ]
        self._box = tuple(
            slice(min(side.start for side in along), max(side.stop for side in along))
            for along in zip(*parts, strict=True)
        )
        self._index = (slice(0, source.shape[0]), *self._box) if layered else self._box
        # Of all of it: files may have to be decoded whole for a part.
        self.num_bytes = math.prod(source.shape) * np.dtype(source.dtype).itemsize

    def read(self) -> Any:
        """Returns the box around all that this process's devices hold; an array of JAX's as it is."""
        return self._source if isinstance(self._source, jax.Array) else self._source[self._index]

    def put(self, read: Any) -> dict[Any, jax.Array]:
        """Returns the tensors on their devices, by name."""
        return {
            name: self._put_one(read if place is None else read[place], sharding)
            for place, name, sharding in self._members
        }

    def _put_one(self, read: Any, sharding: Sharding) -> jax.Array:
        if isinstance(read, jax.Array):
            return jax.device_put(read, sharding, may_alias=False)

        def part(index: Index | None) -> np.ndarray:
            inside = tuple(
                slice(side.start - box.start, side.stop - box.start)
                for side, box in zip(_sides(index, self._shape), self._box, strict=True)
            )
            # A copy: on CPUs JAX takes memory over as it is, be it that of a mapped file.
            return np.array(read[inside])

        return jax.make_array_from_callback(self._shape, sharding, part)


def _groups(arrays: Mapping[Any, Any], targets: Mapping[Any, Sharding]) -> list[_Group]:
    groups: dict[tuple[int, bool], tuple[Any, list[tuple[Any, Any, Sharding]]]] = {}
    for name, array in arrays.items():
        is_part = isinstance(array, StoredArray) and array.part_of is not None
        source, place = array.part_of if is_part else (array, None)
        _, members = groups.setdefault((id(source), is_part), (source, []))
        members.append((place, name, targets[name]))
    return [_Group(source, members) for source, members in groups.values()]


def _sides(index: Index | None, shape: Sequence[int]) -> list[slice]:
    """Returns a part's slices with the ends that they leave out."""
    given = (*(index or ()), *[slice(None)] * len(shape))[: len(shape)]
    return [slice(*side.indices(length)[:2]) for side, length in zip(given, shape, strict=True)]
