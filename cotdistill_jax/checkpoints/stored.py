"""Arrays that stay on disk or in a bucket until they are asked for, and the folders that they lie in.

A tree of `StoredArray`s has the names and shapes of a checkpoint and none of its bytes: whoever goes through it leaf by
leaf needs memory for one tensor, however large the model, and whoever holds a part of each tensor (`placement`) reads no more. Folders are local or `gs://`; both are read through
TensorStore, which has its own Google Cloud Storage client, so that no further package is needed.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from cotdistill_jax import files

Index = tuple[slice, ...]
"""A part of an array: slices of step 1 along its first axes; `()` is all of it."""


@dataclasses.dataclass(frozen=True, eq=False)
class StoredArray:
    """An array that is read anew each time it is asked for: whole by `np.asarray(stored)`, a part by `stored[index]`.

    Attributes:
      shape: its shape.
      dtype: its element type.
      read: returns a part of it.
      part_of: the stored array that it is a part of, and its place along axis 0 there; None: stored by itself.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]
    part_of: tuple["StoredArray", int] | None = None

    @property
    def T(self) -> "StoredArray":  # NumPy's name
        """The transposed matrix."""
        return StoredArray(self.shape[::-1], self.dtype, functools.partial(_read_transposed, self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns the array, for NumPy; `copy` makes no difference, as nothing is shared."""
        return self.read(()).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: Index) -> np.ndarray:
        """Returns a part of the array."""
        return self.read(index).astype(self.dtype, copy=False)

    def __iter__(self) -> Iterator["StoredArray"]:
        """Yields the parts along axis 0, for `network.unstack_layers`.

        Whole parts that are asked for one after the other cost one reading of the whole array.
        """
        for place in range(self.shape[0]):
            read = functools.partial(_read_part, self, place)
            yield StoredArray(self.shape[1:], self.dtype, read, (self, place))


@functools.lru_cache(maxsize=1)
def _whole(array: StoredArray) -> np.ndarray:
    return array.read(())


def _read_part(array: StoredArray, place: int, index: Index) -> np.ndarray:
    if not index:
        part: np.ndarray = _whole(array)[place]
        return part
    return array.read((slice(place, place + 1), *index))[0]


def _read_transposed(array: StoredArray, index: Index) -> np.ndarray:
    rows, columns = (*index, slice(None), slice(None))[:2]
    return array[columns, rows].T


def stack(leaves: Sequence[Any]) -> StoredArray:
    """Returns arrays of one shape, NumPy's or stored, as one with a new axis 0; reads one of them at a time.

    The parts of a stored array, all and in order, give that array.
    """
    first = leaves[0]
    whole = getattr(first, "part_of", None)
    if whole and whole[0].shape[0] == len(leaves):
        places = [getattr(leaf, "part_of", None) for leaf in leaves]
        if places == [(whole[0], place) for place in range(len(leaves))]:
            stored: StoredArray = whole[0]
            return stored
    shape = (len(leaves), *first.shape)
    return StoredArray(shape, np.dtype(first.dtype), functools.partial(_read_stacked, leaves))


def _read_stacked(leaves: Sequence[Any], index: Index) -> np.ndarray:
    chosen = leaves[index[0]] if index else leaves
    parts = (leaf[index[1:]] for leaf in chosen)
    first = next(parts)
    read = np.empty((len(chosen), *first.shape), first.dtype)
    read[0] = first
    for place, part in enumerate(parts, 1):
        read[place] = part
    return read


def as_float32(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tree of stored arrays that are read as float32, from one of stored or NumPy's."""

    def cast(leaf: Any) -> StoredArray:
        dtype = np.dtype(np.float32)
        return StoredArray(tuple(leaf.shape), dtype, lambda index: np.asarray(leaf[index], dtype))

    found: dict[str, Any] = jax.tree.map(cast, dict(tree))
    return found


def materialise(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tree of NumPy arrays: all its leaves read, several at a time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        leaves, structure = jax.tree.flatten(dict(tree))
        read: dict[str, Any] = jax.tree.unflatten(structure, pool.map(np.asarray, leaves))
    return read


def open_folder(path: str) -> ts.KvStore:
    """Returns the key-value store of all files below a folder, local or in a bucket; of a single file, under the key ''.

    Raises:
      ValueError: a local path holds a backslash.
    """
    if files.is_remote(path):
        return ts.KvStore.open(path.rstrip("/") + "/").result()
    local = files.local_path(path, "checkpoints", "a folder").absolute()
    if "\\" in str(local):
        raise ValueError(
            f"checkpoints: {str(local)!r} holds a backslash, which TensorStore takes for a slash, and so reads another folder. Rename "
            "the folder, or name it by a link without one."
        )
    below = str(local) if local.is_file() else f"{local}/"
    return ts.KvStore.open({"driver": "file", "path": below}).result()


def read_file(store: ts.KvStore, name: str) -> bytes | None:
    """Returns a file's content, or None where there is none of that name."""
    found = store.read(name).result()
    return found.value if found.state == "value" else None


def open_arrays(specs: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, StoredArray]:
    """Returns the arrays that TensorStore specs stand for, by name, opened at once and not read.

    Args:
      specs: per name, `{"driver", "kvstore"}`.
      where: the checkpoint, for messages.

    Raises:
      FileNotFoundError: chunks are missing, which TensorStore would read as zeros; the message lists the arrays.
      ValueError: an array's description is damaged; the message names it.
    """
    # All are asked at once, then waited for: in a bucket each answer takes its time.
    opening = {name: ts.open(dict(spec), read=True, open=True) for name, spec in specs.items()}
    opened = {name: _wait(future, name, where) for name, future in opening.items()}
    asked = {
        name: array.storage_statistics(query_fully_stored=True)
        for name, array in opened.items()
        if array is not None
    }
    answers = {name: _wait(future, name, where) for name, future in asked.items()}
    lost = [name for name in opened if not (answers.get(name) and answers[name].fully_stored)]
    if lost:
        raise FileNotFoundError(
            f"checkpoints: {where} is incomplete: {len(lost)} of {len(specs)} arrays lack data: "
            f"{', '.join(sorted(lost)[:8])}; copy the folder again"
        )
    return {
        name: StoredArray(
            tuple(array.shape),
            array.dtype.numpy_dtype,
            functools.partial(_read, array, name, where),
        )
        for name, array in opened.items()
    }


def _read(array: ts.TensorStore, name: str, where: str, index: Index) -> np.ndarray:
    read: np.ndarray | None = _wait(array[index].read(), name, where)
    if read is None:
        raise ValueError(_damaged(name, where, "a file of its data is missing"))
    return read


def _wait(future: ts.Future, name: str, where: str) -> Any:
    """Returns the result, or None where a file is missing."""
    try:
        return future.result()
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise ValueError(_damaged(name, where, error)) from error


def _damaged(name: str, where: str, what: object) -> str:
    return f"checkpoints: array {name} of {where} is damaged: {what}; copy it again"
