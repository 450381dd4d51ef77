"""Lists out of pickles that need not be trusted, item by item: containers, numbers and strings come out, nothing is called.

A pickle can name any importable function and call it while it is loaded. Here the whole file is checked first, as bytes
(`pickle_scan`), and refused with the name of what it wanted to call. Then each item is loaded by an unpickler of its own, which
knows `collections.OrderedDict` (as `dict`, which keeps order, too) and no other name. So memory holds one item, not the file;
only where items share containers (pickle then writes a reference), the rest is loaded at once, by the same unpickler.

Files of Python 2, and files with NumPy numbers or arrays of numbers (labels, where somebody compared arrays), are loaded at once by
an unpickler that makes Python numbers and lists of them; it calls nothing of NumPy's.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import mmap
import os
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from cotdistill_jax import files
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

    def __init__(self, path: files.AnyPath) -> None:
        """Maps the file into memory and checks every opcode.

        Args:
            path: a file of `pickle.dump(list)`, of Python 2 too; one of a protocol below 2, of Python 2, or with NumPy numbers
                is loaded as a whole.

        Raises:
            FileNotFoundError: no such file.
            RefusedPickleError: it asks for something but containers, numbers and strings.
            PickleFileError: it is truncated, broken, or no list.
        """
        self.path = files.as_path(path)
        if not self.path.exists():
            raise FileNotFoundError(
                f"import: no file {self.path}. Pass the folder that holds the released pickles."
            )
        with self.path.open("rb") as stream:
            empty = os.fstat(stream.fileno()).st_size == 0
            content = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._data = np.frombuffer(content, np.uint8)
        if not empty:
            try:
                files.refuse_foreign_content(self.path, "import", "a pickled list")
            except files.ForeignFileError as error:
                raise PickleFileError(str(error)) from error
        self._scan = pickle_scan.scan(self._data)
        self._loaded: list[Any] | None = None
        if self._scan.status is not Status.WHOLE:
            self._loaded = self._load_at_once()

    def __len__(self) -> int:
        """Returns the number of items."""
        return len(self._scan.items if self._loaded is None else self._loaded)

    @property
    def bytes_needed(self) -> int:
        """Memory that the largest item takes when it is loaded, about."""
        if self._loaded is not None:
            return len(self._data) * MEMORY_PER_BYTE
        sizes = self._scan.items[:, 1] - self._scan.items[:, 0]
        return int(sizes.max(initial=0)) * MEMORY_PER_BYTE

    def __iter__(self) -> Iterator[Any]:
        """Yields the items in order.

        Raises:
            PickleFileError: an item whose opcodes make no sense in their order.
        """
        if self._loaded is not None:
            yield from self._loaded
            return
        rewriter = pickle_scan.Rewriter(self._data, self._scan.referenced)
        for record, (start, end) in enumerate(self._scan.items.tolist()):
            status, content = rewriter.rewrite(start, end)
            if status is not Status.WHOLE:
                yield from self._load_whole(record)[record:]
                return
            yield self._load(record, io.BytesIO(content))

    def _load_at_once(self) -> list[Any]:
        """Returns all items of a pickle that Python 2 or a protocol below 2 wrote, or that holds NumPy numbers.

        Raises:
            PickleFileError: it is none; the error is what the scan found.
        """
        if self._scan.status is Status.TRUNCATED:
            raise self._problem()
        loading = _OldContainers(io.BytesIO(self._data.tobytes()))
        try:
            loaded = loading.load()
        except _RefusedError as error:
            raise self._problem(str(error)) from None
        except (*_LOADING_ERRORS, struct.error):
            if loading.is_known and loading.is_at_end:
                self._scan = dataclasses.replace(self._scan, status=Status.TRUNCATED)
            raise self._problem() from None
        if not isinstance(loaded, list):
            raise PickleFileError(
                f"import: {self.path} holds a {type(loaded).__name__}, expected a pickled list. Check that this is one of the released "
                "files."
            )
        if not loading.is_known:
            raise self._problem()
        return loaded

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

    def _problem(self, refused: str = "") -> PickleFileError:
        """Returns why the file is not loaded; `refused` names the global that was, where it is not the one the scan stopped at."""
        scan, size = self._scan, len(self._data)
        where = f"import: {self.path} record {len(scan.items)} (byte {scan.position:,} of {size:,})"
        if scan.status is Status.TRUNCATED:
            return PickleFileError(
                f"{where}: the file ends here. It is truncated: get it again, and compare its size."
            )
        if _ends_early(self._data, scan):
            return PickleFileError(
                f"{where}: the list ends here and the file goes on: it holds several pickles, or this is no pickle. Put all items into "
                "one list."
            )
        foreign = "" if scan.status is Status.REFUSED else _global_after(self._data, 0)
        if scan.status is Status.REFUSED or foreign:
            wanted = refused or (f"no list{foreign}" if foreign else _describe(self._data, scan))
            return RefusedPickleError(
                f"{where}: refused: {wanted}. Only lists, tuples, dictionaries, sets, numbers (NumPy's too), strings and "
                "collections.OrderedDict are loaded; nothing of the file was. Don't load it by other means unless you trust who "
                "made it."
            )
        problem = (
            "expected a pickled list" if scan.status is Status.NOT_A_LIST else "this is no pickle"
        )
        return PickleFileError(f"{where}: {problem}. Check that this is one of the released files.")


class _Containers(pickle.Unpickler):
    """Loads what `pickle_scan.scan` let pass; the second of two locks."""

    def find_class(self, module: str, name: str) -> Any:
        return _allowed_class(module, name)


_OldUnpickler: Any = pickle._Unpickler  # Python's own, whose opcodes can be chosen
_OLD_OPCODES = (
    *("INT", "LONG", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "FLOAT"),
    *("PUT", "GET", "DUP", "POP", "POP_MARK"),
)


_NUMPY_OPCODES = ("STACK_GLOBAL", "BUILD", "SHORT_BINBYTES", "BINBYTES")


class _OldContainers(_OldUnpickler):
    """Loads containers, numbers and strings of a protocol below 2 or of Python 2, and NumPy's numbers; knows no other opcode.

    Attributes:
        is_known: whether anything in the file is of such a pickle.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self._stream = stream
        self.is_known = False

    @property
    def is_at_end(self) -> bool:
        """Whether the whole file was read."""
        return not self._stream.read(1)

    def _decode_string(self, value: bytes) -> str:
        """Returns a string of Python 2, which are bytes: each is UTF-8 or else Latin-1, whatever the others are."""
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")

    def load(self) -> Any:
        self.dispatch = {
            ord(opcode.code): functools.partial(
                self._call, _OldUnpickler.dispatch[ord(opcode.code)], opcode.name in _OLD_OPCODES
            )
            for opcode in pickletools.opcodes
            if opcode.name in (*pickle_scan.HARMLESS_OPCODES, *_OLD_OPCODES, *_NUMPY_OPCODES)
        }
        self.dispatch[pickle.BUILD[0]] = functools.partial(self._call, type(self)._build, False)
        loaded = super().load()
        if not self.is_at_end:
            raise pickle.UnpicklingError("the file goes on after the list")
        return loaded

    def _call(self, load: Any, is_old: bool, itself: Any) -> None:
        began_memo = bool(self.memo)
        load(self)
        # Python 2 counts its memo from 1.
        self.is_known |= is_old or (not began_memo and 1 in self.memo)

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _STAND_INS:
            return _allowed_class(module, name)
        self.is_known = True
        return _STAND_INS[f"{module}.{name}"]

    def _build(self) -> None:
        """BUILD: gives a state to a stand-in for one of NumPy's objects, and to nothing else."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _DType | _Array):
            raise pickle.UnpicklingError("a state for something that is not NumPy's")
        self.stack[-1].take(state)


class _DType:
    """Stand-in for `numpy.dtype`: the type of plain numbers, such as i8 and b1."""

    def __init__(self, spelling: str, *_: Any) -> None:
        self._spelling, self._order = str(spelling), "|"

    def take(self, state: Any) -> None:
        """Takes the state that NumPy pickles, of which the second part is the order of bytes."""
        self._order = str(state[1])

    def numbers(self, content: Any) -> np.ndarray:
        """Returns the numbers that bytes hold; raises `_RefusedError` for a type that is not one of plain numbers."""
        if not re.fullmatch(r"[biuf]\d+", self._spelling):
            raise _RefusedError(f"a numpy.dtype {self._spelling!r}, which is not of numbers")
        order = self._order if self._order in "<>" else "="
        return np.frombuffer(_bytes(content), f"{order}{self._spelling}")


class _Array(list[Any]):
    """Stand-in for `numpy.ndarray`: becomes the list of its numbers."""

    def take(self, state: Any) -> None:
        """Takes the state that NumPy pickles."""
        _, shape, dtype, by_columns, content = state
        self[:] = dtype.numbers(content).reshape(shape, order="F" if by_columns else "C").tolist()


def _bytes(content: Any) -> bytes:
    """Returns bytes that Python 2 wrote as a string, or the bytes themselves."""
    return content.encode("latin-1") if isinstance(content, str) else content


def _scalar(dtype: _DType, content: Any) -> Any:
    return dtype.numbers(content).item()


# How protocols below 3 write bytes.
def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"bytes in {encoding!r}")
    return text.encode(encoding)


def _no_bytes() -> bytes:
    return b""


_STAND_INS: dict[str, Any] = {
    "numpy.dtype": _DType,
    "numpy.ndarray": _Array,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS |= {
        f"{_core}.multiarray.scalar": _scalar,
        f"{_core}.multiarray._reconstruct": lambda kind, *_: kind(),
    }
"""What NumPy's pickles ask for, and what is called instead."""


class _RefusedError(pickle.UnpicklingError):
    """The file asks for something that is not let through."""


def _allowed_class(module: str, name: str) -> type:
    """Returns `dict` for the one class that is allowed, and refuses every other name."""
    if (module, name) != pickle_scan.ALLOWED_CLASS:
        raise _RefusedError(f"the global {module}.{name}")
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
        return f"an opcode of pickle protocol 0, {opcode.name}{_global_after(data, scan.position)}; nothing but containers, numbers and strings is read"
    return _WANTED.get(opcode.name, f"the opcode {opcode.name}")


def _ends_early(data: np.ndarray, scan: pickle_scan.Scan) -> bool:
    """Returns whether a whole list lies before more bytes."""
    stopped = data[scan.position : scan.position + 1].tobytes() == pickle.STOP
    return scan.status is Status.BROKEN and stopped and scan.position + 1 < len(data)


def _global_after(data: np.ndarray, position: int) -> str:
    """Returns the first global after `position`, in words; empty if the next `_SEARCHED_BYTES` hold none."""
    texts = ["?", "?"]  # what STACK_GLOBAL finds, where pickle wrote it
    try:
        for opcode, argument, _ in pickletools.genops(
            bytes(data[position : position + _SEARCHED_BYTES])
        ):
            if opcode.stack_after == [pickletools.pyunicode]:
                texts = [texts[-1], str(argument)]
            elif opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                name = " ".join(texts) if opcode.name == "STACK_GLOBAL" else str(argument)
                if "?" not in name and name != " ".join(pickle_scan.ALLOWED_CLASS):
                    return f", in a file that asks for the global {name.replace(' ', '.')}"
    except ValueError:
        pass  # the file ends, or what follows is no pickle
    return ""
