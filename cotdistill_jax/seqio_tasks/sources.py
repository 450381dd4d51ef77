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

from cotdistill_jax.corpus import vocabularies

DATA_DIR_VARIABLE = "COTDISTILL_TFDS_DIR"
BUILD_COMMAND = "python scripts/build_corpus.py --corpus={name} --tfds_data_dir={data_dir}"


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
        return override or os.environ.get(DATA_DIR_VARIABLE) or str(tfds.core.constants.DATA_DIR)

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
        vocabulary_file: Callable[[], str | os.PathLike[str]] | None = None,
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
        folder = pathlib.Path(self._loader.data_dir)
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
