"""Alignment by the seed's rule: dynamic time warping over edit distances, then exact matches only.

Teacher tokens and student pieces are two series; their distance is the edit distance between the token without spaces and the
piece without "▁". The cheapest monotone path pairs them; ties are resolved diagonal, then up (teacher), then left. A piece that the
path pairs with exactly one token, and that equals it after " " -> "▁", keeps that step's candidates as far as they are pieces
after the same replacement (the first one counts, nothing is renormalised). Every other piece is one-hot.

Only cells whose cost can lie on the cheapest path are computed: costs never fall along a path, so cells above a bound are left out
and the bound is doubled until the last cell is below it. The path is the same as that of the full matrix. Edit distances are counted
with bit vectors, one word per character of the piece (Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit
distances").

Source: Fu et al. 2023 (arXiv 2301.12726), public code, notebook `dev_align_codex_to_flan_t5_dtw`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from cotdistill_jax.alignment.pieces import NO_PIECE, PieceTable
from cotdistill_jax.alignment.rows import MAX_CANDIDATES, order, put
from cotdistill_jax.alignment.steps import FlatSteps
from cotdistill_jax.alignment.targets import AlignedBatch, How, encode_texts

_FIRST_BOUND = 8
# Compiled code knows numbers, not members of an enumeration.
_SAME_TOKEN = int(How.SAME_TOKEN)
_UNKNOWN_PROBABILITY = int(How.UNKNOWN_PROBABILITY)
_OTHER_TOKEN = int(How.OTHER_TOKEN)
_SEVERAL_MAPPED = int(How.SEVERAL_MAPPED)
_INFINITE = np.iinfo(np.int32).max // 2
_WORD_BITS = 64
# What surrounds the answer in the seed's decodes; anything else is rejected there and here.
_SEED_HEAD = (" step", "\n")
_SEED_TAILS = {("\n", "\n"), ("\n\n", "\n")}


def align_dtw(flat: FlatSteps, texts: Sequence[str], table: PieceTable, k: int) -> AlignedBatch:
    """Returns the candidate rows of every piece by the seed's rule; samples of another shape are in `rejected`.

    Args:
        flat: teacher steps of N samples.
        texts: their N answers.
        table: of the student's vocabulary.
        k: candidates kept per piece, the piece itself among them.
    """
    step_offsets = np.concatenate([[0], np.cumsum(flat.tokens_per_sample)])
    bounds = np.zeros((len(texts), 2), np.int64)
    rejected: dict[int, str] = {}
    kept_texts = list(texts)
    strings = flat.strings(table)
    spelled = "".join(strings)
    chars = np.concatenate([[0], np.cumsum(table.chars[flat.tokens])])[step_offsets].tolist()
    for sample, (lo, hi) in enumerate(itertools.pairwise(step_offsets.tolist())):
        text = texts[sample]
        if spelled[chars[sample] : chars[sample + 1]] == text and text.strip() == text:
            bounds[sample] = lo, hi  # the usual case, without a list per sample
            continue
        answer = answer_steps(strings[lo:hi], text)
        if isinstance(answer, str):
            rejected[sample] = answer
            kept_texts[sample] = ""
        else:
            bounds[sample] = lo + answer.start, lo + answer.stop
    pieces = encode_texts(kept_texts, table)
    counts, steps = pair_series(
        flat.tokens,
        bounds,
        pieces.ids,
        pieces.offsets,
        *table.string_letters(),
        *table.piece_letters,
    )
    candidate_starts = np.concatenate([[0], np.cumsum(flat.candidates_per_step)])
    rows = _exact_rows(
        pieces.ids,
        counts,
        steps,
        flat.tokens,
        flat.candidates,
        flat.probs,
        candidate_starts,
        table.exact,
        k,
    )
    return AlignedBatch(pieces, *rows, np.zeros(len(texts), bool), rejected)


@numba.njit(cache=True, nogil=True)
def _exact_rows(
    pieces: np.ndarray,
    counts: np.ndarray,
    steps: np.ndarray,
    tokens: np.ndarray,
    candidates: np.ndarray,
    candidate_probs: np.ndarray,
    candidate_starts: np.ndarray,
    exact: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ids and probabilities [P, k] and `How` of every piece, from the step it was paired with."""
    row_ids = np.full((len(pieces), k), NO_PIECE, np.int32)
    row_probs = np.zeros((len(pieces), k))
    ids, probs = np.empty(MAX_CANDIDATES, np.int32), np.empty(MAX_CANDIDATES)
    how = np.empty(len(pieces), np.uint8)
    for row in range(len(pieces)):
        step = steps[row]
        used, listed = 0, False
        if counts[row] != 1:
            how[row] = _SEVERAL_MAPPED
        elif exact[tokens[step]] != pieces[row]:
            how[row] = _OTHER_TOKEN
        else:
            for place in range(candidate_starts[step], candidate_starts[step + 1]):
                listed |= candidates[place] == tokens[step]
                piece = exact[candidates[place]]
                if piece != NO_PIECE:
                    used = put(ids, probs, used, piece, candidate_probs[place], False)
            how[row] = _SAME_TOKEN if listed else _UNKNOWN_PROBABILITY
        if not listed:
            row_ids[row, 0], row_probs[row, 0] = pieces[row], 1.0
            continue
        used = order(ids, probs, used, pieces[row])
        for place in range(min(used, k)):
            row_ids[row, place], row_probs[row, place] = ids[place], probs[place]
    return row_ids, row_probs, how


def answer_steps(tokens: Sequence[str], text: str) -> slice | str:
    """Returns which tokens are the answer's, or why the sample is rejected.

    Steps of the seed's shape, " step", "\\n", answer, "\\n" or "\\n\\n", "\\n", lose their ends, whatever the answer is. Tokens that spell
    the text exactly, as other teachers' may, are all the answer's but for white space at the ends. The seed rejects everything else.

    Example: [" step", "\\n", "It", "\\n", "\\n"] with "It" -> slice(2, 3); [" step", ":", "It"] -> "not_the_seeds_shape".
    """
    if len(tokens) > 4 and tuple(tokens[:2]) == _SEED_HEAD and tuple(tokens[-2:]) in _SEED_TAILS:
        return slice(2, len(tokens) - 2)
    if "".join(tokens) != text:
        return "not_the_seeds_shape"
    start, stop = 0, len(tokens)
    while start < stop and not tokens[start].strip():
        start += 1
    while start < stop and not tokens[stop - 1].strip():
        stop -= 1
    return slice(start, stop)


@numba.njit(cache=True, nogil=True)
def _edit_distance(
    matches: np.ndarray, size: int, letters: np.ndarray, begin: int, end: int
) -> int:
    """Returns the distance of a token of `size` <= 64 letters to letters[begin:end]; bit i of matches[c]: the token's letter i is c."""
    if size == 0:
        return end - begin
    distance: Any = size
    one, last = np.uint64(1), np.uint64(size - 1)
    rises, falls = ~np.uint64(0), np.uint64(0)  # where a column of the matrix goes up or down
    for place in range(begin, end):
        match = matches[letters[place]]
        vertical = match | falls
        horizontal = (((match & rises) + rises) ^ rises) | match
        right_rises, right_falls = falls | ~(horizontal | rises), rises & horizontal
        distance += np.int64((right_rises >> last) & one) - np.int64((right_falls >> last) & one)
        right_rises, right_falls = (right_rises << one) | one, right_falls << one
        rises, falls = right_falls | ~(vertical | right_rises), right_rises & vertical
    return int(distance)


@numba.njit(cache=True, nogil=True)
def _long_edit_distance(token: np.ndarray, piece: np.ndarray) -> int:
    """Returns the distance of a token of any length to a piece, cell by cell."""
    row = np.arange(len(piece) + 1)
    for i in range(len(token)):
        diagonal = row[0]
        row[0] = i + 1
        for j in range(len(piece)):
            substituted = diagonal + (token[i] == 0 or token[i] != piece[j])
            diagonal = row[j + 1]
            row[j + 1] = min(substituted, diagonal + 1, row[j] + 1)
    return int(row[-1])


@numba.njit(cache=True, nogil=True)
def _fill(
    cost: np.ndarray,
    bound: int,
    token_letters: np.ndarray,
    token_begins: np.ndarray,
    piece_letters: np.ndarray,
    piece_begins: np.ndarray,
    piece_ends: np.ndarray,
    matches: np.ndarray,
) -> bool:
    """Fills the cells of the cost matrix that are at most `bound`; returns whether the last one is.

    Args:
        cost: int32 [n, m], overwritten.
        bound: most that a cell may cost.
        token_letters: int32, as `pair_series` has them.
        token_begins: int64 [n, 2], first letter of each token and the one after its last.
        piece_letters: int32, as `pair_series` has them.
        piece_begins: int64 [m], first letter of each piece.
        piece_ends: int64 [m], the one after its last.
        matches: uint64 [alphabet], zeros; zeros again afterwards.
    """
    n, m = cost.shape
    cost[:] = _INFINITE
    live_from, live_to = 0, 0
    for i in range(n):
        begin, end = token_begins[i]
        size = end - begin
        for letter in range(min(size, _WORD_BITS)):
            matches[token_letters[begin + letter]] |= np.uint64(1) << np.uint64(letter)
        matches[0] = 0  # a letter that no piece has
        first, last, left = m, -1, _INFINITE
        j = live_from
        while j < m and (j <= live_to or left <= bound):
            best = left
            if i > 0:
                best = min(best, cost[i - 1, j])
                if j > 0:
                    best = min(best, cost[i - 1, j - 1])
            elif j == 0:
                best = 0
            left = _INFINITE
            if best <= bound:
                if size <= _WORD_BITS:
                    best += _edit_distance(
                        matches, size, piece_letters, piece_begins[j], piece_ends[j]
                    )
                else:
                    best += _long_edit_distance(
                        token_letters[begin:end], piece_letters[piece_begins[j] : piece_ends[j]]
                    )
                if best <= bound:
                    cost[i, j] = left = best
                    first, last = min(first, j), j
            j += 1
        for letter in range(min(size, _WORD_BITS)):
            matches[token_letters[begin + letter]] = 0
        if last < 0:
            return False
        live_from, live_to = first, last + 1
    return bool(cost[n - 1, m - 1] <= bound)


@numba.njit(cache=True, nogil=True)
def pair_series(
    tokens: np.ndarray,
    bounds: np.ndarray,
    pieces: np.ndarray,
    piece_offsets: np.ndarray,
    letters: np.ndarray,
    letter_starts: np.ndarray,
    piece_letters: np.ndarray,
    piece_starts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns with how many tokens the cheapest path pairs each piece, int32 [P], and the first of them, int64 [P].

    Args:
        tokens: int32 [T], numbers of the teacher strings of all samples.
        bounds: int64 [N, 2], first step and step after the last of each sample's answer.
        pieces: int32 [P].
        piece_offsets: int64 [N + 1], first piece of each sample.
        letters: int32, numbers of the characters of the teacher strings without spaces, one string after the other; 0 where no
            piece has the character.
        letter_starts: int64 [strings + 1].
        piece_letters: int32, numbers of the characters of the pieces without "▁", from 1.
        piece_starts: int64 [V + 1].
    """
    counts = np.zeros(len(pieces), np.int32)
    steps = np.zeros(len(pieces), np.int64)
    matches = np.zeros(piece_letters.max() + 1, np.uint64)
    for sample in range(len(bounds)):
        lo, hi = bounds[sample]
        first_piece, end_piece = piece_offsets[sample], piece_offsets[sample + 1]
        if hi == lo or end_piece == first_piece:
            continue
        own = pieces[first_piece:end_piece]
        starts, ends = piece_starts[own], piece_starts[own + 1]
        token_begins = np.empty((hi - lo, 2), np.int64)
        for step in range(lo, hi):
            token_begins[step - lo, 0] = letter_starts[tokens[step]]
            token_begins[step - lo, 1] = letter_starts[tokens[step] + 1]
        cost = np.empty((hi - lo, len(own)), np.int32)
        bound = _FIRST_BOUND
        while not _fill(cost, bound, letters, token_begins, piece_letters, starts, ends, matches):
            bound *= 2
        i, j = hi - lo - 1, len(own) - 1
        while True:
            counts[first_piece + j] += 1
            steps[first_piece + j] = lo + i
            if i == 0 and j == 0:
                break
            diagonal = cost[i - 1, j - 1] if i > 0 and j > 0 else _INFINITE
            up = cost[i - 1, j] if i > 0 else _INFINITE
            left = cost[i, j - 1] if j > 0 else _INFINITE
            if diagonal <= up and diagonal <= left:
                i -= 1
                j -= 1
            elif up <= left:
                i -= 1
            else:
                j -= 1
    return counts, steps
