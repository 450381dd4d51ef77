"""How much devices tell each other in a compiled program, from its text: kind, count and bytes of the collectives.

The text of a program (HLO) is a list of computations, one per function or body of a loop:

    %body.1 (p: (s32[], bf16[8])) -> (s32[], bf16[8]) {
      %ag = bf16[16]{0:T(256)} all-gather(%x), channel_id=7, ...
    }
    ENTRY %main (...) -> ... {
      %while.2 = ... while(%t), condition=%cond.1, body=%body.1
    }

The TPU's compiler hides a collective behind products by writing it into several fusions, all with one `channel_id`: they are one.
It makes a reduce-scatter of an all-reduce in a computation named `all-reduce-scatter`. Its text does not say how often a loop
runs; the condition `i < constant` does.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_INSTRUCTION = re.compile(
    r"= (?P<result>\(.*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?P<start>-start)?\("
)
_ARRAY = re.compile(r"(?P<type>pred|[a-z]+(?P<bits>\d+))\[(?P<shape>[\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_LOOP = re.compile(r" while\(.*condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LIMIT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_OPERANDS_FIRST = (
    "all-gather",
    "collective-permute",
)  # what their `-start` returns: (operands, results, ...)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind.

    Attributes:
      count: how many one device takes part in.
      bytes: of their arrays: after gathering and reducing, before scattering.
    """

    count: int
    bytes: float


def once(hlo: str) -> dict[str, float]:
    """Returns, per kind, the bytes of all collectives of a text; those in a loop once.

    >>> once("%a = f32[4,2]{1,0} all-reduce(f32[4,2]{1,0} %b), channel_id=1")
    {'all-reduce': 32.0}
    """
    found: dict[str, float] = collections.defaultdict(float)
    for match in _INSTRUCTION.finditer(hlo):
        found[match["kind"]] += _size(match)
    return dict(found)


def per_run(hlo: str) -> dict[str, Traffic]:
    """Returns, per kind, what one run of a program for TPUs sends; those in a loop as often as it runs.

    A loop that ends by data, as decoding does, counts once.

    Raises:
      ValueError: the text has no entry.
    """
    computations = dict(_computations(hlo))
    entry = computations.pop("", None)
    if entry is None:
        raise ValueError(
            "collectives: no line that begins with ENTRY; expected the text of a compiled program"
        )
    times: dict[str, int] = collections.defaultdict(int)
    _visit("", {"": entry, **computations}, 1, times)
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for name, runs in times.items():
        for number, line in enumerate(computations.get(name, entry if name == "" else [])):
            if match := _INSTRUCTION.search(line):
                scatters = match["kind"] == "all-reduce" and "all-reduce-scatter" in name
                kind = "reduce-scatter" if scatters else match["kind"]
                channel = _CHANNEL.search(line)
                key = (kind, channel[1] if channel else f"{name}:{number}")
                before = found.get(key, (0, 0.0))
                found[key] = (max(before[0], runs), max(before[1], _size(match)))
    kinds = sorted({kind for kind, _ in found})
    return {
        kind: Traffic(
            sum(runs for (each, _), (runs, _) in found.items() if each == kind),
            sum(runs * size for (each, _), (runs, size) in found.items() if each == kind),
        )
        for kind in kinds
    }


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, lines) of each computation; the entry's name is empty."""
    name: str | None = None
    lines: list[str] = []
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            name, lines = "" if head["entry"] else head["name"], []
        elif line.startswith("}") and name is not None:
            yield name, lines
            name = None
        else:
            lines.append(line)


def _visit(
    name: str, computations: Mapping[str, list[str]], runs: int, times: dict[str, int]
) -> None:
    """Adds to `times` how often a computation and what it calls run."""
    times[name] += runs
    for line in computations.get(name, ()):
        loop = _LOOP.search(line)
        turns = _turns(computations.get(loop["condition"], [])) if loop else 1
        called = _CALLED.findall(line)
        for names in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in names.split(",")]
        for other in called:
            _visit(other, computations, runs * turns, times)


def _turns(condition: list[str]) -> int:
    """Returns how often a loop runs, of a condition that counts to a constant; else 1."""
    limits = [int(limit) for line in condition for limit in _LIMIT.findall(line)]
    counts = any("direction=LT" in line for line in condition)
    return limits[0] if counts and len(limits) == 1 else 1


def _size(match: re.Match[str]) -> float:
    """Returns the bytes of what a collective gives."""
    sizes = [
        math.prod(int(size) for size in array["shape"].split(",") if size)
        * int(array["bits"] or 8)
        / 8
        for array in _ARRAY.finditer(match["result"])
    ]
    if match["start"] and match["kind"] in _OPERANDS_FIRST:
        arrays = [size for size in sizes if size > 4]  # not the counters that come along
        return sum(arrays[len(arrays) // 2 :])
    return sum(sizes)
