"""TFDS dataset `gsm8k_gold`: GSM8K with its human rationales, as solutions that end in "The answer is N".

    COTDISTILL_DATA_DIR=DIR tfds build cotdistill_jax/corpus/gsm8k_gold.py

`train` is the train file without the 200 development rows, `validation` these rows, `test` the test file. There is
no teacher: targets are tokenised when they are read, with any vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from cotdistill_jax import benchmarks, files
from cotdistill_jax.corpus import schema

_BENCHMARK_SPLITS = {"train": "train", "validation": "dev", "test": "test"}


class Gsm8kGold(tfds.core.GeneratorBasedBuilder):
    """Builder of the dataset `gsm8k_gold`."""

    VERSION = tfds.core.Version(schema.VERSION)

    def __init__(self, *, benchmark_dir: files.AnyPath | None = None, **kwargs: Any) -> None:
        """Makes a builder.

        Args:
            benchmark_dir: Folder with the benchmark files; None reads the environment variable COTDISTILL_DATA_DIR.
            **kwargs: Those of every TFDS builder, such as `data_dir`.
        """
        self._benchmark_dir = benchmark_dir
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="GSM8K (Cobbe et al. 2021, arXiv 2110.14168) with its human rationales.",
            features=schema.features(top_k=None),
            metadata=schema.metadata(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[schema.Example]]:
        self._counts: dict[str, schema.Counts] = {}
        return {split: self._generate_examples(split) for split in schema.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[schema.Example]:
        counts = self._counts[split] = schema.Counts()
        for question in benchmarks.load("gsm8k", _BENCHMARK_SPLITS[split], self._benchmark_dir):
            counts.taken += 1
            row = schema.gold_row(question, held_out=split != "train")
            yield schema.key(row), row
        schema.write_counts(self.info, self._counts)
