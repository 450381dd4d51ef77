"""Teacher steps of many samples as integer arrays, placed on the characters of their texts.

All texts of a batch lie one after another on one line of characters; every kept step begins at a character of its text. A teacher's
tokens do not always spell its text: prompts' last tokens, stop tokens, white space cut at the ends, parts of characters, or another
alphabet. `respelled` and `place_tokens` say what happens then; nothing is dropped without a mark.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from cotdistill_jax.alignment.pieces import PieceTable
from cotdistill_jax.teacher import spelling

TopK = Sequence[Sequence[tuple[str, float]]]
NO_CANDIDATE = -1
NOT_PLACED = spelling.NOT_PLACED


class SampleShapeError(ValueError):
    """A sample whose parts do not fit together; `reason` is a short name under which callers count it."""

    def __init__(self, reason: str, message: str) -> None:
        """Keeps the reason beside the message."""
        super().__init__(message)
        self.reason = reason


def check_shape(tokens: Sequence[str], top_k: TopK, text: str, where: str) -> None:
    """Raises `SampleShapeError`, its message beginning with `where`, unless there is one row of probabilities per token."""
    _check_strings([text, *tokens], where)
    if len(tokens) != len(top_k):
        raise SampleShapeError(
            "rows_do_not_match_tokens",
            f"{where} has {len(tokens)} tokens but {len(top_k)} rows of candidates. Pass one row per token, an empty one where there "
            "are no candidates.",
        )
    for step, row in enumerate(top_k):
        try:
            good = all([0.0 <= prob <= 1.0 and name.__class__ is str for name, prob in row])
        except (TypeError, ValueError):
            good = False
        if good and not isinstance(row, Mapping):
            _check_strings([name for name, _ in row], where)
            continue
        at = f"{where}, step {step} ({tokens[step]!r})"
        try:
            names, probs = zip(*row, strict=True)
            good = all(isinstance(name, str) for name in names) and not isinstance(row, Mapping)
            negative = all(prob <= 0.0 for prob in probs)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise SampleShapeError(
                "no_pairs", f"{at}: expected (token, probability) pairs, got {row!r}."
            )
        fix = (
            "Take math.exp of log-probabilities first" if negative else "Repair or drop the sample"
        )
        raise SampleShapeError(
            "no_probabilities", f"{at}: expected probabilities from 0 to 1, got {probs}. {fix}."
        )


def _check_strings(strings: Sequence[str], where: str) -> None:
    try:
        "".join(strings).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise SampleShapeError(
            "no_text",
            f"{where}: expected strings that UTF-8 can hold ({error}). Repair or drop the sample.",
        ) from error


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of N samples, T in all, with up to C candidates each.

    Attributes:
        texts: N answer texts.
        text_starts: int64 [N + 1], character at which each text begins on the common line; texts are one character apart.
        offsets: int64 [N + 1], first step of each sample.
        tokens: int32 [T], number of the sampled token in the `PieceTable`.
        starts: int64 [T], character at which the step begins, not decreasing.
        candidates: int32 [T, C], numbers of the candidates in the teacher's order; -1 where unused or repeated.
        probs: float64 [T, C], their probabilities, 0.0 where unused.
        sampled_probs: float64 [T], probability of the sampled token, NaN where it is not among the candidates.
        text_differs: bool [N], whether the tokens had to be fitted to the text.
    """

    texts: Sequence[str]
    text_starts: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray
    starts: np.ndarray
    candidates: np.ndarray
    probs: np.ndarray
    sampled_probs: np.ndarray
    text_differs: np.ndarray


@dataclasses.dataclass(frozen=True)
class FlatSteps:
    """Steps as a teacher gave them, before they are placed: lengths of the nested lists and their numbered contents.

    Attributes:
        tokens: int32 [T], sampled tokens.
        tokens_per_sample: int64 [N].
        candidates: int32 [all candidates].
        probs: float64 [all candidates].
        candidates_per_step: int64 [T].
    """

    tokens: np.ndarray
    tokens_per_sample: np.ndarray
    candidates: np.ndarray
    probs: np.ndarray
    candidates_per_step: np.ndarray

    @classmethod
    def from_lists(
        cls, tokens: Sequence[Sequence[str]], top_k: Sequence[TopK], table: PieceTable
    ) -> FlatSteps:
        """Returns the flat form of Python lists, one entry per sample."""
        rows = list(itertools.chain.from_iterable(top_k))
        pairs = list(itertools.chain.from_iterable(rows))
        return cls(
            tokens=table.number(itertools.chain.from_iterable(tokens)),
            tokens_per_sample=np.fromiter(map(len, tokens), np.int64),
            candidates=table.number(map(operator.itemgetter(0), pairs)),
            probs=np.fromiter(map(operator.itemgetter(1), pairs), np.float64, len(pairs)),
            candidates_per_step=np.fromiter(map(len, rows), np.int64),
        )

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch, table: PieceTable) -> FlatSteps:
        """Returns the flat form of a batch of teacher records without making Python objects of its strings."""
        tokens, names, probs = (
            batch.column(name) for name in ("tokens", "top_k_tokens", "top_k_probs")
        )
        return cls(
            tokens=_number_arrow(tokens.flatten(), table),
            tokens_per_sample=_list_lengths(tokens),
            candidates=_number_arrow(names.flatten().flatten(), table),
            probs=probs.flatten().flatten().to_numpy(zero_copy_only=False),
            candidates_per_step=_list_lengths(names.flatten()),
        )

    def strings(self, table: PieceTable) -> list[str]:
        """Returns the sampled tokens of all samples, one list."""
        return list(map(table.strings.__getitem__, self.tokens.tolist()))


def _list_lengths(lists: pa.ListArray) -> np.ndarray:
    return np.diff(lists.offsets.to_numpy().astype(np.int64))


def _number_arrow(strings: pa.Array, table: PieceTable) -> np.ndarray:
    encoded = strings if pa.types.is_dictionary(strings.type) else strings.dictionary_encode()
    return table.number(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]


def text_starts_on_line(texts: Sequence[str]) -> np.ndarray:
    """Returns where each text begins when all lie one after another, one character apart, int64 [N + 1]."""
    return _starts(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)


def respelled(
    flat: FlatSteps, texts: Sequence[str], table: PieceTable
) -> tuple[FlatSteps, np.ndarray]:
    """Returns the steps with tokens that spell their texts, as far as `teacher.spelling` explains them, and which samples that changed.

    Args:
        flat: steps of N samples, with as many candidate rows as tokens.
        texts: the N answer texts.
        table: that numbered the strings of `flat`.
    """
    offsets = _starts(flat.tokens_per_sample)
    strings = flat.strings(table)
    changed = np.array(
        [
            lo < hi and not spelling.spells(strings[lo:hi], text)
            for lo, hi, text in zip(offsets[:-1], offsets[1:], texts, strict=True)
        ],
        bool,
    )
    if not changed.any():
        return flat, changed
    ends = _starts(flat.candidates_per_step)
    names = list(map(table.strings.__getitem__, flat.candidates.tolist()))
    pairs = list(zip(names, flat.probs.tolist(), strict=True))
    tokens, top_k = [], []
    for sample, (lo, hi) in enumerate(itertools.pairwise(offsets.tolist())):
        own: Sequence[str] = strings[lo:hi]
        rows: Sequence[Any] = [pairs[ends[step] : ends[step + 1]] for step in range(lo, hi)]
        if changed[sample]:
            reading = spelling.respell(
                [spelling.Token(token) for token in own],
                [[(spelling.Token(name), prob) for name, prob in row] for row in rows],
                texts[sample],
            )
            own, rows = reading.tokens, reading.rows
        tokens.append(own)
        top_k.append(rows)
    return FlatSteps.from_lists(tokens, top_k, table), changed


def place_steps(flat: FlatSteps, texts: Sequence[str], table: PieceTable) -> Steps:
    """Returns the steps at the characters of their texts, with dense candidate rows.

    Args:
        flat: steps of N samples, with as many candidate rows as tokens.
        texts: the N answer texts.
        table: that numbered the strings of `flat`.
    """
    offsets = _starts(flat.tokens_per_sample)
    text_starts = text_starts_on_line(texts)
    ends = np.cumsum(table.chars[flat.tokens], dtype=np.int64)
    starts = ends - table.chars[flat.tokens]
    first = np.append(starts, ends[-1:] if len(ends) else [0])[offsets[:-1]]
    starts += np.repeat(text_starts[:-1] - first, flat.tokens_per_sample)
    known = np.ones(len(starts), bool)
    text_differs = np.zeros(len(texts), bool)
    strings = flat.strings(table)
    spelled = "".join(strings)
    chars = np.concatenate([[0], ends])[offsets].tolist()
    for sample, text in enumerate(texts):
        if spelled[chars[sample] : chars[sample + 1]] != text:
            lo, hi = offsets[sample], offsets[sample + 1]
            placed, text_differs[sample], known[lo:hi] = place_tokens(strings[lo:hi], text)
            starts[lo:hi] = np.where(placed == NOT_PLACED, NOT_PLACED, placed + text_starts[sample])
    steps = Steps(
        texts, text_starts, offsets, flat.tokens, starts, *dense_candidates(flat), text_differs
    )
    kept = starts != NOT_PLACED
    if kept.all() and known.all():
        return steps
    steps.candidates[~known] = NO_CANDIDATE
    steps.probs[~known] = 0.0
    steps.sampled_probs[~known] = np.nan
    return dataclasses.replace(
        steps,
        offsets=_starts(np.diff(_starts(kept)[offsets])),
        tokens=steps.tokens[kept],
        starts=steps.starts[kept],
        candidates=steps.candidates[kept],
        probs=steps.probs[kept],
        sampled_probs=steps.sampled_probs[kept],
    )


def place_tokens(tokens: Sequence[str], text: str) -> tuple[np.ndarray, bool, np.ndarray]:
    """Returns where each token begins in the text, whether the two differ, and which tokens' candidates may be used.

    Tokens that spell the text lie there (`teacher.spelling.fit` says where); tokens before and after it are not placed. Otherwise tokens
    that agree with the text keep their places; of those in between, the first one covers the disputed characters and loses its
    candidates.

    Args:
        tokens: teacher tokens.
        text: answer text.

    Returns:
        starts: int64 [tokens], character of the text, -1 where not placed.
        differs: whether the tokens do not spell the text.
        known: bool [tokens], false where the candidates say nothing about the text.

    Example: `["\\n", "It", " is", "\\n"]` and "It is" -> starts [-1, 0, 2, -1], False.
    """
    groups, spelled = spelling.fit(tokens, text)
    starts = np.full(len(tokens), NOT_PLACED, np.int64)
    known = np.ones(len(tokens), bool)
    for group in groups:
        starts[group.first] = group.start
        known[group.first] = group.exact
    return starts, not spelled, known


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def dense_candidates(flat: FlatSteps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns candidates int32 [T, C], their probabilities [T, C], and the sampled tokens' probabilities [T].

    A candidate listed twice in a row keeps its first place only; unused places are -1 and 0.0; the probability of a sampled token
    that is not among the candidates is NaN.
    """
    return _dense(
        flat.tokens, flat.candidates, flat.probs.astype(np.float64), flat.candidates_per_step
    )


@numba.njit(cache=True, nogil=True)
def _dense(
    tokens: np.ndarray, flat_candidates: np.ndarray, flat_probs: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width = max(sizes.max(), 1) if len(sizes) else 1
    candidates = np.full((len(sizes), width), NO_CANDIDATE, np.int32)
    probs = np.zeros((len(sizes), width))
    sampled_probs = np.full(len(sizes), np.nan)
    place = 0
    for step in range(len(sizes)):
        for column in range(sizes[step]):
            candidate, prob = flat_candidates[place], flat_probs[place]
            place += 1
            repeated = False
            for earlier in range(column):
                repeated |= candidates[step, earlier] == candidate
            if repeated:
                continue
            candidates[step, column] = candidate
            probs[step, column] = prob
            if candidate == tokens[step]:
                sampled_probs[step] = prob
    return candidates, probs, sampled_probs
