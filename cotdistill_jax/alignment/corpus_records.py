"""Aligned corpora as Parquet folders: what `scripts/align_teacher.py` writes and the TFDS builder of `gsm8k_teacher` reads.

| column | Arrow type | meaning |
|---|---|---|
| question_id, sample_id, question, gold, text, label, teacher | | as in `teacher.records` |
| pieces | list<uint16> [L] | student pieces of `text`, without EOS |
| teacher_ids | list<uint16> [L * K] | candidates of every piece, row after row, the piece itself first; 0 where unused |
| teacher_probs | list<uint16> [L * K] | their probabilities in steps of 1e-4; 0 where unused |
| how | list<uint8> [L] | values of `alignment.How` |
| text_differs | bool | whether the teacher's tokens had to be fitted to the text |

The manifest's `config` holds `method`, `top_k` (K), `vocabulary_sha256` (of the SentencePiece model file) and `vocabulary_size`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cotdistill_jax import files
from cotdistill_jax.alignment.aligner import Aligner
from cotdistill_jax.alignment.rows import quantise
from cotdistill_jax.alignment.targets import AlignedBatch
from cotdistill_jax.files import file_sha256
from cotdistill_jax.teacher import shards

COPIED_COLUMNS = ("question_id", "sample_id", "question", "gold", "text", "label", "teacher")
LAYOUT = shards.Layout(
    artefact="aligned_corpus",
    prefix="aligned",
    schema_version=1,
    schema=pa.schema(
        [
            pa.field("question_id", pa.string(), nullable=False),
            pa.field("sample_id", pa.int32(), nullable=False),
            pa.field("question", pa.string(), nullable=False),
            pa.field("gold", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("label", pa.bool_()),
            pa.field("teacher", pa.string(), nullable=False),
            pa.field("pieces", pa.list_(pa.uint16()), nullable=False),
            pa.field("teacher_ids", pa.list_(pa.uint16()), nullable=False),
            pa.field("teacher_probs", pa.list_(pa.uint16()), nullable=False),
            pa.field("how", pa.list_(pa.uint8()), nullable=False),
            pa.field("text_differs", pa.bool_(), nullable=False),
        ]
    ),
)


class VocabularyMismatchError(ValueError):
    """A corpus that was aligned to another vocabulary than the one at hand."""


@dataclasses.dataclass(frozen=True)
class CorpusRecord:
    """One aligned sample as the corpus stores it; L pieces, K candidates each.

    Attributes:
        question_id: id of the question.
        sample_id: number of the sample among those of its question.
        question: question as asked.
        gold: gold answer.
        text: the teacher's answer.
        label: whether it is right; None before labelling.
        teacher: name of the teacher.
        pieces: uint16 [L], without EOS.
        teacher_ids: uint16 [L, K].
        teacher_probs: uint16 [L, K], steps of 1e-4.
        how: uint8 [L], values of `alignment.How`.
        text_differs: whether the teacher's tokens had to be fitted to the text.
    """

    question_id: str
    sample_id: int
    question: str
    gold: str
    text: str
    label: bool | None
    teacher: str
    pieces: np.ndarray
    teacher_ids: np.ndarray
    teacher_probs: np.ndarray
    how: np.ndarray
    text_differs: bool


def config_of(aligner: Aligner, vocabulary_file: files.AnyPath) -> dict[str, Any]:
    """Returns what the manifest of a corpus says about how it was aligned.

    Args:
        aligner: that aligns it.
        vocabulary_file: SentencePiece model that the aligner loaded.
    """
    return {
        "method": aligner.method,
        "top_k": aligner.k,
        "vocabulary_sha256": file_sha256(vocabulary_file),
        "vocabulary_size": aligner.table.processor.get_piece_size(),
    }


def to_table(records: pa.RecordBatch, aligned: AlignedBatch, k: int) -> pa.Table:
    """Returns the rows of a corpus for a batch of teacher records and its alignment, without the rejected ones.

    Args:
        records: columns `COPIED_COLUMNS` at least.
        aligned: their alignment.
        k: candidates stored per piece, at most as many as were aligned.
    """
    ids, steps = quantise(aligned.candidate_ids[:, :k], aligned.candidate_probs[:, :k])
    offsets = aligned.pieces.offsets.astype(np.int32)
    kept = np.ones(len(offsets) - 1, bool)
    kept[list(aligned.rejected)] = False
    columns = [
        *(records.column(name) for name in COPIED_COLUMNS),
        pa.ListArray.from_arrays(offsets, aligned.pieces.ids.astype(np.uint16)),
        pa.ListArray.from_arrays(offsets * k, ids.reshape(-1)),
        pa.ListArray.from_arrays(offsets * k, steps.reshape(-1)),
        pa.ListArray.from_arrays(offsets, aligned.how),
        pa.array(aligned.text_differs),
    ]
    return pa.table(columns, schema=LAYOUT.schema).filter(pa.array(kept))


def read_corpus(
    folder: files.AnyPath,
    vocabulary_file: files.AnyPath | None = None,
    *,
    correct_only: bool = False,
    verify: bool = True,
) -> Iterator[CorpusRecord]:
    """Yields the rows of an aligned corpus in order.

    Args:
        folder: what `scripts/align_teacher.py` wrote.
        vocabulary_file: SentencePiece model that the corpus must be aligned to; None skips the check.
        correct_only: leave out rows whose label is false or null.
        verify: compare every shard with its checksum.

    Raises:
        FileNotFoundError: no manifest or a missing shard.
        shards.ShardError: incomplete or damaged folder.
        VocabularyMismatchError: the corpus was aligned to another vocabulary.
        ValueError: a row whose ids are outside the vocabulary or whose lists do not fit together.
    """
    config = shards.read_manifest(folder, LAYOUT)["config"]
    if vocabulary_file is not None:
        check_vocabulary(folder, vocabulary_file)
    for batch in shards.read_batches(folder, LAYOUT, verify=verify):
        _check_rows(batch, config, str(folder))
        table = batch.filter(pc.fill_null(batch.column("label"), False)) if correct_only else batch
        yield from _records(table, config["top_k"])


def check_vocabulary(folder: files.AnyPath, vocabulary_file: files.AnyPath) -> None:
    """Raises `VocabularyMismatchError` unless the corpus in `folder` was aligned to this SentencePiece model."""
    expected = shards.read_manifest(folder, LAYOUT)["config"]["vocabulary_sha256"]
    got = file_sha256(vocabulary_file)
    if got != expected:
        raise VocabularyMismatchError(
            f"alignment: {folder} was aligned to the vocabulary with SHA-256 {expected}, {vocabulary_file} has {got}. Use the "
            "vocabulary it was aligned to, or align the records again with scripts/align_teacher.py --vocab."
        )


def _check_rows(batch: pa.RecordBatch, config: dict[str, Any], folder: str) -> None:
    lengths = pc.list_value_length(batch.column("pieces")).to_numpy()
    for name, width in (
        ("teacher_ids", config["top_k"]),
        ("teacher_probs", config["top_k"]),
        ("how", 1),
    ):
        wrong = np.flatnonzero(
            pc.list_value_length(batch.column(name)).to_numpy() != lengths * width
        )
        if len(wrong):
            raise ValueError(
                f"alignment: {folder}, record {_key(batch, wrong[0])}: {name} does not hold {width} values for each of "
                f"{lengths[wrong[0]]} pieces. Align the records again."
            )
    for name in ("pieces", "teacher_ids"):
        column = batch.column(name)
        outside = column.flatten().to_numpy() >= config["vocabulary_size"]
        if outside.any():
            row = (
                np.searchsorted(
                    column.offsets.to_numpy() - column.offsets[0].as_py(), outside.argmax(), "right"
                )
                - 1
            )
            raise ValueError(
                f"alignment: {folder}, record {_key(batch, row)}: {name} holds an id outside the vocabulary of "
                f"{config['vocabulary_size']} pieces. Align the records again."
            )


def _key(batch: pa.RecordBatch, row: int) -> tuple[str, int]:
    return batch.column("question_id")[int(row)].as_py(), batch.column("sample_id")[
        int(row)
    ].as_py()


def _records(batch: pa.RecordBatch, k: int) -> Iterator[CorpusRecord]:
    copied = [batch.column(name).to_pylist() for name in COPIED_COLUMNS]
    for row, values in enumerate(zip(*copied, strict=True)):
        pieces, ids, probs, how = (
            batch.column(name)[row].values.to_numpy()
            for name in ("pieces", "teacher_ids", "teacher_probs", "how")
        )
        differs = batch.column("text_differs")[row].as_py()
        fields = dict(zip(COPIED_COLUMNS, values, strict=True))
        yield CorpusRecord(
            **fields,
            pieces=pieces,
            teacher_ids=ids.reshape(-1, k),
            teacher_probs=probs.reshape(-1, k),
            how=how,
            text_differs=differs,
        )
