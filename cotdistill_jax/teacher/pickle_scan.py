"""The opcodes of a pickle, read without running any: where the items of its outer list lie, and whether all is harmless.

Pickle is a language of opcodes for a stack machine, and some of them call what the file names. `scan` follows the stack over
the bytes alone. It allows lists, tuples, dictionaries, sets, numbers, strings, None, and `collections.OrderedDict()`; it stops at the
first other opcode. `rewrite` then makes a small pickle of one item that needs no other, so that a list of many gigabytes can be
loaded item by item: references to strings of earlier items are replaced by the strings.

Compiled on first use and cached: a gigabyte takes seconds, where `pickletools` takes half an hour.

Source: the opcode table of Python's `pickletools`.
"""

from __future__ import annotations

import dataclasses
import enum
import pickletools
from typing import Any

import numba
import numpy as np

ALLOWED_CLASS = ("collections", "OrderedDict")


class Status(enum.IntEnum):
    """How a scan ended."""

    WHOLE = 0
    TRUNCATED = 1  # the file ends inside an opcode or before STOP
    REFUSED = 2  # an opcode that is not allowed, or a call of something that is not
    BROKEN = 3  # no program for the stack machine
    NOT_A_LIST = 4
    SHARED = 5  # a reference to a container, which may be another item's
    NO_ROOM = 6  # the output buffer of `rewrite` is too small


_BYTES_OF = {
    pickletools.TAKEN_FROM_ARGUMENT1: -1,
    pickletools.TAKEN_FROM_ARGUMENT4: -4,
    pickletools.TAKEN_FROM_ARGUMENT4U: -4,
    pickletools.TAKEN_FROM_ARGUMENT8U: -8,
    pickletools.UP_TO_NEWLINE: -9,
}
_NOTHING, _PUSH, _MARK, _TO_MARK, _INTO_BELOW, _POP_1, _POP_2, _STOP = range(8)
_EFFECTS = {
    _NOTHING: ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "TUPLE1"),
    _PUSH: (
        *(
            "NONE",
            "NEWTRUE",
            "NEWFALSE",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "LONG4",
            "BINFLOAT",
        ),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINGET", "LONG_BINGET", "GLOBAL"),
        *("EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_SET"),
    ),
    _MARK: ("MARK",),
    _TO_MARK: ("TUPLE", "LIST", "DICT", "FROZENSET"),
    _INTO_BELOW: ("APPENDS", "SETITEMS", "ADDITEMS"),
    _POP_1: ("APPEND", "TUPLE2", "REDUCE", "STACK_GLOBAL"),
    _POP_2: ("SETITEM", "TUPLE3"),
    _STOP: ("STOP",),
}
_REFUSED_ARGUMENT = 127


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Returns per opcode the bytes of its argument (int8 [256]; -w: a length of w bytes comes first) and its effect (uint8 [256])."""
    arguments = np.full(256, _REFUSED_ARGUMENT, np.int8)
    effects = np.zeros(256, np.uint8)
    effect_of = {name: effect for effect, names in _EFFECTS.items() for name in names}
    for opcode in pickletools.opcodes:
        if opcode.name in effect_of:
            effects[ord(opcode.code)] = effect_of[opcode.name]
            size = opcode.arg.n if opcode.arg else 0
            arguments[ord(opcode.code)] = _BYTES_OF.get(size, size)
    return arguments, effects


_ARGUMENTS, _OPCODE_EFFECTS = _tables()
_OP = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_PROTO, _FRAME, _EMPTY_LIST, _APPEND, _APPENDS = (
    _OP[name] for name in ("PROTO", "FRAME", "EMPTY_LIST", "APPEND", "APPENDS")
)
_MEMOIZE, _BINPUT, _LONG_BINPUT = (_OP[name] for name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"))
_BINGET, _LONG_BINGET = _OP["BINGET"], _OP["LONG_BINGET"]
_GLOBAL, _STACK_GLOBAL, _REDUCE = (_OP[name] for name in ("GLOBAL", "STACK_GLOBAL", "REDUCE"))
_SHORT_STRING, _STRING, _LONG_STRING = (
    _OP[name] for name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
)
_STOP_OP = _OP["STOP"]
_TUPLE1, _TUPLE2, _TUPLE3 = (_OP[name] for name in ("TUPLE1", "TUPLE2", "TUPLE3"))
HARMLESS_OPCODES = frozenset().union(*_EFFECTS.values()) - {"STACK_GLOBAL"}
# What STACK_GLOBAL finds on the stack, and GLOBAL behind it, for the one class that is allowed.
_CLASS_ON_STACK = [np.frombuffer(name.encode(), np.uint8) for name in ALLOWED_CLASS]
_CLASS_AS_GLOBAL = np.frombuffer(b"c" + "".join(f"{n}\n" for n in ALLOWED_CLASS).encode(), np.uint8)
_MODULE, _NAME = _CLASS_ON_STACK
_OTHER, _TEXT, _CLASS = 0, 1, 2
_MAX_DEPTH = 1 << 20


@numba.njit(cache=True, nogil=True)
def _number(data: np.ndarray, position: int, width: int) -> int:
    """Returns the little-endian number of `width` bytes."""
    value: Any = 0
    for byte in range(width):
        value |= np.int64(data[position + byte]) << (8 * byte)
    return value


@numba.njit(cache=True, nogil=True)
def _length(data: np.ndarray, position: int, arguments: np.ndarray) -> int:
    """Returns the bytes of an opcode with its argument, or minus a `Status`."""
    left = len(data) - position - 1
    size: Any = np.int64(arguments[data[position]])
    if size == _REFUSED_ARGUMENT:
        return -2
    if size == -9:  # GLOBAL: two lines
        lines, place = 0, position + 1
        while place < len(data) and lines < 2:
            lines += data[place] == 10
            place += 1
        return place - position if lines == 2 else -1
    if size < 0:
        if -size > left:
            return -1
        width = -size
        content = _number(data, position + 1, width)
        if content < 0:
            return -1
        size = width + content
    return int(size) + 1 if size <= left else -1


@numba.njit(cache=True, nogil=True)
def _spells(data: np.ndarray, position: int, name: np.ndarray) -> bool:
    """Returns whether the string opcode at `position` holds exactly `name`."""
    opcode = data[position]
    width = 1 if opcode == _SHORT_STRING else 4 if opcode == _STRING else 8
    if _number(data, position + 1, width) != len(name):
        return False
    begin = position + 1 + width
    return np.array_equal(data[begin : begin + len(name)], name)


@numba.njit(cache=True, nogil=True)
def _memo_index(data: np.ndarray, position: int) -> int:
    """Returns the argument of BINGET, LONG_BINGET, BINPUT or LONG_BINPUT."""
    short = data[position] == _BINGET or data[position] == _BINPUT
    return _number(data, position + 1, 1 if short else 4)


@numba.njit(cache=True, nogil=True)
def _scan(
    data: np.ndarray, arguments: np.ndarray, effects: np.ndarray
) -> tuple[int, int, np.ndarray, np.ndarray, np.ndarray]:
    starts, kinds = np.empty(_MAX_DEPTH, np.int64), np.empty(_MAX_DEPTH, np.uint8)
    marks, mark_starts = np.empty(_MAX_DEPTH, np.int64), np.empty(_MAX_DEPTH, np.int64)
    items = np.empty((1024, 2), np.int64)
    referenced = np.zeros(1024, np.uint8)  # one bit per entry of the memo
    num_items, depth, num_marks, memo, class_memo, position = 0, 0, 0, 0, -1, 0
    status = 1
    names = np.full(2, -1, np.int64)
    while position < len(data):
        length = _length(data, position, arguments)
        if length < 0:
            status = -length
            break
        opcode, effect = data[position], effects[data[position]]
        floor = marks[num_marks - 1] if num_marks else 0
        if depth + 2 >= _MAX_DEPTH or num_marks + 2 >= _MAX_DEPTH:
            status = 3
            break
        if effect == _PUSH:
            if depth == 0 and opcode != _EMPTY_LIST:
                status = 2 if opcode == _GLOBAL and not _is_class(data, position, length) else 4
                break
            kind = _OTHER
            if opcode in (_SHORT_STRING, _STRING, _LONG_STRING):
                kind = _TEXT
            elif opcode == _GLOBAL:
                kind = _CLASS
                if not _is_class(data, position, length):
                    status = 2
                    break
            elif opcode in (_BINGET, _LONG_BINGET):
                index = _memo_index(data, position)
                if index >= memo:
                    status = 3
                    break
                referenced[index >> 3] |= np.uint8(1 << (index & 7))
                kind = _CLASS if index == class_memo else _OTHER
            starts[depth], kinds[depth] = position, kind
            depth += 1
        elif effect == _MARK:
            marks[num_marks], mark_starts[num_marks] = depth, position
            num_marks += 1
        elif effect in (_TO_MARK, _INTO_BELOW):
            if num_marks == 0 or (effect == _INTO_BELOW and floor == 0):
                status = 3
                break
            num_marks -= 1
            if effect == _TO_MARK:
                if floor == 0:  # the list would become part of something else
                    status = 4
                    break
                starts[floor], kinds[floor] = mark_starts[num_marks], _OTHER
                depth = floor + 1
            else:
                if floor == 1 and num_marks == 0:
                    if opcode != _APPENDS:
                        status = 3
                        break
                    for slot in range(1, depth):
                        items = _with_room(items, num_items)
                        items[num_items, 0] = starts[slot]
                        items[num_items, 1] = starts[slot + 1] if slot + 1 < depth else position
                        num_items += 1
                depth = floor
        elif effect in (_POP_1, _POP_2):
            pops = 1 if effect == _POP_1 else 2
            if depth - pops <= floor:
                status = 3
                break
            depth -= pops
            if depth == 1 and opcode in (_TUPLE2, _TUPLE3):
                status = 4
                break
            if opcode == _REDUCE and kinds[depth - 1] != _CLASS:
                status = 2
                break
            if opcode == _STACK_GLOBAL and not (
                kinds[depth - 1] == _TEXT
                and kinds[depth] == _TEXT
                and _spells(data, starts[depth - 1], _MODULE)
                and _spells(data, starts[depth], _NAME)
            ):
                status = 2
                names[0], names[1] = starts[depth - 1], starts[depth]
                break
            if opcode == _APPEND and depth == 1 and num_marks == 0:
                items = _with_room(items, num_items)
                items[num_items, 0], items[num_items, 1] = starts[1], position
                num_items += 1
            kinds[depth - 1] = _CLASS if opcode == _STACK_GLOBAL else _OTHER
        elif effect == _STOP:
            good = depth == 1 and num_marks == 0 and position + 1 == len(data)
            status = 0 if good else 3
            break
        elif opcode == _TUPLE1:
            if depth == 1:
                status = 4
                break
        elif opcode in (_MEMOIZE, _BINPUT, _LONG_BINPUT):
            if depth == floor or (opcode != _MEMOIZE and _memo_index(data, position) != memo):
                status = 3
                break
            if kinds[depth - 1] == _CLASS:
                class_memo = memo
            memo += 1
            if memo >> 3 >= len(referenced):
                grown = np.zeros(2 * len(referenced), np.uint8)
                grown[: len(referenced)] = referenced
                referenced = grown
        position += length
    if (
        status != 0 and num_marks and marks[0] == 1
    ):  # the items that the outer list had not taken yet
        for slot in range(1, depth - 1):
            items = _with_room(items, num_items)
            items[num_items, 0], items[num_items, 1] = starts[slot], starts[slot + 1]
            num_items += 1
    return status, position, items[:num_items], referenced, names


@numba.njit(cache=True, nogil=True)
def _is_class(data: np.ndarray, position: int, length: int) -> bool:
    return np.array_equal(data[position : position + length], _CLASS_AS_GLOBAL)


@numba.njit(cache=True, nogil=True)
def _with_room(items: np.ndarray, used: int) -> np.ndarray:
    if used < len(items):
        return items
    grown = np.empty((2 * len(items), 2), np.int64)
    grown[:used] = items
    return grown


@numba.njit(cache=True, nogil=True)
def _rewrite(
    data: np.ndarray,
    begin: int,
    start: int,
    end: int,
    memo: int,
    referenced: np.ndarray,
    offsets: np.ndarray,
    arguments: np.ndarray,
    out: np.ndarray,
) -> tuple[int, int, int]:
    used, last, position = 0, -1, begin
    place = np.searchsorted(referenced, memo)
    while position < end:
        opcode = data[position]
        length = _length(data, position, arguments)
        source, size = position, length
        if opcode in (_PROTO, _FRAME):
            position += length
            continue
        if opcode in (_MEMOIZE, _BINPUT, _LONG_BINPUT):
            if place < len(referenced) and referenced[place] == memo:
                offsets[place] = last
                place += 1
            memo += 1
            position += length
            continue
        is_class = False
        if opcode in (_BINGET, _LONG_BINGET):
            source = offsets[np.searchsorted(referenced, _memo_index(data, position))]
            kind = data[source]
            is_class = kind in (_STACK_GLOBAL, _GLOBAL)
            if not (is_class or kind in (_SHORT_STRING, _STRING, _LONG_STRING)):
                return 5, position, memo
            size = len(_CLASS_AS_GLOBAL) if is_class else _length(data, source, arguments)
        if position >= start:
            if used + size >= len(out):
                return 6, used, memo
            if is_class:
                out[used : used + size] = _CLASS_AS_GLOBAL
            else:
                out[used : used + size] = data[source : source + size]
            used += size
        last = position
        position += length
    out[used] = _STOP_OP
    return 0, used + 1, memo


@dataclasses.dataclass(frozen=True)
class Scan:
    """What the opcodes of a file say.

    Attributes:
        status: WHOLE where every opcode is allowed.
        position: byte of the first problem; of STOP if there is none.
        items: int64 [N, 2], first byte and byte after the last of each item of the outer list; with a problem, the complete ones.
        referenced: int64, ascending numbers of the memo's entries that are used again.
        names: int64 [2], bytes of the strings that a refused STACK_GLOBAL names; -1 for another problem.
    """

    status: Status
    position: int
    items: np.ndarray
    referenced: np.ndarray
    names: np.ndarray


def scan(data: np.ndarray) -> Scan:
    """Returns what the opcodes of a file (uint8) say."""
    status, position, items, bits, names = _scan(data, _ARGUMENTS, _OPCODE_EFFECTS)
    referenced = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    return Scan(Status(status), position, items, referenced, names)


def string_at(data: np.ndarray, position: int) -> str | None:
    """Returns the string that the opcode at `position` puts on the stack, through the memo if need be; None if it is no string."""
    if data[position] in (_BINGET, _LONG_BINGET):
        position = _memoized(data, _memo_index(data, position), _ARGUMENTS)
    width = {_SHORT_STRING: 1, _STRING: 4, _LONG_STRING: 8}.get(int(data[position]))
    if width is None:
        return None
    begin = position + 1 + width
    content = bytes(data[begin : begin + _number(data, position + 1, width)])
    return content.decode("utf-8", "replace")


@numba.njit(cache=True, nogil=True)
def _memoized(data: np.ndarray, index: int, arguments: np.ndarray) -> int:
    """Returns the byte of the opcode whose object is entry `index` of the memo, which a scan has met."""
    memo, last, position = 0, 0, 0
    while True:
        opcode = data[position]
        if opcode in (_MEMOIZE, _BINPUT, _LONG_BINPUT):
            if memo == index:
                return last
            memo += 1
        elif opcode != _FRAME:
            last = position
        position += _length(data, position, arguments)


class Rewriter:
    """Makes a pickle of each item of a scanned file; items must be asked for in their order."""

    def __init__(self, data: np.ndarray, referenced: np.ndarray) -> None:
        """Starts before the first item.

        Args:
            data: uint8, the file.
            referenced: as `scan` returned it.
        """
        self._data = data
        self._referenced = referenced
        self._offsets = np.zeros(len(referenced), np.int64)
        self._begin = 0
        self._memo = 0
        self._out = np.empty(1 << 16, np.uint8)

    def rewrite(self, start: int, end: int) -> tuple[Status, bytes]:
        """Returns WHOLE and the pickle of the item from byte `start` to byte `end`, or SHARED and nothing."""
        while True:
            status, used, memo = _rewrite(
                self._data,
                self._begin,
                start,
                end,
                self._memo,
                self._referenced,
                self._offsets,
                _ARGUMENTS,
                self._out,
            )
            if status != Status.NO_ROOM:
                break
            self._out = np.empty(2 * len(self._out), np.uint8)
        self._begin, self._memo = end, memo
        found = Status(status)
        return found, self._out[:used].tobytes() if found is Status.WHOLE else b""
