"""Which teacher tokens each student piece was aligned to, by both rules: what the picture of an alignment draws.

`spans` links a piece with the tokens on whose characters it stands; `dtw` with the tokens that its cheapest path pairs it with.
"""

import dataclasses
from typing import Any

import numpy as np

from cotdistill_jax import alignment
from cotdistill_jax.alignment import dtw, steps, targets
from cotdistill_jax.alignment.pieces import PieceTable
from cotdistill_jax.report.token_rows import PlacedToken, place
from cotdistill_jax.teacher import TeacherRecord


@dataclasses.dataclass(frozen=True)
class Piece:
    """One student piece on the text.

    Attributes:
        start: first character it stands for, the white space before it included.
        end: character after the last.
        how: how its candidates were obtained.
        kept: probability that all its candidates hold together, in [0, 1].
        links: indices of the teacher tokens (of `Alignment.tokens`) it is linked with.
    """

    start: int
    end: int
    how: alignment.How
    kept: float
    links: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Alignment:
    """One record aligned by one rule.

    Attributes:
        method: `spans` or `dtw`.
        tokens: teacher tokens on the text.
        pieces: student pieces on the same text; empty if rejected.
        rejected: why the rule rejects the record, or None.
    """

    method: str
    tokens: tuple[PlacedToken, ...]
    pieces: tuple[Piece, ...]
    rejected: str | None

    @property
    def num_one_hot(self) -> int:
        """Number of pieces without a distribution of the teacher."""
        return sum(not piece.how.soft for piece in self.pieces)


def align(record: TeacherRecord, vocabulary: Any, method: str) -> Alignment:
    """Returns the alignment of a record with its links.

    Args:
        record: a record with tokens that spell its text.
        vocabulary: the student's SeqIO vocabulary, or its SentencePiece processor.
        method: `spans` or `dtw`.

    Raises:
        KeyError: unknown method.
        token_rows.PlacementError: the tokens do not spell the text.
    """
    tokens = place(record)
    try:
        rows = alignment.align(record.tokens, record.top_k, record.text, vocabulary, method)
    except alignment.SampleShapeError as error:
        return Alignment(method, tuple(tokens), (), error.reason)
    table = PieceTable(vocabulary)
    where = targets.encode_texts([record.text], table)
    linked = _paired(record, tokens, table, where) if method == "dtw" else None
    pieces = []
    for number, (row, start, end) in enumerate(
        zip(rows, where.starts.tolist(), where.ends.tolist(), strict=True)
    ):
        links = linked[number] if linked else _under(tokens, start, end)
        kept = min(1.0, sum(row.candidates.values()))
        pieces.append(Piece(start, end, row.how, kept, links))
    return Alignment(method, tuple(tokens), tuple(pieces), None)


def _under(tokens: list[PlacedToken], start: int, end: int) -> tuple[int, ...]:
    """Returns the tokens that share a character with [start, end)."""
    return tuple(i for i, token in enumerate(tokens) if token.start < end and start < token.end)


def _paired(
    record: TeacherRecord, tokens: list[PlacedToken], table: PieceTable, where: targets.Pieces
) -> list[tuple[int, ...]]:
    """Returns per piece the tokens on the cheapest path."""
    places = {token.index: place for place, token in enumerate(tokens)}
    flat = steps.FlatSteps.from_lists([record.tokens], [record.top_k], table)
    answer = dtw.answer_steps(record.tokens, record.text)
    if isinstance(answer, str):
        raise ValueError(
            f"report: dtw rejects record {record.key} ({answer}), so it has no path to draw"
        )
    counts, first = dtw.pair_series(
        flat.tokens,
        np.array([[answer.start, answer.stop]], np.int64),
        where.ids,
        where.offsets,
        *table.string_letters(),
        *table.piece_letters,
    )
    return [
        tuple(places[step] for step in range(begin, begin + count) if step in places)
        for count, begin in zip(counts.tolist(), first.tolist(), strict=True)
    ]
