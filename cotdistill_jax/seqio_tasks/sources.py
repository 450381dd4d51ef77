"""Where tasks read a corpus from: a TFDS dataset on disk, checked before it is read.

The TFDS data directory is, in this order: what `seqio.set_tfds_data_dir_override` says (T5X: `--tfds_data_dir`), the
environment variable `COTDISTILL_TFDS_DIR`, TFDS's own default. It is looked up when data are asked for, so that tasks
can be registered and listed on a machine without data.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from cotdistill_jax import files
from cotdistill_jax.corpus import vocabularies

DATA_DIR_VARIABLE = "COTDISTILL_TFDS_DIR"
BUILD_COMMAND = "python scripts/build_corpus.py --corpus={name} --tfds_data_dir={data_dir}"


def default_data_dir() -> str:
    """Returns the TFDS data directory where SeqIO was told none."""
    said = os.environ.get(DATA_DIR_VARIABLE) or str(tfds.core.constants.DATA_DIR)
    return os.path.expanduser(said)


class _DirectoryLoader(seqio.LazyTfdsLoader):
    """SeqIO's loader for one dataset folder inside the TFDS data directory."""

    def __init__(self, name: str, version: str, splits: Mapping[str, str]) -> None:
        # Without a name the base class reads the folder itself and never downloads or generates.
        super().__init__(name=None, split_map=splits, read_only=True)
        self._folder = pathlib.PurePath(name, version)

    @property
    def tfds_data_dir(self) -> str:
        """The TFDS data directory."""
        override = super().data_dir
        return os.path.expanduser(override) if override else default_data_dir()

    @property
    def data_dir(self) -> str:
        """The dataset's own folder."""
        return os.path.join(self.tfds_data_dir, self._folder)


class CorpusSource(seqio.TfdsDataSource):
    """A `seqio.TfdsDataSource` that says what to do where its data are missing or fit another vocabulary."""

    def __init__(
        self,
        name: str,
        version: str,
        splits: Sequence[str],
        vocabulary_file: Callable[[], files.AnyPath] | None = None,
    ) -> None:
        """Makes a source; nothing is read yet.

        Args:
            name: TFDS name, such as `arith`, with its config if it has any (`seed/zero_shot_cot`).
            version: Its version, such as `1.0.0`.
            splits: Its splits.
            vocabulary_file: Finds the student's vocabulary; the corpus must have been aligned to it. None for a
                corpus that fits every vocabulary.
        """
        super().__init__(splits=splits, tfds_data_dir="unused", read_only=True)
        self._name = name
        self._loader = _DirectoryLoader(name, version, {split: split for split in splits})
        self._vocabulary_file = vocabulary_file

    @property
    def tfds_dataset(self) -> seqio.LazyTfdsLoader:
        """The loader that everything in the base class goes through."""
        return self._loader

    def get_dataset(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """Returns the rows of one split; arguments as in `seqio.DataSource.get_dataset`.

        Raises:
            FileNotFoundError: If the dataset is not there; the message names the folder and the command that builds it.
            ValueError: If the corpus was aligned to another vocabulary.
        """
        self._check()
        return super().get_dataset(*args, **kwargs)

    def num_input_examples(self, split: str) -> int | None:
        """Returns the number of rows of a split; raises as `get_dataset` does."""
        self._check()
        return super().num_input_examples(split)

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns the files of a split; raises as `get_dataset` does."""
        self._check()
        return super().list_shards(split)

    def _check(self) -> None:
        folder = files.as_path(self._loader.data_dir)
        if not (folder / "dataset_info.json").exists():
            corpus = self._name.partition("/")[0]  # without its config
            command = BUILD_COMMAND.format(name=corpus, data_dir=self._loader.tfds_data_dir)
            raise FileNotFoundError(
                f"tasks: corpus {self._name} is not in {folder}. Build it with `{command}`, or point {DATA_DIR_VARIABLE} "
                "to the TFDS data directory that holds it."
            )
        if self._vocabulary_file is None:
            return
        path = self._vocabulary_file()
        got, expected = vocabularies.checksum(path), self._loader.info.metadata["vocabulary_sha256"]
        if got != expected:
            raise ValueError(
                f"tasks: corpus {self._name} in {folder} was aligned to the vocabulary with SHA-256 {expected}, but {path} has "
                f"{got}: its piece ids would mean other pieces. Use that vocabulary, or delete the folder and build the corpus "
                "again."
            )


class ByQuestionSource(CorpusSource):
    """A `CorpusSource` that yields the rows of a question one after the other, the questions in a new order every epoch.

    TFDS stores rows in the order of a hash, which scatters a question's samples. So the rows are read once, as they are
    stored, and stay in memory: about 1 KB each. Their order in a question is that of the teacher's samples.
    """

    @property
    def performs_internal_shuffling(self) -> bool:
        """True: SeqIO must not shuffle, which would scatter the samples again."""
        return True

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True: a shard has whole questions."""
        return True

    def num_input_examples(self, split: str) -> None:
        """Returns None: SeqIO would keep a small corpus in memory, in the order of the first epoch."""

    def get_dataset(
        self,
        split: str | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **_: Any,
    ) -> tf.data.Dataset:
        """Returns the rows of one split, those of a question together.

        Args:
            split: One of the splits.
            shuffle: Whether the questions come in a new order in each pass; False: in that of their names.
            seed: Of that order.
            shard_info: The part of the questions that is wanted.
            **_: Of SeqIO; not used.

        Raises:
            FileNotFoundError: If the dataset is not there.
            ValueError: If the corpus was aligned to another vocabulary.
        """
        rows, starts = _sorted_by_question(self.list_shards(split or "train"))
        shard = shard_info or seqio.ShardInfo(0, 1)
        questions = tf.data.Dataset.range(len(starts) - 1).shard(shard.num_shards, shard.index)
        if shuffle:
            questions = questions.shuffle(len(starts) - 1, seed, reshuffle_each_iteration=True)
        records = questions.flat_map(
            lambda number: tf.data.Dataset.from_tensor_slices(
                rows[starts[number] : starts[number + 1]]
            )
        )
        return records.map(
            self._loader.info.features.deserialize_example, num_parallel_calls=tf.data.AUTOTUNE
        )


def _sorted_by_question(shards: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns all stored rows, sorted by question and sample, and where each question starts, with the end at last.

    Args:
        shards: Files of a split.

    Example: rows of questions b, a, b become those of a, b, b, with starts [0, 1, 3].
    """
    names = {
        "question_id": tf.io.FixedLenFeature([], tf.string),
        "sample_id": tf.io.FixedLenFeature([], tf.int64),
    }
    stored: list[tuple[bytes, int, bytes]] = []
    batches = tf.data.TFRecordDataset(list(shards)).batch(1024)
    for batch in batches.as_numpy_iterator():
        named = tf.io.parse_example(batch, names)
        of_batch = (named["question_id"].numpy(), named["sample_id"].numpy(), batch)
        stored += zip(*of_batch, strict=True)
    stored.sort(key=lambda row: row[:2])
    questions = [question for question, _, _ in stored]
    starts = [at for at in range(len(stored)) if at == 0 or questions[at] != questions[at - 1]]
    return tf.constant([row for _, _, row in stored]), tf.constant([*starts, len(stored)], tf.int64)
