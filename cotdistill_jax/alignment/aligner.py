"""The interface of alignment: one sample with names (`align`), or many as integer arrays (`Aligner`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa

from cotdistill_jax.alignment import dtw, spans
from cotdistill_jax.alignment.pieces import NO_PIECE, PieceTable
from cotdistill_jax.alignment.rows import MAX_CANDIDATES
from cotdistill_jax.alignment.steps import FlatSteps, SampleShapeError, TopK, check_shape
from cotdistill_jax.alignment.targets import AlignedBatch, AlignedSample, How

if TYPE_CHECKING:
    import sentencepiece
    import seqio

    Vocabulary: TypeAlias = seqio.SentencePieceVocabulary | sentencepiece.SentencePieceProcessor

DEFAULT_K = 5
# Small enough that the arrays of a batch stay in the cache of a core.
_SAMPLES_PER_BATCH = 256

Method = Callable[[FlatSteps, Sequence[str], PieceTable, int], AlignedBatch]

METHODS: dict[str, Method] = {"spans": spans.align_spans, "dtw": dtw.align_dtw}


class AlignedPiece(NamedTuple):
    """One student piece: its name, its {piece: probability} candidates, and how they were obtained."""

    piece: str
    candidates: dict[str, float]
    how: How


class Aligner:
    """Aligns many samples to one vocabulary; what it learns about a string is kept for the next sample.

    Example:
        >>> aligner = Aligner(vocabulary, method="spans", k=5)  # doctest: +SKIP
        >>> for sample in aligner.align_samples(tokens, top_k, texts):  # doctest: +SKIP
        ...     sample.piece_ids, sample.teacher_ids, sample.teacher_probs
    """

    def __init__(self, vocabulary: Vocabulary, method: str = "spans", k: int = DEFAULT_K) -> None:
        """Prepares the tables of the vocabulary.

        Args:
            vocabulary: the student's SeqIO vocabulary, or its SentencePiece processor.
            method: a key of `METHODS`.
            k: candidates kept per piece, the piece itself among them.

        Raises:
            KeyError: unknown method.
            ValueError: k below 1, or a vocabulary that cannot be aligned to.
        """
        if method not in METHODS:
            raise KeyError(
                f"alignment: unknown method {method!r}. Choose one of {sorted(METHODS)}."
            )
        if k < 1:
            raise ValueError(f"alignment: k is {k}, expected 1 or more.")
        self.method = method
        self.k = k
        self.table = PieceTable(vocabulary)

    def align_samples(
        self, tokens: Sequence[Sequence[str]], top_k: Sequence[TopK], texts: Sequence[str]
    ) -> list[AlignedSample]:
        """Returns the compact aligned samples, in order; one that cannot be aligned says why in `rejected`.

        Args:
            tokens: per sample its teacher tokens.
            top_k: per sample, per token, its (token, probability in [0, 1]) candidates.
            texts: per sample its answer text.
        """
        aligned: list[AlignedSample] = []
        for start in range(0, len(texts), _SAMPLES_PER_BATCH):
            part = slice(start, start + _SAMPLES_PER_BATCH)
            aligned.extend(self.align_batch(tokens[part], top_k[part], texts[part]).compact())
        return aligned

    def align_batch(
        self, tokens: Sequence[Sequence[str]], top_k: Sequence[TopK], texts: Sequence[str]
    ) -> AlignedBatch:
        """Returns all samples as one batch of arrays; arguments as for `align_samples`.

        Raises:
            SampleShapeError: a sample whose tokens and candidate rows differ in number, whose candidates are no (token, probability)
                pairs, whose probabilities are not in [0, 1], or whose strings are no text; its message names the sample's index.
        """
        for index, sample in enumerate(zip(tokens, top_k, texts, strict=True)):
            check_shape(*sample, f"alignment: sample {index}")
        flat = FlatSteps.from_lists(tokens, top_k, self.table)
        return METHODS[self.method](flat, texts, self.table, self.k)

    def align_records(self, batch: pa.RecordBatch) -> AlignedBatch:
        """Returns the same for a batch of teacher records as `teacher.shards.read_batches` yields it, several times faster."""
        flat = FlatSteps.from_arrow(batch, self.table)
        return METHODS[self.method](flat, batch.column("text").to_pylist(), self.table, self.k)


def align(
    tokens: Sequence[str], top_k: TopK, text: str, vocabulary: Vocabulary, method: str = "spans"
) -> list[AlignedPiece]:
    """Returns, for every piece of the text, its candidates and how they were obtained; EOS is not included.

    Args:
        tokens: teacher tokens; tokens before and after those of the text are allowed.
        top_k: per token its (token, probability in [0, 1]) candidates, the sampled token among them.
        text: the answer.
        vocabulary: the student's SeqIO vocabulary, or its SentencePiece processor.
        method: "spans" (character offsets) or "dtw" (the seed's rule).

    Raises:
        KeyError: unknown method.
        SampleShapeError: tokens and candidate rows differ in number, candidates are no (token, probability) pairs or no probabilities,
            or (`dtw`) the steps are not of the seed's shape; `reason` is a short name to count it under.

    Example (T5 vocabulary): tokens ["If", " so"], top_k [[("If", 0.5), ("The", 0.25)], [(" so", 1.0)]], text "If so" ->
    [AlignedPiece("▁If", {"▁If": 0.5, "▁The": 0.25}, How.AFTER_SPACE), AlignedPiece("▁so", {"▁so": 1.0}, How.ONE_TOKEN)].
    """
    aligner = _aligner(getattr(vocabulary, "tokenizer", vocabulary), method)
    batch = aligner.align_batch([tokens], [top_k], [text])
    if batch.rejected:
        raise SampleShapeError(
            batch.rejected[0], f"alignment: {method} rejects {text!r}: {batch.rejected[0]}."
        )
    name = aligner.table.processor.id_to_piece
    return [
        AlignedPiece(
            name(int(piece)),
            {name(int(c)): float(p) for c, p in zip(ids, probs, strict=True) if c != NO_PIECE},
            How(int(how)),
        )
        for piece, ids, probs, how in zip(
            batch.pieces.ids, batch.candidate_ids, batch.candidate_probs, batch.how, strict=True
        )
    ]


@functools.lru_cache(maxsize=8)
def _aligner(processor: Any, method: str) -> Aligner:
    return Aligner(processor, method, MAX_CANDIDATES)
