"""The student's side: pieces of many texts on the common line of characters, and the candidate rows that alignment gives them."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cotdistill_jax.alignment.pieces import PieceTable
from cotdistill_jax.alignment.rows import quantise
from cotdistill_jax.alignment.steps import text_starts_on_line


class How(enum.IntEnum):
    """How the candidates of a piece were obtained; the soft ones are at most 9, the one-hot ones begin at 10.

    `spans` gives: ONE_TOKEN the piece is exactly one teacher token; FIRST_OF_TOKEN it is the first piece of a longer token;
    SEVERAL_TOKENS it covers several, chained by their probabilities; AFTER_SPACE it begins a line or a text, or its space belongs
    to another token. Otherwise one-hot: INSIDE_TOKEN it begins inside a teacher token; UNKNOWN_PROBABILITY the sampled token is
    not among the candidates, or there are none there.
    `dtw` gives: SAME_TOKEN mapped to one equal token. Otherwise one-hot: OTHER_TOKEN mapped to one token that differs;
    SEVERAL_MAPPED mapped to several tokens.
    """

    ONE_TOKEN = 0
    FIRST_OF_TOKEN = 1
    SEVERAL_TOKENS = 2
    AFTER_SPACE = 3
    SAME_TOKEN = 4
    INSIDE_TOKEN = 10
    UNKNOWN_PROBABILITY = 11
    OTHER_TOKEN = 12
    SEVERAL_MAPPED = 13

    @property
    def soft(self) -> bool:
        """Whether the row is a distribution of the teacher, and not one-hot."""
        return self < How.INSIDE_TOKEN


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The pieces of N texts, P in all, without EOS.

    Attributes:
        texts: the N texts.
        text_starts: int64 [N + 1], where each begins on the common line.
        ids: int32 [P].
        offsets: int64 [N + 1], first piece of each text.
        starts: int64 [P], character of the common line at which the piece begins, its space included.
        bodies: int64 [P], its first character that is not a space; for "▁" alone, where the next piece begins.
        ends: int64 [P], where the next piece of the text begins, or the end of the text without its last whitespace.
    """

    texts: Sequence[str]
    text_starts: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    bodies: np.ndarray
    ends: np.ndarray


def encode_texts(texts: Sequence[str], table: PieceTable) -> Pieces:
    """Returns the pieces of the texts and where they begin, through the tokenizer's own normalisation.

    Args:
        texts: N texts.
        table: of the student's vocabulary.

    Raises:
        ValueError: the vocabulary does not spell every character of the normalised text.
    """
    text_starts = text_starts_on_line(texts)
    samples = table.processor.encode(list(texts), num_threads=1)
    sizes = np.fromiter(map(len, samples), np.int64, len(samples))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ids = np.fromiter(itertools.chain.from_iterable(samples), np.int32, int(offsets[-1]))
    chars = table.piece_chars[ids]
    for sample in np.unique(np.repeat(np.arange(len(texts)), sizes)[ids == table.unk_id]):
        surfaces = table.processor.encode(texts[sample], out_type=str)
        chars[offsets[sample] : offsets[sample + 1]] = [len(surface) for surface in surfaces]
    # Positions in the normalised text, each text beginning at 0.
    chars_before = np.concatenate([[0], np.cumsum(chars, dtype=np.int64)])
    positions = chars_before[:-1] - np.repeat(chars_before[offsets[:-1]], sizes)
    normalized_chars = np.diff(chars_before[offsets])
    body_positions = positions + table.begins_with_space[ids]
    # ASCII text can shrink in normalisation (spaces, control characters), not grow: if one character was added, it is the "▁" before
    # the text, and all others kept their places.
    origin = np.repeat(text_starts[:-1], sizes)
    starts = origin + np.maximum(positions - 1, 0)
    bodies = origin + np.maximum(body_positions - 1, 0)
    text_ends = text_starts[1:] - 1
    added = normalized_chars - np.diff(text_starts) + 1
    plain = (sizes == 0) | ((added == 1) & np.fromiter(map(str.isascii, texts), bool, len(texts)))
    for sample in np.flatnonzero(~plain).tolist():
        text = texts[sample]
        normalized, origins = table.processor.normalize(text, with_offsets=True)
        if len(normalized) != normalized_chars[sample]:
            raise ValueError(
                f"alignment: the pieces of {text!r} have {normalized_chars[sample]} characters, its normalised form "
                f"{normalized!r} has {len(normalized)}. Use a SentencePiece vocabulary that spells every character."
            )
        places = np.array(origins, np.int64)[: len(normalized) + 1] + text_starts[sample]
        rows = slice(offsets[sample], offsets[sample + 1])
        starts[rows] = places[positions[rows]]
        bodies[rows] = places[body_positions[rows]]
        text_ends[sample] = text_starts[sample] + len(text.rstrip())
    ends = np.append(starts[1:], 0)
    ends[offsets[1:][sizes > 0] - 1] = text_ends[sizes > 0]
    return Pieces(texts, text_starts, ids, offsets, starts, bodies, ends)


@dataclasses.dataclass(frozen=True)
class AlignedBatch:
    """Candidate rows for the pieces of N texts, P pieces in all.

    Attributes:
        pieces: the pieces.
        candidate_ids: int32 [P, K], the piece itself first, then the others by falling probability; -1 where unused.
        candidate_probs: float64 [P, K], in [0, 1]; 0.0 where unused.
        how: uint8 [P], values of `How`.
        text_differs: bool [N], whether the teacher's tokens had to be fitted to the text.
        rejected: why a sample has no rows, by its index.
    """

    pieces: Pieces
    candidate_ids: np.ndarray
    candidate_probs: np.ndarray
    how: np.ndarray
    text_differs: np.ndarray
    rejected: dict[int, str]

    def compact(self) -> Iterator[AlignedSample]:
        """Yields the samples in order as compact arrays; rejected ones have no pieces."""
        ids, steps = quantise(self.candidate_ids, self.candidate_probs)
        for sample in range(len(self.pieces.offsets) - 1):
            rows = slice(self.pieces.offsets[sample], self.pieces.offsets[sample + 1])
            yield AlignedSample(
                self.pieces.ids[rows],
                ids[rows],
                steps[rows],
                self.how[rows],
                bool(self.text_differs[sample]),
                self.rejected.get(sample),
            )


class AlignedSample(NamedTuple):
    """One aligned sample; L pieces without EOS, K candidates each.

    Attributes:
        piece_ids: int32 [L], the student's target.
        teacher_ids: uint16 [L, K], the piece itself first, then the other candidates by falling probability; 0 where unused.
        teacher_probs: uint16 [L, K], probabilities in steps of 1e-4; 0 where unused. A row adds up to at most 10,000 (with `dtw`:
            to what the teacher reported), the piece itself has at least 1.
        how: uint8 [L], values of `How`.
        text_differs: whether the teacher's tokens had to be fitted to the text.
        rejected: why the sample has no pieces, or None.
    """

    piece_ids: np.ndarray
    teacher_ids: np.ndarray
    teacher_probs: np.ndarray
    how: np.ndarray
    text_differs: bool
    rejected: str | None
