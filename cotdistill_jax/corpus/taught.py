"""The builder of every corpus that is made of a teacher's aligned records: checks, labels, what is left out and why.

Its configurations say which questions are trained on and what is held out: `gsm8k_teacher`, and those of one's own (`own`). `arith` takes its rows
where its teacher was decoded.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from cotdistill_jax import files
from cotdistill_jax.alignment import corpus_records, pipeline, quality
from cotdistill_jax.alignment.corpus_records import CorpusRecord
from cotdistill_jax.corpus import schema
from cotdistill_jax.teacher import shards

Reason = Callable[[CorpusRecord], str | None]
"""Why a record's question is not trained on, None where it is."""


def check(aligned_dir: files.AnyPath, allow_one_hot_share: float | None) -> dict[str, Any]:
    """Returns the settings of an aligned corpus, `vocabulary_sha256`, `method` and `top_k` among them.

    Args:
        aligned_dir: What `scripts/align_teacher.py` wrote.
        allow_one_hot_share: Most pieces without a teacher's distribution, in [0, 1]; None for what was allowed at alignment, or the
            method's `alignment.quality.MOST_ONE_HOT`.

    Raises:
        ValueError: Another number of candidates, or too few pieces with the teacher's probabilities.
        FileNotFoundError, shards.ShardError: No aligned corpus there, or not a whole one.
    """
    config: dict[str, Any] = shards.read_manifest(aligned_dir, corpus_records.LAYOUT)["config"]
    if config["top_k"] != schema.TOP_K:
        raise ValueError(
            f"corpus: {aligned_dir} stores {config['top_k']} candidates per piece, expected {schema.TOP_K}. Align the "
            f"records with `scripts/align_teacher.py --top_k={schema.TOP_K}`."
        )
    report = files.as_path(aligned_dir) / pipeline.QUALITY_NAME
    if report.exists():  # `align_teacher` writes one, the library's `write_corpus` does not
        quality.check_one_hot(
            files.read_json(report, "corpus"),
            config["method"],
            allow_one_hot_share,
            str(aligned_dir),
        )
    return config


def rows(
    records: Iterable[CorpusRecord], reason: Reason, counts: schema.Counts, remedy: str
) -> Iterator[dict[str, Any]]:
    """Yields the rows of right samples; counts the others.

    Args:
        records: Aligned samples.
        reason: Why a record's question is left out.
        counts: Gets what is left out, by reason.
        remedy: What to do where nothing is left.

    Raises:
        ValueError: At the end, if no sample became a row; the message has the numbers and the first question's id.
    """
    seen: set[str] = set()
    first_id = None
    for record in records:
        first_id = first_id or record.question_id
        why = reason(record)
        if why is None and not record.label:
            why = "not_labelled" if record.label is None else "wrong_answer"
        if why is not None:
            counts.dropped[why] += 1
            continue
        first = record.question_id not in seen
        seen.add(record.question_id)
        yield schema.teacher_row(record, first) | schema.teacher_fields(
            record.pieces.astype(np.int32), record.teacher_ids, record.teacher_probs
        )
    if not seen:
        dropped = ", ".join(f"{name} {number:,}" for name, number in counts.dropped.items())
        raise ValueError(
            f"corpus: none of {counts.dropped.total():,} samples can be trained on ({dropped or 'there is none'}); the first one's question is "
            f"{first_id!r}. {remedy}"
        )


class TaughtCorpus(tfds.core.GeneratorBasedBuilder):
    """A corpus of aligned records; abstract."""

    VERSION = tfds.core.Version(schema.VERSION)
    REMEDY: ClassVar[str]
    """What to do where no sample can be trained on."""

    def __init__(
        self,
        *,
        aligned_dir: files.AnyPath,
        allow_one_hot_share: float | None,
        **kwargs: Any,
    ) -> None:
        """Makes a builder.

        Args:
            aligned_dir: See `check`.
            allow_one_hot_share: See `check`.
            **kwargs: Those of every TFDS builder, such as `data_dir`.
        """
        self._aligned_dir = aligned_dir
        self._allow_one_hot_share = allow_one_hot_share
        super().__init__(**kwargs)

    def _vocabulary(self) -> files.AnyPath:
        """Returns the SentencePiece model that the records must be aligned to."""
        raise NotImplementedError

    def _splits(self) -> Sequence[str]:
        """Returns the splits, `train` among them."""
        return schema.SPLITS

    def _reason(self) -> Reason:
        """Returns what says why a question is not trained on."""
        raise NotImplementedError

    def _held_out(self, split: str, counts: schema.Counts) -> Iterator[dict[str, Any]]:
        """Yields the rows of another split than `train`, without a teacher's."""
        raise NotImplementedError

    def _records(self) -> Iterator[CorpusRecord]:
        return corpus_records.read_corpus(self._aligned_dir, self._vocabulary())

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Questions and the aligned right samples of a teacher.",
            features=schema.features(schema.TOP_K),
            metadata=schema.metadata(**self._metadata()),
        )

    def _metadata(self) -> dict[str, Any]:
        """Returns further metadata of a configuration."""
        return {}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[schema.Example]]:
        config = check(self._aligned_dir, self._allow_one_hot_share)
        self.info.metadata.update(
            vocabulary_sha256=config["vocabulary_sha256"],
            alignment_method=config["method"],
            top_k=config["top_k"],
        )
        corpus_records.check_vocabulary(self._aligned_dir, self._vocabulary())
        self._counts: dict[str, schema.Counts] = {}
        return {split: self._generate_examples(split) for split in self._splits()}

    def _generate_examples(self, split: str) -> Iterator[schema.Example]:
        counts = self._counts[split] = schema.Counts()
        made = (
            rows(self._records(), self._reason(), counts, self.REMEDY)
            if split == "train"
            else self._held_out(split, counts)
        )
        for row in made:
            counts.taken += 1
            yield schema.key(row), row
        schema.write_counts(self.info, self._counts)
