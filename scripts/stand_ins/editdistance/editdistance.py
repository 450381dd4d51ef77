"""Levenshtein distance in Python, for SeqIO, which imports `editdistance` to name the nearest task in an error message."""

from collections.abc import Sequence


def eval(a: Sequence, b: Sequence) -> int:
    """Returns how many insertions, deletions and substitutions turn `a` into `b`; `eval("task", "tusk")` is 1."""
    row = list(range(len(b) + 1))
    for i, of_a in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, of_b in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (of_a != of_b))
    return row[-1]
