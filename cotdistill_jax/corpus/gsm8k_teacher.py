"""TFDS dataset `gsm8k_teacher`: GSM8K as a teacher solved it, from what `scripts/align_teacher.py` wrote.

    COTDISTILL_DATA_DIR=DIR COTDISTILL_ALIGNED_DIR=DIR tfds build cotdistill_jax/corpus/gsm8k_teacher.py

`train` holds the correct samples of training questions; samples that are wrong, not labelled, or of another question
(one of the 200 development rows, say) are counted in the metadata. `validation` and `test` hold gold solutions.
"""

import os
from collections.abc import Iterator
from typing import Any

from cotdistill_jax import benchmarks, files
from cotdistill_jax.corpus import schema, taught, vocabularies

ALIGNED_DIR_VARIABLE = "COTDISTILL_ALIGNED_DIR"
_GOLD_SPLITS = {"validation": "dev", "test": "test"}


class Gsm8kTeacher(taught.TaughtCorpus):
    """Builder of the dataset `gsm8k_teacher`."""

    REMEDY = "Questions of your own become a corpus of their own: `scripts/build_corpus.py --corpus=NAME --aligned_dir=...`"

    def __init__(
        self,
        *,
        aligned_dir: files.AnyPath | None = None,
        benchmark_dir: files.AnyPath | None = None,
        allow_one_hot_share: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes a builder.

        Args:
            aligned_dir: Folder of the aligned corpus; None reads the environment variable COTDISTILL_ALIGNED_DIR.
            benchmark_dir: Folder with the benchmark files; None reads the environment variable COTDISTILL_DATA_DIR.
            allow_one_hot_share: See `taught.check`.
            **kwargs: Those of every TFDS builder, such as `data_dir`.

        Raises:
            FileNotFoundError: No aligned corpus was named.
        """
        folder = aligned_dir or os.environ.get(ALIGNED_DIR_VARIABLE)
        if folder is None:
            raise FileNotFoundError(
                f"corpus: gsm8k_teacher needs an aligned corpus, but no aligned_dir was given and {ALIGNED_DIR_VARIABLE} is "
                "not set. Make one with `python scripts/align_teacher.py --output_dir=DIR ...` and pass DIR."
            )
        self._benchmark_dir = benchmark_dir
        super().__init__(aligned_dir=folder, allow_one_hot_share=allow_one_hot_share, **kwargs)

    def _vocabulary(self) -> files.AnyPath:
        return vocabularies.t5_vocabulary(self._benchmark_dir)

    def _reason(self) -> taught.Reason:
        allowed = {q.id for q in benchmarks.load("gsm8k", "train", self._benchmark_dir)}
        return lambda record: None if record.question_id in allowed else "not_a_training_question"

    def _held_out(self, split: str, counts: schema.Counts) -> Iterator[dict[str, Any]]:
        processor = files.open_vocabulary(self._vocabulary(), "corpus")
        for question in benchmarks.load("gsm8k", _GOLD_SPLITS[split], self._benchmark_dir):
            row = schema.gold_row(question, held_out=True)
            yield row | schema.without_teacher(processor.encode(row["text"]))
