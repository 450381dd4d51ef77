"""TFDS dataset `gsm8k_teacher`: GSM8K as a teacher solved it, from what `scripts/align_teacher.py` wrote.

    COTDISTILL_DATA_DIR=DIR COTDISTILL_ALIGNED_DIR=DIR tfds build cotdistill_jax/corpus/gsm8k_teacher.py

`train` holds the correct samples of training questions; samples that are wrong, not labelled, or of another question
(one of the 200 development rows, say) are counted in the metadata. `validation` and `test` hold gold solutions.
"""

import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from cotdistill_jax import benchmarks, files
from cotdistill_jax.alignment import corpus_records
from cotdistill_jax.corpus import schema, taught, vocabularies

ALIGNED_DIR_VARIABLE = "COTDISTILL_ALIGNED_DIR"
_GOLD_SPLITS = {"validation": "dev", "test": "test"}


class Gsm8kTeacher(tfds.core.GeneratorBasedBuilder):
    """Builder of the dataset `gsm8k_teacher`."""

    VERSION = tfds.core.Version(schema.VERSION)

    def __init__(
        self,
        *,
        aligned_dir: str | os.PathLike[str] | None = None,
        benchmark_dir: str | os.PathLike[str] | None = None,
        allow_one_hot_share: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes a builder.

        Args:
            aligned_dir: Folder of the aligned corpus; None reads the environment variable COTDISTILL_ALIGNED_DIR.
            benchmark_dir: Folder with the benchmark files; None reads the environment variable COTDISTILL_DATA_DIR.
            allow_one_hot_share: Most pieces without a teacher's distribution, in [0, 1]; None for what was allowed at alignment, or the
                method's `alignment.quality.MOST_ONE_HOT`.
            **kwargs: Those of every TFDS builder, such as `data_dir`.
        """
        self._aligned_dir = aligned_dir or os.environ.get(ALIGNED_DIR_VARIABLE)
        self._benchmark_dir = benchmark_dir
        self._allow_one_hot_share = allow_one_hot_share
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="GSM8K with the aligned samples of a teacher.",
            features=schema.features(schema.TOP_K),
            metadata=schema.metadata(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[schema.Example]]:
        if self._aligned_dir is None:
            raise FileNotFoundError(
                f"corpus: gsm8k_teacher needs an aligned corpus, but no aligned_dir was given and {ALIGNED_DIR_VARIABLE} is "
                "not set. Make one with `python scripts/align_teacher.py --output_dir=DIR ...` and pass DIR."
            )
        config = taught.check(self._aligned_dir, self._allow_one_hot_share)
        self.info.metadata.update(
            vocabulary_sha256=config["vocabulary_sha256"],
            alignment_method=config["method"],
            top_k=config["top_k"],
        )
        self._vocabulary_file = vocabularies.t5_vocabulary(self._benchmark_dir)
        self._counts: dict[str, schema.Counts] = {}
        self._records = corpus_records.read_corpus(self._aligned_dir, self._vocabulary_file)
        return {split: self._generate_examples(split) for split in schema.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[schema.Example]:
        counts = self._counts[split] = schema.Counts()
        for row in self._taught(counts) if split == "train" else self._gold(split):
            counts.taken += 1
            yield schema.key(row), row
        schema.write_counts(self.info, self._counts)

    def _gold(self, split: str) -> Iterator[dict[str, Any]]:
        processor = files.open_vocabulary(self._vocabulary_file, "corpus")
        for question in benchmarks.load("gsm8k", _GOLD_SPLITS[split], self._benchmark_dir):
            row = schema.gold_row(question, held_out=True)
            yield row | schema.without_teacher(processor.encode(row["text"]))

    def _taught(self, counts: schema.Counts) -> Iterator[dict[str, Any]]:
        allowed = {q.id for q in benchmarks.load("gsm8k", "train", self._benchmark_dir)}
        yield from taught.rows(
            self._records,
            lambda record: None if record.question_id in allowed else "not_a_training_question",
            counts,
            "Questions of your own become a corpus of their own: `scripts/build_corpus.py --corpus=NAME --aligned_dir=...`",
        )
