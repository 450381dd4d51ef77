"""Lists out of pickles that need not be trusted, item by item: containers, numbers and strings come out, nothing is called.

A pickle can name any importable function and call it while it is loaded. Here the whole file is checked first, as bytes
(`pickle_scan`), and refused with the name of what it wanted to call. Then each item is loaded by an unpickler of its own, which
knows `collections.OrderedDict` (as `dict`, which keeps order, too) and no other name. So memory holds one item, not the file;
only where items share containers (pickle then writes a reference), the rest is loaded at once, by the same unpickler.
"""

from __future__ import annotations

import io
import mmap
import os
import pathlib
import pickle
import pickletools
import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from cotdistill_jax.teacher import pickle_scan
from cotdistill_jax.teacher.pickle_scan import Status

# Python objects take about ten times the bytes of their pickle: an estimate from the sizes of (token, probability) tuples.
MEMORY_PER_BYTE = 10
_LONGEST_NAME = 1000
_SEARCHED_BYTES = 1 << 20
# Harmless opcodes in a senseless order raise any of these.
_LOADING_ERRORS = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
)
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_WANTED = {
    "REDUCE": "a call of something that is not collections.OrderedDict (REDUCE)",
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "an entry of Python's extension registry"),
    **dict.fromkeys(("PERSID", "BINPERSID"), "an object outside the file, by a persistent id"),
}


class PickleFileError(ValueError):
    """A pickle that is truncated, broken, or not a list; the message names file, record, problem and fix."""


class RefusedPickleError(PickleFileError):
    """A pickle that asks for more than containers, numbers and strings; nothing of it was loaded."""


class PickledList:
    """The items of a pickled list, checked when it is opened and loaded one at a time.

    Example:
        >>> items = PickledList("codex_questions.pkl")  # doctest: +SKIP
        >>> len(items), next(iter(items))  # doctest: +SKIP
        (7474, 'Question 0: Natalia sold clips ...')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Maps the file into memory and checks every opcode.

        Args:
            path: a file of `pickle.dump(list)` with protocol 2 or later.

        Raises:
            FileNotFoundError: no such file.
            RefusedPickleError: it asks for something but containers, numbers and strings.
            PickleFileError: it is truncated, broken, or no list.
        """
        self.path = pathlib.Path(path)
        if not self.path.exists():
            raise FileNotFoundError(
                f"import: no file {self.path}. Pass the folder that holds the released pickles."
            )
        with self.path.open("rb") as stream:
            empty = os.fstat(stream.fileno()).st_size == 0
            content = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._data = np.frombuffer(content, np.uint8)
        self._scan = pickle_scan.scan(self._data)
        if self._scan.status is not Status.WHOLE:
            raise self._problem()

    def __len__(self) -> int:
        """Returns the number of items."""
        return len(self._scan.items)

    @property
    def bytes_needed(self) -> int:
        """Memory that the largest item takes when it is loaded, about."""
        sizes = self._scan.items[:, 1] - self._scan.items[:, 0]
        return int(sizes.max(initial=0)) * MEMORY_PER_BYTE

    def __iter__(self) -> Iterator[Any]:
        """Yields the items in order.

        Raises:
            PickleFileError: an item whose opcodes make no sense in their order.
        """
        rewriter = pickle_scan.Rewriter(self._data, self._scan.referenced)
        for record, (start, end) in enumerate(self._scan.items.tolist()):
            status, content = rewriter.rewrite(start, end)
            if status is not Status.WHOLE:
                yield from self._load_whole(record)[record:]
                return
            yield self._load(record, io.BytesIO(content))

    def _load_whole(self, record: int) -> list[Any]:
        """Returns all items, for a file in which `record` refers to a container that another record or it itself has."""
        size = len(self._data)
        warnings.warn(
            f"import: {self.path} record {record} refers to a list or dictionary by its place in the file, so the file is loaded as a "
            f"whole: about {size * MEMORY_PER_BYTE / 2**20:,.0f} MiB of memory.",
            stacklevel=2,
        )
        with self.path.open("rb") as stream:
            return self._load(record, stream)

    def _load(self, record: int, stream: IO[bytes]) -> Any:
        try:
            return _Containers(stream).load()
        except _LOADING_ERRORS as error:
            raise PickleFileError(
                f"import: {self.path} record {record}: {error}. Get the file again from where it was released."
            ) from error

    def _problem(self) -> PickleFileError:
        scan, size = self._scan, len(self._data)
        where = f"import: {self.path} record {len(scan.items)} (byte {scan.position:,} of {size:,})"
        if scan.status is Status.REFUSED:
            return RefusedPickleError(
                f"{where}: refused: {_describe(self._data, scan)}. Only lists, tuples, dictionaries, sets, numbers, strings and "
                "collections.OrderedDict are loaded; nothing of the file was. Don't load it by other means unless you trust who "
                "made it."
            )
        problem = {
            Status.TRUNCATED: "the file ends here. It is truncated: get it again, and compare its size",
            Status.NOT_A_LIST: "expected a pickled list. Check that this is one of the released files",
        }.get(scan.status, "this is no pickle. Check that this is one of the released files")
        return PickleFileError(f"{where}: {problem}.")


class _Containers(pickle.Unpickler):
    """Loads what `pickle_scan.scan` let pass; the second of two locks."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != pickle_scan.ALLOWED_CLASS:
            raise pickle.UnpicklingError(f"refused the global {module}.{name}")
        return dict


def _describe(data: np.ndarray, scan: pickle_scan.Scan) -> str:
    """Returns what the refused opcode wants, with the name of the global that it asks for."""
    opcode = _OPCODES.get(chr(data[scan.position]))
    if opcode is None:
        return f"the byte 0x{data[scan.position]:02x}, which is no opcode"
    if opcode.name in ("GLOBAL", "INST"):
        rest = bytes(data[scan.position + 1 : scan.position + 1 + _LONGEST_NAME])
        module, name = (rest.decode("utf-8", "replace") + "\n\n").split("\n")[:2]
        return f"the global {module}.{name} ({opcode.name})"
    if opcode.name == "STACK_GLOBAL":
        module, name = (pickle_scan.string_at(data, int(place)) or "?" for place in scan.names)
        return f"the global {module}.{name} (STACK_GLOBAL)"
    if opcode.proto == 0 and opcode.name not in _WANTED:
        return f"an opcode of pickle protocol 0, {opcode.name}{_global_after(data, scan.position)}; protocols 2 to 5 are read"
    return _WANTED.get(opcode.name, f"the opcode {opcode.name}")


def _global_after(data: np.ndarray, position: int) -> str:
    """Returns the first global after `position`, in words; empty if the next `_SEARCHED_BYTES` hold none."""
    try:
        for opcode, argument, _ in pickletools.genops(
            bytes(data[position : position + _SEARCHED_BYTES])
        ):
            if opcode.name in ("GLOBAL", "INST"):
                return f", in a file that asks for the global {str(argument).replace(' ', '.')}"
    except ValueError:
        pass  # the file ends, or what follows is no pickle
    return ""
