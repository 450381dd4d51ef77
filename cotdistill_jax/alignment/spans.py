"""Alignment by character offsets: soft wherever a piece begins where a teacher token begins.

Let a piece s begin at a character where a teacher token begins. Prefixes of text agree there, so the teacher's step says how the
text goes on, and the student's piece is the first piece of that continuation:

    P(piece) = sum over candidates c of p(c) * [first piece of c is that piece]

Where s covers several teacher tokens t1 .. tn ("▁$12" over " $", "12"; "▁In" over "\\n", "In"), the sampled branch is followed by the
chain rule: candidates of step 1 other than t1 count as above; candidates c of step 2 count p(t1) * p(c) for the first piece of
t1 + c; and so on; at the last step the sampled token itself counts for s, because we know what follows it. Where the space of s is
the end of a token that began earlier (".\\n"), the chain begins with the probability of that end among the candidates that agree so
far. Candidates without a first piece of their own (white space only, end of text, `<unk>`) keep their mass out of the row, which
therefore adds up to at most 1 and is not renormalised. A piece that begins inside a token stays one-hot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numba
import numpy as np

from cotdistill_jax.alignment.pieces import NO_PIECE, PieceTable
from cotdistill_jax.alignment.rows import MAX_CANDIDATES, order, put
from cotdistill_jax.alignment.steps import NO_CANDIDATE, FlatSteps, Steps, place_steps, respelled
from cotdistill_jax.alignment.targets import AlignedBatch, How, Pieces, encode_texts

# Compiled code knows numbers, not members of an enumeration.
_ONE_TOKEN = int(How.ONE_TOKEN)
_FIRST_OF_TOKEN = int(How.FIRST_OF_TOKEN)
_SEVERAL_TOKENS = int(How.SEVERAL_TOKENS)
_AFTER_SPACE = int(How.AFTER_SPACE)
_INSIDE_TOKEN = _FIRST_ONE_HOT = int(How.INSIDE_TOKEN)
_UNKNOWN_PROBABILITY = int(How.UNKNOWN_PROBABILITY)


@dataclasses.dataclass(frozen=True)
class _Chains:
    """The teacher steps that decide each of P pieces.

    Attributes:
        first: int64 [P], first step of the chain.
        last: int64 [P], last step.
        begins: int64 [P], character at which the chain's text begins.
        weights: float64 [P], probability of what comes before the first step; NaN where unknown.
        at_word: bool [P], whether the chain begins a word.
        spelled_from: int64 [P], its first step that begins after the piece's first visible character; after `last` where none does.
        how: uint8 [P], values of `How`, as far as positions tell.
    """

    first: np.ndarray
    last: np.ndarray
    begins: np.ndarray
    weights: np.ndarray
    at_word: np.ndarray
    spelled_from: np.ndarray
    how: np.ndarray


def align_spans(flat: FlatSteps, texts: Sequence[str], table: PieceTable, k: int) -> AlignedBatch:
    """Returns the candidate rows of every piece of the texts by character offsets.

    Args:
        flat: teacher steps of N samples.
        texts: their N answers.
        table: of the student's vocabulary.
        k: candidates kept per piece, the piece itself among them.
    """
    flat, changed = respelled(flat, texts, table)
    steps = place_steps(flat, texts, table)
    pieces = encode_texts(texts, table)
    chains = _find_chains(pieces, steps, table)
    how = chains.how.copy()
    ids, probs = _chain_rows(
        pieces.ids,
        how,
        chains.first,
        chains.last,
        chains.weights,
        chains.at_word,
        chains.spelled_from,
        *_spelled_candidates(chains, steps, table),
        steps.tokens,
        steps.candidates,
        steps.probs,
        steps.sampled_probs,
        table.first_at_word,
        table.first_mid_word,
        k,
    )
    return AlignedBatch(pieces, ids, probs, how, steps.text_differs | changed, {})


def _find_chains(pieces: Pieces, steps: Steps, table: PieceTable) -> _Chains:
    found = _Chains(
        *_chain_places(
            pieces.ids,
            pieces.offsets,
            pieces.starts,
            pieces.bodies,
            pieces.ends,
            steps.offsets,
            steps.starts,
            table.space_id,
        )
    )
    # Only a chain after the end of another token is at a word without being at the beginning of its text.
    after_ends = found.at_word & (found.how == How.AFTER_SPACE)
    after_ends[pieces.offsets[:-1][np.diff(pieces.offsets) > 0]] = False
    for piece in np.flatnonzero(after_ends):
        step = int(found.first[piece]) - 1
        found.weights[piece] = _ending_prob(
            step, int(pieces.starts[piece] - steps.starts[step]), steps, table
        )
    return found


@numba.njit(cache=True, nogil=True)
def _chain_places(
    ids: np.ndarray,
    offsets: np.ndarray,
    starts: np.ndarray,
    bodies: np.ndarray,
    ends: np.ndarray,
    step_offsets: np.ndarray,
    step_starts: np.ndarray,
    space_id: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the fields of `_Chains`, all weights 1."""
    size = len(ids)
    firsts, lasts = np.empty(size, np.int64), np.empty(size, np.int64)
    begins, spelled_from = starts.copy(), np.empty(size, np.int64)
    at_word, how = np.zeros(size, np.bool_), np.empty(size, np.uint8)
    for sample in range(len(offsets) - 1):
        lo, hi = step_offsets[sample], step_offsets[sample + 1]
        first = lo - 1
        for row in range(offsets[sample], offsets[sample + 1]):
            while first + 1 < hi and step_starts[first + 1] <= starts[row]:
                first += 1
            last, visible = first, first
            while last + 1 < hi and step_starts[last + 1] <= max(ends[row] - 1, bodies[row]):
                last += 1
            while visible + 1 < hi and step_starts[visible + 1] <= bodies[row]:
                visible += 1
            opens_text = row == offsets[sample]
            # After "▁" alone the word has begun: candidates that the student would not split like this are already excluded.
            after_lone_space = not opens_text and ids[row - 1] == space_id
            has_next = first + 1 < hi
            next_start = step_starts[first + 1] if has_next else ends[offsets[sample + 1] - 1]
            inside = first >= lo and starts[row] > step_starts[first] and not opens_text
            at_last_space = inside and has_next and next_start <= bodies[row]
            if first < lo:
                how[row] = _UNKNOWN_PROBABILITY
            elif after_lone_space or (inside and not at_last_space):
                how[row] = _INSIDE_TOKEN
            elif at_last_space or opens_text or (last > first and next_start <= bodies[row]):
                how[row] = _AFTER_SPACE
            elif last > first:
                how[row] = _SEVERAL_TOKENS
            else:
                how[row] = _FIRST_OF_TOKEN if next_start > ends[row] else _ONE_TOKEN
            if at_last_space:
                begins[row] = next_start
            firsts[row], lasts[row] = first + at_last_space, last
            at_word[row] = at_last_space or opens_text
            spelled_from[row] = max(visible, firsts[row]) + 1
    return firsts, lasts, begins, np.ones(size), at_word, spelled_from, how


def _ending_prob(step: int, chars: int, steps: Steps, table: PieceTable) -> float:
    """Returns the probability of the sampled token among the candidates that begin with its first `chars` characters."""
    prefix = table.strings[steps.tokens[step]][:chars]
    agreeing = [
        prob
        for candidate, prob in zip(steps.candidates[step], steps.probs[step], strict=True)
        if candidate != NO_CANDIDATE and table.strings[candidate].startswith(prefix)
    ]
    total = sum(agreeing)
    return steps.sampled_probs[step] / total if total > 0.0 else np.nan


def _spelled_candidates(
    chains: _Chains, steps: Steps, table: PieceTable
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for steps that follow other characters of the same piece, the first piece of those characters and each candidate.

    Returns:
        spelled_rows: int64 [P], row in `spelled` of the step `spelled_from` of each chain; the rows of a chain follow each other.
        spelled: int32 [rows, C], pieces; -1 where a candidate has none.
    """
    counts = np.where(
        chains.how < How.INSIDE_TOKEN, np.maximum(chains.last + 1 - chains.spelled_from, 0), 0
    )
    rows = np.cumsum(counts) - counts
    pieces_of_rows = np.repeat(np.arange(len(counts)), counts)
    spelled_steps = (
        chains.spelled_from[pieces_of_rows] + np.arange(len(pieces_of_rows)) - rows[pieces_of_rows]
    )
    begins = chains.begins[pieces_of_rows]
    samples = np.searchsorted(steps.text_starts, begins, "right") - 1
    shifts = steps.text_starts[samples]
    spelled = [
        table.first_pieces_after(steps.texts[sample][begin:end], at_word, candidates)
        for sample, begin, end, at_word, candidates in zip(
            samples.tolist(),
            (begins - shifts).tolist(),
            (steps.starts[spelled_steps] - shifts).tolist(),
            chains.at_word[pieces_of_rows].tolist(),
            steps.candidates[spelled_steps].tolist(),
            strict=True,
        )
    ]
    table_shape = len(spelled), steps.candidates.shape[1]
    return rows, np.array(spelled, np.int32).reshape(table_shape)


@numba.njit(cache=True, nogil=True)
def _chain_rows(
    own: np.ndarray,
    how: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    weights: np.ndarray,
    at_word: np.ndarray,
    spelled_from: np.ndarray,
    spelled_rows: np.ndarray,
    spelled: np.ndarray,
    tokens: np.ndarray,
    candidates: np.ndarray,
    probs: np.ndarray,
    sampled_probs: np.ndarray,
    first_at_word: np.ndarray,
    first_mid_word: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and probabilities [P, k] of every piece by the chain rule; sets `how` where a probability is unknown."""
    row_ids = np.full((len(own), k), NO_PIECE, np.int32)
    row_probs = np.zeros((len(own), k))
    ids, mass = np.empty(MAX_CANDIDATES, np.int32), np.empty(MAX_CANDIDATES)
    for row in range(len(own)):
        weight = weights[row]
        if how[row] < _FIRST_ONE_HOT:
            for step in range(first[row], last[row] + 1):
                weight *= sampled_probs[step]
            if np.isnan(weight):
                how[row] = _UNKNOWN_PROBABILITY
        if how[row] >= _FIRST_ONE_HOT:
            row_ids[row, 0], row_probs[row, 0] = own[row], 1.0
            continue
        weight, used = weights[row], 0
        for step in range(first[row], last[row] + 1):
            first_pieces = first_at_word if step > first[row] or at_word[row] else first_mid_word
            spelled_row = spelled_rows[row] + step - spelled_from[row]
            is_spelled = step >= spelled_from[row]
            for column in range(candidates.shape[1]):
                candidate = candidates[step, column]
                if candidate == NO_CANDIDATE:
                    continue
                if candidate == tokens[step]:
                    piece = own[row] if step == last[row] else NO_PIECE
                else:
                    piece = spelled[spelled_row, column] if is_spelled else first_pieces[candidate]
                if piece != NO_PIECE:
                    used = put(ids, mass, used, piece, weight * probs[step, column], True)
            weight *= sampled_probs[step]
        used = order(ids, mass, used, own[row])
        total = 0.0
        for place in range(used):
            total += mass[place]
        total = max(total, 1.0)  # the rounded probabilities of a step can add up to a little more
        for place in range(min(used, k)):
            row_ids[row, place], row_probs[row, place] = ids[place], mass[place] / total
    return row_ids, row_probs
